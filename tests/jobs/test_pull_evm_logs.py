"""`evm_logs` against a real chain: no event left out and none twice, whatever nodes, reorganisations and kills do."""

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import pytest_asyncio

from portal.audit.service import verify
from portal.chain.rpc import close_nodes, get_node
from portal.chain.service import register_chains
from portal.db.engine import run_sql
from portal.errors import InputInvalid
from portal.settings import get_settings
from portal.signals.pulls import evm_logs, running
from portal.signals.pulls.jobs import pull_sources
from portal.signals.pulls.service import get_pull
from portal.signals.service import pause_source, resume_source
from tests.actions import ADA, CHAIN, make_signer, register_points
from tests.anvil import Anvil, running_anvil
from tests.people import Cast
from tests.pulls import Pulled, make_pulled
from tests.transactions import Killed

Answers = list[dict[str, Any]]
MINT = "40c10f19"
NOWHERE = "0x" + "0" * 40


class Between:
    """Stands between the portal and the node, at the address of the settings. `twist` may change what is answered."""

    def __init__(self, node: Anvil, port: int) -> None:
        self.twist: Callable[[list[dict[str, Any]], Answers], Answers] = lambda _asked, answers: answers
        self.ranges: list[int] = []
        between = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = urllib.request.Request(node.url, body, {"content-type": "application/json"})
                with urllib.request.urlopen(request, timeout=30) as response:
                    answers = json.load(response)
                asked = json.loads(body)
                for each in asked:
                    if each["method"] == "eth_getLogs":
                        wanted = each["params"][0]
                        between.ranges.append(1 + int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16))
                content = json.dumps(between.twist(asked, answers)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def twist_method(self, method: str, change: Callable[[list[Any], dict[str, Any]], dict[str, Any]]) -> None:
        """Answer `method` with what `change` makes of the parameters and the true answer."""

        def twist(asked: list[dict[str, Any]], answers: Answers) -> Answers:
            params = {each["id"]: each["params"] for each in asked if each["method"] == method}
            return [change(params[a["id"]], a) if a["id"] in params else a for a in answers]

        self.twist = twist

    def honest(self) -> None:
        self.twist = lambda _asked, answers: answers

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Points:
    """A points contract on the chain, its owner an account whose transactions the test signs."""

    def __init__(self, node: Anvil, between: Between, cast: Cast) -> None:
        self.node, self.between, self.cast = node, between, cast
        self.owner = node.accounts()[0]
        self.contract_id: Any = None
        self.address = ""

    async def register(self) -> None:
        signer_id, _ = await make_signer(self.cast, "Treasury")
        self.contract_id = await register_points(self.cast, self.node, signer_id, owner_address=self.owner)
        rows = await run_sql("SELECT address FROM contract WHERE id = {}", self.contract_id)
        self.address = rows[0]["address"]

    def sign_mint(self, amount: int, *, nonce: int | None = None) -> str:
        """The signed bytes of a mint to Ada."""
        count = int(self.node.rpc("eth_getTransactionCount", self.owner, "latest"), 16)
        return str(
            self.node.rpc(
                "eth_signTransaction",
                {
                    "from": self.owner,
                    "to": self.address,
                    "data": "0x" + MINT + ADA[2:].lower().rjust(64, "0") + f"{amount:064x}",
                    "gas": hex(200_000),
                    "nonce": hex(count if nonce is None else nonce),
                    "maxFeePerGas": hex(10**11),
                    "maxPriorityFeePerGas": hex(1),
                    "chainId": hex(CHAIN),
                    "type": "0x2",
                },
            )
        )

    def mint(self, *amounts: int) -> list[str]:
        """Mint each amount in a block of its own; the signed bytes."""
        raws = []
        for amount in amounts:
            raws.append(raw := self.sign_mint(amount))
            hash = self.node.rpc("eth_sendRawTransaction", raw)
            while self.node.rpc("eth_getTransactionReceipt", hash) is None:
                time.sleep(0.01)
        return raws

    def head(self) -> int:
        return int(self.node.rpc("eth_blockNumber"), 16)

    async def source(self, **settings: Any) -> Pulled:
        given = {"contract_id": str(self.contract_id), "event": "Transfer", "from_block": 0, **settings}
        return await make_pulled(self.cast.alice, "evm_logs", {k: v for k, v in given.items() if v is not None})

    async def amounts(self, source: Pulled) -> list[int]:
        return [int(signal["payload"]["arguments"]["value"]) for signal in await source.signals()]


@pytest.fixture(scope="module")
def chain() -> Iterator[tuple[Anvil, Between]]:
    with running_anvil() as node:
        between = Between(node, int(get_settings().rpc_urls[CHAIN][0].rpartition(":")[2]))
        yield node, between
        between.stop()


@pytest_asyncio.fixture
async def points(chain: tuple[Anvil, Between], cast: Cast) -> AsyncIterator[Points]:
    node, between = chain
    between.honest()
    node.rpc("evm_setAutomine", True)
    get_node(CHAIN)._pool.endpoints[0]._rests_until = 0
    await register_chains()
    made = Points(node, between, cast)
    await made.register()
    between.ranges.clear()
    yield made
    await close_nodes()


async def step(source: Pulled, monkeypatch: pytest.MonkeyPatch) -> None:
    """One range only, as if the worker stopped after it."""
    with monkeypatch.context() as patched:
        patched.setattr(running, "RUN_SECONDS", -1)
        await run_sql("UPDATE pull SET due_at = now() - interval '1 s' WHERE source = {}", source.id)
        claimed = await running.claim_next()
        assert claimed
        await running.pull(claimed)


async def test_an_event_becomes_a_signal_that_says_where_it_is_from(points: Points) -> None:
    big = 2**200 + 1
    points.mint(big)
    block = points.node.rpc("eth_getBlockByNumber", "latest", False)
    points.node.mine(2)
    source = await points.source(from_block=points.head() - 2)
    view = await source.pull()
    [signal] = await source.signals()
    payload = signal["payload"]
    arguments = payload.pop("arguments")
    assert arguments == {"owner": NOWHERE, "to": ADA, "value": str(big)} or set(arguments.values()) == {
        NOWHERE,
        ADA,
        str(big),
    }
    moment = payload.pop("block_time")
    assert payload == {
        "event": "Transfer",
        "contract": str(points.contract_id),
        "address": points.address,
        "chain_id": CHAIN,
        "block_number": int(block["number"], 16),
        "block_hash": block["hash"],
        "transaction_hash": block["transactions"][0],
        "log_index": 0,
    }
    assert moment.endswith("Z")
    assert (signal["type"], signal["status"], signal["secret"]) == ("Transfer", "received", None)
    assert signal["external_id"].startswith(block["transactions"][0])
    assert (view.failures, view.error) == (0, None)


async def test_an_event_is_read_when_it_is_deep_enough(points: Points) -> None:
    start = points.head() + 1
    source = await points.source(from_block=start, confirmations=4)
    points.mint(7)
    for depth in (1, 2, 3):
        await source.pull()
        assert await points.amounts(source) == [], depth
        points.node.mine()
    await source.pull()
    assert await points.amounts(source) == [7]
    by_the_chain = await points.source(from_block=start)
    await by_the_chain.pull()
    assert await points.amounts(by_the_chain) == [7]


async def test_without_a_first_block_only_what_comes_is_read(points: Points) -> None:
    points.mint(1, 2)
    source = await points.source(from_block=None)
    assert (await source.view()).position == "From the next block on."
    await source.pull()
    points.mint(3)
    points.node.mine(3)
    view = await source.pull()
    assert await points.amounts(source) == [3]
    assert view.position == f"From block {points.head()} on."


async def test_ranges_are_read_in_order_over_many_restarts(points: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    start = points.head() + 1
    points.mint(*range(20))
    points.node.mine(3)
    monkeypatch.setattr(evm_logs, "FIRST_RANGE", 3)
    monkeypatch.setattr(evm_logs, "MOST_BLOCKS", 3)
    source = await points.source(from_block=start)
    for _ in range(3):
        await step(source, monkeypatch)
    assert await points.amounts(source) == list(range(9))
    await source.pull()
    assert await points.amounts(source) == list(range(20))
    assert max(points.between.ranges) == 3


async def test_a_kill_before_the_commit_leaves_neither_gap_nor_double(
    points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = points.head() + 1
    points.mint(*range(12))
    points.node.mine(3)
    monkeypatch.setattr(evm_logs, "FIRST_RANGE", 4)
    monkeypatch.setattr(evm_logs, "MOST_BLOCKS", 4)
    source = await points.source(from_block=start)
    real, stored = running.store_pulled, 0

    async def store_and_die(*given: Any) -> int:
        nonlocal stored
        count = await real(*given)
        stored += 1
        if stored == 2:
            raise Killed
        return count

    monkeypatch.setattr(running, "store_pulled", store_and_die)
    await run_sql("UPDATE pull SET due_at = now() - interval '1 s'")
    claimed = await running.claim_next()
    assert claimed
    with pytest.raises(Killed):
        await running.pull(claimed)
    assert await points.amounts(source) == [0, 1, 2, 3]
    assert (await source.position())["next"] == start + 4
    await source.pull()
    assert await points.amounts(source) == [0, 1, 2, 3], "nobody else pulls while the dead worker's claim holds"
    await run_sql("UPDATE pull SET claimed_until = now() - interval '1 s'")
    await source.pull()
    assert await points.amounts(source) == list(range(12))


async def test_a_thousand_events_of_one_block(points: Points) -> None:
    node = points.node
    start = points.head() + 1
    node.rpc("evm_setAutomine", False)
    node.rpc("evm_setBlockGasLimit", hex(10**9))
    nonce = int(node.rpc("eth_getTransactionCount", points.owner, "latest"), 16)
    for place in range(1000):
        node.rpc("eth_sendRawTransaction", points.sign_mint(place, nonce=nonce + place))
    node.mine(3)
    counts = [len(node.rpc("eth_getBlockByNumber", hex(start + n), False)["transactions"]) for n in range(3)]
    assert counts == [1000, 0, 0]
    source = await points.source(from_block=start)
    await source.pull()
    assert sorted(await points.amounts(source)) == list(range(1000))
    correlations = await run_sql("SELECT count(DISTINCT correlation_id) AS n FROM signal WHERE source = {}", source.id)
    assert correlations[0]["n"] == 1000


async def test_many_events_make_the_ranges_smaller_and_few_larger(
    points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = points.head() + 1
    points.mint(*range(16))
    points.node.mine(40)
    monkeypatch.setattr(evm_logs, "FIRST_RANGE", 8)
    monkeypatch.setattr(evm_logs, "MANY_EVENTS", 3)
    monkeypatch.setattr(evm_logs, "FEW_EVENTS", 1)
    source = await points.source(from_block=start)
    await source.pull()
    assert sorted(await points.amounts(source)) == list(range(16))
    assert points.between.ranges[:3] == [8, 4, 2]
    assert points.between.ranges[-2] > 2


# Reorganisations


async def test_what_is_undone_before_it_is_deep_enough_is_never_a_signal(points: Points) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=3)
    points.mint(1)
    points.mint(2)
    await source.pull()
    points.node.rpc("anvil_reorg", 2, [])
    points.node.mine(4)
    await source.pull()
    assert await points.amounts(source) == []
    assert "source.reorganised" not in await kinds(source)


async def test_a_reorganisation_of_what_was_read_is_found_and_read_again(
    points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evm_logs, "FIRST_RANGE", 1)
    monkeypatch.setattr(evm_logs, "MOST_BLOCKS", 1)
    first = points.head() + 1
    source = await points.source(from_block=first, confirmations=2)
    _, _, moves = points.mint(10, 20, 30)
    points.node.mine(1)
    await source.pull()
    assert await points.amounts(source) == [10, 20, 30]
    before = await source.signals()

    # The blocks of 20 and 30 are undone: 25 takes the place of 20, and 30 is mined again one block later.
    nonce = int(points.node.rpc("eth_getTransactionCount", points.owner, "latest"), 16)
    points.node.rpc("anvil_reorg", 3, [[points.sign_mint(25, nonce=nonce - 2), 0], [moves, 2]])
    assert points.head() == first + 3
    points.mint(40)
    points.node.mine(2)
    view = await source.pull()

    assert await points.amounts(source) == [10, 20, 30, 25, 40], "each once"
    assert (await source.signals())[:3] == before, "what was received stays as it was"
    assert (view.failures, view.error) == (0, None)
    assert f"A reorganisation undid blocks from {first + 1} on" in view.position
    assert (await kinds(source)).count("source.reorganised") == 1
    undone = await run_sql("SELECT subject_id, correlation_id FROM audit_entry WHERE kind = 'signal.block_undone'")
    rows = await run_sql("SELECT id, correlation_id FROM signal WHERE source = {} ORDER BY id", source.id)
    assert {(row["subject_id"], row["correlation_id"]) for row in undone} == {
        (str(row["id"]), row["correlation_id"]) for row in rows[1:3]
    }
    assert await verify(points.cast.organization_id) is None
    points.mint(50)
    points.node.mine(1)
    await source.pull()
    assert await points.amounts(source) == [10, 20, 30, 25, 40, 50], "and it goes on"


async def test_a_transaction_with_another_result_after_a_reorganisation_is_another_fact(points: Points) -> None:
    """The same transaction hash, mined again, may emit something else: both are told."""
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)
    await source.pull()
    [signal] = await source.signals()
    hash = signal["payload"]["transaction_hash"]

    def other_value(_params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "result": [{**log, "data": "0x" + f"{2:064x}"} for log in answer["result"]]}

    points.between.twist_method("eth_getLogs", other_value)
    await run_sql("""UPDATE pull SET position = jsonb_set(position, '{{next}}', '0')""")
    await run_sql("""UPDATE pull SET position = position - 'checkpoints'""")
    await source.pull()
    again = [s for s in await source.signals() if s["payload"]["transaction_hash"] == hash]
    assert [s["payload"]["arguments"]["value"] for s in again] == ["1", "2"]


async def test_equal_events_of_one_transaction_are_each_a_fact(points: Points) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)

    def twice(_params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "result": [{**log, "logIndex": hex(n)} for log in answer["result"] for n in (0, 1)]}

    points.between.twist_method("eth_getLogs", twice)
    await source.pull()
    assert [signal["payload"]["log_index"] for signal in await source.signals()] == [0, 1]


async def test_a_reorganisation_deeper_than_anything_remembered_starts_over(
    points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evm_logs, "CHECKPOINTS", 2)
    monkeypatch.setattr(evm_logs, "FIRST_RANGE", 1)
    monkeypatch.setattr(evm_logs, "MOST_BLOCKS", 1)
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1, 2, 3, 4, 5)
    await source.pull()
    points.node.rpc("anvil_reorg", 4, [])
    points.mint(6, 7)
    await source.pull()
    assert await points.amounts(source) == [1, 2, 3, 4, 5, 6, 7]


