"""How well a source is heard: what is measured, what is usual for it, and what somebody should look at. Pure.

Silence is judged against what the source is expected to do; all else against what it usually does.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median, quantiles
from uuid import UUID

import msgspec

from portal.signals.health.tallies import HourTally
from portal.signals.tables import SourceStatus

SKEW_WARNING_MS = 60_000
"""A fifth of the tolerance that is usual for signed timestamps."""
REFUSED_WARNING = 0.05
REFUSED_WARNING_NUMBER = 10
"""Of fewer refusals a day nothing follows: one delivery that is sent again all day is some of them."""
SKEWED_SIGNALS = 100


class Finding(msgspec.Struct, frozen=True):
    """Something that somebody should look at."""

    code: str
    """`paused`, `quiet`, `clock_skewed` or `refusing`."""
    message: str


class Heard(msgspec.Struct, frozen=True):
    """When a signal was received, and our clock minus the sender's, if the sender gave a time."""

    received_at: datetime
    skew_ms: int | None


class SourceReading(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a source at `now`."""

    id: UUID
    status: SourceStatus
    expected_every_seconds: int | None
    quiet_since: datetime | None
    created_at: datetime
    newest: Sequence[Heard]
    """The newest first."""
    hours: Sequence[HourTally]
    """Of the last week, the oldest first, the current hour last."""
    now: datetime


class SourceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How well a source is heard; None where too little has come to say."""

    source_id: UUID
    status: SourceStatus
    findings: list[Finding]
    """Empty while all is well."""
    last_signal_at: datetime | None
    expected_every_seconds: int | None
    """As configured; a longer silence is an alarm."""
    quiet_since: datetime | None
    """When the alarm went off."""
    usual_gap_seconds: float | None
    """Between two of the newest 200 signals: half of the gaps are shorter."""
    longest_usual_gap_seconds: float | None
    """95 of 100 gaps are shorter: what `expected_every_seconds` should be well above."""
    signals_last_hour: int
    """About: counts are kept by the hour."""
    usual_per_hour: float | None
    """The mean of the whole hours of the last seven days, or since the source was made."""
    signals_24h: int
    """In this hour and the 23 before it."""
    refused_24h: int
    error_rate_24h: float | None
    """Refused deliveries out of all."""
    clock_skew_ms: int | None
    """The median of our clock minus the sender's over the newest 100 signals that say the time."""


def judge(reading: SourceReading) -> SourceHealth:
    """What the numbers mean."""
    usual, longest = _gaps([heard.received_at for heard in reading.newest])
    skews = [heard.skew_ms for heard in reading.newest if heard.skew_ms is not None][:SKEWED_SIGNALS]
    stored = sum(hour.stored for hour in reading.hours[-24:])
    refused = sum(hour.refused for hour in reading.hours[-24:])
    health = SourceHealth(
        source_id=reading.id,
        status=reading.status,
        findings=[],
        last_signal_at=reading.newest[0].received_at if reading.newest else None,
        expected_every_seconds=reading.expected_every_seconds,
        quiet_since=reading.quiet_since,
        usual_gap_seconds=usual,
        longest_usual_gap_seconds=longest,
        signals_last_hour=_last_hour(reading),
        usual_per_hour=_usual_per_hour(reading),
        signals_24h=stored,
        refused_24h=refused,
        error_rate_24h=refused / (stored + refused) if stored + refused else None,
        clock_skew_ms=round(median(skews)) if skews else None,
    )
    return msgspec.structs.replace(health, findings=_findings(health))


def is_silent_too_long(last: datetime, expected_every_seconds: int | None, now: datetime) -> bool:
    """Whether a source that was heard last at `last` should have been heard since."""
    return expected_every_seconds is not None and now - last > timedelta(seconds=expected_every_seconds)


def _gaps(received: Sequence[datetime]) -> tuple[float | None, float | None]:
    """Median and 95th percentile of the seconds between signals, given the newest first."""
    gaps = [abs((later - earlier).total_seconds()) for later, earlier in pairwise(received)]
    if not gaps:
        return None, None
    longest = quantiles(gaps, n=20, method="inclusive")[-1] if len(gaps) > 1 else gaps[0]
    return round(median(gaps), 3), round(longest, 3)


def _last_hour(reading: SourceReading) -> int:
    """Of the hour before this one only the share that is less than an hour ago."""
    gone = reading.now.minute * 60 + reading.now.second
    before = reading.hours[-2].stored if len(reading.hours) > 1 else 0
    return reading.hours[-1].stored + round(before * (1 - gone / 3600))


def _usual_per_hour(reading: SourceReading) -> float | None:
    """The mean over the whole hours since the source exists, at most a week of them."""
    whole = [hour.stored for hour in reading.hours[:-1] if hour.hour >= reading.created_at]
    return round(sum(whole) / len(whole), 2) if whole else None


def _findings(health: SourceHealth) -> list[Finding]:
    found = []
    if health.status == SourceStatus.PAUSED:
        found.append(Finding("paused", "It is paused: its deliveries are refused."))
    if health.quiet_since and health.status == SourceStatus.ACTIVE:
        every, last = in_words(health.expected_every_seconds or 0), health.last_signal_at
        heard = f"the last one came at {last:%Y-%m-%d %H:%M:%S} UTC" if last else "none has ever come"
        found.append(Finding("quiet", f"It is quiet: a signal is expected every {every}, and {heard}."))
    if health.clock_skew_ms is not None and abs(health.clock_skew_ms) > SKEW_WARNING_MS:
        side = "behind" if health.clock_skew_ms > 0 else "ahead of"
        skew = in_words(abs(health.clock_skew_ms) / 1000)
        found.append(Finding("clock_skewed", f"The sender's clock is {skew} {side} ours, or it delivers that late."))
    rate = health.error_rate_24h or 0
    if health.refused_24h >= REFUSED_WARNING_NUMBER and rate > REFUSED_WARNING:
        found.append(Finding("refusing", f"{rate:.0%} of the deliveries of the last 24 hours were refused."))
    return found


def in_words(seconds: float) -> str:
    """`45 seconds`, `5 minutes`, `3 hours`, `2 days`: the largest unit of which there are at least two."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}s"
    return f"{seconds:.3g} seconds"
