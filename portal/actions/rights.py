"""What the owner of one of our contracts decides: read from the chain, and changed by actions like any other.

Each has one owner, the contract's own signer. Points let it say which other addresses may mint. A signer that may not
call a contract would have its proposals fail, so it gets none: it sends for the contract once the chain says it may.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import msgspec
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector

from portal.accounts.schemas import Actor
from portal.actions.proposals import propose
from portal.actions.schemas import ActionInput, ActionView
from portal.actions.senders import can_let_others, is_shared
from portal.chain import queries as chain
from portal.chain.rpc import Call, get_node
from portal.chain.schemas import ContractView, GroupMember
from portal.chain.tables import SignerStatus
from portal.errors import Conflict

OWNER, IS_MINTER = (function_signature_to_4byte_selector(each) for each in ("owner()", "is_minter(address)"))
SET_MINTER = "set_minter(address,bool)"
HAND_OVER = "transfer_ownership(address)"


class NotPermittedOnChain(Conflict):
    title = "The contract does not let this signer"


class Named(Protocol):
    """The part of a signer that is needed here."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def address(self) -> str | None: ...


class MemberRight(msgspec.Struct, frozen=True):
    """Whether one signer may call what is shared; None where it has no address yet."""

    signer: GroupMember
    may_mint: bool | None


async def list_rights(organization_id: UUID, contract_id: UUID, group_id: UUID) -> list[MemberRight] | None:
    """What each signer of the group may do at one of our contracts whose owner decides that; None for any other.

    Raises `NotFound` and `NodeUnavailable`.
    """
    contract = await chain.get_contract(organization_id, contract_id)
    signers = (await chain.get_signer_group(organization_id, group_id)).signers
    if contract.template is None or not can_let_others(await chain.get_abi(organization_id, contract_id)):
        return None
    return [
        MemberRight(signer, may) for signer, may in zip(signers, await _read_minters(contract, signers), strict=True)
    ]


async def propose_right(actor: Actor, contract_id: UUID, signer_id: UUID, policy_id: UUID, *, may: bool) -> ActionView:
    """Propose that the contract's owner lets a signer mint, or no longer. Raises what `propose` raises."""
    address = await _address_of(actor, signer_id)
    return await _propose(actor, contract_id, SET_MINTER, {"minter": address, "status": may}, policy_id)


async def propose_handover(actor: Actor, contract_id: UUID, signer_id: UUID, policy_id: UUID) -> ActionView:
    """Propose that the contract's owner makes another signer its owner. Raises what `propose` raises."""
    address = await _address_of(actor, signer_id)
    return await _propose(actor, contract_id, HAND_OVER, {"new_owner": address}, policy_id)


async def check_owns(contract: ContractView, signer: Named) -> None:
    """Raise `NotPermittedOnChain` unless the signer is the owner, where the contract is one of ours."""
    if contract.template is None:
        return
    call = Call(from_address=str(signer.address), to_address=contract.address, calldata=OWNER)
    owner = (await get_node(contract.chain_id).call(call))[-20:]
    if "0x" + owner.hex() != str(signer.address).lower():
        raise NotPermittedOnChain(
            f"{signer.name} is not the owner of {contract.name} on {contract.chain_name}. Propose that the owner "
            "hands it over, and come back once that is carried out."
        )


async def check_may_share(organization_id: UUID, contract: ContractView, signers: Sequence[Named]) -> None:
    """Raise `NotPermittedOnChain` unless each may send what the contract shares, `Conflict` if that is nothing.

    Of a contract that we know only by its address nothing is asked: who may call it is its own affair.
    """
    if contract.template is None or not signers:
        return
    abi = await chain.get_abi(organization_id, contract.id)
    if not any(is_shared(contract.template, abi, each.signature) for each in contract.functions):
        raise Conflict(f"Only its own signer can call {contract.name}: the contract takes calls from its owner alone.")
    concerned = [signer for signer in signers if signer.status != SignerStatus.DISABLED]
    for signer, may in zip(concerned, await _read_minters(contract, concerned), strict=True):
        if not may:
            raise NotPermittedOnChain(
                f"{signer.name} may not mint {contract.symbol or contract.name} yet. Propose that the owner lets it, "
                "and come back once that is carried out."
            )


async def _read_minters(contract: ContractView, signers: Sequence[Named]) -> list[bool | None]:
    node = get_node(contract.chain_id)

    async def read(address: str | None) -> bool | None:
        if address is None:
            return None
        calldata = IS_MINTER + encode(["address"], [address])
        answer = await node.call(Call(from_address=address, to_address=contract.address, calldata=calldata))
        return bool(int.from_bytes(answer, "big"))

    return list(await asyncio.gather(*(read(signer.address) for signer in signers)))


async def _address_of(actor: Actor, signer_id: UUID) -> str:
    signer = await chain.get_signer(actor.organization_id, signer_id)
    if signer.address is None:
        raise Conflict(f"{signer.name} has no address yet.")
    return signer.address


async def _propose(
    actor: Actor, contract_id: UUID, function: str, arguments: dict[str, object], policy_id: UUID
) -> ActionView:
    given = ActionInput(contract_id=contract_id, function=function, arguments=arguments, policy_id=policy_id)
    return await propose(actor, given)
