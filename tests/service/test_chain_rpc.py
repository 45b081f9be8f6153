"""The node: read from a real one, and what a caller sees of one that is down, slow, wrong or lying."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from eth_account import Account
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak

from portal.chain import endpoint
from portal.chain.abi import encode_call, encode_constructor
from portal.chain.compiler import compile_template
from portal.chain.endpoint import Trouble
from portal.chain.fees import Fees, FeeSettings
from portal.chain.rpc import Call, CallReverted, Node, NodeUnavailable, Simulation
from portal.chain.send_answers import SendKind
from portal.chain.tables import FeeStyle
from tests.anvil import Anvil, running_anvil

KEY = "0x" + "11" * 32
SENDER = Account.from_key(KEY).address
OTHER = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    """A chain that mines only when told to."""
    with running_anvil(mining=False) as anvil:
        anvil.fund(SENDER)
        yield anvil


@pytest.fixture
async def node(chain: Anvil) -> AsyncIterator[Node]:
    node = Node(chain.chain_id, [chain.url])
    yield node
    await node.close()


def signed(nonce: int, *, value: int = 1, data: bytes = b"", gas: int = 21_000, **more: Any) -> bytes:
    fields = {
        "type": 2,
        "chainId": 31337,
        "nonce": nonce,
        "to": OTHER,
        "value": value,
        "data": data,
        "gas": gas,
        "maxFeePerGas": 10**10,
        "maxPriorityFeePerGas": 10**9,
    }
    return bytes(Account.sign_transaction(fields | more, KEY).raw_transaction)


async def test_a_transfer_is_sent_mined_and_read_back(node: Node, chain: Anvil) -> None:
    nonce, before = await node.transaction_count(SENDER), await node.balance(OTHER)
    answer = await node.send(raw := signed(nonce, value=7))
    assert answer.kind is SendKind.ACCEPTED
    assert (await node.send(raw)).kind is SendKind.KNOWN
    hash = chain.rpc("eth_getBlockByNumber", "pending", False)["transactions"][0]
    assert await node.receipts([hash]) == [None]
    assert await node.transaction_count(SENDER, pending=True) == nonce + 1
    assert await node.transaction_count(SENDER) == nonce

    chain.mine()
    (receipt, unknown), head = await node.receipts([hash, "0x" + "ab" * 32]), await node.head()
    assert unknown is None
    assert receipt
    assert receipt.ok
    assert (receipt.hash, receipt.block_number, receipt.block_hash) == (hash, head.number, head.hash)
    assert (receipt.gas_used, receipt.contract_address) == (21_000, None)
    assert receipt.gas_price_wei > 10**9
    assert await node.balance(OTHER) == before + 7
    assert (await node.send(raw)).kind is SendKind.NONCE_TOO_LOW


async def test_what_anvil_answers_to_sends_that_cannot_be(node: Node) -> None:
    nonce = await node.transaction_count(SENDER)
    kinds = {
        SendKind.FATAL: signed(nonce, gas=100),
        SendKind.FUNDS: signed(nonce, value=10**30),
        SendKind.UNDERPRICED: signed(nonce, maxFeePerGas=1, maxPriorityFeePerGas=1),
    }
    raws = [*kinds.values(), signed(nonce, chainId=5), b"\x02nonsense"]
    answers = [await node.send(raw) for raw in raws]
    assert [answer.kind for answer in answers] == [*kinds, SendKind.FATAL, SendKind.FATAL]
    assert all(answer.message for answer in answers)


async def test_a_replacement_that_pays_too_little(node: Node, chain: Anvil) -> None:
    nonce = await node.transaction_count(SENDER)
    assert (await node.send(signed(nonce, value=1))).kind is SendKind.ACCEPTED
    assert (await node.send(signed(nonce, value=2))).kind is SendKind.REPLACEMENT_UNDERPRICED
    chain.mine()


async def test_many_receipts_are_read_in_batches(node: Node, chain: Anvil) -> None:
    nonce = await node.transaction_count(SENDER)
    raws = [signed(nonce + place) for place in range(250)]
    answers = [await node.send(raw) for raw in raws]
    assert [answer.kind for answer in answers] == [SendKind.ACCEPTED] * 250
    chain.mine(2)
    hashes = ["0x" + keccak(raw).hex() for raw in raws]
    receipts = await node.receipts(hashes)
    assert [receipt and receipt.hash for receipt in receipts] == hashes


async def test_blocks_and_finality(node: Node, chain: Anvil) -> None:
    head = await node.head()
    first, above = await node.blocks([0, head.number + 1000])
    assert above is None
    assert first
    assert first.hash == await node.check()
    assert (await node.blocks([head.number]))[0] == head
    finalized = await node.finalized()
    assert finalized
    assert finalized.number <= head.number


SETTINGS = FeeSettings(style=FeeStyle.EIP1559, percentile=50, base_fee_percent=200, least_tip_wei=1, most_fee_wei=None)


async def test_fees_are_what_the_last_blocks_paid_and_outlast_six_full_ones(node: Node, chain: Anvil) -> None:
    chain.mine(20)
    nonce = await node.transaction_count(SENDER)
    for tip in (3, 5, 7):
        assert (await node.send(signed(nonce, maxPriorityFeePerGas=tip * 10**8))).kind is SendKind.ACCEPTED
        chain.mine()
        nonce += 1
    chain.mine(15)  # empty blocks say nothing of tips
    pending = chain.rpc("eth_feeHistory", "0x1", "latest", [])["baseFeePerGas"][-1]
    fees = await node.fees(SETTINGS)
    assert fees == Fees(5 * 10**8 + 2 * int(pending, 16), 5 * 10**8)
    assert int(pending, 16) * 1.125**5 < 2 * int(pending, 16)


async def test_fees_of_a_legacy_chain(node: Node, chain: Anvil) -> None:
    price = int(chain.rpc("eth_gasPrice"), 16)
    legacy = msgspec.structs.replace(SETTINGS, style=FeeStyle.LEGACY, base_fee_percent=110)
    assert await node.fees(legacy) == Fees(-(-price * 110 // 100), -(-price * 110 // 100))


async def test_contract_deployed_called_and_refusing(node: Node, chain: Anvil) -> None:
    points = await compile_template("points")
    creation = encode_constructor(points.abi, points.bytecode, {"name": "Acme points", "symbol": "ACME"})
    simulation = await node.simulate(Call(SENDER, None, creation.calldata))
    assert simulation.ok
    assert simulation.gas
    assert simulation.block_number == (await node.head()).number
    nonce = await node.transaction_count(SENDER)
    await node.send(signed(nonce, to=None, value=0, data=creation.calldata, gas=simulation.gas))
    chain.mine()
    block = chain.rpc("eth_getBlockByNumber", "latest", False)
    receipt = (await node.receipts(block["transactions"]))[0]
    assert receipt
    contract = receipt.contract_address
    assert contract
    assert receipt.ok
    assert await node.has_code(contract)
    assert not await node.has_code(OTHER)

    mint = encode_call(points.abi, "mint(address,uint256)", {"to": OTHER, "amount": str(10**18)}).calldata
    ours, theirs = Call(SENDER, contract, mint), Call(OTHER, contract, mint)
    assert (await node.simulate(ours, abi=points.abi)).ok
    refused = await node.simulate(theirs, abi=points.abi)
    assert (refused.ok, refused.gas, refused.revert_reason) == (False, None, "erc20: access is denied")
    with pytest.raises(CallReverted, match="access is denied"):
        await node.call(theirs)

    decimals = await node.call(Call(OTHER, contract, function_signature_to_4byte_selector("decimals()")))
    assert int.from_bytes(decimals, "big") == 18
    assert await node.revert_reason(theirs, receipt.block_number) == "erc20: access is denied"
    assert await node.revert_reason(ours, receipt.block_number) is None


async def test_a_call_of_an_address_without_code_is_not_ok(node: Node) -> None:
    simulation = await node.simulate(Call(SENDER, OTHER, b"\x12\x34\x56\x78"))
    assert not simulation.ok
    assert f"no contract at {OTHER}" in str(simulation.revert_reason)
    assert (await node.simulate(Call(SENDER, OTHER, b"", value_wei=1))).ok


async def test_many_calls_are_simulated_together_each_as_if_alone(node: Node) -> None:
    points = await compile_template("points")
    creation = encode_constructor(points.abi, points.bytecode, {"name": "Acme points", "symbol": "ACME"}).calldata
    kinds = [
        Call(SENDER, None, creation),
        Call(SENDER, OTHER, b"", value_wei=1),
        Call(SENDER, OTHER, b"\x12\x34\x56\x78"),
        Call(SENDER, SENDER, b"\x12\x34\x56\x78"),
        Call(SENDER, OTHER, b"", value_wei=10**40),
        Call(SENDER, None, b"\xfe"),
    ]
    alone = [await node.simulate(call) for call in kinds]
    assert [each.ok for each in alone] == [True, True, False, False, False, False]
    together = await node.simulate_many([(call, None) for call in kinds * 15])
    assert together == alone * 15
    assert await node.simulate_many([]) == []


async def test_a_node_that_stops_answering_keeps_no_answer_back() -> None:
    honest, requests = results(eth_blockNumber="0x7", eth_call="0x", eth_estimateGas="0x5208"), 0

    def then_silent(batch: list[dict[str, Any]]) -> Any:
        nonlocal requests
        requests += 1
        return honest(batch) if requests < 4 else b"<html>"

    async with answering(then_silent) as url, node_of(url) as node:
        simulated = await node.simulate_many([(Call(SENDER, OTHER, b""), None)] * 200)
    assert [type(each) for each in simulated] == [Simulation] * 64 + [NodeUnavailable] * 136
    assert requests == 4, "of a node that does not answer no more is asked"


async def test_a_value_beyond_the_balance_is_a_reason_not_an_outage(node: Node) -> None:
    simulation = await node.simulate(Call(SENDER, OTHER, b"", value_wei=10**40))
    assert not simulation.ok
    assert "funds" in str(simulation.revert_reason).lower()


# What goes wrong between us and a node.


@asynccontextmanager
async def answering(
    answer: Callable[[list[dict[str, Any]]], Any], *, status: int = 200, only: str = ""
) -> AsyncIterator[str]:
    """The address of an HTTP server that answers each batch with what `answer` makes of it: bytes, or JSON.

    With `status`; where `only` names a method, only for that.
    """

    async def handle(request: web.Request) -> web.Response:
        said = answer(batch := json.loads(await request.read()))
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        kind = "text/html" if body.startswith(b"<") else "application/json"
        fails = not only or only == batch[0]["method"]
        return web.Response(body=body, status=status if fails else 200, content_type=kind)

    app = web.Application()
    app.router.add_post("/v3/secret-key", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v3/secret-key"
    finally:
        await runner.cleanup()


def results(**by_method: Any) -> Callable[[list[dict[str, Any]]], Any]:
    """Answers of an honest node of chain 1 but for the methods given; an exception's argument is a JSON-RPC error."""
    by_method = {"eth_chainId": "0x1"} | by_method

    def answer(batch: list[dict[str, Any]]) -> Any:
        answers = []
        for request in batch:
            said = by_method.get(request["method"])
            shape = {"error": said.args[0]} if isinstance(said, Exception) else {"result": said}
            answers.append({"jsonrpc": "2.0", "id": request["id"]} | shape)
        return answers

    return answer


