"""A stage for tests of actions: a real chain with a points contract whose owner is the organisation's signer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eth_utils.address import to_checksum_address

from portal import clock
from portal.accounts.api_keys import create_api_key, find_api_key
from portal.accounts.schemas import Actor
from portal.accounts.tables import EndUser
from portal.actions.schemas import ActionInput, ActionView, ContractInput, PolicyInput
from portal.actions.service import create_policy, create_signer, propose, register_contract, simulate
from portal.chain.abi import encode_constructor
from portal.chain.compiler import compile_template
from portal.chain.rpc import close_nodes
from portal.chain.service import register_chains
from portal.chain.signers import make_pending_keys
from portal.chain.tables import Signer
from portal.db.columns import new_id
from portal.settings import get_settings
from tests.anvil import Anvil
from tests.people import Cast, Player

CHAIN = 31337
MINT = "mint(address,uint256)"
ADA = "0x52908400098527886E0F7030069857D2E4169EE7"
NOBODY = "0x8617E340B3D01FA5F11F306F4090FD50E238070D"


@asynccontextmanager
async def settings_chain() -> AsyncIterator[Anvil]:
    """A fresh chain at the address that the settings of this test process name."""
    node = Anvil(port=int(get_settings().rpc_urls[CHAIN][0].rpartition(":")[2]))
    try:
        yield node
    finally:
        await close_nodes()
        node.stop()


@dataclass(frozen=True)
class Stage:
    cast: Cast
    node: Anvil
    signer_id: UUID
    signer_address: str
    contract_id: UUID
    policy_id: UUID
    """Two approvals."""
    ada_id: UUID
    """End user Ada Park, who holds at `ADA`."""

    async def propose_mint(
        self, by: Player | None = None, *, amount: str = str(50 * 10**18), to: str = ADA, **more: Any
    ) -> ActionView:
        """A simulated mint, proposed by oscar unless said otherwise."""
        action = await self.propose_unsimulated(by, amount=amount, to=to, **more)
        await simulate([action.id])
        return action

    async def propose_unsimulated(
        self, by: Player | None = None, *, amount: str = str(50 * 10**18), to: str = ADA, **more: Any
    ) -> ActionView:
        given = {"contract_id": self.contract_id, "policy_id": self.policy_id, "end_user_id": self.ada_id, **more}
        return await propose(
            (by or self.cast.oscar).actor,
            ActionInput(function=MINT, arguments={"to": to, "amount": amount}, **given),
        )

    async def policy(self, approvals: int, *, expires_after_seconds: int = 3600) -> UUID:
        view = await create_policy(
            self.cast.alice.actor,
            PolicyInput(
                name=f"{approvals} approvals {new_id()}",
                approvals_required=approvals,
                expires_after_seconds=expires_after_seconds,
            ),
        )
        return view.id


async def make_stage(cast: Cast, node: Anvil) -> Stage:
    await register_chains()
    owner = cast.alice.actor
    signer_id, address = await make_signer(cast, "Treasury")
    contract_id = await register_points(cast, node, signer_id, owner_address=address)
    policy = await create_policy(owner, PolicyInput(name="Two people", approvals_required=2))
    ada_id = new_id()
    await EndUser.insert(
        EndUser(
            id=ada_id,
            organization=cast.organization_id,
            subject="github:ada",
            name="Ada Park",
            address=ADA,
            created_at=clock.now(),
        )
    )
    return Stage(cast, node, signer_id, address, contract_id, policy.id, ada_id)


async def acting_key(maker: Actor) -> Actor:
    """A new API key that `maker` made, as an actor; it may propose, and make keys that may."""
    _, token = await create_api_key(maker, "ERP", ["actions:propose", "api-keys:write"])
    key = await find_api_key(token)
    assert key
    return key


async def make_signer(cast: Cast, name: str) -> tuple[UUID, str]:
    signer = await create_signer(cast.alice.actor, name)
    await make_pending_keys()
    row = await Signer.select(Signer.address).where(Signer.id == signer.id).first()
    assert row
    return signer.id, row["address"]


async def register_points(cast: Cast, node: Anvil, signer_id: UUID, *, owner_address: str) -> UUID:
    """A points contract that `owner_address` deployed, whose calls `signer_id` sends."""
    compiled = await compile_template("points")
    deployment = encode_constructor(compiled.abi, compiled.bytecode, {"name": "Acme Points", "symbol": "PTS"})
    contract = await register_contract(
        cast.alice.actor,
        ContractInput(
            name="Acme Points",
            chain_id=node.chain_id,
            address=deploy(node, owner_address, deployment.calldata),
            abi=compiled.abi,
            allowed_functions=[MINT],
            signer_id=signer_id,
            symbol="PTS",
            decimals=18,
        ),
    )
    return contract.id


def deploy(node: Anvil, sender: str, calldata: bytes) -> str:
    """The EIP-55 address of what `sender` creates; the node lets anybody send for anybody."""
    node.fund(sender)
    node.rpc("anvil_impersonateAccount", sender)
    hash = node.rpc("eth_sendTransaction", {"from": sender, "data": "0x" + calldata.hex()})
    node.mine()
    return to_checksum_address(node.rpc("eth_getTransactionReceipt", hash)["contractAddress"])
