"""The stage for faults of transactions: the engine before the fault proxy before anvil, and what must always hold."""

import asyncio
import json
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from portal import clock
from portal.audit.service import verify
from portal.chain import endpoint
from portal.chain.rpc import Node, get_node
from portal.db.engine import run_sql
from portal.settings import get_settings
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.schemas import TransactionView
from tests.actions import CHAIN
from tests.anvil import Anvil
from tests.faults.node_pool import GethPool
from tests.faults.node_proxy import RECEIPT, NodeProxy
from tests.faults.raw_transactions import RawTransaction, decode_raw
from tests.transactions import Play

ENDED = frozenset({"finalized", "displaced", "rejected", "refused", "expired", "cancelled"})
HOLDS_NONCE = frozenset({"nonced", "signed", "broadcast", "closing", "suspect", "mined", "confirmed"})


@dataclass
class World:
    """A play whose node is behind the proxy, and whose clock a test moves."""

    play: Play
    proxy: NodeProxy
    ahead: timedelta = field(default_factory=timedelta)
    """How far the time in this test is before the real one."""
    jumped: timedelta = field(default_factory=timedelta)
    """How wrong the portal's wall clock is."""

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
            self.pass_blocks(1 if any(row["status"] in ("signed", "broadcast") for row in open_ones) else 70)
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

    async def must_hold(self, *, audit: bool = True) -> None:
        """The invariants that hold at any moment, whatever went wrong; `audit`: its whole chain, too."""
        await self._bytes_were_stored_first()
        await self._one_nonce_and_one_payload_each()
        await self._executed_once_at_most()
        await self._no_gaps()
        if audit:
            assert await verify(self.play.organization_id) is None, "the audit chain is broken"

    async def _bytes_were_stored_first(self) -> None:
        """As an attempt; or, where no transaction has the nonce, in the audit entry of what fills the gap."""
        attempts = await run_sql("SELECT raw_bytes FROM attempt")
        fillers = await run_sql(
            "SELECT detail->>'raw_bytes' AS raw_bytes FROM audit_entry WHERE kind = 'transaction.gap_filled'"
        )
        stored = {bytes(row["raw_bytes"]) for row in attempts}
        stored |= {bytes.fromhex(row["raw_bytes"].removeprefix("0x")) for row in fillers}
        assert {each.raw for each in self.proxy.sent} <= stored, "bytes went out that are stored nowhere"

    async def _one_nonce_and_one_payload_each(self) -> None:
        rows = await run_sql(
            """SELECT a.transaction, a.kind, a.raw_bytes, t.nonce, action.calldata, action.to_address, action.value_wei
               FROM attempt a JOIN transaction t ON t.id = a.transaction JOIN action ON action.id = t.action"""
        )
        nonces = defaultdict(set)
        for row in rows:
            said = decode_raw(bytes(row["raw_bytes"]))
            nonces[row["transaction"]].add(said.nonce)
            if row["kind"] == "noop":
                assert said.does_nothing, "what closes a nonce does something"
            else:
                approved = ((row["to_address"] or "").lower(), bytes(row["calldata"]), int(row["value_wei"]))
                assert (said.to, said.data, said.value_wei) == approved, "other bytes were signed than approved"
            assert row["nonce"] in (None, said.nonce), "an attempt has another nonce than its transaction"
        assert all(len(each) == 1 for each in nonces.values()), "a transaction was signed with two nonces"

    async def _executed_once_at_most(self) -> None:
        rows = await run_sql("SELECT transaction, hash FROM attempt WHERE kind = 'call'")
        receipts = self._receipts([row["hash"] for row in rows])
        executed: defaultdict[UUID, int] = defaultdict(int)
        for row, receipt in zip(rows, receipts, strict=True):
            executed[row["transaction"]] += bool(receipt and receipt["status"] == "0x1")
        assert all(count <= 1 for count in executed.values()), "an action was executed twice"

    def _receipts(self, hashes: list[str]) -> list[Any]:
        """As the chain itself has them, by one request."""
        calls = [{"id": n, "method": RECEIPT, "params": [hash]} for n, hash in enumerate(hashes)]
        body = json.dumps([{"jsonrpc": "2.0", **call} for call in calls]).encode()
        request = urllib.request.Request(self.node.url, body, {"content-type": "application/json"})
        if not hashes:
            return []
        with urllib.request.urlopen(request, timeout=10) as response:
            answers = {answer["id"]: answer["result"] for answer in json.load(response)}
        return [answers[n] for n in range(len(hashes))]

    async def _no_gaps(self) -> None:
        for lane in await run_sql(
            "SELECT l.id, l.next_nonce, s.address FROM lane l JOIN signer s ON s.id = l.signer WHERE next_nonce > 0"
        ):
            rows = await run_sql(
                "SELECT nonce, status FROM transaction WHERE lane = {} AND nonce IS NOT NULL", lane["id"]
            )
            owned = {row["nonce"] for row in rows}
            count = int(self.node.rpc("eth_getTransactionCount", lane["address"], "latest"), 16)
            missing = set(range(count, lane["next_nonce"])) - owned
            assert not missing, f"nobody has the nonces {sorted(missing)}, and the lane is past them"
            beyond = [
                row["nonce"] for row in rows if row["status"] in HOLDS_NONCE and row["nonce"] >= lane["next_nonce"]
            ]
            assert not beyond, f"the nonces {beyond} would be given out again"


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
