"""Which signals some work is about: conditions for its queries, and how many there are."""

from typing import Any
from uuid import UUID

import asyncpg

from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid
from portal.signals.batches.schemas import SignalSelection
from portal.signals.filters import conditions_of
from portal.signals.schemas import SignalFilter
from portal.signals.search import find_ids

COUNT_MILLISECONDS = 2000
MOST_COUNTED = 1_000_000


def conditions_of_selection(organization_id: UUID, selection: SignalSelection) -> tuple[str, list[Any]]:
    """The selection in SQL over `signal g`, and its arguments. Raises `InputInvalid` unless it says one thing."""
    if (selection.signal_ids is None) == (selection.filter is None):
        raise InputInvalid.at("/signal_ids", "Give either signal_ids or filter.")
    where, arguments = conditions_of(organization_id, selection.filter or SignalFilter())
    if selection.signal_ids is not None:
        where, arguments = f"{where} AND g.id = ANY({{}})", [*arguments, selection.signal_ids]
    return where, arguments


async def count_selected(organization_id: UUID, selection: SignalSelection, *, most: int = MOST_COUNTED) -> int | None:
    """How many signals are selected, at most `most + 1`; None where counting takes longer than two seconds."""
    where, arguments = conditions_of_selection(organization_id, selection)
    try:
        async with transaction():
            await run_sql(f"SET LOCAL statement_timeout = {COUNT_MILLISECONDS}")
            rows = await run_sql(
                f"SELECT count(*) AS number FROM (SELECT 1 FROM signal g WHERE {where} LIMIT {{}}) found",  # noqa: S608
                *arguments,
                most + 1,
            )
    except asyncpg.QueryCanceledError:
        return None
    return int(rows[0]["number"])


async def next_ids(
    organization_id: UUID,
    selection: SignalSelection,
    *,
    until: UUID,
    position: UUID | None,
    most: int,
    max_bytes: int | None = None,
) -> tuple[list[UUID], bool]:
    """The newest selected signals up to `until` and before `position`; and whether more follow.

    At most `most`, and no more than `max_bytes` of bodies unless the first alone has more.
    """
    before = position or UUID(int=min(until.int + 1, 2**128 - 1))
    ids = selection.signal_ids or []
    if selection.filter is not None:
        ids = await find_ids(organization_id, selection.filter, before=before, limit=most + 1)
    rows = await run_sql(
        """SELECT id, body_bytes FROM signal WHERE organization = {} AND id = ANY({}) AND id < {}
           ORDER BY id DESC LIMIT {}""",
        organization_id,
        ids,
        before,
        most + 1,
    )
    chosen: list[UUID] = []
    size = 0
    for row in rows[:most]:
        size += row["body_bytes"]
        if chosen and max_bytes is not None and size > max_bytes:
            break
        chosen.append(row["id"])
    return chosen, len(rows) > len(chosen)
