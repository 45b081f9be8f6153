"""One pass over the lanes: in each, transactions are signed and sent in the order of their nonces, then pushed on.

Lanes run side by side, so that a chain or a signer that is stuck stops nobody else.
"""

import asyncio
from collections import defaultdict
from typing import Any
from uuid import UUID

from portal.chain.rpc import Node, NodeUnavailable, get_node
from portal.db.engine import run_sql
from portal.logging import get_logger
from portal.transactions.moves import Work, hold, list_work
from portal.transactions.pushing import push
from portal.transactions.sending import send_first
from portal.transactions.signing import IN_FLIGHT_LIMIT, quote, sign_nonced, sign_queued

log = get_logger(__name__)
LANES_AT_ONCE = 8
"""Of one chain, so that a node that hangs holds up its own lanes only."""
STEPS_A_PASS = 200
"""After so many the pass ends, so that a job stays within its time; the next one goes on."""
CANDIDATES = 20

LANES_WITH_WORK = """
    SELECT l.id, l.chain, l.next_nonce, s.address, c.head_number FROM lane l
    JOIN signer s ON s.id = l.signer JOIN chain c ON c.id = l.chain
    WHERE c.paused_at IS NULL AND s.address IS NOT NULL
      AND EXISTS (SELECT FROM transaction t
                  WHERE t.lane = l.id AND t.status IN ('queued', 'nonced', 'signed', 'broadcast'))
"""


async def run_lanes() -> int:
    """Sign and send what waits in every lane; the number of transactions that were sent.

    Safe to run twice at once. A node that is down raises nothing: what waits says so, and the next pass tries again.
    """
    limits: defaultdict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(LANES_AT_ONCE))
    down: set[int] = set()

    async def run(lane: dict[str, Any]) -> int:
        async with limits[lane["chain"]]:
            return 0 if lane["chain"] in down else await _run_lane(lane, down)

    lanes = await run_sql(LANES_WITH_WORK)
    results = await asyncio.gather(*(run(lane) for lane in lanes), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        log.error("lane.failed", error=type(failure).__name__, exc_info=failure)
    if failures:
        raise failures[0]
    return sum(result for result in results if isinstance(result, int))


async def _run_lane(lane: dict[str, Any], down: set[int]) -> int:
    """Take one lane as far as it goes; the number of transactions sent. Notes in `down` a chain whose node is away."""
    sent = 0
    try:
        node = get_node(lane["chain"])
        if lane["next_nonce"] is None:
            await _seed(lane, node)
        tried: set[UUID] = set()
        while sent < STEPS_A_PASS and (work := await _next_signed(lane["id"], node, tried)):
            if not await send_first(work, node):
                break
            sent += 1
        await push(lane, node)
    except NodeUnavailable as error:
        down.add(lane["chain"])
        for work in await list_work(
            "WHERE t.lane = {} AND t.status IN ('queued', 'nonced', 'signed') ORDER BY t.nonce, t.id LIMIT 1",
            lane["id"],
        ):
            await hold(work, error.detail)
    return sent


async def _seed(lane: dict[str, Any], node: Node) -> None:
    """Take the first nonce from the chain, once; from then on it is ours to count."""
    count = await node.transaction_count(lane["address"])
    await run_sql("UPDATE lane SET next_nonce = {} WHERE id = {} AND next_nonce IS NULL", count, lane["id"])


async def _next_signed(lane_id: UUID, node: Node, tried: set[UUID]) -> Work | None:
    """The lane's signed and unsent transaction; if it has none, the next waiting one, signed now."""
    if unsent := await _find_unsent(lane_id):
        if unsent.status == "signed":
            return unsent
        quoted = await quote(unsent, node)
        return await _find_unsent(lane_id) if quoted and await sign_nonced(unsent, quoted) else None
    for work in await _list_queued(lane_id):
        if work.id in tried:
            continue
        tried.add(work.id)
        quoted = await quote(work, node)
        if quoted:
            await sign_queued(work, quoted)
            # Whoever signed: if there are bytes to send now, they come before anything else.
            return await _find_unsent(lane_id)
    return None


async def _find_unsent(lane_id: UUID) -> Work | None:
    rows = await list_work("WHERE t.lane = {} AND t.status IN ('nonced', 'signed') ORDER BY t.nonce LIMIT 1", lane_id)
    return rows[0] if rows else None


async def _list_queued(lane_id: UUID) -> list[Work]:
    """The next waiting transactions, in their order, then some of those that were held; none while the lane is full."""
    return await list_work(
        """WHERE t.lane = {} AND t.status = 'queued' AND {} > (
               SELECT count(*) FROM transaction o
               WHERE o.lane = t.lane AND o.status IN ('nonced', 'signed', 'broadcast'))
           ORDER BY CASE WHEN t.reason IS NULL THEN t.id END NULLS LAST, random() LIMIT {}""",
        lane_id,
        IN_FLIGHT_LIMIT,
        CANDIDATES,
    )
