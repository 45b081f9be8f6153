"""TX-12 in the middle of a pass: whoever loses its lane, before whichever of its writes, writes nothing more."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from itertools import count
from typing import Any

import pytest

from portal.db.engine import Transaction, run_sql
from portal.transactions.controls.service import cancel
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes.leases import HOLDER
from portal.transactions.service import queue_approved
from tests.faults.node_proxy import SEND, refuse
from tests.faults.world import World

STATE = """SELECT (SELECT json_agg(t ORDER BY id)::text FROM transaction t) AS transactions,
                  (SELECT json_agg(x ORDER BY id)::text FROM attempt x) AS attempts,
                  (SELECT json_agg((id, next_nonce, fence, held_by))::text FROM lane) AS lanes,
                  (SELECT count(*) FROM audit_entry) AS entries, (SELECT count(*) FROM outbox) AS told"""
TAKE_OVER = "UPDATE lane SET held_by = {}, held_until = now() + interval '30 s', fence = fence + 1"


class Rival:
    """Another pass, which takes the lanes over just before db transaction number `turn` of the one that holds them."""

    def __init__(self, turn: int) -> None:
        self._left = turn
        self.found: list[dict[str, Any]] | None = None
        """All that was stored when it took over; None while it did not."""

    @contextmanager
    def lurking(self) -> Iterator[None]:
        begin = Transaction.get_connection

        async def begin_late(of: Transaction) -> Any:
            await asyncio.create_task(self._strike(), context=Context())
            return await begin(of)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Transaction, "get_connection", begin_late)
            yield

    async def _strike(self) -> None:
        if self.found is None and await run_sql("SELECT FROM lane WHERE held_by IS NOT NULL"):
            self._left -= 1
            if self._left == 0:
                await run_sql(TAKE_OVER, HOLDER)
                self.found = await run_sql(STATE)


async def approve(world: World) -> None:
    """The first of its lane: its nonce is asked for, it is claimed, signed, sent."""
    await world.play.approved_mint()
    await run_sql("UPDATE lane SET next_nonce = NULL")


async def call_off(world: World) -> None:
    """One that is out: what does nothing is signed at its nonce."""
    action_id = await world.play.approved_mint()
    await run_lanes()
    await cancel(world.play.stage.cast.oscar.actor, (await world.view(action_id)).id)


async def call_off_unsigned(world: World) -> None:
    """One with a nonce that a dead worker left: the nonce goes back."""
    action_id = await world.play.approved_mint()
    await queue_approved()
    await run_sql("UPDATE transaction SET status = 'nonced', nonce = next_nonce FROM lane WHERE status = 'queued'")
    await run_sql("UPDATE lane SET next_nonce = next_nonce + 1")
    await cancel(world.play.stage.cast.oscar.actor, (await world.view(action_id)).id)


async def refuse_for_good(world: World) -> None:
    """The node takes it never: it is rejected, and its nonce goes back."""
    await world.play.approved_mint()
    world.proxy.plan(SEND, refuse("exceeds block gas limit"))


async def leave_a_gap(world: World) -> None:
    """Nobody has the nonce before it: one that does nothing is signed there."""
    await run_sql("UPDATE lane SET next_nonce = next_nonce + 1")
    await world.play.approved_mint()
    world.proxy.plan(SEND, refuse("nonce too high"))


@pytest.mark.parametrize(
    ("begin", "writes"),
    [(approve, 4), (call_off, 2), (call_off_unsigned, 1), (refuse_for_good, 3), (leave_a_gap, 4)],
    ids=lambda given: getattr(given, "__name__", None),
)
async def test_tx_12_whoever_loses_its_lane_in_the_middle_of_a_pass_writes_nothing_more(
    world: World, begin: Callable[[World], Awaitable[None]], writes: int
) -> None:
    await world.play.approved_mint()
    await world.work()
    for turn in count(1):
        world.node.mine()
        await watch_chains()
        await begin(world)
        rival = Rival(turn)
        with rival.lurking():
            await run_lanes()
        if rival.found is None:
            break
        assert await run_sql(STATE) == rival.found, f"lost before its write {turn}, it went on writing"
        await world.leases_end()
        await world.work(2)
    world.node.mine()
    assert turn > writes, "it writes more often than it was made to lose its lane"
