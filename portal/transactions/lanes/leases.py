"""Who writes in a lane: one pass of one worker at a time, by a lease with a fencing token.

A lease lasts 30 s by the database's clock, and longer with each write. Each taking of a lane raises its fence, and
every write begins by locking the lane with the fence of its own pass: a pass that was stopped, and finds that another
has taken the lane meanwhile, changes nothing any more, however long it thought that it held it.

A worker that was killed does not keep its lanes for those 30 s: as long as it lives it holds an advisory lock on a
connection of its own, which the database gives up with the connection. That only makes others quicker; fences alone
keep them apart.
"""

from collections.abc import Iterable
from uuid import UUID

import msgspec

from portal.db.columns import new_id
from portal.db.engine import ReservedConnection, in_transaction, run_sql

HOLDER = new_id()
"""This process."""
_life = ReservedConnection()

LIVE = """
    SELECT pg_try_advisory_lock(hashtextextended('lanes:' || $1::uuid, 0)) WHERE NOT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""
TAKE = """
    UPDATE lane SET held_by = {}, held_until = now() + interval '30 s', fence = fence + 1
    WHERE id IN (
        SELECT id FROM lane WHERE id = ANY({}::uuid[]) AND (held_until IS NULL OR held_until < now() OR NOT EXISTS (
            SELECT FROM pg_locks k WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 1
                AND (k.classid::bigint << 32 | k.objid::bigint) = hashtextextended('lanes:' || lane.held_by, 0)))
        FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id, fence
"""
# An update that touches no key locks FOR NO KEY UPDATE: queueing, whose foreign key names the lane, never waits.
FENCE = """
    UPDATE lane SET held_until = now() + interval '30 s'
    FROM unnest({}::uuid[], {}::bigint[]) AS mine (id, fence)
    WHERE lane.id = mine.id AND lane.fence = mine.fence RETURNING lane.id
"""
RELEASE = """
    UPDATE lane SET held_by = NULL, held_until = NULL FROM unnest({}::uuid[], {}::bigint[]) AS mine (id, fence)
    WHERE lane.id = mine.id AND lane.fence = mine.fence
"""


class LaneLost(Exception):
    """Another pass has taken the lane: nothing was written, and this one must leave it alone."""


class Lease(msgspec.Struct, frozen=True):
    lane_id: UUID
    fence: int


async def take(lane_ids: Iterable[UUID]) -> dict[UUID, Lease]:
    """Leases of those lanes that nobody holds, or whose holder let its time run out or has died, by lane."""
    await _life.fetch(LIVE, HOLDER)
    rows = await run_sql(TAKE, HOLDER, list(lane_ids))
    return {row["id"]: Lease(row["id"], row["fence"]) for row in rows}


async def held(leases: Iterable[Lease]) -> set[UUID]:
    """The lanes whose leases still hold: locked until the caller's db transaction ends, and prolonged."""
    assert in_transaction(), "the lane stays locked until what is written in it is committed"
    wanted = list(leases)
    rows = await run_sql(FENCE, [lease.lane_id for lease in wanted], [lease.fence for lease in wanted])
    return {row["id"] for row in rows}


async def hold(lease: Lease) -> None:
    """As `held`, of one lane. Raises `LaneLost`."""
    if not await held([lease]):
        raise LaneLost(f"Another pass has taken the lane {lease.lane_id}.")


async def release(leases: Iterable[Lease]) -> None:
    """Let others take the lanes, as far as they are still held."""
    wanted = list(leases)
    await run_sql(RELEASE, [lease.lane_id for lease in wanted], [lease.fence for lease in wanted])
