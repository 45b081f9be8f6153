"""The nodes of a chain, typed. Reads raise `NodeUnavailable`; a send never raises for what a node answers."""

from collections.abc import Callable, Sequence
from copy import copy
from functools import cache, partial
from typing import Any, TypeVar

import msgspec

from portal.chain.abi import Abi, decode_revert
from portal.chain.endpoint import Answer, Asked, Endpoint
from portal.chain.fees import Fees, FeeSettings, asked_of_node, read_fees
from portal.chain.logs import Log
from portal.chain.pool import NodeUnavailable, Pool
from portal.chain.results import (
    NONSENSE,
    Block,
    Nonsense,
    Receipt,
    Refused,
    optional,
    parse_block,
    parse_bytes,
    parse_count,
    parse_gas,
    parse_hashes,
    parse_log,
    parse_number,
    parse_parent_hash,
    parse_receipt,
    result_of,
)
from portal.chain.schemas import EndpointView
from portal.chain.send_answers import SendAnswer, SendKind, classify, error_text, is_busy
from portal.chain.sends import Sending
from portal.chain.survey import survey
from portal.chain.values import HEX
from portal.errors import Conflict
from portal.settings import get_settings

__all__ = [
    "Block",
    "Call",
    "CallReverted",
    "FeeSettings",
    "Fees",
    "Node",
    "NodeUnavailable",
    "RangeRefused",
    "Receipt",
    "Simulation",
    "call_object",
    "close_nodes",
    "get_node",
]

BATCH = 100  # reads or sends in one request; hosted nodes commonly refuse more
SIMULATIONS = 32  # in one request: two questions each, the code of each target, and the block

T = TypeVar("T")


class RangeRefused(NodeUnavailable):
    """The node does not list the events of so many blocks at once."""


class CallReverted(Conflict):
    """The contract refuses the call; `detail` is its reason."""

    title = "The contract refuses the call"


class Call(msgspec.Struct, frozen=True):
    """What `eth_call` carries out without a signature; `to_address` None creates a contract."""

    from_address: str
    to_address: str | None
    calldata: bytes
    value_wei: int = 0
    gas_limit: int | None = None


class Simulation(msgspec.Struct, frozen=True):
    """What a call would do on top of block `block_number`."""

    ok: bool
    gas: int | None
    """The node's estimate, without a margin; None if not ok."""
    block_number: int
    revert_reason: str | None


