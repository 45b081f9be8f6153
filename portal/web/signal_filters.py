"""What the address of a page asks of the history, and the same as the filter that queries and batches take."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from portal import clock
from portal.errors import InputInvalid
from portal.signals import queries as signals
from portal.signals.batches.schemas import SignalSelection
from portal.signals.schemas import SignalFilter
from portal.web.render import AnyRequest
from portal.web.states import SIGNAL_STATES

PERIODS = {
    "1h": ("The last hour", timedelta(hours=1)),
    "24h": ("The last 24 hours", timedelta(hours=24)),
    "7d": ("The last 7 days", timedelta(days=7)),
    "30d": ("The last 30 days", timedelta(days=30)),
}
FIELDS = ("text", "type", "source_id", "subject", "external_id", "correlation_id", "period", "since", "until", "status")
NAMED = ("text", "type", "subject", "external_id", "correlation_id", "status")
"""Those that the filter has under the same name and as the same text."""
MAX_TEXT = 200


class Asked(msgspec.Struct, frozen=True):
    """What is asked: as texts by the names of the fields, only those that are not empty; and as a filter."""

    values: dict[str, str]
    filter: SignalFilter

    @property
    def fixed(self) -> dict[str, str]:
        """The texts with a period as its beginning, and moments with their zone: they stay what they are."""
        bounds = {"since": self.filter.since, "until": self.filter.until}
        moments = {name: moment.isoformat() for name, moment in bounds.items() if moment}
        return {name: text for name, text in self.values.items() if name != "period"} | moments


def asked_in(given: Mapping[str, str]) -> Asked:
    """What is asked by an address or a form. Raises `InputInvalid`."""
    texts = {name: str(given.get(name, "")).replace("\x00", "").strip() for name in FIELDS}
    values = {name: text for name, text in texts.items() if text}
    if values.get("status") not in SIGNAL_STATES:
        values.pop("status", None)
    return Asked(values, _filter(values))


def asked_of(request: AnyRequest) -> Asked:
    return asked_in({name: str(request.query_params.get(name, "")) for name in FIELDS})


def selection_of(asked: Asked, signal_ids: list[str]) -> SignalSelection:
    """The signals that were ticked, or where none were all that the filter matches. Raises `InputInvalid`."""
    if not signal_ids:
        return SignalSelection(filter=asked.filter)
    try:
        return msgspec.convert({"signal_ids": signal_ids}, SignalSelection)
    except msgspec.ValidationError:
        raise InputInvalid.at("/signal_id", "These are not up to 1,000 signals; choose them from the list.") from None


async def source_choices(organization_id: UUID) -> list[tuple[str, str]]:
    """The sources by id, for a form's choice."""
    found = await signals.list_sources(organization_id, limit=200)
    return [(str(source.id), source.name) for source in found.items]


def _filter(values: dict[str, str]) -> SignalFilter:
    if len(values.get("text", "")) > MAX_TEXT:
        raise InputInvalid.at("/text", f"Search for at most {MAX_TEXT} characters.")
    try:
        source_id = UUID(values["source_id"]) if "source_id" in values else None
    except ValueError:
        raise InputInvalid.at("/source_id", "There is no such source; choose one from the list.") from None
    period = PERIODS.get(values.get("period", ""))
    return msgspec.convert(
        {
            **{name: values.get(name) for name in NAMED},
            "source_id": source_id,
            "since": _moment(values, "since") or (clock.now() - period[1] if period else None),
            "until": _moment(values, "until"),
        },
        SignalFilter,
    )


def _moment(values: dict[str, str], name: str) -> datetime | None:
    """A moment of the address; where it names no zone, as a form does without JavaScript, it is in UTC."""
    if name not in values:
        return None
    try:
        given = datetime.fromisoformat(values[name])
    except ValueError:
        raise InputInvalid.at(f"/{name}", "Give the time as 2026-05-03T09:30.") from None
    return clock.in_utc(given if given.tzinfo else given.replace(tzinfo=UTC), path=f"/{name}")
