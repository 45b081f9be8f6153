"""What there is to do in lanes, as the database says. Whether a node agrees is asked when it is done."""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.chain.rpc import Call
from portal.chain.tables import SignerStatus
from portal.db.columns import wei
from portal.db.engine import run_sql
from portal.transactions.controls.pauses import find_pauses
from portal.transactions.moves import Work, list_work
from portal.transactions.tables import TransactionStatus as Status

SEND_AGAIN_AFTER = timedelta(seconds=30)
FRESH_SIMULATION = timedelta(minutes=5)
"""So long the gas that a simulation found is taken for right."""
ENDED_AT_ONCE = 100
"""Of those that are to be ended before they have a nonce: what is out must not wait until all are."""
HELD_AT_ONCE = 4
"""Of those that waited for something already, in any order, where others have not: they must not be delayed. One of
the former comes first all the same: where there never is room for all, they would be passed over for ever."""

# Cancelled, or expired by our clock; by the chain's clock `ending_of` decides.
ASKED = "(t.cancel_requested_at IS NOT NULL OR t.execute_before <= given.now)"
NEWEST = """LEFT JOIN LATERAL (
    SELECT last_sent_at, signed_at_block FROM attempt x WHERE x.transaction = t.id ORDER BY x.max_fee_wei DESC LIMIT 1
) newest ON t.status IN ('broadcast', 'closing')"""
# A moment that is yet to come says that the clock was wrong then, or is now; those of several machines differ a little.
SOON = "given.now + interval '30 s'"
QUIET = f"(newest.last_sent_at > given.quiet_before AND newest.last_sent_at < {SOON}) IS NOT TRUE"
STUCK = """(coalesce(c.head_number - coalesce(newest.signed_at_block, 0) >= c.stuck_blocks, false)
    AND t.nonce = (
        SELECT min(o.nonce) FROM transaction o WHERE o.lane = t.lane AND o.status IN ('broadcast', 'closing')))"""
DUE = f"""(t.status IN ('nonced', 'signed') OR t.status = 'broadcast' AND {ASKED}
    OR t.status IN ('broadcast', 'closing') AND (t.hurry_requested_at IS NOT NULL OR {QUIET} OR {STUCK}))"""
ROOM = """greatest(0, CASE WHEN EXISTS (
        SELECT FROM transaction o WHERE o.lane = l.id AND o.status IN ('nonced', 'signed')) THEN 0
    ELSE c.in_flight_limit - (SELECT count(*) FROM transaction o
        WHERE o.lane = l.id AND o.status IN ('nonced', 'signed', 'broadcast', 'closing', 'suspect')) END)"""

GIVEN = """
    (SELECT {}::timestamptz AS now, {}::timestamptz AS quiet_before, {}::timestamptz AS fresh_since,
            {}::uuid[] AS tried, {}::uuid[] AS exhausted, {}::uuid[] AS lanes) given
"""