# Nodes


def refuse_above(most: int, message: str) -> Callable[[list[Any], dict[str, Any]], dict[str, Any]]:
    def change(params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        size = 1 + int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16)
        if size <= most:
            return answer
        return {"jsonrpc": "2.0", "id": answer["id"], "error": {"code": -32005, "message": message}}

    return change


@pytest.mark.parametrize(
    "message",
    [
        "query returned more than 10000 results",
        "eth_getLogs is limited to a 10 range",
        "exceed maximum block range: 50000",
        "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
    ],
)
async def test_a_range_that_a_node_refuses_is_halved(points: Points, message: str) -> None:
    start = points.head() + 1
    points.mint(*range(10))
    points.node.mine(20)
    points.between.twist_method("eth_getLogs", refuse_above(7, message))
    source = await points.source(from_block=start)
    view = await source.pull()
    assert view.failures == 0
    assert await points.amounts(source) == list(range(10))
    refused = sum(size > 7 for size in points.between.ranges)
    assert refused < len(points.between.ranges) / 2, "it does not ask too much every time"


async def test_a_node_that_is_busy_is_left_alone_for_a_while(points: Points) -> None:
    source = await points.source(from_block=points.head())
    points.node.mine(5)
    points.between.twist_method("eth_getLogs", refuse_above(0, "request rate exceeded"))
    view = await source.pull()
    assert view.failures == 1
    assert view.error is not None
    assert "request rate exceeded" in view.error
    assert len(points.between.ranges) == 1


