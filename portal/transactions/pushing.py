"""Pushes what is out and not mined: the same bytes where they may be lost, higher fees where they are passed over."""

from datetime import UTC, datetime, timedelta
from typing import Any

from portal import clock
from portal.chain.rpc import Node
from portal.chain.send_answers import SendKind
from portal.db.engine import run_sql
from portal.transactions.moves import list_work
from portal.transactions.sending import send_again
from portal.transactions.signing import sign_replacement

SEND_AGAIN_AFTER = timedelta(seconds=30)
STUCK_BLOCKS = 5
"""Blocks that an attempt may be passed over before its fees are raised."""
STUCK_FOR = timedelta(seconds=20)
"""And the least time, for chains with many blocks a second."""

WAITING = """
    SELECT t.id, newest.last_sent_at, newest.signed_at, t.nonce = min(t.nonce) OVER () AS leads
    FROM transaction t
    JOIN LATERAL (SELECT * FROM attempt a WHERE a.transaction = t.id ORDER BY a.max_fee_wei DESC LIMIT 1) newest ON true
    WHERE t.lane = {} AND t.status = 'broadcast'
"""


async def push(lane: dict[str, Any], node: Node) -> None:
    """Raise the fees of what the lane is stuck at, and send again what was undone or not been seen for a while."""
    waiting = await run_sql(WAITING, lane["id"])
    if not waiting:
        return
    now = clock.now()
    stuck_before = min(await _time_of_block(node, (lane["head_number"] or 0) - STUCK_BLOCKS), now - STUCK_FOR)
    stuck = [row["id"] for row in waiting if row["leads"] and row["signed_at"] < stuck_before]
    quiet = [
        row["id"] for row in waiting if row["last_sent_at"] is None or row["last_sent_at"] < now - SEND_AGAIN_AFTER
    ]
    for work in await list_work("WHERE t.id = ANY({}) AND t.status = 'broadcast' ORDER BY t.nonce", stuck + quiet):
        if (work.id in stuck and await sign_replacement(work, node)) or work.id in quiet:
            answer = await send_again(work, node)
            if answer is SendKind.UNAVAILABLE:
                return  # the others would wait as long for the same node


async def _time_of_block(node: Node, number: int) -> datetime:
    """When the block was made; for one that is not there, the beginning of time."""
    block = (await node.blocks([max(0, number)]))[0]
    return datetime.fromtimestamp(block.timestamp if block else 0, UTC)
