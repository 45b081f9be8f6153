"""Chains, contracts and their rows: a chain that was swapped is noticed, a contract is deployed once."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from portal.chain import rpc, service
from portal.chain.queries import get_abi, get_chain, get_contract, list_chains, list_contracts
from portal.chain.rpc import Block, close_nodes, get_node
from portal.chain.service import (
    ChainChanged,
    ContractNotDeploying,
    NewContract,
    activate_contract,
    fail_contract,
    insert_contract,
    insert_signer,
    record_head,
    register_chains,
)
from portal.chain.tables import Chain
from portal.db.engine import transaction
from portal.errors import Conflict, NotFound, Unavailable
from portal.settings import Settings
from tests.anvil import running_anvil
from tests.people import Cast

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
ABI = [
    {
        "type": "function",
        "name": "mint",
        "inputs": [{"name": "to", "type": "address"}],
        "stateMutability": "nonpayable",
    },
    {"type": "function", "name": "total", "inputs": [], "stateMutability": "view"},
    {"type": "event", "name": "Minted", "inputs": []},
]


class Nodes:
    """Sets which nodes this process knows, as PORTAL_CHAIN_RPC_URLS does at its start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def use(self, rpc_urls: str) -> None:
        settings = Settings(chain_rpc_urls=rpc_urls)
        get_node.cache_clear()
        for module in (rpc, service):
            self.monkeypatch.setattr(module, "get_settings", lambda: settings)