async def test_one_block_that_is_refused_is_said(points: Points) -> None:
    source = await points.source(from_block=points.head())
    points.node.mine(5)
    points.between.twist_method("eth_getLogs", refuse_above(0, "query returned more than 10000 results"))
    view = await source.pull()
    assert view.error is not None
    assert "more than 10000 results" in view.error


async def test_a_node_that_lags_makes_a_delay_and_no_gap(points: Points) -> None:
    """Behind one address, one node knows the head while another that answers for logs does not know the block yet."""
    start = points.head() + 1
    source = await points.source(from_block=start, confirmations=1)
    points.mint(1)
    behind = points.head()

    def twist(asked: list[dict[str, Any]], answers: Answers) -> Answers:
        if not any(each["method"] == "eth_getLogs" for each in asked):
            return answers
        methods = {each["id"]: each for each in asked}
        return [
            {**a, "result": [] if methods[a["id"]]["method"] == "eth_getLogs" else _known(methods[a["id"]], a, behind)}
            for a in answers
        ]

    points.between.twist = twist
    view = await source.pull()
    assert await points.amounts(source) == []
    assert view.error is not None
    assert "is behind" in view.error
    points.between.honest()
    await source.pull()
    assert await points.amounts(source) == [1]


def _known(asked: dict[str, Any], answer: dict[str, Any], behind: int) -> Any:
    return None if int(asked["params"][0], 16) >= behind else answer["result"]


