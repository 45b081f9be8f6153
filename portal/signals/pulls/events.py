"""Events of an organisation's contracts, to choose from."""

from uuid import UUID

import msgspec

from portal.chain.abi import signature
from portal.chain.queries import get_abi, list_contracts

MOST_CONTRACTS = 100


class ReadableEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that `evm_logs` can read."""

    contract_id: UUID
    contract_name: str
    chain_id: int
    name: str
    signature: str
    """Canonical: `Transfer(address,address,uint256)`."""


async def list_readable_events(organization_id: UUID) -> list[ReadableEvent]:
    """The events of the newest 100 contracts that have an address, as their ABIs name them."""
    contracts = (await list_contracts(organization_id, limit=MOST_CONTRACTS)).items
    return [
        ReadableEvent(
            contract_id=contract.id,
            contract_name=contract.name,
            chain_id=contract.chain_id,
            name=element["name"],
            signature=signature(element),
        )
        for contract in contracts
        if contract.address
        for element in await get_abi(organization_id, contract.id)
        if element["type"] == "event" and isinstance(element.get("name"), str) and not element.get("anonymous")
    ]