LANES = f"""
    SELECT l.id, l.chain, l.next_nonce, s.address, s.kind, c.most_fee_wei, c.fee_style
    FROM {GIVEN} CROSS JOIN lane l JOIN signer s ON s.id = l.signer JOIN chain c ON c.id = l.chain
    WHERE s.address IS NOT NULL AND (given.lanes IS NULL OR l.id = ANY(given.lanes)) AND (
        EXISTS (SELECT FROM transaction t {NEWEST} WHERE t.lane = l.id AND NOT t.id = ANY(given.tried)
            AND t.status IN ('nonced', 'signed', 'broadcast', 'closing') AND {DUE})
        OR EXISTS (SELECT FROM transaction t WHERE t.lane = l.id AND t.status = 'queued'
            AND NOT t.id = ANY(given.tried)
            AND ({ASKED} OR {ROOM} > 0 AND (t.reason IS NULL OR NOT l.id = ANY(given.exhausted)))))
"""  # noqa: S608  parts of ours
LOOK = f"""
    SELECT t.id, t.lane, {QUIET} AS is_quiet, coalesce({STUCK}, false) AS is_stuck,
           t.hurry_requested_at IS NOT NULL AS is_hurried,
           CASE WHEN (a.simulation->>'ok')::boolean AND a.simulated_at > given.fresh_since AND a.simulated_at < {SOON}
                THEN (a.simulation->>'gas')::bigint END AS known_gas,
           a.to_address, a.calldata, a.value_wei, v.policy AS policy_id, v.most_cost_wei, v.most_cost_a_day_wei
    FROM {GIVEN} CROSS JOIN lane l JOIN chain c ON c.id = l.chain JOIN LATERAL (
        SELECT id FROM transaction WHERE lane = l.id AND status IN ('nonced', 'signed', 'broadcast', 'closing')
        UNION (SELECT id FROM transaction t WHERE lane = l.id AND status = 'queued' AND {ASKED}
               AND NOT id = ANY(given.tried) ORDER BY id LIMIT {ENDED_AT_ONCE})
        UNION (SELECT id FROM transaction WHERE lane = l.id AND status = 'queued' AND reason IS NULL
               AND NOT id = ANY(given.tried) ORDER BY id LIMIT {ROOM})
        UNION (SELECT id FROM transaction WHERE lane = l.id AND status = 'queued' AND reason IS NOT NULL
               AND NOT id = ANY(given.tried) ORDER BY random()
               LIMIT CASE WHEN l.id = ANY(given.exhausted) THEN 0 WHEN EXISTS (
                   SELECT FROM transaction o WHERE o.lane = l.id AND o.status = 'queued' AND o.reason IS NULL
                       AND NOT o.id = ANY(given.tried)) THEN least({HELD_AT_ONCE}, {ROOM}) ELSE {ROOM} END)
    ) picked ON true
    JOIN transaction t ON t.id = picked.id
    JOIN action a ON a.id = t.action JOIN policy_terms v ON v.id = a.policy_version
    {NEWEST}
    WHERE l.id = ANY(given.lanes) AND (t.status = 'queued' OR {DUE})
"""  # noqa: S608  parts of ours


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction of a lane that may need something."""

    work: Work
    is_quiet: bool
    """Nobody has been sent it for a while, or at all since a reorganisation undid it."""
    is_stuck: bool
    """First of its lane, and passed over for many blocks."""
    is_hurried: bool
    stopped: str | None
    """Why nothing may be signed for it now: a pause, or a signer that is disabled."""
    call: Call
    known_gas: int | None
    """What a simulation found it to need not long ago."""
    policy_id: UUID
    most_cost_wei: int | None
    most_cost_a_day_wei: int | None


async def find_lanes(
    tried: Collection[UUID], exhausted: Collection[UUID], lane_ids: Iterable[UUID] | None = None
) -> list[dict[str, Any]]:
    """Lanes, of `lane_ids` or of all, in which there is something to do besides what was `tried`.

    In a lane that is `exhausted`, what is queued and was held before does not count.
    """
    return await run_sql(LANES, *_given(tried, exhausted, lane_ids))


async def look_all(lane_ids: Sequence[UUID], tried: Collection[UUID], exhausted: Collection[UUID]) -> list[list[Task]]:
    """What there is to do in each lane besides what was `tried`; see `find_lanes`.

    First comes what is nonced or signed, which is always there since nothing new is begun behind it; then what is out,
    in the order of nonces; then what is queued: one that waited for something already, and the others in their order.
    """
    rows = await run_sql(LOOK, *_given(tried, exhausted, lane_ids))
    wanted = [row["id"] for row in rows]
    works = {work.id: work for work in await list_work("WHERE t.id = ANY({}::uuid[])", wanted)}
    paused = await find_pauses(wanted)
    found: dict[UUID, list[Task]] = {lane_id: [] for lane_id in lane_ids}
    for row in rows:
        work = works[row["id"]]
        if work.id not in tried or work.status in (Status.NONCED, Status.SIGNED):
            found[row["lane"]].append(_task(row, work, paused.get(work.id)))
    return [_in_order(found[lane_id]) for lane_id in lane_ids]


def _given(tried: Collection[UUID], exhausted: Collection[UUID], lane_ids: Iterable[UUID] | None) -> tuple[Any, ...]:
    now = clock.now()
    lanes = None if lane_ids is None else list(lane_ids)
    return now, now - SEND_AGAIN_AFTER, now - FRESH_SIMULATION, list(tried), list(exhausted), lanes


def _in_order(tasks: list[Task]) -> list[Task]:
    held = next((task for task in tasks if task.work.status is Status.QUEUED and task.work.reason is not None), None)

    def order(task: Task) -> tuple[bool, bool, int, bool, bool, UUID]:
        work = task.work
        unsent = work.status in (Status.NONCED, Status.SIGNED)
        return not unsent, work.nonce is None, work.nonce or 0, task is not held, work.reason is not None, work.id

    return sorted(tasks, key=order)


def _task(row: dict[str, Any], work: Work, paused: str | None) -> Task:
    call = Call(
        from_address=work.signer_address,
        to_address=row["to_address"],
        calldata=bytes(row["calldata"]),
        value_wei=int(row["value_wei"]),
    )
    return Task(
        work=work,
        is_quiet=row["is_quiet"],
        is_stuck=row["is_stuck"],
        is_hurried=row["is_hurried"],
        stopped=paused or _disabled(work),
        call=call,
        known_gas=row["known_gas"],
        policy_id=row["policy_id"],
        most_cost_wei=wei(row["most_cost_wei"]),
        most_cost_a_day_wei=wei(row["most_cost_a_day_wei"]),
    )


def _disabled(work: Work) -> str | None:
    if work.signer_status != SignerStatus.DISABLED:
        return None
    return (
        f"The signer {work.signer_name} is disabled. It goes on once the signer is enabled again; cancel it if it "
        "should not be carried out."
    )