@asynccontextmanager
async def node_of(*urls: str) -> AsyncIterator[Node]:
    node = Node(1, urls)
    try:
        yield node
    finally:
        await node.close()


def assert_silent_about_the_address(text: str) -> None:
    for part in ("http", "127.0.0.1", "secret-key"):
        assert part not in text


BROKEN: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], int]] = {
    "HTML": (lambda _: b"<html>hello</html>", 200),
    "a gateway's 502": (lambda _: b"<html>bad gateway</html>", 502),
    "429 with JSON": (lambda _: {"error": "slow down"}, 429),
    "truncated JSON": (lambda _: b'[{"jsonrpc": "2.0", "id": 0, "res', 200),
    "bytes that are not UTF-8": (lambda _: b"\xff\xfe\xff", 200),
    "no list": (lambda _: {"jsonrpc": "2.0", "error": {"message": "batches are off"}}, 200),
    "an empty list": (lambda _: [], 200),
    "a list of nothing": (lambda _: [None], 200),
    "neither result nor error": (lambda batch: [{"id": batch[0]["id"]}], 200),
    "null": (lambda _: b"null", 200),
    "another chain": (results(eth_chainId="0x5"), 200),
    "a chain id that is none": (results(eth_chainId=["x"]), 200),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_an_answer_of_no_use_is_an_outage_and_never_an_exception_of_a_library(name: str) -> None:
    answer, status = BROKEN[name]
    async with answering(answer, status=status) as url, node_of(url) as node:
        with pytest.raises(NodeUnavailable) as caught:
            await node.head()
        assert "chain 1" in caught.value.detail
        assert_silent_about_the_address(caught.value.detail)
        sent = await node.send(b"\x02")
        assert sent.kind is SendKind.UNAVAILABLE
        assert_silent_about_the_address(sent.message)


async def test_a_wrong_chain_is_named() -> None:
    async with answering(results(eth_chainId="0x5")) as url, node_of(url) as node:
        with pytest.raises(NodeUnavailable, match=r"another chain \(its id is 5\)"):
            await node.check()


async def test_a_node_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, chain: Anvil) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 0.2)
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with silent, node_of(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}") as node:
        with pytest.raises(NodeUnavailable, match="does not answer within"):
            await node.head()


