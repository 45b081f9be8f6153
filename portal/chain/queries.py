"""Reads of chains, contracts and signers. What belongs to another organisation is `NotFound`."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec

from portal.chain.abi import Abi, functions
from portal.chain.fees import FeeSettings
from portal.chain.rpc import NodeUnavailable, get_node
from portal.chain.schemas import (
    ChainAnswer,
    ChainState,
    ChainView,
    ContractView,
    EndpointView,
    SignerGroupView,
    SignerView,
)
from portal.chain.tables import Chain, Contract, FeeStyle, SignerPurpose
from portal.db.columns import decimal_string, wei
from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of
from portal.errors import NotFound

ANSWER_SECONDS = 2
"""For whoever asks nodes from a page: it says so rather than let its reader wait."""
CONTRACTS = """
    SELECT contract.*, chain.name AS chain_name, chain.explorer_url AS chain_explorer_url,
           signer.address AS signer_address
    FROM contract JOIN chain ON chain.id = contract.chain JOIN signer ON signer.id = contract.signer
    WHERE contract.organization = {}
"""

SIGNERS = """
    SELECT signer.id, signer.name, signer.kind, signer.purpose, signer.status, signer.trouble, signer.address,
           signer.key_reference, signer.signer_group AS signer_group_id, g.name AS signer_group_name,
           signer.end_user AS end_user_id, signer.created_at
    FROM signer LEFT JOIN signer_group g ON g.id = signer.signer_group
    WHERE signer.organization = {}
"""
GROUPS = """
    SELECT g.id, g.name, g.created_at,
           (SELECT coalesce(jsonb_agg(jsonb_build_object('id', s.id, 'name', s.name, 'status', s.status,
                                                         'trouble', s.trouble, 'address', s.address)
                                      ORDER BY s.name, s.id), '[]')
            FROM signer s WHERE s.signer_group = g.id) AS signers,
           (SELECT coalesce(jsonb_agg(c.id ORDER BY c.id), '[]') FROM contract c WHERE c.signer_group = g.id)
             AS contract_ids
    FROM signer_group g WHERE g.organization = {}
"""


async def get_chain(chain_id: int) -> ChainView:
    """The chain. Raises `NotFound` if this installation has no such chain."""
    return _chain_view(await get_chain_row(chain_id))


async def get_chain_row(chain_id: int, *, lock: bool = False) -> dict[str, Any]:
    """The chain's row, with `lock` as it stays until the db transaction ends. Raises `NotFound`."""
    query = Chain.select().where(Chain.id == chain_id)
    rows = await (query.lock_rows("NO KEY UPDATE") if lock else query)
    if not rows:
        raise NotFound(f"There is no chain {chain_id} here; `portal seed` registers those of PORTAL_CHAIN_RPC_URLS.")
    return rows[0]


async def list_chains() -> list[ChainView]:
    """All chains of this installation, by name."""
    return [_chain_view(row) for row in await Chain.select().order_by(Chain.name)]


async def list_chain_states() -> list[ChainState]:
    """All chains of this installation, by name, as a worker last saw them: no node is asked."""
    return [
        ChainState(
            _chain_view(row), msgspec.json.decode(row["endpoints"] or "[]", type=list[EndpointView]), row["watched_at"]
        )
        for row in await Chain.select().order_by(Chain.name)
    ]


async def ask_chain(chain_id: int) -> ChainAnswer:
    """What the chain's nodes say now, for somebody who asked for it: waits for them a few seconds at most.

    Raises `NotFound`.
    """
    chain = await get_chain(chain_id)
    try:
        node = get_node(chain.id)
    except NodeUnavailable as error:
        return ChainAnswer(chain, [], None, None, error.detail)
    endpoints = await node.survey()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            fees = await node.fees(await get_fee_settings(chain.id))
    except NodeUnavailable as error:
        return ChainAnswer(chain, endpoints, None, None, error.detail)
    except TimeoutError:
        return ChainAnswer(chain, endpoints, None, None, f"No node answers within {ANSWER_SECONDS} seconds.")
    return ChainAnswer(chain, endpoints, fees.max_priority_fee_wei, fees.max_fee_wei, None)


async def get_fee_settings(chain_id: int) -> FeeSettings:
    """How fees are reckoned on the chain. Raises `NotFound` if this installation has no such chain."""
    row = await get_chain_row(chain_id)
    return FeeSettings(
        style=FeeStyle(row["fee_style"]),
        percentile=row["fee_percentile"],
        base_fee_percent=row["base_fee_percent"],
        least_tip_wei=int(row["least_tip_wei"]),
        most_fee_wei=wei(row["most_fee_wei"]),
    )


