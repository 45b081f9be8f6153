"""Our own contracts, on a real chain: what they allow, what they refuse, and what nobody can change."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from eth_abi.abi import decode
from eth_utils.address import to_checksum_address

from portal.chain.abi import encode_call, encode_constructor, function_inputs, functions, parse_abi, signature
from portal.chain.compiler import TEMPLATES, compile_template
from portal.chain.rpc import Call, CallReverted, Node
from portal.errors import InputInvalid, NotFound
from tests.anvil import Anvil, running_anvil

NAMES = {"points": {"name": "Acme points", "symbol": "ACME"}, "certificates": {"name": "Acme", "symbol": "CERT"}}
ALICE = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
KEY = "0x" + "ab" * 32


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with running_anvil(mining=False) as anvil:
        yield anvil


@pytest.fixture
async def node(chain: Anvil) -> AsyncIterator[Node]:
    node = Node(chain.chain_id, [chain.url])
    yield node
    await node.close()


class Deployed:
    """A contract of a template on the chain, owned by the chain's first account."""

    def __init__(self, node: Node, chain: Anvil, abi: list[dict[str, Any]], bytecode: bytes, values: dict[str, Any]):
        self.node, self.chain, self.abi = node, chain, abi
        self.owner, self.other = (to_checksum_address(account) for account in chain.accounts()[:2])
        creation = encode_constructor(abi, bytecode, values).calldata
        self.address = to_checksum_address(self.transact({"data": "0x" + creation.hex()})["contractAddress"])

    def transact(self, fields: dict[str, str]) -> Any:
        hash = self.chain.rpc("eth_sendTransaction", {"from": self.owner, "gas": hex(3_000_000), **fields})
        self.chain.mine()
        receipt = self.chain.rpc("eth_getTransactionReceipt", hash)
        assert receipt["status"] == "0x1"
        return receipt

    def do(self, function: str, **values: Any) -> Any:
        """A mined transaction of the owner."""
        calldata = encode_call(self.abi, function, values).calldata
        return self.transact({"to": self.address, "data": "0x" + calldata.hex()})

    async def ask(self, function: str, *, sender: str | None = None, **values: Any) -> Any:
        """What the function returns; raises `CallReverted`."""
        call = Call(sender or self.owner, self.address, encode_call(self.abi, function, values).calldata)
        returned = await self.node.call(call, abi=self.abi)
        element = next(e for e in self.abi if e["type"] == "function" and signature(e) == function)
        types = [signature({"type": "function", "name": "", "inputs": [out]})[1:-1] for out in element["outputs"]]
        values_returned = decode(types, returned)
        return values_returned[0] if len(values_returned) == 1 else values_returned


async def deploy(node: Node, chain: Anvil, template: str, values: dict[str, Any]) -> Deployed:
    compiled = await compile_template(template)
    return Deployed(node, chain, compiled.abi, compiled.bytecode, values)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
async def test_what_a_template_promises_is_in_its_contract(name: str) -> None:
    template, compiled = TEMPLATES[name], await compile_template(name)
    assert parse_abi(compiled.abi)
    assert await compile_template(name) is compiled, "compiled once"
    known = [function.signature for function in functions(compiled.abi, [])]
    assert set(template.allowed_functions) <= set(known)
    for function, limits in template.limits.items():
        inputs = {each.name: each.max_bytes for each in function_inputs(compiled.abi, function)}
        assert {each: inputs[each] for each in limits} == limits
    assert ("decimals()" in [signature(e) for e in compiled.abi if e["type"] == "function"]) == bool(template.decimals)


async def test_a_template_that_does_not_exist() -> None:
    with pytest.raises(NotFound, match="points, certificates, records"):
        await compile_template("../points")


