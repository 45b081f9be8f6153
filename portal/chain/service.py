"""Registers chains, and the changes to contracts and signers that other rooms make inside their own db transactions.

Audit entries are the caller's: the audit is beside this layer, and who acts is known only above.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.chain.abi import Abi
from portal.chain.presets import PRESETS, unknown
from portal.chain.rpc import Block, NodeUnavailable, get_node
from portal.chain.schemas import EndpointView
from portal.chain.tables import Chain, Contract, ContractStatus, Signer, SignerKind, SignerPurpose, SignerStatus
from portal.db.columns import new_id
from portal.db.engine import in_transaction, run_sql
from portal.errors import Conflict, SettingInvalid
from portal.logging import get_logger
from portal.settings import get_settings

log = get_logger(__name__)
NOTED_EVERY = timedelta(seconds=5)
"""That the watcher looked: not with each look."""


class ChainChanged(SettingInvalid):
    """The node's chain is not the one that the database knows by this id."""


class ContractNotDeploying(Conflict):
    """The contract was already deployed, or its deployment has failed."""


async def register_chains() -> list[int]:
    """Make a row for each chain of the settings, by its preset, and verify that the known ones are still the same.

    Returns the ids of the chains whose nodes could not be asked (nothing is known to be wrong with them); run it again
    later. Raises `ChainChanged` where the first block differs from the one that was recorded.
    """
    unreachable = []
    for chain_id in get_settings().rpc_urls:
        try:
            genesis = await get_node(chain_id).check()
        except NodeUnavailable as error:
            log.warning("chain.unreachable", chain_id=chain_id, reason=error.detail)
            unreachable.append(chain_id)
        else:
            await _register_chain(chain_id, genesis)
    return unreachable


async def _register_chain(chain_id: int, genesis: str) -> None:
    preset = PRESETS.get(chain_id) or unknown(chain_id)
    row = Chain(id=chain_id, genesis_hash=genesis, **msgspec.structs.asdict(preset))
    await Chain.insert(row).on_conflict(target=Chain.id, action="DO NOTHING")
    known = await Chain.select(Chain.name, Chain.genesis_hash).where(Chain.id == chain_id)
    if known[0]["genesis_hash"] != genesis:
        raise ChainChanged(
            f"{known[0]['name']} (chain {chain_id}) is another chain than the one this database was used with: its "
            f"first block is {genesis}, the recorded one {known[0]['genesis_hash']}. Point PORTAL_CHAIN_RPC_URLS back "
            "to the old chain, or use a new database with this one; for `portal up`, restore the chain's state or "
            "remove the whole data folder."
        )


async def record_head(chain_id: int, block: Block) -> None:
    """Note the newest block that the watcher saw; `head_at` moves only with a new block."""
    await (
        Chain.update({Chain.head_number: block.number, Chain.head_hash: block.hash, Chain.head_at: clock.now()})
        .where(Chain.id == chain_id)
        .where((Chain.head_hash.is_null()) | (Chain.head_hash != block.hash))
    )


async def record_nodes(chain_id: int, endpoints: Sequence[EndpointView], *, answered: bool) -> None:
    """Note how the watcher sees the nodes, and whether one `answered`; written if it changed, or every five seconds."""
    now, seen = clock.now(), msgspec.json.encode(endpoints).decode()
    await run_sql(
        """UPDATE chain SET endpoints = {}::jsonb, watched_at = CASE WHEN {} THEN {} ELSE watched_at END
           WHERE id = {} AND (endpoints IS DISTINCT FROM {}::jsonb
                              OR {} AND (watched_at BETWEEN {} AND {}) IS NOT TRUE)""",
        *(seen, answered, now, chain_id, seen, answered, now - NOTED_EVERY, now),
    )


async def record_final(chain_id: int, block: Block) -> None:
    """Note the newest block that the node called final."""
    await Chain.update({Chain.final_number: block.number}).where(Chain.id == chain_id)


async def insert_signer(
    organization_id: UUID, name: str, *, kind: SignerKind = SignerKind.LOCAL, key_reference: str | None = None
) -> UUID:
    """A signer that sends, pending until the worker has its key. Inside the caller's db transaction."""
    assert in_transaction(), "a signer is made in the db transaction that audits it"
    id = new_id()
    await Signer.insert(
        Signer(
            id=id,
            organization=organization_id,
            name=name,
            kind=kind,
            key_reference=key_reference,
            purpose=SignerPurpose.SENDS,
            status=SignerStatus.PENDING,
            created_at=clock.now(),
        )
    )
    return id


class NewContract(msgspec.Struct, frozen=True, kw_only=True):
    """A contract to register: by `address` where it exists, without one where we deploy it."""

    organization_id: UUID
    chain_id: int
    name: str
    abi: Abi
    allowed_functions: list[str]
    signer_id: UUID
    template: str | None = None
    address: str | None = None
    symbol: str | None = None
    decimals: int | None = None


async def insert_contract(new: NewContract) -> UUID:
    """Register a contract: `active` with an address, else `deploying`. Inside the caller's db transaction.

    Raises `Conflict` if the organisation has registered that address already.
    """
    assert in_transaction(), "a contract is registered in the db transaction that audits it"
    id = new_id()
    row: dict[str, Any] = {
        "id": id,
        "organization": new.organization_id,
        "chain": new.chain_id,
        "name": new.name,
        "template": new.template,
        "status": (ContractStatus.ACTIVE if new.address else ContractStatus.DEPLOYING).value,
        "address": new.address,
        "abi": new.abi,
        "allowed_functions": new.allowed_functions,
        "symbol": new.symbol,
        "decimals": new.decimals,
        "signer": new.signer_id,
        "created_at": clock.now(),
    }
    # No target: the only other constraint that can conflict is the new id.
    inserted = await Contract.insert(Contract(**row)).on_conflict(action="DO NOTHING").returning(Contract.id)
    if not inserted:
        raise Conflict(f"The contract {new.address} on chain {new.chain_id} is already registered.")
    return id


async def activate_contract(contract_id: UUID, address: str) -> None:
    """Its deployment is confirmed at `address` (EIP-55). Raises `ContractNotDeploying` unless it was `deploying`."""
    await _finish_deployment(contract_id, {Contract.status: ContractStatus.ACTIVE, Contract.address: address})


async def fail_contract(contract_id: UUID) -> None:
    """Its deployment can no longer succeed. Raises `ContractNotDeploying` unless it was `deploying`."""
    await _finish_deployment(contract_id, {Contract.status: ContractStatus.FAILED})


async def _finish_deployment(contract_id: UUID, change: dict[Any, Any]) -> None:
    assert in_transaction(), "a deployment ends in the db transaction that ends its transaction"
    changed = (
        await Contract.update(change)
        .where(Contract.id == contract_id, Contract.status == ContractStatus.DEPLOYING)
        .returning(Contract.id)
    )
    if not changed:
        raise ContractNotDeploying("The contract does not wait for its deployment.")
