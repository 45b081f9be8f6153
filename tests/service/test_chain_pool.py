"""Several endpoints of one chain: who is asked next, what counts against one, and what is said when they differ."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from eth_utils.crypto import keccak
from structlog.testing import capture_logs

from portal.chain import endpoint, survey
from portal.chain.endpoint import Trouble
from portal.chain.rpc import Block, Call, CallReverted, Node, NodeUnavailable, Receipt
from portal.chain.send_answers import SendKind
from tests.anvil import Anvil, running_anvil
from tests.service.test_chain_rpc import OTHER, RECEIPT, SENDER, answering, node_of, results, signed


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with running_anvil(mining=False) as anvil:
        anvil.fund(SENDER)
        yield anvil


class Scripted:
    """A node of chain 1 whose answers a test changes as it goes; it counts what it is asked."""

    def __init__(self, **by_method: Any) -> None:
        self.by_method = by_method
        self.body: bytes | None = None
        self.asked: list[str] = []
        self.mangle = lambda answers: answers

    def __call__(self, batch: list[dict[str, Any]]) -> Any:
        self.asked += [request["method"] for request in batch]
        return self.body or self.mangle(results(**self.by_method)(batch))


def block(number: int, *, hash: str = "0xaa", timestamp: int = 1000) -> dict[str, str]:
    return {
        "number": hex(number),
        "hash": "0x" + hash[2:].rjust(64, "0"),
        "timestamp": hex(timestamp),
        "baseFeePerGas": "0x1",
    }


class Blocks(Scripted):
    """A scripted node that has the blocks up to its head, one every twelve seconds."""

    head, final, fork, block_seconds = 100, 60, "aa", 12

    def __call__(self, batch: list[dict[str, Any]]) -> Any:
        self.asked += [request["method"] for request in batch]
        if self.body:
            return self.body
        answers = results(**self.by_method)(batch)
        for request, answer in zip(batch, answers, strict=True):
            if request["method"] == "eth_getBlockByNumber":
                named = {"latest": self.head, "finalized": self.final}.get(request["params"][0])
                number = int(request["params"][0], 16) if named is None else named
                answer["result"] = block(number, hash=f"0x{self.fork}{number:x}", timestamp=self.block_seconds * number)
        return answers


@asynccontextmanager
async def pool_of(*scripts: Scripted) -> AsyncIterator[Node]:
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(answering(script)) for script in scripts]
        yield await stack.enter_async_context(node_of(*urls))


def refusal(message: str, code: int = -32000, **more: Any) -> Exception:
    return Exception({"code": code, "message": message} | more)


# Which answers belong to which questions.


async def test_answers_in_any_order_are_matched_to_their_questions() -> None:
    reordered = Scripted()
    reordered.mangle = lambda answers: list(reversed(answers))
    async with pool_of(reordered) as node:
        reordered.by_method = {"eth_getBalance": "0x7", "eth_blockNumber": "0x8"}
        answers = await node.ask([("eth_getBalance", [OTHER, "latest"]), ("eth_blockNumber", [])])
    assert [answer["result"] for answer in answers] == ["0x7", "0x8"]


MANGLED = {
    "the id of another request": lambda answers: [answer | {"id": answer["id"] + 1000} for answer in answers],
    "an id as text": lambda answers: [answer | {"id": str(answer["id"])} for answer in answers],
    "no id": lambda answers: [{"result": answer["result"]} for answer in answers],
    "one answer too few": lambda answers: answers[:-1],
    "two that differ": lambda answers: [*answers, answers[0] | {"result": "0x9"}],
}


@pytest.mark.parametrize("name", sorted(MANGLED))
async def test_an_answer_to_something_else_is_no_answer(name: str) -> None:
    liar, honest = Scripted(eth_getBalance="0x7"), Scripted(eth_getBalance="0x5")
    async with pool_of(liar, honest) as node:
        assert await node.balance(OTHER) == 7
        liar.mangle = MANGLED[name]
        assert await node.balance(OTHER) == 5
        assert (await node.survey())[0].state == "failed"


async def test_the_same_answer_twice_is_one_answer() -> None:
    twice = Scripted(eth_getBalance="0x7")
    twice.mangle = lambda answers: answers * 2
    async with pool_of(twice) as node:
        assert await node.balance(OTHER) == 7


@pytest.mark.parametrize("most", [30, 3, 1, 0])
async def test_a_node_that_limits_batches_gets_as_many_requests_as_it_takes(most: int) -> None:
    sizes: list[int] = []

    def limited(asked: Any) -> Any:
        batch = [asked] if isinstance(asked, dict) else asked
        if len(batch) > max(most, 1) or (most == 0 and isinstance(asked, list)):
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch too large"}}
        sizes.append(len(batch))
        answers = [{"id": each["id"], "result": {"eth_chainId": "0x1"}.get(each["method"])} for each in batch]
        return answers if isinstance(asked, list) else answers[0]

    async with answering(limited) as url, node_of(url) as node:
        assert await node.receipts([f"0x{place:064x}" for place in range(80)]) == [None] * 80
        assert sum(sizes) == 1 + 80
        assert max(sizes) > most // 4
        sizes.clear()
        assert await node.receipts(["0x" + "ab" * 32] * 4) == [None] * 4
        assert sum(sizes) == 4, "it is known from now on"


# What counts against an endpoint.


async def test_what_a_node_says_of_a_call_never_counts_against_it() -> None:
    first, second = Blocks(), Blocks(eth_call="0x01")
    async with pool_of(first, second) as node:
        for error in (
            refusal("execution reverted: rate limit exceeded", 3, data="0x"),
            refusal("execution reverted: too many requests per second"),
            refusal("insufficient funds for transfer"),
            refusal("nonce too low"),
        ):
            first.by_method["eth_call"] = error
            with pytest.raises(CallReverted):
                await node.call(Call(SENDER, OTHER, b"\1"))
            assert (await node.survey())[0].state == "ok"
    assert "eth_call" not in second.asked


async def test_a_read_that_one_endpoint_refuses_is_put_to_the_next_without_blame() -> None:
    lagging = Blocks(eth_getTransactionCount=refusal("header not found"))
    async with pool_of(lagging, Blocks(eth_getTransactionCount="0x9")) as node:
        assert await node.transaction_count(SENDER, block_number=77) == 9
        assert (await node.survey())[0].state == "ok"
        lagging.by_method["eth_getTransactionCount"] = "0x3"
        assert await node.transaction_count(SENDER) == 3


async def test_results_that_make_no_sense_are_read_elsewhere() -> None:
    for broken in (None, "-0x1", 5, "0x" + "f" * 65, {}):
        async with pool_of(Scripted(eth_getBalance=broken), Scripted(eth_getBalance="0x5")) as node:
            assert await node.balance(OTHER) == 5
            assert (await node.survey())[0].state == "failed"


async def test_another_block_than_the_one_asked_for_is_not_taken() -> None:
    wrong = Scripted(eth_getBlockByNumber=block(6))
    async with pool_of(wrong, Scripted(eth_getBlockByNumber=block(5))) as node:
        [found] = await node.blocks([5])
    assert isinstance(found, Block)
    assert found.number == 5


HASHES = [f"0x{place:064x}" for place in range(3)]
BROKEN: dict[str, Any] = {
    "senseless": {"result": {"blockHash": 7}},
    "of another": {"result": RECEIPT},
    "left out": {},
    "refused": {"error": {"code": -32000, "message": "header not found"}},
}


@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_one_broken_answer_costs_no_other(name: str) -> None:
    first, second = Scripted(), Scripted(eth_getTransactionReceipt=RECEIPT | {"transactionHash": HASHES[1]})

    def mangle(answers: list[Any]) -> list[Any]:
        return [{"id": each["id"], **BROKEN[name]} if place == 1 else each for place, each in enumerate(answers)]

    async with pool_of(first) as node:
        assert await node.receipts(HASHES) == [None] * 3
        first.mangle = mangle
        with capture_logs() as logs:
            before, untold, after = await node.receipts(HASHES)
        assert (before, after) == (None, None)
        assert isinstance(untold, NodeUnavailable)
        [said] = [each for each in logs if each["event"] == "node.untold"]
        assert (said["about"], said["more"]) == (HASHES[1], 0)
        blamed = [each for each in logs if each["event"] == "node.failed"]
        assert len(blamed) == (name != "refused"), "what a node says of a question does not count against it"
    async with pool_of(first, second) as node:
        before, found, after = await node.receipts(HASHES)
    assert (before, after) == (None, None)
    assert isinstance(found, Receipt), "the next endpoint tells"
    assert second.asked.count("eth_getTransactionReceipt") == 1


async def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asks() -> None:
    busy = Scripted(eth_getBalance=refusal("Your app has exceeded its compute units per second capacity.", -32005))
    async with pool_of(busy) as node:
        with pytest.raises(NodeUnavailable):
            await node.balance(OTHER)
        asked = len(busy.asked)
        busy.by_method["eth_getBalance"] = "0x5"
        with pytest.raises(NodeUnavailable, match="compute units"):
            await node.balance(OTHER)
        assert len(busy.asked) == asked, "to ask at once again only prolongs it"
        await until(lambda: answers(node.balance(OTHER), 5))


async def answers(question: Any, value: Any) -> bool:
    try:
        return bool(await question == value)
    except NodeUnavailable:
        return False


async def until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.05)


async def test_an_endpoint_rests_longer_each_time_and_comes_back_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(endpoint.FIRST_REST_SECONDS, Trouble.BROKEN, 0.2)
    first, second = Scripted(eth_getBalance="0x7"), Scripted(eth_getBalance="0x5")
    first.body = b"<html>"
    rests: list[float] = []
    async with pool_of(first, second) as node:
        with capture_logs() as logs:
            for _ in range(3):
                before = len(first.asked)

                async def asked_again(before: int = before) -> bool:
                    assert await node.balance(OTHER) == 5
                    return len(first.asked) > before

                await until(asked_again)
        rests = [each["rests_seconds"] for each in logs if each["event"] == "node.failed"]
        assert [0.1 * 2**turn <= rest <= 0.2 * 2**turn for turn, rest in enumerate(rests)] == [True] * 3
        first.body, first.asked[:] = None, []
        await until(lambda: answers(node.balance(OTHER), 7))
    assert first.asked == ["eth_chainId", "eth_getBalance"]


async def test_many_questions_that_meet_one_outage_are_one_failure() -> None:
    broken = Scripted()
    broken.body = b"<html>"
    async with pool_of(broken, Scripted(eth_getBalance="0x5")) as node:
        with capture_logs() as logs:
            assert await asyncio.gather(*(node.balance(OTHER) for _ in range(20))) == [5] * 20
    rests = [each["rests_seconds"] for each in logs if each["event"] == "node.failed"]
    assert 1 <= len(rests) <= 2
    assert max(rests) <= 2, "it is not given up for minutes after one blip"


async def test_an_endpoint_that_comes_back_as_another_chain_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(endpoint.FIRST_REST_SECONDS, Trouble.BROKEN, 0.05)
    first, second = Scripted(eth_getBalance="0x7"), Scripted(eth_getBalance="0x5")
    async with pool_of(first, second) as node:
        assert await node.balance(OTHER) == 7
        first.body = b"<html>"
        assert await node.balance(OTHER) == 5
        first.body, first.by_method["eth_chainId"] = None, "0x5"
        await asyncio.sleep(0.1)
        with capture_logs() as logs:
            assert await node.balance(OTHER) == 5
        assert [(each["log_level"], each["trouble"]) for each in logs if each["event"] == "node.failed"] == [
            ("error", "wrong_chain")
        ]
        asked = len(first.asked)
        assert await node.balance(OTHER) == 5
        assert len(first.asked) == asked
        [said, _] = await node.survey()
        assert said.state == "closed"
        assert "its id is 5" in said.message


# Sends.


def nonce_of(chain: Anvil) -> int:
    return int(chain.rpc("eth_getTransactionCount", SENDER, "pending"), 16)


async def test_a_batch_is_answered_one_by_one_and_in_order(chain: Anvil) -> None:
    node = Node(chain.chain_id, [chain.url])
    nonce = await node.transaction_count(SENDER)
    raws = [signed(nonce), signed(nonce, gas=100), signed(nonce), signed(nonce + 1), b"\x02nonsense"]
    kinds = [answer.kind for answer in await node.send_many(raws)]
    await node.close()
    assert kinds == [SendKind.ACCEPTED, SendKind.FATAL, SendKind.KNOWN, SendKind.ACCEPTED, SendKind.FATAL]
    assert await node.send_many([]) == []


async def test_what_is_left_unanswered_in_the_middle_may_have_been_taken() -> None:
    raws = [bytes([2, place]) for place in range(4)]
    half = Scripted()
    half.mangle = lambda answers: answers[:2]

    def sent(batch: list[dict[str, Any]]) -> Any:
        half.asked += [request["method"] for request in batch]
        said = [
            {"id": request["id"], "result": "0x" + keccak(bytes.fromhex(request["params"][0][2:])).hex()}
            if request["method"] == "eth_sendRawTransaction"
            else {"id": request["id"], "result": "0x1"}
            for request in batch
        ]
        return said[:2]

    refuses = Scripted(eth_sendRawTransaction=refusal("intrinsic gas too low"))
    async with answering(sent) as url, node_of(url) as alone:
        kinds = [answer.kind for answer in await alone.send_many(raws)]
        assert kinds == [SendKind.ACCEPTED, SendKind.ACCEPTED, SendKind.UNAVAILABLE, SendKind.UNAVAILABLE]
    async with answering(sent) as url, answering(refuses) as next_url, node_of(url, next_url) as both:
        said = await both.send_many(raws)
    assert [answer.kind for answer in said] == kinds, "what the next one refuses, the first one may have"
    assert "intrinsic gas too low" in said[3].message
    assert refuses.asked.count("eth_sendRawTransaction") == 2, "only what had no answer"


async def test_what_was_taken_alone_before_the_rest_was_refused_is_not_said_to_be_rejected() -> None:
    """One node takes one at a time and only the first; the next one refuses both."""
    taken: list[str] = []

    def first_only(asked: Any) -> Any:
        [one, *more] = asked if isinstance(asked, list) else [asked]
        if one["method"] == "eth_chainId":
            return [{"id": one["id"], "result": "0x1"}]
        if more or taken:
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch limit exceeded"}}
        taken.extend(one["params"])
        return {"id": one["id"], "result": "0x" + keccak(hexstr=one["params"][0]).hex()}

    refuses = Scripted(eth_sendRawTransaction=refusal("intrinsic gas too low"))
    async with answering(first_only) as url, answering(refuses) as next_url, node_of(url, next_url) as both:
        said = await both.send_many([b"\x02", b"\x03"])
    assert taken == ["0x02"]
    assert said[0].kind is SendKind.UNAVAILABLE, "it may be mined yet"


async def test_what_one_endpoint_cannot_take_goes_to_the_next(chain: Anvil) -> None:
    full = Scripted(eth_chainId=hex(chain.chain_id))
    for message in ("txpool is full", "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)"):
        full.by_method["eth_sendRawTransaction"] = refusal(message)
        async with answering(full) as url:
            node = Node(chain.chain_id, [url, chain.url])
            answer = await node.send(signed(nonce_of(chain)))
            await node.close()
        chain.mine()
        assert answer.kind is SendKind.ACCEPTED
        assert full.asked.count("eth_sendRawTransaction") == 1
        full.asked.clear()


async def test_nobody_has_what_could_not_even_be_sent(chain: Anvil) -> None:
    node = Node(chain.chain_id, ["http://127.0.0.1:1", chain.url])
    answer = await node.send(b"\x02nonsense")
    await node.close()
    assert answer.kind is SendKind.FATAL, "the first one was never reached, so the second one's word is enough"


async def test_what_one_endpoint_keeps_to_itself_is_given_to_the_others(chain: Anvil) -> None:
    hoarder = Scripted(eth_chainId=hex(chain.chain_id), eth_sendRawTransaction=refusal("already known"))
    async with answering(hoarder) as url:
        node = Node(chain.chain_id, [url, chain.url])
        nonce = nonce_of(chain)
        assert (await node.send(signed(nonce))).kind is SendKind.KNOWN
        await node.close()
    chain.mine()
    assert nonce_of(chain) == nonce + 1


# Endpoints compared.


async def test_an_endpoint_that_lags_is_asked_last_and_said() -> None:
    behind, best = Blocks(eth_getBalance="0x7"), Blocks(eth_getBalance="0x5")
    behind.head, behind.final = 94, 54
    async with pool_of(behind, best) as node:
        with capture_logs() as logs:
            assert (await node.head()).number == 100
        assert await node.balance(OTHER) == 5
        first, second = await node.survey()
        assert (first.state, first.behind, second.state, second.behind) == ("lags", 6, "ok", 0)
        assert [(each["endpoint"], each["blocks"]) for each in logs if each["event"] == "node.lags"] == [(1, 6)]
        assert not [each for each in logs if each["event"] == "node.disagreement"]
        behind.head, behind.final = 100, 60
        node._pool.surveyed_at = 0
        await node.head()
        assert await node.balance(OTHER) == 7, "it has caught up"


async def test_a_few_blocks_or_seconds_behind_are_no_lag() -> None:
    behind, best = Blocks(), Blocks()
    for blocks, block_seconds in ((5, 12), (10, 1)):
        behind.head = 100 - blocks
        behind.block_seconds = best.block_seconds = block_seconds
        async with pool_of(behind, best) as node:
            assert [each.state for each in await node.survey()] == ["ok", "ok"]


async def test_other_final_blocks_are_reported_and_the_minority_is_asked_last() -> None:
    liar = Blocks(eth_getBalance="0x7")
    liar.fork = "bb"
    async with pool_of(liar, Blocks(eth_getBalance="0x5")) as node:
        with capture_logs() as logs:
            assert [each.state for each in await node.survey()] == ["disagrees", "disagrees"]
        [said] = [each for each in logs if each["event"] == "node.disagreement"]
        assert (said["log_level"], said["block_number"], said["endpoint 1"]) == (
            "error",
            60,
            "0x" + "bb3c".rjust(64, "0"),
        )
        assert await node.balance(OTHER) == 7, "of two nobody knows which one lies"
    async with pool_of(liar, Blocks(eth_getBalance="0x5"), Blocks()) as node:
        assert [each.state for each in await node.survey()] == ["disagrees", "ok", "ok"]
        assert await node.balance(OTHER) == 5


async def test_an_address_that_is_pointed_at_another_chain_is_noticed_without_a_failure() -> None:
    moved, other = Blocks(eth_getBalance="0x7"), Blocks(eth_getBalance="0x5")
    async with pool_of(moved, other) as node:
        assert await node.balance(OTHER) == 7
        moved.by_method["eth_chainId"] = "0x5"
        assert [each.state for each in await node.survey()] == ["closed", "ok"]
        assert await node.balance(OTHER) == 5


async def test_an_endpoint_that_is_slow_to_answer_does_not_hold_the_others_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "ANSWER_SECONDS", 0.1)
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with silent, answering(Blocks()) as url, node_of(address, url) as node:
        started = time.monotonic()
        assert (await node.head()).number == 100
        assert time.monotonic() - started < 2
        [slow, _] = await node.survey()
        assert slow.state == "lags"


async def test_each_endpoint_answers_for_itself() -> None:
    first, second = Blocks(eth_getTransactionCount="0x7"), Blocks(eth_getTransactionCount="0x5")
    async with pool_of(first, second) as node:
        counts = [await each.transaction_count(SENDER, block_number=60) for each in node.each()]
        assert counts == [7, 5]
        first.body = b"<html>"
        with pytest.raises(NodeUnavailable):
            await node.each()[0].transaction_count(SENDER)
        asked = len(first.asked)
        first.body = None
        with pytest.raises(NodeUnavailable, match="not JSON-RPC"):
            await node.each()[0].transaction_count(SENDER)
        assert len(first.asked) == asked, "one that rests is not waited for"
        assert await node.each()[1].transaction_count(SENDER) == 5


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8545", "127.0.0.1:8545"),
        ("https://rpc.example.org/", "rpc.example.org"),
        ("https://mainnet.example.org/v3/0123456789abcdef", "endpoint 1"),
        ("https://rpc.example.org/?key=abc", "endpoint 1"),
        ("https://user:password@rpc.example.org", "endpoint 1"),
        ("https://rpc.example.org/#abc", "endpoint 1"),
    ],
)
async def test_an_endpoint_is_named_only_where_its_address_can_hold_no_key(url: str, name: str) -> None:
    assert endpoint.Endpoint(1, url, 1).name == name