async def test_points_are_credited_by_the_owner_and_those_whom_it_lets(node: Node, chain: Anvil) -> None:
    points = await deploy(node, chain, "points", NAMES["points"])
    mint = "mint(address,uint256)"
    points.do(mint, to=ALICE, amount=str(5 * 10**18))
    assert await points.ask("balanceOf(address)", arg0=ALICE) == 5 * 10**18
    assert await points.ask("totalSupply()") == 5 * 10**18
    assert (await points.ask("name()"), await points.ask("symbol()")) == ("Acme points", "ACME")
    assert await points.ask("decimals()") == TEMPLATES["points"].decimals
    with pytest.raises(CallReverted, match="access is denied"):
        await points.ask(mint, sender=points.other, to=ALICE, amount="1")
    with pytest.raises(CallReverted, match="caller is not the owner"):
        await points.ask("set_minter(address,bool)", sender=points.other, minter=points.other, status=True)
    points.do("set_minter(address,bool)", minter=points.other, status=True)
    assert await points.ask("is_minter(address)", arg0=points.other)
    await points.ask(mint, sender=points.other, to=ALICE, amount="1")


async def test_certificates_are_numbered_and_keep_their_address(node: Node, chain: Anvil) -> None:
    certificates = await deploy(node, chain, "certificates", NAMES["certificates"])
    mint = "mint(address,string)"
    assert await certificates.ask(mint, to=ALICE, uri="ipfs://one") == 0
    certificates.do(mint, to=ALICE, uri="ipfs://one")
    certificates.do(mint, to=certificates.other, uri="x" * 432)
    assert await certificates.ask("tokenURI(uint256)", token_id="1") == "x" * 432
    assert await certificates.ask("ownerOf(uint256)", token_id="0") == ALICE.lower()
    assert await certificates.ask("tokenOfOwnerByIndex(address,uint256)", owner=ALICE, index="0") == 0
    with pytest.raises(CallReverted, match="caller is not the owner"):
        await certificates.ask(mint, sender=certificates.other, to=ALICE, uri="")
    with pytest.raises(InputInvalid, match="at most 432 bytes"):
        certificates.do(mint, to=ALICE, uri="x" * 433)


async def test_records_are_appended_and_never_replaced(node: Node, chain: Anvil) -> None:
    records = await deploy(node, chain, "records", {"name": "Deliveries"})
    append, read = "append(bytes32,string)", "record(bytes32,uint256)"
    records.do(append, key=KEY, content="first")
    receipt = records.do(append, key=KEY, content="é" * 512)
    assert len(receipt["logs"]) == 1
    assert (await records.ask(read, key=KEY, position="0"))[0] == "first"
    content, at = await records.ask(read, key=KEY, position="1")
    assert content == "é" * 512
    assert at == (await node.head()).timestamp
    assert (await records.ask("count(bytes32)", arg0=KEY), await records.ask("total()")) == (2, 2)
    assert await records.ask("name()") == "Deliveries"
    with pytest.raises(CallReverted, match="no such entry"):
        await records.ask(read, key=KEY, position="2")
    with pytest.raises(CallReverted, match="caller is not the owner"):
        await records.ask(append, sender=records.other, key=KEY, content="forged")
    writers = {function.signature for function in functions(records.abi, [])}
    assert writers == {append, "transfer_ownership(address)"}, "nothing else can change what is written"


@pytest.mark.parametrize(("name", "argument"), [("points", "name"), ("points", "symbol"), ("records", "name")])
async def test_the_limits_of_a_constructor_are_those_of_the_contract(
    node: Node, chain: Anvil, name: str, argument: str
) -> None:
    compiled = await compile_template(name)
    given = NAMES.get(name, {"name": "x"})
    limit = next(iter(TEMPLATES[name].limits.values()))[argument]
    fits = encode_constructor(compiled.abi, compiled.bytecode, given | {argument: "x" * limit})
    sender = chain.accounts()[0]
    assert (await node.simulate(Call(sender, None, fits.calldata))).ok
    with pytest.raises(InputInvalid, match=f"at most {limit} bytes"):
        encode_constructor(compiled.abi, compiled.bytecode, given | {argument: "x" * (limit + 1)})
    unlimited = [element for element in compiled.abi if element["type"] != "constructor"]
    inputs = [{"name": each, "type": "string"} for each in given]
    abi = [*unlimited, {"type": "constructor", "inputs": inputs}]
    beyond = encode_constructor(abi, compiled.bytecode, given | {argument: "x" * (limit + 1)})
    assert not (await node.simulate(Call(sender, None, beyond.calldata))).ok, "the limit is not a made-up one"
