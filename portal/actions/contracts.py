"""What can be called: registering contracts that exist on a chain."""

import re
from uuid import UUID

import msgspec

from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.actions.checks import checked, checked_text
from portal.actions.proposals import check_signer
from portal.actions.schemas import ContractInput
from portal.actions.signers import get_sender
from portal.audit import service as audit
from portal.chain import queries as chain_queries
from portal.chain.abi import Abi, functions, parse_abi
from portal.chain.rpc import get_node
from portal.chain.schemas import ContractView
from portal.chain.service import NewContract, insert_contract
from portal.chain.values import convert
from portal.db.engine import transaction
from portal.errors import FieldError, InputInvalid

ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


async def register_contract(actor: Actor, given: ContractInput) -> ContractView:
    """Register a contract that exists on chain, so that its allowed functions can be called by actions.

    Raises `InputInvalid` (also where there is no code at the address), `NotFound`, `SignerNotReady`, `NodeUnavailable`,
    `Conflict` if the organisation has it already.
    """
    actor.require(Permission.CONTRACTS_WRITE)
    given = checked(given)
    abi, address = parse_abi(given.abi), _checked_address(given.address)
    check_storable(abi, "/abi")
    check_allowed(abi, given.allowed_functions)
    new = NewContract(
        organization_id=actor.organization_id,
        chain_id=given.chain_id,
        name=checked_text(given.name, "/name"),
        abi=abi,
        allowed_functions=given.allowed_functions,
        signer_id=given.signer_id,
        address=address,
        symbol=None if given.symbol is None else checked_text(given.symbol, "/symbol"),
        decimals=given.decimals,
    )
    chain = await chain_queries.get_chain(given.chain_id)
    await check_sends(actor, given.signer_id)
    if not await get_node(chain.id).has_code(address):
        raise InputInvalid.at("/address", f"There is no contract at {address} on {chain.name}.")
    async with transaction():
        contract_id = await insert_contract(new)
        detail = {"name": new.name, "address": address, "chain_id": chain.id, "functions": new.allowed_functions}
        await audit.append(actor, "contract.registered", "contract", contract_id, detail)
    return await chain_queries.get_contract(actor.organization_id, contract_id)


def check_storable(abi: Abi, path: str) -> None:
    """Raise `InputInvalid` at `path` for an ABI that the database cannot hold."""
    if ESCAPED_NUL.search(msgspec.json.encode(abi)):
        raise InputInvalid.at(path, "The ABI holds the character U+0000, which cannot be stored.")


async def check_sends(actor: Actor, signer_id: UUID) -> None:
    """Raise `NotFound` for a signer that sends nothing, `SignerNotReady` for one that cannot sign."""
    signer = await get_sender(actor, signer_id)
    check_signer(signer.name, signer.status)


def check_allowed(abi: Abi, allowed: list[str]) -> None:
    """Raise `InputInvalid` for a function that is not in the ABI, or that changes nothing."""
    known = [function.signature for function in functions(abi, [])]
    for place, function in enumerate(allowed):
        if function not in known:
            raise InputInvalid.at(
                f"/allowed_functions/{place}",
                f"The ABI has no function {function[:200]} that changes state. It has: {', '.join(known)[:1000]}.",
            )


def _checked_address(address: str) -> str:
    try:
        return str(convert({"type": "address"}, address, "/address", "The address")[1])
    except FieldError as problem:
        raise InputInvalid(problem.message, fields=[problem]) from None
