"""The stage for faults of transactions: the engine before the fault proxy before anvil, and what must always hold."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import asyncpg
import pytest

from portal import clock
from portal.audit.service import verify
from portal.chain import endpoint
from portal.chain.rpc import Node, get_node
from portal.db.engine import run_sql, transaction
from portal.settings import get_settings
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.schemas import TransactionView
from tests.actions import CHAIN
from tests.anvil import Anvil
from tests.faults import invariants
from tests.faults.node_pool import GethPool
from tests.faults.node_proxy import NodeProxy
from tests.faults.raw_transactions import RawTransaction, decode_raw
from tests.transactions import Play

ENDED = frozenset({"finalized", "displaced", "rejected", "refused", "expired", "cancelled"})


@dataclass
class World:
    """A play whose node is behind the proxy, and whose clock a test moves."""

    play: Play
    proxy: NodeProxy
    ahead: timedelta = field(default_factory=timedelta)
    """How far the time in this test is before the real one."""
    jumped: timedelta = field(default_factory=timedelta)
    """How wrong the portal's wall clock is."""
    final_after: int = 70
    """Blocks after which everything before them is final."""

    @property
    def node(self) -> Anvil:
        return self.play.node

    @property
    def signer(self) -> str:
        return self.play.stage.signer_address

    @property
    def pool(self) -> GethPool:
        assert self.proxy.pool, "ask for the fixture `geth`"
        return self.proxy.pool

    def follow_chain(self, patch: pytest.MonkeyPatch) -> None:
        """Let the portal's clock begin no earlier than the newest block, which an earlier test may have moved ahead."""
        newest = int(self.node.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        self.ahead = max(timedelta(), datetime.fromtimestamp(newest, UTC) - datetime.now(UTC))
        patch.setattr(clock, "now", lambda: datetime.now(UTC) + self.ahead + self.jumped)
        real, shifted = time.monotonic, lambda: real() + self.ahead.total_seconds()
        patch.setattr(endpoint, "time", SimpleNamespace(monotonic=shifted, perf_counter=time.perf_counter))

    def later(self, seconds: float) -> None:
        """Time passes without a block, for the portal, for endpoints that rest, and for the chain's next block."""
        self.node.rpc("evm_increaseTime", int(seconds))
        self.ahead += timedelta(seconds=seconds)

    def jump(self, seconds: float) -> None:
        """The portal's wall clock is set to another time; the chain's and what counts seconds go on as they were."""
        self.jumped += timedelta(seconds=seconds)

    def pass_blocks(self, blocks: int, *, seconds: int = 12) -> None:
        """Blocks are made, `seconds` apart, with what miners may include in the first."""
        if self.proxy.pool:
            self.proxy.pool.mine(blocks, seconds=seconds)
        else:
            self.node.rpc("anvil_mine", hex(blocks), hex(seconds))
        self.ahead += timedelta(seconds=blocks * seconds)

    async def get_stuck(self) -> None:
        """Miners pass over what is in the pool for six blocks, and the portal has seen them."""
        self.pool.holds_back = True
        self.pass_blocks(6)
        await watch_chains()

    async def leases_end(self) -> None:
        """As if so much time had passed that others may take the lanes of a worker that is gone."""
        await run_sql("UPDATE lane SET held_until = now() - interval '1 s' WHERE held_until IS NOT NULL")

    def no_automine(self) -> None:
        self.node.rpc("evm_setAutomine", False)

    async def until_asked(self, method: str, times: int, seconds: float = 5) -> None:
        """Wait until the proxy has been asked `method` so often, while something else works."""
        deadline = time.monotonic() + seconds
        while self.proxy.asked[method] < times:
            assert time.monotonic() < deadline, f"nobody asks {method}"
            await asyncio.sleep(0.01)

    async def work(self, passes: int = 1) -> None:
        """What a worker does in a second: queue, sign and send; follow the chain."""
        for _ in range(passes):
            await run_lanes()
            await watch_chains()

    async def view(self, action_id: UUID) -> TransactionView:
        return await self.play.view(action_id)

    async def finish(self, *actions: UUID, passes: int = 40) -> list[TransactionView]:
        """Let the faults be over, work and mine until all transactions have ended; the given actions' in order."""
        self.proxy.clear()
        if self.proxy.pool:
            self.proxy.pool.holds_back = False
        for _ in range(passes):
            await self.work()
            open_ones = await run_sql("SELECT status, reason FROM transaction WHERE NOT status = ANY({})", list(ENDED))
            if not open_ones:
                break
            self.pass_blocks(
                1 if any(row["status"] in ("signed", "broadcast") for row in open_ones) else self.final_after
            )
            self.later(31)
        else:
            raise AssertionError(f"these never end: {open_ones}")
        return [await self.view(action) for action in actions]

    async def finish_ok(self, *actions: UUID) -> list[TransactionView]:
        """`finish`, and each action was executed exactly once."""
        views = await self.finish(*actions)
        assert [(view.status, view.outcome) for view in views] == [("finalized", "ok")] * len(actions)
        return views

    def spend_nonce(self, *, value_wei: int = 1) -> str:
        """Somebody else uses the key for its next nonce on chain, in a block of its own; the hash."""
        self.node.rpc("anvil_impersonateAccount", self.signer)
        spent = {"from": self.signer, "to": "0x" + "ab" * 20, "value": hex(value_wei), "gas": "0x5208"}
        fees = {"maxFeePerGas": hex(10**12), "maxPriorityFeePerGas": hex(10**10)}
        nonce = self.node.rpc("eth_getTransactionCount", self.signer, "latest")
        hash: str = self.node.rpc("eth_sendTransaction", {**spent, **fees, "nonce": nonce})
        self.node.mine()
        self.node.rpc("anvil_stopImpersonatingAccount", self.signer)
        return hash

    async def attempts(self, action_id: UUID) -> list[RawTransaction]:
        """The decoded attempts, the oldest first."""
        rows = await run_sql(
            """SELECT raw_bytes FROM attempt JOIN transaction t ON t.id = attempt.transaction
               WHERE t.action = {} ORDER BY attempt.id""",
            action_id,
        )
        return [decode_raw(bytes(row["raw_bytes"])) for row in rows]

    async def must_hold(self) -> None:
        """The invariants that hold at any moment, whatever went wrong."""
        invariants.check(await invariants.read_facts(self))
        assert await verify(self.play.organization_id) is None, "the audit chain is broken"


async def forget_transactions(*, and_lanes: bool) -> None:
    """So that no story reads what was in all those before it; `and_lanes`, nor goes on with nonces that went wrong."""
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")
        for table in ("attempt", "transaction", "decision", "action", "outbox", "pause", *["lane"] * and_lanes):
            await run_sql(f"DELETE FROM {table}")


@asynccontextmanager
async def witnessed(world: World, unstored: list[bytes]) -> AsyncIterator[None]:
    """Whatever comes to the node is looked for in the database before anything else becomes of it."""
    stored = """SELECT FROM attempt WHERE raw_bytes = $1 UNION ALL
                SELECT FROM audit_entry WHERE kind = 'transaction.gap_filled' AND detail->>'raw_bytes' = $2"""
    connection = world.proxy.in_thread(asyncpg.connect(get_settings().database_url))

    async def look(raw: bytes) -> None:
        if not await connection.fetch(stored, raw, "0x" + raw.hex()):
            unstored.append(raw)

    world.proxy.witness = look
    try:
        yield
    finally:
        world.proxy.witness = None
        world.proxy.in_thread(connection.close())


RETIRED: list[Node] = []
"""Made by `nodes_at`; the fixture `world` closes their connections."""


@contextmanager
def nodes_at(*urls: str, other_chain: Anvil | None = None) -> Iterator[None]:
    """The settings of this process name these nodes of the chain, in this order, and the node of another chain."""
    named = [f"{CHAIN}={url}" for url in urls] + ([other_chain.rpc_urls] if other_chain else [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTAL_CHAIN_RPC_URLS", ",".join(named))
        get_settings.cache_clear()
        get_node.cache_clear()
        try:
            yield
        finally:
            RETIRED.extend(map(get_node, get_settings().rpc_urls))
            patch.undo()
            get_settings.cache_clear()
            get_node.cache_clear()