@pytest.mark.parametrize("mark", ["the last block", "the block before"])
async def test_a_node_of_another_fork_makes_a_delay_and_no_gap(points: Points, mark: str) -> None:
    """What answers for logs knows another block than what answered before, at one of both ends of the range."""
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)
    await source.pull()
    points.mint(2)
    number = points.head() if mark == "the last block" else points.head() - 1

    def twist(asked: list[dict[str, Any]], answers: Answers) -> Answers:
        if not any(each["method"] == "eth_getLogs" for each in asked):
            return answers
        params = {each["id"]: each["params"] for each in asked}
        return [
            {**a, "result": []}
            if isinstance(a["result"], list)
            else {**a, "result": {**a["result"], "hash": "0x" + "ab" * 32}}
            if params[a["id"]][0] == hex(number)
            else a
            for a in answers
        ]

    points.between.twist = twist
    view = await source.pull()
    assert view.error is not None
    assert "changed while" in view.error
    points.between.honest()
    await source.pull()
    assert await points.amounts(source) == [1, 2]


async def test_a_node_that_has_fallen_behind_what_was_read_is_not_believed(points: Points) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)
    await source.pull()
    read = points.head()
    points.between.twist_method(
        "eth_getBlockByNumber",
        lambda params, a: {**a, "result": None} if params[0] == hex(read) else a,
    )
    view = await source.pull()
    assert view.error is not None
    assert f"has no block {read} yet" in view.error
    assert (await source.position())["next"] == read + 1