async def test_nobody_listens() -> None:
    async with node_of("http://127.0.0.1:1/secret-key") as node:
        with pytest.raises(NodeUnavailable, match="cannot be reached") as caught:
            await node.balance(OTHER)
        assert_silent_about_the_address(caught.value.detail)
        assert caught.value.retry_after_seconds


async def test_the_next_node_takes_over_and_the_first_comes_back(chain: Anvil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(endpoint.FIRST_REST_SECONDS, Trouble.BROKEN, 0.5)
    asked = 0

    def broken(_: Any) -> bytes:
        nonlocal asked
        asked += 1
        return b"<html>"

    async with answering(broken) as url:
        node = Node(chain.chain_id, [url, chain.url])
        assert (await node.head()).hash == (await node.head()).hash
        assert asked == 1, "a node that failed rests for a while"
        await asyncio.sleep(0.6)
        await node.head()
        assert asked == 2, "and is then asked first again"
        await node.close()


async def test_a_node_of_another_chain_is_passed_over_and_never_sent_to(chain: Anvil) -> None:
    methods: list[str] = []

    def spy(batch: list[dict[str, Any]]) -> Any:
        methods.extend(request["method"] for request in batch)
        return results(eth_chainId="0x5")(batch)

    async with answering(spy) as url:
        node = Node(chain.chain_id, [url, chain.url])
        assert (await node.send(signed(await node.transaction_count(SENDER)))).kind is SendKind.ACCEPTED
        await node.close()
    chain.mine()
    assert set(methods) == {"eth_chainId"}


REFUSES = results(eth_sendRawTransaction=Exception({"code": -32000, "message": "intrinsic gas too low"}))


async def test_silence_after_a_send_is_not_covered_up_by_what_the_next_node_says() -> None:
    silent = answering(results(), status=502, only="eth_sendRawTransaction")
    async with silent as first, answering(REFUSES) as second, node_of(first, second) as node:
        assert (await node.send(b"\x02")).kind is SendKind.UNAVAILABLE, "the first node may have the bytes"
        assert (await node.send(b"\x02")).kind is SendKind.FATAL


async def test_what_a_node_says_of_itself_after_a_send_is_not_covered_up_either() -> None:
    gateway = answering(results(eth_sendRawTransaction=Exception({"code": -32000, "message": "request timed out"})))
    async with gateway as first, answering(REFUSES) as second, node_of(first, second) as node:
        assert (await node.send(b"\x02")).kind is SendKind.UNAVAILABLE, "what is behind the gateway may have the bytes"


async def test_json_rpc_error_inside_http_400_is_read() -> None:
    answer = results(eth_sendRawTransaction=Exception({"code": -32000, "message": "nonce too low"}))
    async with answering(answer, status=400, only="eth_sendRawTransaction") as url, node_of(url) as node:
        assert (await node.send(b"\x02")).kind is SendKind.NONCE_TOO_LOW


RECEIPT = {
    "transactionHash": "0x" + "aa" * 32,
    "blockHash": "0x" + "bb" * 32,
    "blockNumber": "0x5",
    "status": "0x1",
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x1",
    "contractAddress": None,
}


async def test_receipts_that_prove_nothing() -> None:
    asked = [RECEIPT["transactionHash"]]
    async with answering(results(eth_getTransactionReceipt=RECEIPT)) as url, node_of(url) as node:
        assert (await node.receipts(asked))[0]
        [other] = await node.receipts(["0x" + "cc" * 32])
        assert "another transaction" in str(other)
    pending = RECEIPT | {"blockHash": None, "blockNumber": None}
    async with answering(results(eth_getTransactionReceipt=pending)) as url, node_of(url) as node:
        assert await node.receipts(asked) == [None]
    for broken in (
        *(RECEIPT | {"status": None}, {}, "0x1", {"blockHash": "0x1", "blockNumber": "x"}),
        *(RECEIPT | {name: hex(2**63)} for name in ("blockNumber", "gasUsed")),
        RECEIPT | {"effectiveGasPrice": hex(2**256 - 1)},
        RECEIPT | {"blockHash": "0x" + "\0" * 64},
    ):
        async with answering(results(eth_getTransactionReceipt=broken)) as url, node_of(url) as node:
            [unread] = await node.receipts(asked)
            assert isinstance(unread, NodeUnavailable)
            assert "makes no sense" in str(unread)


@pytest.mark.parametrize("absurd", [{"number": hex(2**63)}, {"timestamp": hex(2**64)}, {"hash": "0x\0"}])
async def test_a_head_that_nothing_could_store_is_asked_of_the_next_node(absurd: dict[str, str]) -> None:
    block = {"number": "0x7", "hash": "0x" + "ab" * 32, "timestamp": "0x1", "baseFeePerGas": "0x64"}
    lying, honest = answering(results(eth_getBlockByNumber=block | absurd)), results(eth_getBlockByNumber=block)
    async with lying as first, answering(honest) as second, node_of(first, second) as node:
        assert (await node.head()).number == 7


@pytest.mark.parametrize("gas", ["0x0", hex(20_999), hex(2**53 + 1), hex(2**63)])
async def test_gas_and_nonces_beyond_any_count_make_no_sense(gas: str) -> None:
    call = Call(SENDER, OTHER, b"")
    answers = {"eth_blockNumber": "0x1", "eth_call": "0x", "eth_estimateGas": gas}
    async with answering(results(**answers, eth_getTransactionCount=hex(2**64))) as url, node_of(url) as node:
        with pytest.raises(NodeUnavailable):
            await node.simulate(call)
        with pytest.raises(NodeUnavailable):
            await node.transaction_count(SENDER)


async def test_fees_beyond_all_money_are_not_offered() -> None:
    block = {"number": "0x1", "hash": "0x" + "ab" * 32, "timestamp": "0x1", "baseFeePerGas": "0x64"}
    history = {"baseFeePerGas": ["0x1", "0x1"], "gasUsedRatio": [0.5], "reward": [[hex(2**255)]]}
    answers = {"eth_getBlockByNumber": block, "eth_feeHistory": history, "eth_maxPriorityFeePerGas": "0x1"}
    async with answering(results(**answers)) as url, node_of(url) as node:
        with pytest.raises(NodeUnavailable):
            await node.fees(SETTINGS)


async def test_a_node_that_names_another_hash_is_not_believed() -> None:
    async with answering(results(eth_sendRawTransaction="0x" + "ee" * 32)) as url, node_of(url) as node:
        assert (await node.send(b"\x02")).kind is SendKind.UNKNOWN


async def test_an_overloaded_node_is_not_a_revert() -> None:
    limited = Exception({"code": -32005, "message": "rate limit exceeded, see https://example.org/v3/secret-key"})
    async with answering(results(eth_call=limited)) as url, node_of(url) as node:
        with pytest.raises(NodeUnavailable) as caught:
            await node.call(Call(SENDER, OTHER, b""))
        assert_silent_about_the_address(caught.value.detail)


async def test_a_chain_without_finality_or_tips() -> None:
    block = {"number": "0x1", "hash": "0x" + "AB" * 32, "timestamp": "0x1", "baseFeePerGas": "0x64"}
    unsupported = Exception({"code": -32601, "message": "the method does not exist"})
    honest = {
        "eth_getBlockByNumber": block,
        "eth_feeHistory": unsupported,
        "eth_maxPriorityFeePerGas": unsupported,
    }
    async with answering(results(**honest)) as url, node_of(url) as node:
        with pytest.raises(NodeUnavailable, match="neither eth_feeHistory nor eth_maxPriorityFeePerGas"):
            await node.fees(SETTINGS)
    history = {"eth_feeHistory": unsupported, "eth_maxPriorityFeePerGas": "0x3"}
    async with answering(results(**honest | history)) as url, node_of(url) as node:
        assert await node.fees(SETTINGS) == Fees(3 + 2 * 113, 3)
    async with answering(results(**honest | {"eth_getBlockByNumber": unsupported})) as url, node_of(url) as node:
        assert await node.finalized() is None
        with pytest.raises(NodeUnavailable, match="refuses: the method does not exist"):
            await node.head()
    legacy = {name: value for name, value in block.items() if name != "baseFeePerGas"}
    async with answering(results(eth_getBlockByNumber=legacy)) as url, node_of(url) as node:
        assert (await node.head()).base_fee_wei is None
        with pytest.raises(NodeUnavailable, match="EIP-1559"):
            await node.fees(SETTINGS)


async def test_errors_of_contracts_in_the_dialects_of_nodes() -> None:
    reason = "08c379a0" + f"{32:064x}{2:064x}" + b"no".hex().ljust(64, "0")
    dialects = {
        "no": [
            {"code": 3, "message": "execution reverted: no", "data": "0x" + reason},
            {"code": -32015, "message": "VM execution error.", "data": "Reverted 0x" + reason},
            {"code": -32603, "message": "reverted", "data": {"data": "0x" + reason}},
        ],
        "The contract reverted without giving a reason.": [{"code": 3, "message": "execution reverted", "data": "0x"}],
        "out of gas": [{"code": -32000, "message": "out of gas"}],
    }
    for expected, errors in dialects.items():
        for error in errors:
            async with answering(results(eth_call=Exception(error))) as url, node_of(url) as node:
                with pytest.raises(CallReverted) as caught:
                    await node.call(Call(SENDER, OTHER, b"\1"))
                assert caught.value.detail == expected
