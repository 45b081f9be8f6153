"""What a call does beside succeeding: the money that moves and the events, as a node carries it out without sending it.

Two ways, the first that the node has:
`debug_traceCall` with geth's `callTracer` and `withLog` (geth 1.11, Erigon, Nethermind, reth, anvil; hosted nodes often
only for those who pay), and `eth_simulateV1` with `traceTransfers` (execution-apis; geth 1.14.9, Nethermind 1.28, reth,
Besu, anvil; in the `eth` namespace, so hosted nodes have it where they do not trace).
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from portal.chain.endpoint import Asked
from portal.chain.logs import Emitted
from portal.chain.results import NONSENSE
from portal.chain.rpc import Call, NodeUnavailable, call_object, get_node
from portal.chain.send_answers import error_text
from portal.logging import get_logger

log = get_logger(__name__)
AT_ONCE = 16  # traces in one request: each is carried out by itself, and its answer can be long
TRACE_SECONDS = 5
FORGET_SECONDS = 600
TRANSFER = bytes.fromhex("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef")
MONEY = "0x" + "ee" * 20
"""Where `traceTransfers` says that native currency moved, as if it were a token (ERC-7528)."""
LACKING = re.compile(r"method|not (found|supported|available|allowed|enabled)|unsupported|disabled|upgrade|plan", re.I)
MOVES_MONEY = ("CALL", "CREATE", "CREATE2", "SELFDESTRUCT")
"""The other kinds of calls carry the value of the call around them, or none."""


class Payment(msgspec.Struct, frozen=True):
    """Native currency that moves within a call. Addresses are in lower case."""

    sender: str
    receiver: str
    wei: int


class Trace(msgspec.Struct, frozen=True):
    """What lasts of a call that succeeds: inner calls that fail leave nothing."""

    source: str
    """The method that the node answered."""
    payments: list[Payment]
    logs: list[Emitted]
    """In the order in which they are emitted."""
    created: str | None
    """The address of the contract that the call makes, in lower case, where the node says it."""


class Method(msgspec.Struct, frozen=True):
    name: str
    parameters: Callable[[Call, int], list[Any]]
    parse: Callable[[Any], Trace | None]


_lacking: dict[tuple[int, str], float] = {}
"""Until when a chain's nodes are not asked for a method that they said they do not have."""


async def trace_many(chain_id: int, calls: Sequence[Call], block_number: int) -> list[Trace | None]:
    """What each call does on top of block `block_number`, alone; None where it fails or the node does not tell.

    Never raises: what cannot be known is not known.
    """
    traces: list[Trace | None] = []
    for start in range(0, len(calls), AT_ONCE):
        traces += await _trace(chain_id, calls[start : start + AT_ONCE], block_number)
    return traces


async def read_many(chain_id: int, asked: Sequence[Asked]) -> list[Any]:
    """The results of independent reads in their order; None for each that the node refuses. Never raises."""
    try:
        return [answer.get("result") for answer in await get_node(chain_id).ask(asked)]
    except NodeUnavailable as error:
        log.warning("trace.reads_failed", chain_id=chain_id, reads=len(asked), error=error.detail)
        return [None] * len(asked)


async def _trace(chain_id: int, calls: Sequence[Call], block_number: int) -> list[Trace | None]:
    for method in METHODS:
        if _lacking.get((chain_id, method.name), 0) > time.monotonic():
            continue
        try:
            answers = await get_node(chain_id).ask(
                [(method.name, method.parameters(call, block_number)) for call in calls]
            )
        except NodeUnavailable as error:
            log.warning("trace.failed", chain_id=chain_id, method=method.name, calls=len(calls), error=error.detail)
            continue
        except RecursionError:  # a trace nested deeper than JSON is read here; the others can be read
            return [None] if len(calls) == 1 else [(await _trace(chain_id, [call], block_number))[0] for call in calls]
        if all(_is_lacking(answer) for answer in answers):
            log.info("trace.lacking", chain_id=chain_id, method=method.name)
            _lacking[chain_id, method.name] = time.monotonic() + FORGET_SECONDS
            continue
        return [_read(method, answer) for answer in answers]
    return [None] * len(calls)