class Node:
    """The nodes of one chain as one: asked in the order of the settings, the next where one fails."""

    def __init__(self, chain_id: int, urls: Sequence[str]) -> None:
        self.chain_id = chain_id
        self._pool = Pool(chain_id, [Endpoint(chain_id, url, place) for place, url in enumerate(urls, start=1)])

    def each(self) -> list["Node"]:
        """A node of each endpoint alone: for reads on which several must agree before anything is concluded.

        One that rests after a failure raises `NodeUnavailable` at once if there are others.
        """
        nodes = []
        for pool in self._pool.each():
            node = copy(self)
            node._pool = pool
            nodes.append(node)
        return nodes

    @property
    def is_away(self) -> bool:
        """Whether no endpoint of it has answered for a minute of asking."""
        return all(endpoint.is_away for endpoint in self._pool.endpoints)

    async def survey(self) -> list[EndpointView]:
        """How the endpoints are and compare, not older than ten seconds. Never raises."""
        return await survey(self._pool)

    async def ask(self, asked: Sequence[Asked]) -> list[Answer]:
        """The answers to all questions, in order, each with `result` or `error`; up to 100 are one endpoint's.

        Raises `NodeUnavailable`.
        """
        answers: list[Answer] = []
        for start in range(0, len(asked), BATCH):
            answers += await self._pool.ask(asked[start : start + BATCH])
        return answers

    async def check(self) -> str:
        """The hash of the chain's first block, from a node that has the right chain id.

        It is read from the second block where there is one: anvil makes a new first block each time it loads its state.
        """
        first, second = await self._pool.ask([("eth_getBlockByNumber", [number, False]) for number in ("0x0", "0x1")])
        if second.get("result"):
            return self._parse(parse_parent_hash, second)
        return self._parse(parse_block, first).hash

    async def head(self) -> Block:
        """The newest block of the endpoint that is asked first; all of them are compared now and then."""
        if len(self._pool.endpoints) > 1:
            await survey(self._pool)
        return await self._read("eth_getBlockByNumber", ["latest", False], parse_block)

    async def finalized(self) -> Block | None:
        """The newest block that can no longer be reorganised away; None where the node cannot say."""
        asked: list[Asked] = [("eth_getBlockByNumber", ["finalized", False])]
        return await self._pool.judge(asked, lambda answers: optional(parse_block)(answers[0].get("result")))

    async def block(self, number: int) -> Block | None:
        """The canonical block at this height, None above the head."""
        return await self._read("eth_getBlockByNumber", [hex(number), False], partial(_block_at, number))

    async def blocks(self, numbers: Sequence[int]) -> list[Block | NodeUnavailable | None]:
        """As `block` for each height, or why nobody tells of that one. Raises where nobody answers at all."""
        asked: list[Asked] = [("eth_getBlockByNumber", [hex(number), False]) for number in numbers]
        return await self._read_each(asked, [partial(_block_at, number) for number in numbers])

    async def hashes_in(self, number: int) -> frozenset[str] | None:
        """Of the transactions in the canonical block at this height, None above the head."""
        return await self._read("eth_getBlockByNumber", [hex(number), False], partial(_hashes_at, number))

    async def receipts(self, hashes: Sequence[str]) -> list[Receipt | NodeUnavailable | None]:
        """The receipt of each transaction, or why nobody tells of that one. Raises where nobody answers at all.

        None, that there is none, proves nothing: it may be pending, unknown, or the node lags.
        """
        asked: list[Asked] = [("eth_getTransactionReceipt", [hash]) for hash in hashes]
        return await self._read_each(asked, [partial(_receipt_of, hash) for hash in hashes])

    async def logs(
        self, address: str, topic: str, blocks: range, marks: Sequence[int]
    ) -> tuple[list[Log], list[Block | None]]:
        """The logs of `address` with this first topic in `blocks`, in order, and the canonical blocks at `marks`.

        All is asked in one request after the logs, so that one node speaks for one moment. Raises `RangeRefused` where
        the node finds `blocks` too many.
        """
        wanted = {"address": address, "topics": [topic], "fromBlock": hex(blocks[0]), "toBlock": hex(blocks[-1])}
        asked: list[Asked] = [("eth_getLogs", [wanted]), *(("eth_getBlockByNumber", [hex(n), False]) for n in marks)]
        found, *known = await self._pool.ask(asked)
        if "error" in found and not is_busy(found["error"]):
            raise RangeRefused(
                f"The node of chain {self.chain_id} refuses to list events: {error_text(found['error'])}."
            )
        logs: list[Log] = self._parse(lambda result: [parse_log(each) for each in result], found)
        for log in logs:
            if log.address != address.lower() or log.topics[0].hex() != topic[2:] or log.block_number not in blocks:
                raise NodeUnavailable(f"The node of chain {self.chain_id} lists events that nobody asked for.")
        logs.sort(key=lambda each: (each.block_number, each.index))
        return logs, [self._parse(optional(parse_block), each) for each in known]

    async def transaction_count(self, address: str, *, pending: bool = False, block_number: int | None = None) -> int:
        """The next nonce by the newest block, by the block `block_number`, or by the node's pool with `pending`."""
        tag = "pending" if pending else _tag(block_number)
        return await self._read("eth_getTransactionCount", [address, tag], parse_count)

    async def transaction_counts(self, addresses: Sequence[str]) -> list[int | NodeUnavailable]:
        """The next nonce of each address by the newest block, or why nobody tells. Raises where nobody answers."""
        asked: list[Asked] = [("eth_getTransactionCount", [each, "latest"]) for each in addresses]
        return await self._read_each(asked, [parse_count] * len(asked))

    async def balance(self, address: str) -> int:
        """In wei."""
        return await self._read("eth_getBalance", [address, "latest"], parse_number)

    async def has_code(self, address: str) -> bool:
        """Whether there is a contract at `address` by the newest block."""
        return await self._read("eth_getCode", [address, "latest"], parse_bytes) != b""

    async def fees(self, settings: FeeSettings) -> Fees:
        """What to offer per unit of gas now, as `chain.fees` reckons it; never 0. Raises `NodeUnavailable`."""
        return await self._pool.judge(asked_of_node(settings), partial(read_fees, settings))

    async def call(self, call: Call, *, abi: Abi | None = None, block_number: int | None = None) -> bytes:
        """What `call` returns at a block, the newest by default. Raises `CallReverted` with the reason."""
        answer = (await self._pool.ask([("eth_call", [call_object(call), _tag(block_number)])]))[0]
        if "error" in answer:
            raise CallReverted(self._refusal(answer["error"], abi))
        return self._parse(parse_bytes, answer)

    async def simulate(self, call: Call, *, abi: Abi | None = None) -> Simulation:
        """Carry out `call` on top of the newest block, without a trace, and estimate its gas.

        Not ok also where data is sent to an address without code, which a chain would silently accept.
        """
        [answer] = await self.simulate_many([(call, abi)])
        if isinstance(answer, NodeUnavailable):
            raise answer
        return answer

    async def simulate_many(self, calls: Sequence[tuple[Call, Abi | None]]) -> list[Simulation | NodeUnavailable]:
        """Each call as `simulate` does it, alone, or why the node does not tell. Asks many at once; never raises."""
        simulated: list[Simulation | NodeUnavailable] = []
        for start in range(0, len(calls), SIMULATIONS):
            try:
                simulated += await self._simulate(calls[start : start + SIMULATIONS])
            except NodeUnavailable as error:
                return simulated + [error] * (len(calls) - start)
        return simulated

    async def _simulate(self, calls: Sequence[tuple[Call, Abi | None]]) -> list[Simulation | NodeUnavailable]:
        targets = list(dict.fromkeys(call.to_address for call, _ in calls if call.to_address and call.calldata))
        asked: list[Asked] = [("eth_blockNumber", []), *(("eth_getCode", [target, "latest"]) for target in targets)]
        for call, _ in calls:
            shape = call_object(call)
            asked += [("eth_call", [shape, "latest"]), ("eth_estimateGas", [shape])]
        number, *answers = await self._pool.ask(asked)
        block_number = self._parse(parse_count, number)
        codes, outcomes = dict(zip(targets, answers, strict=False)), answers[len(targets) :]
        simulated: list[Simulation | NodeUnavailable] = []
        for (call, abi), called, estimated in zip(calls, outcomes[::2], outcomes[1::2], strict=True):
            code = codes.get(call.to_address) if call.to_address and call.calldata else None
            try:
                simulated.append(self._judge(call, abi, (called, estimated, code), block_number))
            except NodeUnavailable as error:
                simulated.append(error)
        return simulated

    def _judge(self, call: Call, abi: Abi | None, answers: Sequence[Answer | None], block_number: int) -> Simulation:
        called, estimated, code = answers
        for answer in (called, estimated):
            if answer and "error" in answer:
                return Simulation(False, None, block_number, self._refusal(answer["error"], abi))
        if code and self._parse(lambda result: result == "0x", code):
            nothing = f"There is no contract at {call.to_address} on chain {self.chain_id}."
            return Simulation(False, None, block_number, nothing)
        return Simulation(True, self._parse(parse_gas, estimated), block_number, None)

    async def revert_reason(self, call: Call, block_number: int, *, abi: Abi | None = None) -> str | None:
        """Why a transaction mined in `block_number` failed, by carrying it out again after and before that block.

        None where neither fails: then what it ran into was in the middle of the block.
        """
        for number in (block_number, block_number - 1):
            try:
                await self.call(call, abi=abi, block_number=number)
            except CallReverted as reverted:
                return reverted.detail
        return None

    async def send(self, raw: bytes) -> SendAnswer:
        """As `send_many`, for one."""
        return (await self.send_many([raw]))[0]

    async def send_many(self, raws: Sequence[bytes]) -> list[SendAnswer]:
        """Send signed bytes in one request and say what was answered to each, in order. Never raises for an answer.

        What an endpoint does not take because of its own state goes to the next one. After a silence the silent one may
        have the bytes, so that a refusal by the next is `UNAVAILABLE`; only its acceptance counts. What an endpoint
        knows already goes to all others, too: it was sent before and is not mined, so that endpoint may keep it to
        itself. Anything else goes to one endpoint, which spreads it; all to all would cost as many times the requests.
        """
        answers: list[SendAnswer] = []
        for start in range(0, len(raws), BATCH):
            answers += await Sending(self._pool, raws[start : start + BATCH]).run()
        return answers

    async def close(self) -> None:
        """Close all connections and forget how the endpoints were; they can be asked again."""
        await self._pool.close()

    async def _read(self, method: str, parameters: list[Any], parse: Callable[[Any], T]) -> T:
        return await self._pool.read([(method, parameters)], lambda results: parse(results[0]))

    async def _read_each(
        self, asked: Sequence[Asked], parsers: Sequence[Callable[[Any], T]]
    ) -> list[T | NodeUnavailable]:
        told: list[T | NodeUnavailable] = []
        for start in range(0, len(asked), BATCH):
            part = slice(start, start + BATCH)
            told += await self._pool.read_each(asked[part], parsers[part])
        return told

    def _parse(self, parse: Callable[[Any], T], answer: Answer | None) -> T:
        try:
            return parse(result_of(answer))
        except Refused as refused:
            raise self._pool.untold(str(refused)) from None
        except NONSENSE:
            raise NodeUnavailable(f"The node of chain {self.chain_id} answers something that makes no sense.") from None

    def _refusal(self, error: Any, abi: Abi | None) -> str:
        """Why the contract refuses, from the error of `eth_call`. Raises `NodeUnavailable` if it is about the node."""
        text = error_text(error)
        data = error.get("data") if isinstance(error, dict) else None
        data = data.get("data") if isinstance(data, dict) else data
        if isinstance(data, str) and HEX.fullmatch(hexed := data.removeprefix("Reverted ")) and len(hexed) > 2:
            return decode_revert(hexed, abi)
        if classify(text) is SendKind.UNAVAILABLE:
            raise self._pool.untold(f"refuses: {text}")
        return decode_revert(b"") if text.lower().strip(":. ") in ("execution reverted", "reverted") else text


