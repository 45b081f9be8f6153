"""Anything in any order: approvals, passes, deaths, lies, lost replies, blocks, reorganisations, spikes, cancellations.

Hypothesis makes up the stories (200; `make soak` thousands) and shortens one that breaks an invariant. After each step
the invariants of the engine are compared with the chain and the wire. At the end of a story all faults stop, and every
transaction must come to its end: executed exactly once if that end is `ok`, else never.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from portal.audit.service import verify
from portal.chain.endpoint import Endpoint
from portal.chain.rpc import close_nodes, get_node
from portal.db.engine import Engine, run_sql, transaction
from portal.errors import PortalError
from portal.transactions.controls.service import cancel, speed_up
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.tables import Outcome
from tests.faults.node_proxy import BLOCK, COUNT, LOST, RECEIPT, SEND, Break, Fault, Pretend, Say, Twice
from tests.faults.node_words import Meaning, dialects
from tests.faults.world import World
from tests.transactions import Killed

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "200"))
STEPS = 12 if "SOAK_EXAMPLES" in os.environ else 8
MOST_ACTIONS = 6
WORDS: list[Fault] = [
    *(answer for meaning in Meaning for answer in dialects(meaning)[:2]),
    *(dialects(Meaning.KNOWN, after=True)[0], *dialects(Meaning.FATAL, after=True)[:1]),
    *(LOST, Break("reset"), Break(503), Break(503, after=True), Break("html"), Twice(), Pretend()),
]
SILENCES: list[Fault] = [Break("reset"), Break(429), Break("truncated"), Say(None)]


class Story(RuleBasedStateMachine):
    world: ClassVar[World]
    loop: ClassVar[asyncio.AbstractEventLoop]
    minted: ClassVar[int] = 0
    """Every action mints another amount, so that none has the bytes of another."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[UUID] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return done.result(timeout=60)

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        self.approve(count)

    # What the portal and its people do

    @precondition(lambda self: len(self.actions) < MOST_ACTIONS)
    @rule(count=st.integers(1, 2))
    def approve_more(self, count: int) -> None:
        self.approve(count)

    def approve(self, count: int) -> None:
        self.run(forget_nodes())  # a proposal meets no trouble: that is another story
        with self.world.proxy.being_well():
            for _ in range(count):
                Story.minted += 1
                self.actions.append(self.run(self.world.play.approved_mint(Story.minted)))

    @rule()
    def tick(self) -> None:
        self.run(self.world.work())

    @rule()
    def tick_again(self) -> None:
        """Twice as likely as anything else: without it nothing happens."""
        self.tick()

    @rule(blocks=st.sampled_from([1, 2, 3]))
    def go_on(self, blocks: int) -> None:
        """Some blocks in which all goes as it should, so that stories come to later states, too."""
        self.run(self.world.work())
        self.mine(blocks)
        self.run(self.world.work(2))

    @rule()
    def watch(self) -> None:
        self.run(watch_chains())

    @rule(waits=st.integers(1, 60))
    def crash(self, waits: int) -> None:
        """The worker dies at one of its waits for the database or a node; another one finds what it left."""

        self.run(die(waits))
        self.run(self.world.leases_end())
        self.run(forget_nodes())

    @precondition(lambda self: self.actions)
    @rule(which=st.integers(0, MOST_ACTIONS), hurry=st.booleans())
    def control(self, which: int, hurry: bool) -> None:
        """Somebody cancels or speeds up, in time or not."""

        async def ask() -> None:
            found = await run_sql(
                "SELECT id FROM transaction WHERE action = {}", self.actions[which % len(self.actions)]
            )
            actor = self.world.play.stage.cast.oscar.actor
            for row in found:
                with suppress(PortalError):  # not in this state
                    await (speed_up if hurry else cancel)(actor, row["id"])

        self.run(ask())

    @rule()
    def stop_or_go_on(self) -> None:
        """The chain is paused, or not any more."""
        self.run(run_sql("UPDATE chain SET paused_at = CASE WHEN paused_at IS NULL THEN now() END"))

    # What the node and the chain do

    @rule(faults=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))
    def misspeak(self, faults: list[Fault]) -> None:
        """The next sends are answered so."""
        self.world.proxy.plan(SEND, *faults)

    @rule(method=st.sampled_from([COUNT, RECEIPT, BLOCK, "eth_feeHistory", "*"]), fault=st.sampled_from(SILENCES))
    def fail(self, method: str, fault: Fault) -> None:
        """The next read fails."""
        self.world.proxy.plan(method, fault)

    @rule(blocks=st.sampled_from([0, 0, 1, 3]))
    def lag(self, blocks: int) -> None:
        self.world.proxy.behind = blocks

    @rule(blocks=st.sampled_from([1, 1, 2, 6]))
    def mine(self, blocks: int) -> None:
        self.world.pool.holds_back = False
        self.world.pass_blocks(blocks)

    @rule()
    def pass_over(self) -> None:
        """Six blocks in which nothing of the pool is."""
        self.run(self.world.get_stuck())

    @rule()
    def wait(self) -> None:
        self.world.later(31)

    @rule()
    def drop(self) -> None:
        self.world.pool.drop()

    @rule(depth=st.integers(1, 5))
    def reorganise(self, depth: int) -> None:
        """The last blocks are others now, and empty."""
        self.world.node.rpc("anvil_reorg", depth, [])

    @rule(times=st.sampled_from([2, 4, 20]))
    def spike(self, times: int) -> None:
        newest = self.world.node.rpc("eth_getBlockByNumber", "latest", False)
        self.world.pool.spike(min(int(newest["baseFeePerGas"], 16) * times, 10**11))

    @rule()
    def spend_from_outside(self) -> None:
        if int(self.world.node.rpc("eth_getBalance", self.world.signer, "latest"), 16) > 10**18:
            self.world.spend_nonce()

    @rule(wei=st.sampled_from([1, 10**21]))
    def fund(self, wei: int) -> None:
        self.world.node.rpc("anvil_setBalance", self.world.signer, hex(wei))

    # What must be

    @invariant()
    def invariants_hold(self) -> None:
        if self.actions:
            self.run(self.world.must_hold(audit=False))

    def teardown(self) -> None:
        if self.actions:
            self.run(self.end())

    async def end(self) -> None:
        world = self.world
        world.node.fund(world.signer)
        await run_sql("UPDATE chain SET paused_at = NULL")
        await world.leases_end()
        views = await world.finish(*self.actions)
        await world.must_hold(audit=False)
        for view in views:
            receipts = [world.node.rpc("eth_getTransactionReceipt", each.hash) for each in view.attempts]
            calls = [each.data for each in await world.attempts(view.action_id)]
            executed = [r for r, data in zip(receipts, calls, strict=True) if r and r["status"] == "0x1" and data]
            assert len(executed) == (view.outcome is Outcome.OK), f"{view.status} {view.outcome} {view.failure}"
        await forget_transactions()
        world.proxy.sent.clear()