async def get_contract(organization_id: UUID, contract_id: UUID) -> ContractView:
    """The contract. Raises `NotFound`."""
    rows = await run_sql(CONTRACTS + "AND contract.id = {}", organization_id, contract_id)
    if not rows:
        raise NotFound("There is no such contract.")
    return _contract_view(rows[0])


async def get_abi(organization_id: UUID, contract_id: UUID) -> Abi:
    """The contract's whole ABI, events and errors included. Raises `NotFound`."""
    rows = (
        await Contract.select(Contract.abi)
        .where(Contract.id == contract_id, Contract.organization == organization_id)
        .output(load_json=True)
    )
    if not rows:
        raise NotFound("There is no such contract.")
    abi: Abi = rows[0]["abi"]
    return abi


async def list_contracts(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[ContractView]:
    """The organisation's contracts, the newest first."""
    after = decode_cursor(cursor) if cursor else None
    rows = await run_sql(
        CONTRACTS + "AND ({}::uuid IS NULL OR contract.id < {}) ORDER BY contract.id DESC LIMIT {}",
        *(organization_id, after, after, check_limit(limit) + 1),
    )
    return page_of(rows, limit, _contract_view)


async def get_signer(organization_id: UUID, signer_id: UUID) -> SignerView:
    """The signer. Raises `NotFound`."""
    rows = await run_sql(SIGNERS + "AND signer.id = {}", organization_id, signer_id)
    if not rows:
        raise NotFound("There is no such signer.")
    return msgspec.convert(rows[0], SignerView)


async def list_signers(
    organization_id: UUID,
    *,
    purpose: SignerPurpose = SignerPurpose.SENDS,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[SignerView]:
    """The organisation's signers of one purpose, the newest first."""
    after = decode_cursor(cursor) if cursor else None
    rows = await run_sql(
        SIGNERS + "AND signer.purpose = {} AND ({}::uuid IS NULL OR signer.id < {}) ORDER BY signer.id DESC LIMIT {}",
        *(organization_id, purpose.value, after, after, check_limit(limit) + 1),
    )
    return page_of(rows, limit, lambda row: msgspec.convert(row, SignerView))


async def get_signer_group(organization_id: UUID, group_id: UUID) -> SignerGroupView:
    """The group with its signers. Raises `NotFound`."""
    rows = await run_sql(GROUPS + "AND g.id = {}", organization_id, group_id)
    if not rows:
        raise NotFound("There is no such group of signers.")
    return _group_view(rows[0])


async def list_signer_groups(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[SignerGroupView]:
    """The organisation's groups of signers, the newest first."""
    after = decode_cursor(cursor) if cursor else None
    rows = await run_sql(
        GROUPS + "AND ({}::uuid IS NULL OR g.id < {}) ORDER BY g.id DESC LIMIT {}",
        *(organization_id, after, after, check_limit(limit) + 1),
    )
    return page_of(rows, limit, _group_view)


def _chain_view(row: dict[str, Any]) -> ChainView:
    values = {name: row[name] for name in ChainView.__struct_fields__}
    return ChainView(**values | {name: decimal_string(row[name]) for name in ("least_tip_wei", "most_fee_wei")})


def _contract_view(row: dict[str, Any]) -> ContractView:
    explorer, address = row["chain_explorer_url"], row["address"]
    allowed: list[str] = msgspec.json.decode(row["allowed_functions"])
    return ContractView(
        id=row["id"],
        chain_id=row["chain"],
        chain_name=row["chain_name"],
        name=row["name"],
        template=row["template"],
        status=row["status"],
        address=address,
        explorer_url=f"{explorer}/address/{address}" if explorer and address else None,
        symbol=row["symbol"],
        decimals=row["decimals"],
        signer_id=row["signer"],
        signer_address=row["signer_address"],
        signer_group_id=row["signer_group"],
        functions=functions(msgspec.json.decode(row["abi"]), allowed),
        created_at=row["created_at"],
    )


def _group_view(row: dict[str, Any]) -> SignerGroupView:
    decoded = {name: msgspec.json.decode(row[name]) for name in ("signers", "contract_ids")}
    return msgspec.convert(row | decoded, SignerGroupView)
