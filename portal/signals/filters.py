"""What a filter of signals says, in SQL, and how those that fit are listed and counted without reading the others.

Each filter has an index in the order of the list, which is that of the ids. What people choose from lists (source,
type, state) comes in every combination: each source and state is read from its own end of an index and merged, so that
no combination, however rare, walks through signals that do not fit.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from portal import clock
from portal.db.columns import EPOCH, oldest_id
from portal.errors import InputInvalid
from portal.signals.schemas import SignalFilter
from portal.signals.tables import SignalStatus
from portal.signals.words import query_of

LEEWAY_MS = 60_000
"""An id is made within this time of `received_at`, so that the index of ids narrows a period down."""


class Sql(NamedTuple):
    """A piece of SQL with `{}` for each of its arguments."""

    text: str
    arguments: list[Any]


def conditions_of(organization_id: UUID, filter: SignalFilter) -> Sql:
    """What `filter` says over `signal g`. Raises `InputInvalid`."""
    return _all_of(
        Sql("g.organization = {}", [organization_id]),
        _equal("g.status", filter.status and filter.status.value),
        _equal("g.source", filter.source_id),
        _equal("g.type", filter.type),
        *_rest(organization_id, filter),
    )


def newest_of(organization_id: UUID, filter: SignalFilter, *, before: UUID | None, limit: int) -> Sql:
    """Selects `id` of the newest signals that fit and are older than `before`, the newest first. Knows no `text`."""
    older = Sql("g.id < {}", [before]) if before else None
    if is_narrow(filter) or not (filter.status or filter.source_id or filter.type):
        fit = _all_of(conditions_of(organization_id, filter), older)
        newest = f"SELECT g.id FROM signal g WHERE {fit.text} ORDER BY g.id DESC LIMIT {{}}"  # noqa: S608
        return Sql(newest, [*fit.arguments, limit])
    sources, where = _sources(organization_id, filter), _all_of(_of_kind(organization_id, filter), older)
    return Sql(
        f"""SELECT found.id FROM ({sources.text}) s CROSS JOIN unnest({{}}::text[]) AS chosen (status)
            CROSS JOIN LATERAL (
                SELECT g.id FROM signal g WHERE {where.text} ORDER BY g.id DESC LIMIT {{}}) found
            ORDER BY found.id DESC LIMIT {{}}""",  # noqa: S608
        [*sources.arguments, [filter.status] if filter.status else list(SignalStatus), *where.arguments, limit, limit],
    )


def counts_of(organization_id: UUID, filter: SignalFilter, statuses: Iterable[SignalStatus], *, most: int) -> Sql:
    """Selects `status` and `number` of those that fit, each counted up to `most`. Knows no `text`."""
    if is_narrow(filter):
        fit = conditions_of(organization_id, filter)
        return Sql(f"SELECT status, count(*) AS number FROM signal g WHERE {fit.text} GROUP BY status", fit.arguments)  # noqa: S608
    sources, where = _sources(organization_id, filter), _of_kind(organization_id, filter)
    return Sql(
        f"""SELECT chosen.status, (SELECT count(*) FROM (
                SELECT FROM ({sources.text}) s CROSS JOIN LATERAL (
                    SELECT FROM signal g WHERE {where.text} LIMIT {{}}) of_source LIMIT {{}}) found) AS number
            FROM unnest({{}}::text[]) AS chosen (status)""",  # noqa: S608
        [*sources.arguments, *where.arguments, most, most, list(statuses)],
    )


def is_narrow(filter: SignalFilter) -> bool:
    """Whether it names a delivery, a story or a person: so few signals that all of them can be read."""
    return bool(filter.external_id or filter.correlation_id or filter.subject)


def _sources(organization_id: UUID, filter: SignalFilter) -> Sql:
    where, arguments = _all_of(Sql("organization = {}", [organization_id]), _equal("id", filter.source_id))
    return Sql(f"SELECT id FROM source WHERE {where}", arguments)  # noqa: S608


def _of_kind(organization_id: UUID, filter: SignalFilter) -> Sql:
    """What `filter` says, within a source `s` and a `chosen` state."""
    place = Sql("g.source = s.id AND g.status = chosen.status", [])
    return _all_of(place, _equal("g.type", filter.type), *_rest(organization_id, filter))


def _rest(organization_id: UUID, filter: SignalFilter) -> list[Sql | None]:
    """What is not chosen from a list. A delivery's id is looked up within the organisation's sources: that index is
    there, since it keeps deliveries from being stored twice."""
    return [
        _equal(f"g.source = ANY({SOURCES}) AND g.external_id", filter.external_id, organization_id),
        _equal("g.correlation_id", filter.correlation_id),
        Sql(f"g.id = ANY({ABOUT})", [organization_id, filter.subject]) if filter.subject else None,
        _says(filter.text) if filter.text else None,
        Sql("g.id >= {} AND g.received_at >= {}", [begins_at(filter), filter.since]) if filter.since else None,
        _until(filter) if filter.until else None,
    ]


SOURCES = "ARRAY(SELECT id FROM source WHERE organization = {})"
ABOUT = """ARRAY(SELECT a.signal FROM action a JOIN end_user e ON e.id = a.end_user
                 WHERE e.organization = {} AND e.subject = {})"""


def begins_at(filter: SignalFilter) -> UUID:
    """No signal that fits has an older id."""
    return _id_about(clock.in_utc(filter.since, path="/since"), -LEEWAY_MS) if filter.since else UUID(int=0)


def _says(text: str) -> Sql:
    return Sql("(array_to_tsvector(g.words) @@ {}::tsquery OR g.external_id = {})", [query_of(text), text])


def _until(filter: SignalFilter) -> Sql:
    assert filter.until
    moment = clock.in_utc(filter.until, path="/until")
    if filter.since and clock.in_utc(filter.since, path="/since") > moment:
        raise InputInvalid.at("/until", "The end of the period is before its beginning.")
    return Sql("g.id < {} AND g.received_at < {}", [_id_about(moment, LEEWAY_MS), moment])


def _id_about(moment: datetime, shift_ms: int) -> UUID:
    """The oldest id of a moment that may be any, years before there were ids included."""
    return UUID(int=max(0, oldest_id(max(moment, EPOCH)).int + (shift_ms << 80)))


def _equal(column: str, value: Any, *before: Any) -> Sql | None:
    return None if value is None else Sql(f"{column} = {{}}", [*before, value])


def _all_of(*conditions: Sql | None) -> Sql:
    chosen = [condition for condition in conditions if condition]
    arguments = [argument for condition in chosen for argument in condition.arguments]
    if any(isinstance(argument, str) and "\0" in argument for argument in arguments):
        raise InputInvalid.at("", "A filter must not contain the character U+0000.")
    return Sql(" AND ".join(condition.text for condition in chosen), arguments)