@pytest.mark.parametrize(
    "change",
    [
        {"address": "0x" + "11" * 20},
        {"topics": ["0x" + "22" * 32]},
        {"blockNumber": hex(10**9)},
        {"blockHash": "0x" + "33" * 32},
        {"removed": True},
        {"data": None},
    ],
)
async def test_events_that_nobody_asked_for_are_not_taken(points: Points, change: dict[str, Any]) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)
    points.between.twist_method("eth_getLogs", lambda _, a: {**a, "result": [{**log, **change} for log in a["result"]]})
    view = await source.pull()
    assert (view.failures, await source.ids()) == (1, [])


async def test_a_node_that_is_down_is_said_and_waited_for(points: Points) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)
    points.between.twist = lambda _asked, _answers: []
    view = await source.pull()
    assert view.error is not None
    assert "node of chain 31337" in view.error
    points.between.honest()
    await source.pull()
    assert await points.amounts(source) == [1]


# Settings


async def test_an_event_that_does_not_fit_its_abi_is_quarantined_with_its_bytes(points: Points) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)
    points.between.twist_method(
        "eth_getLogs", lambda _, a: {**a, "result": [{**log, "topics": log["topics"][:2]} for log in a["result"]]}
    )
    await source.pull()
    [signal] = await source.signals()
    assert signal["status"] == "quarantined"
    assert "1 indexed values" in json.loads(signal["reasons"])[0]["message"]
    assert signal["payload"]["data"] == "0x" + f"{1:064x}"


async def test_a_paused_source_goes_on_where_it_stood(points: Points) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    points.mint(1)
    await source.pull()
    await pause_source(points.cast.alice.actor, source.id)
    points.mint(2, 3)
    await source.pull()
    assert await points.amounts(source) == [1]
    await resume_source(points.cast.alice.actor, source.id)
    await source.pull()
    assert await points.amounts(source) == [1, 2, 3]


async def test_several_workers_read_each_event_once(points: Points) -> None:
    source = await points.source(from_block=points.head() + 1, confirmations=1)
    for round in range(5):
        points.mint(round)
        await run_sql("UPDATE pull SET due_at = now() - interval '1 s'")
        await asyncio.gather(*(pull_sources() for _ in range(3)))
    assert await points.amounts(source) == [0, 1, 2, 3, 4]
    assert (await get_pull(points.cast.organization_id, source.id)).failures == 0


async def test_only_a_contract_of_the_organisation_and_its_events_can_be_read(points: Points) -> None:
    for settings, path in (
        ({"contract_id": str(points.cast.organization_id)}, "/settings/contract_id"),
        ({"event": "Nothing"}, "/settings/event"),
        ({"event": "Transfer(address)"}, "/settings/event"),
    ):
        with pytest.raises(InputInvalid) as refused:
            await points.source(**settings)
        assert [problem.path for problem in refused.value.fields] == [path]
    with pytest.raises(InputInvalid):
        await make_pulled(points.cast.dave, "evm_logs", {"contract_id": str(points.contract_id), "event": "Transfer"})
    await points.source(event="Transfer(address,address,uint256)")


async def kinds(source: Pulled) -> list[str]:
    rows = await run_sql("SELECT kind FROM audit_entry WHERE subject_id = {} ORDER BY sequence", str(source.id))
    return [row["kind"] for row in rows]
