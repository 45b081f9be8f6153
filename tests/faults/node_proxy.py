"""A real HTTP proxy between the engine and anvil that lies, loses, delays and doubles as a test tells it to.

It speaks JSON-RPC in a thread of its own, so that the engine in the test's loop and workers in other processes see the
same node. What becomes of a call is planned for each method: for the next calls one by one (`plan`), or for all of them
until `clear` (`always`). Whatever is not planned goes to anvil and comes back as it is. The journal holds all signed
bytes that ever arrived, whether anvil got them or not.

With a `pool` (see node_pool.py) signed bytes stay in the proxy by geth's rules until the test mines.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
from aiohttp import web

from tests.anvil import Anvil
from tests.faults.raw_transactions import RawTransaction, decode_raw

if TYPE_CHECKING:
    from tests.faults.node_pool import GethPool

SEND = "eth_sendRawTransaction"
COUNT = "eth_getTransactionCount"
RECEIPT = "eth_getTransactionReceipt"
BLOCK = "eth_getBlockByNumber"
Call = dict[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Say:
    """An answer in place of the node's; with `after`, the node has carried out the call first."""

    result: Any = None
    error: Any = None
    after: bool = False


def refuse(message: str, code: int = -32000, *, data: Any = None, after: bool = False) -> Say:
    """A JSON-RPC error, as clients word them."""
    extra = {} if data is None else {"data": data}
    return Say(error={"code": code, "message": message, **extra}, after=after)


@dataclass(frozen=True)
class Alter:
    """The node's own result, changed on its way back."""

    change: Callable[[Any], Any]


@dataclass(frozen=True)
class Twice:
    """The call reaches the node twice, as behind a gateway that tries again; the second answer comes back."""


@dataclass(frozen=True)
class Pretend:
    """The node says that it has taken the signed bytes, and forgets them."""


@dataclass(frozen=True)
class Late:
    """The call reaches the node after this time."""

    seconds: float


@dataclass(frozen=True)
class Break:
    """The whole request fails; with `after`, the node has carried out all its calls first."""

    how: Literal["reset", "hang", "html", "truncated", "wrong_id", "not_json_rpc"] | int
    """A number is an HTTP status, with an empty body."""
    after: bool = False
    """Always so for `wrong_id`, which needs answers to garble."""

    @property
    def reaches(self) -> bool:
        return self.after or self.how == "wrong_id"


Fault = Say | Alter | Twice | Pretend | Late | Break
LOST = Break("reset", after=True)
"""The node has it, and nobody hears of it."""


@dataclass
class Sent:
    """Signed bytes that arrived."""

    raw: bytes
    transaction: RawTransaction
    reached: bool = False
    """Whether the node (or the pool) got them."""


@dataclass
class _Plan:
    method: str
    tag: Any
    faults: list[Fault | None]
    lasting: bool

    def fits(self, call: Call) -> bool:
        wanted = self.method in ("*", call["method"]) and bool(self.faults)
        return wanted and (self.tag is None or self.tag in call.get("params", []))

    def take(self) -> Fault | None:
        return self.faults[0] if self.lasting else self.faults.pop(0)


