"""Events as subscribers and clients read them."""

from typing import Any
from uuid import UUID

import msgspec

from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit
from portal.errors import InputInvalid, NotFound
from portal.notify.schemas import EventView, Subject

EVENT_COLUMNS = """e.id, e.organization, e.position, e.kind, e.subject_kind, e.subject_id, e.payload,
                   e.correlation_id, e.occurred_at"""


def view_of(row: dict[str, Any]) -> EventView:
    """An event from its columns `EVENT_COLUMNS`."""
    return EventView(
        id=row["id"],
        type=row["kind"],
        position=row["position"],
        timestamp=row["occurred_at"],
        organization_id=row["organization"],
        subject=Subject(row["subject_kind"], row["subject_id"]),
        correlation_id=row["correlation_id"],
        data=msgspec.json.decode(row["payload"]),
    )


async def get_event(organization_id: UUID, event_id: UUID) -> EventView:
    """Raises `NotFound`."""
    rows = await run_sql(
        f"SELECT {EVENT_COLUMNS} FROM event e WHERE e.organization = {{}} AND e.id = {{}}",  # noqa: S608
        organization_id,
        event_id,
    )
    if not rows:
        raise NotFound("There is no such event, or it is older than 90 days.")
    return view_of(rows[0])


async def list_events(
    organization_id: UUID,
    *,
    type: str | None = None,
    subject_id: str | None = None,
    after: int = 0,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[EventView]:
    """Events after a position, in the order of their positions: the oldest first.

    Who goes on after the position of the last one, whenever, misses nothing and sees nothing twice. Raises
    `InputInvalid` for a cursor that is none.
    """
    position = after if cursor is None else _position_of(cursor)
    filters, arguments = "", list[Any]()
    if type is not None:
        filters, arguments = f"{filters} AND e.kind = {{}}", [*arguments, type]
    if subject_id is not None:
        filters, arguments = f"{filters} AND e.subject_id = {{}}", [*arguments, subject_id]
    rows = await run_sql(
        f"""SELECT {EVENT_COLUMNS} FROM event e
            WHERE e.organization = {{}} AND e.position > {{}} {filters} ORDER BY e.position LIMIT {{}}""",  # noqa: S608
        organization_id,
        position,
        *arguments,
        check_limit(limit) + 1,
    )
    shown = [view_of(row) for row in rows[:limit]]
    return Page(shown, str(shown[-1].position) if len(rows) > limit else None)


def _position_of(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 18):
        raise InputInvalid.at("/cursor", "This is not a cursor that a list returned.")
    return int(cursor)