async def die(waits: int) -> None:
    """A worker's second, unless it dies before; with it dies all that it had begun."""
    others = asyncio.all_tasks()
    with doomed(waits):
        with suppress(Killed, asyncio.CancelledError):  # the latter where others wait for what the dead one asked
            await run_lanes()
            await watch_chains()
        begun = asyncio.all_tasks() - others
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


async def forget_nodes() -> None:
    """As a process that starts, which knows nothing of earlier failures."""
    await close_nodes()
    get_node.cache_clear()


async def forget_transactions() -> None:
    """So that no story has to read what was in all those before it."""
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")
        for table in ("attempt", "transaction", "decision", "action", "outbox"):
            await run_sql(f"DELETE FROM {table}")


@contextmanager
def doomed(waits: int) -> Iterator[None]:
    """Whoever waits for the database or a node for the so-manieth time is dead."""
    left = waits

    def wrapped(real: Any) -> Any:
        async def call(*given: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                raise Killed
            return await real(*given, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Engine, "run_querystring"), (Endpoint, "_post")):
            patch.setattr(owner, name, wrapped(getattr(owner, name)))
        yield


async def test_any_story_ends_with_each_action_executed_once_or_never(geth: World) -> None:
    geth.pass_blocks(70)
    Story.world, Story.loop = geth, asyncio.get_running_loop()
    told = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        phases=[Phase.generate, *([Phase.shrink] if "SOAK_SHRINK" in os.environ else [])],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    await asyncio.to_thread(run_state_machine_as_test, Story, settings=told)
    assert await verify(geth.play.organization_id) is None