def _is_lacking(answer: dict[str, Any]) -> bool:
    error = answer.get("error")
    if error is None:
        return False
    return (isinstance(error, dict) and error.get("code") == -32601) or bool(LACKING.search(error_text(error)))


def _read(method: Method, answer: dict[str, Any]) -> Trace | None:
    try:
        return method.parse(answer["result"]) if answer.get("result") else None
    except NONSENSE:
        log.warning("trace.senseless", method=method.name)
        return None


def _ask_tracer(call: Call, block_number: int) -> list[Any]:
    options = {"tracer": "callTracer", "tracerConfig": {"withLog": True}, "timeout": f"{TRACE_SECONDS}s"}
    return [call_object(call), hex(block_number), options]


def read_call_trace(root: dict[str, Any]) -> Trace | None:
    """The tree of calls that `callTracer` gives; None if the call as a whole fails.

    A log's `position` counts the inner calls of its frame that came before it (geth 1.13.5); where a node does not give
    it, a frame's own logs count as the last.
    """
    if root.get("error"):
        return None
    payments: list[Payment] = []
    logs: list[Emitted] = []
    rest: list[dict[str, Any]] = [root]
    while rest:  # no recursion: calls nest up to 1,024 deep
        item = rest.pop()
        if "topics" in item:
            logs.append(_log(item))
            continue
        if item.get("error"):
            continue
        wei = int(item.get("value") or "0x0", 16)
        if wei and item["type"] in MOVES_MONEY:
            payments.append(Payment(item["from"].lower(), item["to"].lower(), wei))
        rest.extend(reversed(_inside(item)))
    created = root["to"].lower() if root["type"] in ("CREATE", "CREATE2") else None
    return Trace("debug_traceCall", payments, logs, created)


def _inside(frame: dict[str, Any]) -> list[dict[str, Any]]:
    """A frame's calls and logs in the order in which they happen."""
    calls: list[dict[str, Any]] = frame.get("calls") or []
    places = [(int(each.get("position") or hex(len(calls)), 16), each) for each in frame.get("logs") or []]
    mixed: list[dict[str, Any]] = []
    for place, call in enumerate(calls):
        mixed += [each for before, each in places if before == place]
        mixed.append(call)
    return mixed + [each for before, each in places if before >= len(calls)]


def _ask_simulation(call: Call, block_number: int) -> list[Any]:
    return [{"blockStateCalls": [{"calls": [call_object(call)]}], "traceTransfers": True}, hex(block_number)]


def read_simulation(result: list[dict[str, Any]]) -> Trace | None:
    """The one call of the one block that `eth_simulateV1` was asked for; None if it fails."""
    [call] = result[0]["calls"]
    if int(call["status"], 16) != 1:
        return None
    payments: list[Payment] = []
    logs: list[Emitted] = []
    for each in map(_log, call["logs"]):
        if each.address == MONEY and each.topics[0] == TRANSFER:
            sender, receiver = ("0x" + topic[-20:].hex() for topic in each.topics[1:3])
            payments.append(Payment(sender, receiver, int.from_bytes(each.data)))
        else:
            logs.append(each)
    return Trace("eth_simulateV1", payments, logs, None)


def _log(item: dict[str, Any]) -> Emitted:
    return Emitted(
        address=item["address"].lower(),
        topics=[bytes.fromhex(topic[2:]) for topic in item["topics"]],
        data=bytes.fromhex(item["data"][2:]),
    )


METHODS = (
    Method("debug_traceCall", _ask_tracer, read_call_trace),
    Method("eth_simulateV1", _ask_simulation, read_simulation),
)
