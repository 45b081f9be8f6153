"""Anything in any order: approvals, passes, deaths, lies, lost replies, blocks, reorganisations, spikes, cancellations.

Hypothesis makes up the stories (200; `make soak` thousands) and shortens one that breaks an invariant. After each step
the invariants of the engine are compared with the chain and the wire. At the end of a story all faults stop, and every
transaction must come to its end: executed exactly once if that end is `ok`, else never.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ClassVar
from uuid import UUID

import pytest
import structlog
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

from portal import clock
from portal.actions.schemas import PolicyInput
from portal.actions.service import create_policy, simulate
from portal.audit.service import verify
from portal.chain.rpc import close_nodes
from portal.db.engine import run_sql
from portal.errors import PortalError
from portal.transactions.controls.pauses import pause
from portal.transactions.controls.service import cancel, speed_up
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.tables import Outcome, PauseScope
from tests.actions import CHAIN
from tests.anvil import Anvil, running_anvil
from tests.faults import invariants
from tests.faults.interruptions import die_unsigned, dies, stall
from tests.faults.node_proxy import BLOCK, COUNT, LOST, RECEIPT, SEND, Break, Fault, Pretend, Say, Twice
from tests.faults.node_words import Meaning, dialects
from tests.faults.world import World, forget_transactions, witnessed

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "200"))
STEPS = 12 if "SOAK_EXAMPLES" in os.environ else 8
MOST_ACTIONS = 6
IN_FLIGHT = 3
GWEI = 10**9
MOST_COST_WEI = 36 * 10**4 * GWEI
"""A mint's gas at some 8 gwei, where whoever gets it has some already."""
MOST_FEE_WEI = 12 * GWEI
"""Above what the policy allows of a call, so that a spike comes to either limit: the policy's, and a no-op's."""
WORDS: list[Fault] = [
    *(answer for meaning in Meaning for answer in dialects(meaning)[:2]),
    *(dialects(Meaning.KNOWN, after=True)[0], *dialects(Meaning.FATAL, after=True)[:1]),
    *(LOST, Break("reset"), Break(503), Break(503, after=True), Break("html"), Twice(), Pretend()),
]
UNCLEAR: list[Fault] = [LOST, Break("reset"), Break(503, after=True), dialects(Meaning.FULL)[0]]
"""After these nobody can know whether the node has it."""
SILENCES: list[Fault] = [Break("reset"), Break(429), Break("truncated"), Say(None)]


async def watch_only(_world: World) -> None:
    await watch_chains()


async def two_at_once(world: World) -> None:
    await asyncio.gather(run_lanes(), run_lanes(), watch_chains())
    await watch_chains()


