"""A stage for tests of transactions: approved mints, a chain that mines when told, and what the chain itself says."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eth_utils.crypto import keccak

from portal.actions.service import simulate
from portal.audit.queries import list_entries
from portal.db.engine import run_sql
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.queries import find_transaction_of_action
from portal.transactions.schemas import TransactionView
from tests.actions import ADA, Stage, make_stage
from tests.anvil import Anvil
from tests.people import Cast

FUNDS = 10**21


class Killed(BaseException):
    """Stands for `kill -9` at the point where it is raised: nothing after it runs."""


@dataclass(frozen=True)
class Play:
    """The stage, with what tests of transactions do again and again."""

    stage: Stage
    automatic: UUID
    """A policy that approves by itself."""

    @property
    def node(self) -> Anvil:
        return self.stage.node

    @property
    def organization_id(self) -> UUID:
        return self.stage.cast.organization_id

    async def approved_mint(self, amount: int = 1, *, to: str = ADA, **more: Any) -> UUID:
        """The id of an action that nothing but a worker is missing to."""
        action = await self.stage.propose_unsimulated(amount=str(amount), to=to, policy_id=self.automatic, **more)
        await simulate([action.id])
        return action.id

    async def approved_mints(self, count: int) -> list[UUID]:
        actions = [await self.stage.propose_unsimulated(amount="1", policy_id=self.automatic) for _ in range(count)]
        await simulate([action.id for action in actions])
        return [action.id for action in actions]

    async def sent_mint(self) -> UUID:
        """The id of an action whose transaction waits in the node's pool; mining is off from here on."""
        self.node.rpc("evm_setAutomine", False)
        action_id = await self.approved_mint()
        await run_lanes()
        return action_id

    async def view(self, action_id: UUID) -> TransactionView:
        found = await find_transaction_of_action(self.organization_id, action_id)
        assert found, "the action has no transaction"
        return found

    async def watch_until_mined(self, blocks: int = 1) -> None:
        self.node.mine(blocks)
        await watch_chains()

    async def attempts(self, action_id: UUID) -> list[bytes]:
        """The stored bytes of all attempts, the cheapest first."""
        rows = await run_sql(
            """SELECT raw_bytes FROM attempt JOIN transaction t ON t.id = attempt.transaction
               WHERE t.action = {} ORDER BY max_fee_wei""",
            action_id,
        )
        return [bytes(row["raw_bytes"]) for row in rows]

    async def audit(self, transaction_id: UUID) -> list[str]:
        """The kinds of the audit entries of a transaction, the oldest first."""
        page = await list_entries(
            self.organization_id, subject_kind="transaction", subject_id=str(transaction_id), limit=200
        )
        return [entry.kind.removeprefix("transaction.") for entry in reversed(page.items)]

    async def minted(self, to: str = ADA) -> int:
        """How many points the contract on chain says `to` has."""
        rows = await run_sql("SELECT address FROM contract WHERE id = {}", self.stage.contract_id)
        data = keccak(text="balanceOf(address)")[:4].hex() + to[2:].lower().rjust(64, "0")
        return int(self.node.rpc("eth_call", {"to": rows[0]["address"], "data": "0x" + data}, "latest"), 16)

    def nonce_on_chain(self) -> int:
        return int(self.node.rpc("eth_getTransactionCount", self.stage.signer_address, "latest"), 16)


async def make_play(cast: Cast, node: Anvil) -> Play:
    node.rpc("evm_setAutomine", True)
    stage = await make_stage(cast, node)
    return Play(stage, await stage.policy(0))