@dataclass
class NodeProxy:
    """A node as the engine sees it, in front of `node`. Everything but `start` and `stop` may be called at any time."""

    node: Anvil
    port: int = 0
    pool: "GethPool | None" = None
    behind: int = 0
    """This node lags by so many blocks: newer blocks, receipts and counts are not there yet."""
    reorders: bool = False
    """The calls of a batch are carried out, and answered, from the last to the first."""
    sent: list[Sent] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    witness: Callable[[bytes], Awaitable[None]] | None = None
    """Is shown signed bytes, in the proxy's thread, before anything becomes of them."""

    def __post_init__(self) -> None:
        self._plans: list[_Plan] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "NodeProxy":
        self._thread.start()
        self.in_thread(self._open())
        return self

    def stop(self) -> None:
        self.in_thread(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def plan(self, method: str, *faults: Fault | None, tag: Any = None) -> None:
        """What becomes of the next calls of `method` (`*`: any), one after the other; None: nothing special.

        With `tag`, only of calls that have it among their parameters, such as `pending` or `finalized`.
        """
        self._plans.append(_Plan(method, tag, list(faults), lasting=False))

    def always(self, method: str, fault: Fault, *, tag: Any = None) -> None:
        """What becomes of every call of `method` from now on, until `clear`, unless `plan` says otherwise."""
        self._plans.append(_Plan(method, tag, [fault], lasting=True))

    def clear(self) -> None:
        """From now on nothing is wrong, and the journal goes on."""
        self._plans.clear()
        self.behind, self.reorders = 0, False

    @contextmanager
    def being_well(self) -> Iterator[None]:
        """For as long as this lasts nothing is wrong."""
        plans, behind, reorders = self._plans, self.behind, self.reorders
        self._plans, self.behind, self.reorders = [], 0, False
        try:
            yield
        finally:
            self._plans, self.behind, self.reorders = plans, behind, reorders

    def payloads(self) -> set[tuple[str, int, str, int, bytes]]:
        """Whatever could have been executed: distinct sender, nonce, target, value and data of all that was sent."""
        return {each.transaction.payload for each in self.sent}

    # What happens in the proxy's thread

    def in_thread(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` gives, done there."""
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(timeout=10)

    async def _open(self) -> None:
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        self._closing = asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        self._closing.set()
        await self._runner.cleanup()
        await self._client.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        calls: list[Call] = body if isinstance(body, list) else [body]
        order = list(reversed(calls)) if self.reorders else calls
        for call in order if self.witness else ():
            if call["method"] == SEND:
                await self.witness(bytes.fromhex(call["params"][0].removeprefix("0x")))
        faults = [self._fault_of(call) for call in order]
        broken = next((fault for fault in faults if isinstance(fault, Break)), None)
        if broken and not broken.reaches:
            for call in order:
                self._note(call)
            return await self._broken(request, broken, [])
        answers = [await self._answer(call, fault) for call, fault in zip(order, faults, strict=True)]
        if broken:
            return await self._broken(request, broken, answers)
        return web.json_response(answers if isinstance(body, list) else answers[0])

    def _fault_of(self, call: Call) -> Fault | None:
        self.asked[call["method"]] += 1
        for plan in sorted(self._plans, key=lambda each: each.lasting):
            if plan.fits(call):
                return plan.take()
        return None

    def _note(self, call: Call) -> Sent | None:
        if call["method"] != SEND:
            return None
        raw = bytes.fromhex(call["params"][0].removeprefix("0x"))
        self.sent.append(Sent(raw, decode_raw(raw)))
        return self.sent[-1]

    async def _answer(self, call: Call, fault: Fault | None) -> Answer:
        noted = self._note(call)
        if isinstance(fault, Say) and not fault.after:
            return _worded(call, fault)
        if isinstance(fault, Pretend) and noted:
            return {"jsonrpc": "2.0", "id": call["id"], "result": noted.transaction.hash}
        if isinstance(fault, Late):
            await asyncio.sleep(fault.seconds)
        answer = await self._reach(call)
        if noted:
            noted.reached = True
        if isinstance(fault, Twice):
            answer = await self._reach(call)
        if isinstance(fault, Alter) and "result" in answer:
            answer = {**answer, "result": fault.change(answer["result"])}
        return _worded(call, fault) if isinstance(fault, Say) else answer

    async def _reach(self, call: Call) -> Answer:
        if self.pool and (answer := await self.pool.answer(call, self.forward)):
            return {"jsonrpc": "2.0", "id": call["id"], **answer}
        return await (self._lagging(call) if self.behind else self.forward(call))

    async def forward(self, call: Call) -> Answer:
        """Anvil's answer."""
        body = {"jsonrpc": "2.0", "id": 1, **call}
        async with self._client.post(self.node.url, json=body) as response:
            answer: Answer = await response.json()
            return answer

    async def _lagging(self, call: Call) -> Answer:
        """The answer of a node that has not seen the newest blocks."""
        newest = await self.forward({"method": "eth_blockNumber", "params": []})
        head = max(0, int(newest["result"], 16) - self.behind)
        if call["method"] == "eth_blockNumber":
            return {"jsonrpc": "2.0", "id": call["id"], "result": hex(head)}
        parameters = [hex(head) if each in ("latest", "pending") else each for each in call["params"]]
        answer = await self.forward({**call, "params": parameters})
        result = answer.get("result")
        number = result.get("blockNumber") or result.get("number") if isinstance(result, dict) else None
        return {**answer, "result": None} if number and int(number, 16) > head else answer

    async def _broken(self, request: web.Request, broken: Break, answers: Sequence[Answer]) -> web.StreamResponse:
        match broken.how:
            case int(status):
                return web.Response(status=status)
            case "html":
                return web.Response(text="<html><body>502 Bad Gateway</body></html>", content_type="text/html")
            case "truncated":
                return web.Response(
                    text=json.dumps(answers or [{"jsonrpc": "2.0"}])[:-3], content_type="application/json"
                )
            case "wrong_id":
                return web.json_response([{**answer, "id": 987654321} for answer in answers])
            case "not_json_rpc":
                return web.json_response({"status": "ok"})
            case "hang":
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), timeout=60)
        if request.transport:
            request.transport.abort()
        return web.Response()


def _worded(call: Call, said: Say) -> Answer:
    content = {"result": said.result} if said.error is None else {"error": said.error}
    return {"jsonrpc": "2.0", "id": call["id"], **content}