@cache
def get_node(chain_id: int) -> Node:
    """The nodes that the settings name for `chain_id`, one object a process. Raises `NodeUnavailable` for none."""
    urls = get_settings().rpc_urls.get(chain_id)
    if not urls:
        raise NodeUnavailable(f"PORTAL_CHAIN_RPC_URLS names no node for chain {chain_id}.")
    return Node(chain_id, urls)


async def close_nodes() -> None:
    """Close the connections of this process to all nodes, and forget them: they are made again when used."""
    for chain_id in get_settings().rpc_urls:
        await get_node(chain_id).close()
    get_node.cache_clear()


def call_object(call: Call) -> dict[str, str]:
    """The parameter of `eth_call` and its like."""
    shape = {"from": call.from_address, "data": "0x" + call.calldata.hex(), "value": hex(call.value_wei)}
    if call.to_address:
        shape["to"] = call.to_address
    if call.gas_limit is not None:
        shape["gas"] = hex(call.gas_limit)
    return shape


def _tag(block_number: int | None) -> str:
    return "latest" if block_number is None else hex(block_number)


def _block_at(number: int, result: Any) -> Block | None:
    block = optional(parse_block)(result)
    if block and block.number != number:
        raise Nonsense("gives another block than the one that was asked for")
    return block


def _hashes_at(number: int, result: Any) -> frozenset[str] | None:
    return None if _block_at(number, result) is None else parse_hashes(result)


def _receipt_of(hash: str, result: Any) -> Receipt | None:
    receipt = optional(parse_receipt)(result)
    if receipt and receipt.hash != hash.lower():
        raise Nonsense("gives the receipt of another transaction")
    return receipt
