"""What is said of a source follows from what was measured."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portal.db.columns import new_id
from portal.signals.health.judgement import Heard, SourceHealth, SourceReading, in_words, is_silent_too_long, judge
from portal.signals.health.tallies import HourTally
from portal.signals.tables import SourceStatus

NOW = datetime(2026, 5, 5, 12, 15, tzinfo=UTC)
HOUR = NOW.replace(minute=0)


def hours(**numbers: tuple[int, int]) -> list[HourTally]:
    """A week of hours with nothing in them but `(stored, refused)` so many hours ago: `h0` is the current one."""
    found = []
    for ago in range(167, -1, -1):
        stored, refused = numbers.get(f"h{ago}", (0, 0))
        found.append(HourTally(HOUR - timedelta(hours=ago), stored, refused))
    return found


def health(**given: Any) -> SourceHealth:
    reading: dict[str, Any] = {
        "id": new_id(),
        "status": SourceStatus.ACTIVE,
        "expected_every_seconds": None,
        "quiet_since": None,
        "created_at": NOW - timedelta(days=30),
        "newest": [],
        "hours": hours(),
        "now": NOW,
    }
    return judge(SourceReading(**reading | given))


def heard(*seconds_ago: float, skew_ms: int | None = None) -> list[Heard]:
    return [Heard(NOW - timedelta(seconds=seconds), skew_ms) for seconds in seconds_ago]


def codes(health: SourceHealth) -> list[str]:
    return [finding.code for finding in health.findings]


def test_of_a_source_that_was_never_heard_nothing_is_claimed() -> None:
    silent = health()
    assert (silent.findings, silent.last_signal_at, silent.usual_gap_seconds, silent.longest_usual_gap_seconds) == (
        [],
        None,
        None,
        None,
    )
    assert (silent.error_rate_24h, silent.clock_skew_ms, silent.usual_per_hour) == (None, None, 0)
    assert health(created_at=NOW - timedelta(minutes=5)).usual_per_hour is None


def test_the_cadence_is_learned_from_the_gaps() -> None:
    learned = health(newest=heard(*range(0, 6000, 60), 20000))
    assert learned.last_signal_at == NOW
    assert (learned.usual_gap_seconds, learned.longest_usual_gap_seconds) == (60, 60)
    bursts = health(newest=heard(0, 1, 2, 3, 600, 601, 602, 603))
    assert bursts.usual_gap_seconds == 1
    assert bursts.longest_usual_gap_seconds
    assert bursts.longest_usual_gap_seconds > 300
    assert health(newest=heard(5, 35)).usual_gap_seconds == 30
    # Ids may commit out of order; a gap is never negative.
    assert health(newest=heard(35, 5)).usual_gap_seconds == 30


def test_rates_are_of_the_last_hour_and_of_a_usual_one() -> None:
    # 12:15: of the 40 that came from 11 to 12 o'clock three quarters are less than an hour ago.
    busy = health(hours=hours(h0=(7, 0), h1=(40, 0), h2=(16, 0)))
    assert busy.signals_last_hour == 7 + 30
    assert busy.usual_per_hour == round(56 / 167, 2)
    young = health(hours=hours(h0=(7, 0), h1=(40, 0), h2=(20, 0)), created_at=NOW - timedelta(hours=2.5))
    assert young.usual_per_hour == 30


def test_a_source_that_refuses_much_is_named() -> None:
    refusing = health(hours=hours(h1=(90, 5), h23=(0, 5), h24=(0, 1000)))
    assert (refusing.signals_24h, refusing.refused_24h, refusing.error_rate_24h) == (90, 10, 0.1)
    assert codes(refusing) == ["refusing"]
    assert "10%" in refusing.findings[0].message
    assert health(hours=hours(h1=(1, 9))).findings == [], "a few say nothing"
    assert health(hours=hours(h1=(1000, 50))).findings == []


@pytest.mark.parametrize(
    ("skews", "median", "words"),
    [
        ([500, -500, 0], 0, None),
        ([60_000] * 3, 60_000, None),
        ([90_000] * 3 + [0], 90_000, "90 seconds behind"),
        ([-600_000] * 3, -600_000, "10 minutes ahead of"),
        ([None, None, -600_000], -600_000, "ahead"),
        ([0] * 100 + [10**9] * 100, 0, None),
    ],
)
def test_a_clock_that_is_off_is_named(skews: list[int | None], median: int, words: str | None) -> None:
    skewed = health(newest=[Heard(NOW - timedelta(seconds=place), skew) for place, skew in enumerate(skews)])
    assert skewed.clock_skew_ms == median
    assert codes(skewed) == (["clock_skewed"] if words else [])
    if words:
        assert words in skewed.findings[0].message


def test_a_quiet_or_paused_source_is_named() -> None:
    quiet = health(quiet_since=NOW, expected_every_seconds=300, newest=heard(3600))
    assert codes(quiet) == ["quiet"]
    assert "every 5 minutes" in quiet.findings[0].message
    assert "2026-05-05 11:15:00" in quiet.findings[0].message
    assert "none has ever come" in health(quiet_since=NOW, expected_every_seconds=300).findings[0].message
    assert codes(health(status=SourceStatus.PAUSED)) == ["paused"]


def test_a_silence_is_too_long_only_where_signals_are_expected() -> None:
    last = NOW - timedelta(seconds=60)
    assert is_silent_too_long(last, 59, NOW)
    assert not is_silent_too_long(last, 60, NOW)
    assert not is_silent_too_long(last, None, NOW + timedelta(days=1000))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.5, "1.5 seconds"), (90, "90 seconds"), (300, "5 minutes"), (5400, "90 minutes"), (86400, "24 hours")],
)
def test_times_are_said_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