class Story(RuleBasedStateMachine):
    world: ClassVar[World]
    loop: ClassVar[asyncio.AbstractEventLoop]
    policy: ClassVar[UUID]
    unstored: ClassVar[list[bytes]]
    """Signed bytes that came to the node before they were committed."""
    minted: ClassVar[int] = 0
    """Every action mints another amount, so that none has the bytes of another."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        """Whether something went wrong: then there is no end to wait for."""
        self.actions: list[UUID] = []
        self.amounts: dict[UUID, int] = {}
        self.approved: dict[str, dict[str, Any]] = {}
        self.suspects: set[str] = set()
        self.pausing: set[str] | None = None
        """What had been signed when the signer was paused; None while it is not."""

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        self.broken = True
        result = done.result(timeout=60)
        self.broken = False
        return result

    @initialize(
        count=st.integers(1, 3),
        stage=st.sampled_from(["queued", "poor", "out", "out", "stuck", "mined", "confirmed"]),
        base_fee=st.sampled_from([GWEI // 5, GWEI, 3 * GWEI]),
    )
    def begin(self, count: int, stage: str, base_fee: int) -> None:
        """Stories begin where those before them would have needed many quiet steps to come to."""
        self.world.proxy.clear()
        self.world.node.fund(self.world.signer)
        self.world.pool.spike(base_fee)
        self.balance, self.since = self.run(self.begin_at())
        self.approve(count)
        if stage == "poor":
            self.fund(1)
        if stage != "queued":
            self.tick()
        if stage == "stuck":
            self.pass_over()
        if stage in ("mined", "confirmed"):
            self.go_on(1 if stage == "mined" else 2)

    async def begin_at(self) -> tuple[int, int]:
        await run_sql("UPDATE chain SET most_fee_wei = {} WHERE id = {}", MOST_FEE_WEI, CHAIN)
        rows = await run_sql("SELECT sequence FROM audit_head WHERE organization = {}", self.world.play.organization_id)
        return await self.world.play.minted(), rows[0]["sequence"]

    # What the portal and its people do

    @precondition(lambda self: len(self.actions) < MOST_ACTIONS)
    @rule(count=st.integers(1, 2))
    def approve_more(self, count: int) -> None:
        self.approve(count)

    def approve(self, count: int) -> None:
        self.run(close_nodes())  # a proposal meets no trouble: that is another story
        with self.world.proxy.being_well():
            self.run(self.approve_all(count))

    async def approve_all(self, count: int) -> None:
        made = []
        for _ in range(count):
            Story.minted += 1
            action = await self.world.play.stage.propose_unsimulated(amount=str(Story.minted), policy_id=self.policy)
            made.append(action.id)
            self.amounts[action.id] = Story.minted
        await simulate(made)
        self.actions += made
        for row in await run_sql("SELECT to_jsonb(action) AS row FROM action WHERE id = ANY({})", made):
            self.approved |= {(said := json.loads(row["row"]))["id"]: said}

    @rule(does=st.sampled_from([World.work, World.work, watch_only, two_at_once]))
    def tick(self, does: Callable[[World], Coroutine[Any, Any, Any]] = World.work) -> None:
        self.run(does(self.world))

    @rule(blocks=st.sampled_from([1, 1, 2, 3]))
    def go_on(self, blocks: int) -> None:
        """Some blocks in which all goes as it should, so that stories come to later states, too."""
        self.run(self.world.work())
        self.mine(blocks)
        self.run(self.world.work(2))

    @rule(waits=st.integers(1, 60))
    def crash(self, waits: int) -> None:
        """The worker dies at one of its waits for the database or a node; another one finds what it left."""
        self.bury(dies(waits, run_lanes, watch_chains))

    @rule(paused=st.booleans())
    def crash_before_signing(self, paused: bool) -> None:
        """The worker dies with nonces claimed for what it is about to sign; meanwhile somebody pauses the chain."""
        self.bury(die_unsigned())
        if paused:
            self.pause_chain()
        self.tick()

    def bury(self, death: Coroutine[Any, Any, object]) -> None:
        self.run(death)
        self.run(self.world.leases_end())
        self.run(close_nodes())

    @rule(waits=st.integers(1, 20), hurry=st.booleans())
    def stall_worker(self, waits: int, hurry: bool) -> None:
        """A worker is stopped for longer than its leases last, another one works meanwhile, and the first goes on."""
        if hurry:
            self.run(self.ask(speed_up, *self.actions))
        self.run(stall(self.world, waits))

    @rule(which=st.integers(0, MOST_ACTIONS), hurry=st.booleans())
    def control(self, which: int, hurry: bool) -> None:
        """Somebody cancels or speeds up, in time or not."""
        self.run(self.ask(speed_up if hurry else cancel, self.actions[which % len(self.actions)]))

    @rule(which=st.integers(0, MOST_ACTIONS), fault=st.sampled_from(UNCLEAR))
    def cancel_the_unclear(self, which: int, fault: Fault) -> None:
        """Something is called off of which nobody knows whether it is out."""
        self.world.proxy.plan(SEND, fault)
        self.run(run_lanes())
        self.control(which, hurry=False)
        self.run(run_lanes())

    async def ask(self, wish: Callable[..., Coroutine[Any, Any, Any]], *actions: UUID) -> None:
        for row in await run_sql("SELECT id FROM transaction WHERE action = ANY({})", list(actions)):
            with suppress(PortalError):  # not in this state
                await wish(self.world.play.stage.cast.oscar.actor, row["id"])

    @rule()
    def pause_signer(self) -> None:
        if self.pausing is not None:
            self.run(run_sql("UPDATE pause SET ended_at = now()"))
            self.pausing = None
            return
        stage = self.world.play.stage
        self.run(pause(stage.cast.oscar.actor, PauseScope.SIGNER, str(stage.signer_id), "To see what it holds up."))
        rows = self.run(run_sql("SELECT transaction FROM attempt"))
        self.pausing = {str(row["transaction"]) for row in rows}

    @rule(which=st.integers(0, MOST_ACTIONS))
    def tamper(self, which: int) -> None:
        """Whoever can write to the database makes more of what was approved."""
        action = self.actions[which % len(self.actions)]
        self.run(run_sql("UPDATE action SET calldata = set_byte(calldata, 60, 7) WHERE id = {}", action))

    @rule()
    def pause_chain(self) -> None:
        """The chain is paused, or not any more."""
        self.run(run_sql("UPDATE chain SET paused_at = CASE WHEN paused_at IS NULL THEN now() END"))

    # What the node and the chain do

    @rule(faults=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))
    def misspeak(self, faults: list[Fault]) -> None:
        """The next sends are answered so."""
        self.world.proxy.plan(SEND, *faults)

    @precondition(lambda self: len(self.actions) < MOST_ACTIONS)
    @rule()
    def refuse_the_unclear(self) -> None:
        """A node takes something, is not heard, forgets it and refuses it for good, while another one mines it."""
        self.approve(1)
        self.world.proxy.plan(SEND, LOST)
        self.world.proxy.plan(COUNT, Break("reset"), tag="pending")
        self.run(run_lanes())
        self.world.pool.drop()
        self.run(close_nodes())
        self.world.proxy.plan(SEND, dialects(Meaning.FATAL)[0])
        self.run(run_lanes())
        self.drop(-1)

    @rule(
        method=st.sampled_from([COUNT, RECEIPT, BLOCK, "eth_feeHistory", "*"]),
        fault=st.sampled_from([*SILENCES, 0, 0, 1, 3]),
    )
    def mislead(self, method: str, fault: Fault | int) -> None:
        """The next read fails; or the node lags by so many blocks from now on."""
        if isinstance(fault, int):
            self.world.proxy.behind = fault
        else:
            self.world.proxy.plan(method, fault)

    @rule(blocks=st.sampled_from([1, 1, 2, 6, 10]))
    def mine(self, blocks: int) -> None:
        self.world.pool.holds_back = False
        self.world.pass_blocks(blocks)

    @rule()
    def pass_over(self) -> None:
        """Six blocks in which nothing of the pool is, and what comes of it."""
        self.run(self.world.get_stuck())
        self.run(run_lanes())

    @rule(seconds=st.sampled_from([31, 31, 3700]))
    def wait(self, seconds: int) -> None:
        self.world.later(seconds)

    @rule(which=st.integers(-MOST_ACTIONS, 2))
    def drop(self, which: int) -> None:
        """The node forgets its pool. Below 0 somebody else mines what was once in it, dropped or replaced since."""
        self.world.pool.drop()
        if which < 0 and self.world.pool.taken:
            self.world.pool.bring_back(which)
            self.mine(1)

    @rule(depth=st.integers(1, 5), look=st.booleans())
    def reorganise(self, depth: int, look: bool) -> None:
        """The last blocks are others now, and empty. Who looks while nothing else is wrong sends again what was in."""
        self.world.node.rpc("anvil_reorg", depth, [])
        if look:
            with self.world.proxy.being_well():
                self.run(self.resend())

    async def resend(self) -> None:
        await close_nodes()
        included = await run_sql("SELECT id FROM transaction WHERE status IN ('mined', 'confirmed')")
        await watch_chains()
        undone = await run_sql(
            """SELECT nonce FROM transaction WHERE id = ANY({}) AND status IN ('broadcast', 'closing')
               AND cancel_requested_at IS NULL AND execute_before > {}""",
            [row["id"] for row in included],
            clock.now(),
        )
        before = len(self.world.proxy.sent)
        await run_lanes()
        again = {each.transaction.nonce for each in self.world.proxy.sent[before:]}
        assert {row["nonce"] for row in undone} <= again, "what a reorganisation undid was not sent again"

    @rule(gwei=st.sampled_from([1, 5, 30]))
    def spike(self, gwei: int) -> None:
        self.world.pool.spike(gwei * GWEI)

    @rule()
    def spend_from_outside(self) -> None:
        if int(self.world.node.rpc("eth_getBalance", self.world.signer, "latest"), 16) > 10**18:
            self.world.spend_nonce()

    @rule(wei=st.sampled_from([1, 10**21]))
    def fund(self, wei: int) -> None:
        self.world.node.fund(self.world.signer, wei)

    # What must be

    @invariant()
    def invariants_hold(self) -> None:
        if self.actions:
            self.run(self.must_hold())

    async def must_hold(self) -> None:
        facts = await invariants.read_facts(self.world, since=self.since, approved=self.approved)
        invariants.check(facts)
        invariants.check_limits(facts)
        invariants.check_told(facts)
        assert not self.unstored, "bytes went out before they were stored"
        for row in facts.transactions:
            if row["status"] == "suspect" and row["id"] not in self.suspects:
                assert facts.counts[self.world.signer][0] > row["nonce"], "suspected while its nonce is free"
        self.suspects = {row["id"] for row in facts.transactions if row["status"] == "suspect"}
        if self.pausing is not None:
            signed = {attempt.row["transaction"] for attempt in facts.attempts if attempt.is_call}
            assert signed <= self.pausing, "signed by a signer that is paused"

    def teardown(self) -> None:
        try:
            if self.actions and not self.broken:
                self.run(self.end())
        finally:
            self.run(forget_transactions(and_lanes=self.broken))
            for rest in (self.world.proxy.sent, self.world.pool.slots, self.world.pool.taken, self.unstored):
                rest.clear()

    async def end(self) -> None:
        """Nothing is wrong or held up any more: everything comes to an end, and the chain agrees with it."""
        world = self.world
        # Else a no-op may wait for ever that has to outbid a call whose fee is near it.
        await run_sql("UPDATE chain SET most_fee_wei = NULL")
        await run_sql("UPDATE pause SET ended_at = now()")
        self.pausing = None
        world.node.fund(world.signer)
        await run_sql("UPDATE chain SET paused_at = NULL")
        world.pool.spike(GWEI)
        await world.leases_end()
        views = await world.finish(*self.actions)
        await self.must_hold()
        facts = await invariants.read_facts(world, since=self.since, approved=self.approved)
        for view in views:
            executed = sum(attempt.executed for attempt in facts.attempts_of[str(view.id)])
            assert executed == (view.outcome is Outcome.OK), f"{view.status} {view.outcome} {view.failure}"
        minted = sum(self.amounts[view.action_id] for view in views if view.outcome is Outcome.OK)
        assert await world.play.minted() - self.balance == minted, "the contract counts something else"


@pytest.fixture(scope="module")
def anvil_behind() -> Iterator[Anvil]:
    """A chain whose blocks are final when eight more are there, so that stories come so far."""
    with running_anvil(options=["--slots-in-an-epoch", "4"]) as node:
        yield node


@pytest.fixture
def quiet() -> Iterator[None]:
    """What two hundred stories log takes long to write, and nobody finds anything in it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


async def test_any_story_ends_with_each_action_executed_once_or_never(geth: World, quiet: None) -> None:
    geth.final_after = 12
    geth.pass_blocks(20)
    policy = PolicyInput(
        name="Not much, and soon", approvals_required=0, execute_within_seconds=3600, most_cost_wei=str(MOST_COST_WEI)
    )
    Story.policy = (await create_policy(geth.play.stage.cast.alice.actor, policy)).id
    await run_sql("UPDATE chain SET in_flight_limit = {} WHERE id = {}", IN_FLIGHT, CHAIN)
    Story.world, Story.loop, Story.unstored = geth, asyncio.get_running_loop(), []
    told = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        phases=[Phase.generate, *([Phase.shrink] if "SOAK_SHRINK" in os.environ else [])],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    async with witnessed(geth, Story.unstored):
        await asyncio.to_thread(run_state_machine_as_test, Story, settings=told)
    assert await verify(geth.play.organization_id) is None