@pytest.fixture
async def nodes(database: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    yield Nodes(monkeypatch)
    await close_nodes()


async def test_chains_are_registered_once_with_what_is_known_of_them(nodes: Nodes) -> None:
    with running_anvil() as local, running_anvil(chain_id=8453) as base, running_anvil(chain_id=4242) as unknown:
        nodes.use(f"{local.rpc_urls},{base.rpc_urls},{unknown.rpc_urls}")
        assert await register_chains() == []
        assert await register_chains() == []
        await close_nodes()
    chains = {chain.id: chain for chain in await list_chains()}
    assert sorted(chains) == [4242, 8453, 31337]
    assert (chains[31337].is_local, chains[31337].confirmations, chains[31337].explorer_url) == (True, 2, None)
    assert (chains[8453].name, chains[8453].is_local) == ("Base", False)
    assert chains[4242].name == "Chain 4242"
    with pytest.raises(NotFound):
        await get_chain(1)


async def test_a_fresh_chain_under_an_old_database_is_said(nodes: Nodes) -> None:
    with running_anvil() as old:
        nodes.use(old.rpc_urls)
        await register_chains()
        await close_nodes()
    await asyncio.sleep(1.1)  # anvil's first blocks of one second are the same
    with running_anvil() as fresh:
        nodes.use(fresh.rpc_urls)
        with pytest.raises(ChainChanged) as caught:
            await register_chains()
        await close_nodes()
    assert "31337" in caught.value.detail
    assert "PORTAL_CHAIN_RPC_URLS" in caught.value.detail
    assert "127.0.0.1" not in caught.value.detail


async def test_a_chain_that_goes_on_after_each_restart_stays_the_same(nodes: Nodes, tmp_path: Path) -> None:
    state, first_blocks = tmp_path / "state.json", set()
    for _ in range(3):
        with running_anvil(options=["--load-state", str(state)] if state.exists() else []) as anvil:
            anvil.mine(2)
            nodes.use(anvil.rpc_urls)
            assert await register_chains() == []
            first_blocks.add(anvil.rpc("eth_getBlockByNumber", "0x0", False)["hash"])
            dumped = json.loads(gzip.decompress(bytes.fromhex(anvil.rpc("anvil_dumpState").removeprefix("0x"))))
            # Anvil adds a first block at each start and writes all in no order, of which this is the worst.
            dumped["blocks"].sort(key=lambda block: int(block["header"]["timestamp"], 16))
            state.write_text(json.dumps(dumped))
            await close_nodes()
        await asyncio.sleep(1.1)
    assert len(first_blocks) > 1, "else this anvil keeps its first block, and `Node.check` can be simpler"


async def test_a_node_that_is_down_keeps_nobody_from_starting(nodes: Nodes) -> None:
    with running_anvil() as anvil:
        nodes.use(f"1=http://127.0.0.1:1/key,{anvil.rpc_urls}")
        assert await register_chains() == [1]
        await close_nodes()
    assert [chain.id for chain in await list_chains()] == [31337]
    with pytest.raises(Unavailable, match="names no node for chain 5"):
        get_node(5)


async def add_chain() -> None:
    fields = {"name": "Local", "currency": "ETH", "confirmations": 2, "is_local": True, "genesis_hash": "0x00"}
    await Chain.insert(Chain(id=31337, explorer_url="https://explorer.example", **fields))


async def test_the_time_of_the_head_moves_only_with_a_new_block(database: None) -> None:
    await add_chain()
    await record_head(31337, Block(5, "0xaa", 0, 1))
    first = await get_chain(31337)
    await record_head(31337, Block(5, "0xaa", 0, 1))
    assert await get_chain(31337) == first
    await record_head(31337, Block(5, "0xbb", 0, 1))
    second = await get_chain(31337)
    assert second.head_number == 5
    assert first.head_at
    assert second.head_at
    assert second.head_at > first.head_at


async def new_contract(cast: Cast, **more: Any) -> Any:
    async with transaction():
        signer = more.pop("signer", None) or await insert_signer(cast.organization_id, f"Signer {more.get('name')}")
        fields = {"name": "Points", "chain_id": 31337, "allowed_functions": ["mint(address)"], "abi": ABI} | more
        return await insert_contract(NewContract(organization_id=cast.organization_id, signer_id=signer, **fields))


async def test_a_deployment_ends_once(cast: Cast) -> None:
    await add_chain()
    id, failing = await new_contract(cast, name="A", template="points"), await new_contract(cast, name="B")
    assert (await get_contract(cast.organization_id, id)).status == "deploying"
    async with transaction():
        await activate_contract(id, ADDRESS)
    async with transaction():
        await fail_contract(failing)
    for finish in (activate_contract(id, ADDRESS), fail_contract(id), activate_contract(failing, ADDRESS)):
        with pytest.raises(ContractNotDeploying):
            async with transaction():
                await finish
    contract = await get_contract(cast.organization_id, id)
    assert (contract.status, contract.address) == ("active", ADDRESS)
    assert contract.explorer_url == f"https://explorer.example/address/{ADDRESS}"
    assert (await get_contract(cast.organization_id, failing)).status == "failed"


async def test_a_contract_shows_what_may_be_called(cast: Cast) -> None:
    await add_chain()
    id = await new_contract(cast, address=ADDRESS)
    contract = await get_contract(cast.organization_id, id)
    assert [(each.signature, each.allowed) for each in contract.functions] == [("mint(address)", True)]
    assert contract.functions[0].inputs[0].type == "address"
    assert await get_abi(cast.organization_id, id) == ABI
    with pytest.raises(Conflict, match="already registered"):
        await new_contract(cast, address=ADDRESS)


async def test_contracts_of_another_organisation_do_not_exist(cast: Cast) -> None:
    await add_chain()
    id, other = await new_contract(cast), cast.dave.actor.organization_id
    for read in (get_contract, get_abi):
        with pytest.raises(NotFound):
            await read(other, id)
    assert (await list_contracts(other)).items == []


async def test_contracts_come_in_pages_newest_first(cast: Cast) -> None:
    await add_chain()
    ids = [await new_contract(cast, name=f"C{place}") for place in range(5)]
    first = await list_contracts(cast.organization_id, limit=3)
    second = await list_contracts(cast.organization_id, limit=3, cursor=first.next_cursor)
    assert [contract.id for contract in first.items + second.items] == ids[::-1]
    assert second.next_cursor is None
