"""The nodes of a chain, typed. Reads raise `NodeUnavailable`; a send never raises for what a node answers."""

import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from portal.chain.abi import Abi, decode_revert
from portal.chain.endpoint import Asked, Endpoint, EndpointFailed
from portal.chain.logs import Log
from portal.chain.send_answers import SendAnswer, SendKind, answer_of, classify, error_text
from portal.chain.values import HEX
from portal.errors import Conflict, Unavailable
from portal.logging import get_logger
from portal.settings import get_settings

log = get_logger(__name__)
BATCH = 100  # reads in one request; hosted nodes commonly refuse more
SIMULATIONS = 32  # in one request: two questions each, the code of each target, and the block
LEAST_TIP_WEI = 1
BUSY = re.compile(r"\brate\b|too many requests|capacity|throughput|per second|quota|\bbusy\b", re.I)
"""What nodes say of themselves rather than of a question."""

T = TypeVar("T")


class NodeUnavailable(Unavailable):
    """No node of the chain gives a usable answer now."""

    title = "The chain's node does not answer"


class RangeRefused(NodeUnavailable):
    """The node does not list the events of so many blocks at once."""


class CallReverted(Conflict):
    """The contract refuses the call; `detail` is its reason."""

    title = "The contract refuses the call"


class Block(msgspec.Struct, frozen=True):
    number: int
    hash: str
    timestamp: int
    """Unix seconds."""
    base_fee_wei: int | None
    """None on a chain without EIP-1559."""


class Receipt(msgspec.Struct, frozen=True):
    hash: str
    block_number: int
    block_hash: str
    ok: bool
    """False if it reverted."""
    gas_used: int
    gas_price_wei: int
    """What was paid per unit of gas."""
    contract_address: str | None


class Fees(msgspec.Struct, frozen=True):
    max_fee_wei: int
    max_priority_fee_wei: int


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
        self._endpoints = [Endpoint(chain_id, url) for url in urls]

    async def check(self) -> str:
        """The hash of the chain's first block, from a node that has the right chain id.

        It is read from the second block where there is one: anvil makes a new first block each time it loads its state.
        """
        first, second = await self._ask([("eth_getBlockByNumber", [number, False]) for number in ("0x0", "0x1")])
        if second.get("result"):
            return _parse(_parent_hash, second["result"], self.chain_id)
        return _parse(_block, self._result(first), self.chain_id).hash

    async def head(self) -> Block:
        """The newest block."""
        return (await self._read([("eth_getBlockByNumber", ["latest", False])], _block))[0]

    async def finalized(self) -> Block | None:
        """The newest block that can no longer be reorganised away; None where the node cannot say."""
        answer = (await self._ask([("eth_getBlockByNumber", ["finalized", False])]))[0]
        return _parse(_block, answer["result"], self.chain_id) if answer.get("result") else None

    async def blocks(self, numbers: Sequence[int]) -> list[Block | None]:
        """The canonical block at each height, None above the head."""
        return await self._read([("eth_getBlockByNumber", [hex(n), False]) for n in numbers], _optional(_block))

    async def receipts(self, hashes: Sequence[str]) -> list[Receipt | None]:
        """The receipt of each transaction; None proves nothing (pending, unknown, or a node that lags)."""
        receipts = await self._read([("eth_getTransactionReceipt", [hash]) for hash in hashes], _optional(_receipt))
        for hash, receipt in zip(hashes, receipts, strict=True):
            if receipt and receipt.hash != hash.lower():
                raise NodeUnavailable(f"The node of chain {self.chain_id} gives the receipt of another transaction.")
        return receipts

    async def logs(
        self, address: str, topic: str, blocks: range, marks: Sequence[int]
    ) -> tuple[list[Log], list[Block | None]]:
        """The logs of `address` with this first topic in `blocks`, in order, and the canonical blocks at `marks`.

        All is asked in one request after the logs, so that one node speaks for one moment. Raises `RangeRefused` where
        the node finds `blocks` too many.
        """
        wanted = {"address": address, "topics": [topic], "fromBlock": hex(blocks[0]), "toBlock": hex(blocks[-1])}
        asked: list[Asked] = [("eth_getLogs", [wanted]), *(("eth_getBlockByNumber", [hex(n), False]) for n in marks)]
        found, *known = await self._ask(asked)
        if "error" in found and not BUSY.search(text := error_text(found["error"])):
            raise RangeRefused(f"The node of chain {self.chain_id} refuses to list events: {text}.")
        logs: list[Log] = _parse(lambda result: [_log(each) for each in result], self._result(found), self.chain_id)
        for log in logs:
            if log.address != address.lower() or log.topics[0].hex() != topic[2:] or log.block_number not in blocks:
                raise NodeUnavailable(f"The node of chain {self.chain_id} lists events that nobody asked for.")
        logs.sort(key=lambda each: (each.block_number, each.index))
        return logs, [_parse(_optional(_block), self._result(each), self.chain_id) for each in known]

    async def transaction_count(self, address: str, *, pending: bool = False) -> int:
        """The next nonce by the newest block, or by the node's pool with `pending`."""
        tag = "pending" if pending else "latest"
        return (await self._read([("eth_getTransactionCount", [address, tag])], _number))[0]

    async def balance(self, address: str) -> int:
        """In wei."""
        return (await self._read([("eth_getBalance", [address, "latest"])], _number))[0]

    async def has_code(self, address: str) -> bool:
        """Whether there is a contract at `address` by the newest block."""
        return (await self._read([("eth_getCode", [address, "latest"])], _bytes))[0] != b""

    async def fees(self) -> Fees:
        """What to offer per unit of gas now: the node's tip, and a maximum of the tip plus twice the base fee.

        The base fee rises by at most 12.5 % a block (EIP-1559), so twice of it lasts through about six full blocks; the
        formula is that of Optimism's `calcGasFeeCap` (op-service/txmgr). A node that suggests no tip gives the least.
        """
        block, tip = await self._ask([("eth_getBlockByNumber", ["latest", False]), ("eth_maxPriorityFeePerGas", [])])
        base_fee = _parse(_block, self._result(block), self.chain_id).base_fee_wei
        if base_fee is None:
            raise NodeUnavailable(f"Chain {self.chain_id} has no base fee; transactions need EIP-1559.")
        tip_wei = max(LEAST_TIP_WEI, _parse(_number, tip["result"], self.chain_id) if tip.get("result") else 0)
        return Fees(max_fee_wei=tip_wei + 2 * base_fee, max_priority_fee_wei=tip_wei)

    async def call(self, call: Call, *, abi: Abi | None = None, block_number: int | None = None) -> bytes:
        """What `call` returns at a block, the newest by default. Raises `CallReverted` with the reason."""
        answer = (await self._ask([("eth_call", [_call_object(call), _tag(block_number)])]))[0]
        if "error" in answer:
            raise CallReverted(self._refusal(answer["error"], abi))
        return _parse(_bytes, answer["result"], self.chain_id)

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
            shape = _call_object(call)
            asked += [("eth_call", [shape, "latest"]), ("eth_estimateGas", [shape])]
        number, *answers = await self._ask(asked)
        block_number = _parse(_number, self._result(number), self.chain_id)
        codes, outcomes = dict(zip(targets, answers, strict=False)), answers[len(targets) :]
        simulated: list[Simulation | NodeUnavailable] = []
        for (call, abi), called, estimated in zip(calls, outcomes[::2], outcomes[1::2], strict=True):
            code = codes.get(call.to_address) if call.to_address and call.calldata else None
            try:
                simulated.append(self._judge(call, abi, (called, estimated, code), block_number))
            except NodeUnavailable as error:
                simulated.append(error)
        return simulated

    def _judge(
        self, call: Call, abi: Abi | None, answers: Sequence[dict[str, Any] | None], block_number: int
    ) -> Simulation:
        called, estimated, code = answers
        for answer in (called, estimated):
            if answer and "error" in answer:
                return Simulation(False, None, block_number, self._refusal(answer["error"], abi))
        if code and self._result(code) == "0x":
            nothing = f"There is no contract at {call.to_address} on chain {self.chain_id}."
            return Simulation(False, None, block_number, nothing)
        return Simulation(True, _parse(_number, estimated and estimated["result"], self.chain_id), block_number, None)

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
        """Send signed bytes to one node and say what it answered. Never raises for what it says, or if it is silent.

        After a silence no other node is asked: the silent one may have the bytes, which the caller must know before it
        acts on what another says. The next send goes to the next node.
        """
        try:
            answer = (await self._ask([("eth_sendRawTransaction", ["0x" + raw.hex()])], at_most=1))[0]
        except NodeUnavailable as error:
            return SendAnswer(SendKind.UNAVAILABLE, error.detail)
        if "error" in answer:
            return answer_of(answer["error"])
        hash = "0x" + keccak(raw).hex()
        if answer["result"] == hash:
            return SendAnswer(SendKind.ACCEPTED)
        # The bytes decide the hash, so the node is wrong about something; whether it took them, nobody knows.
        log.error("node.other_hash", chain_id=self.chain_id, hash=hash)
        return SendAnswer(SendKind.UNKNOWN, "The node names another hash than the transaction has.")

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    async def _ask(self, asked: Sequence[Asked], *, at_most: int | None = None) -> list[dict[str, Any]]:
        """The answers of the first node that gives any, of all or of `at_most` nodes."""
        now = time.monotonic()
        failures: list[str] = []
        for endpoint in sorted(self._endpoints, key=lambda each: each.rests_until > now)[:at_most]:
            try:
                return await endpoint.ask(asked)
            except EndpointFailed as failure:
                failures.append(str(failure))
                place = self._endpoints.index(endpoint) + 1
                log.warning("node.failed", chain_id=self.chain_id, endpoint=place, reason=str(failure))
        also = f" (nor does any of {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise NodeUnavailable(f"The node of chain {self.chain_id} {failures[0]}{also}.", retry_after_seconds=5)

    async def _read(self, asked: Sequence[Asked], parse: Callable[[Any], T]) -> list[T]:
        results: list[T] = []
        for start in range(0, len(asked), BATCH):
            answers = await self._ask(asked[start : start + BATCH])
            results += [_parse(parse, self._result(answer), self.chain_id) for answer in answers]
        return results

    def _result(self, answer: dict[str, Any]) -> Any:
        if "error" in answer:
            said = error_text(answer["error"])
            raise NodeUnavailable(f"The node of chain {self.chain_id} refuses: {said}.", retry_after_seconds=5)
        return answer["result"]

    def _refusal(self, error: Any, abi: Abi | None) -> str:
        """Why the contract refuses, from the error of `eth_call`. Raises `NodeUnavailable` if it is about the node."""
        text = error_text(error)
        data = error.get("data") if isinstance(error, dict) else None
        data = data.get("data") if isinstance(data, dict) else data
        if isinstance(data, str) and HEX.fullmatch(hexed := data.removeprefix("Reverted ")) and len(hexed) > 2:
            return decode_revert(hexed, abi)
        if classify(text) is SendKind.UNAVAILABLE:
            raise NodeUnavailable(f"The node of chain {self.chain_id} refuses: {text}.", retry_after_seconds=5)
        return decode_revert(b"") if text.lower().strip(":. ") in ("execution reverted", "reverted") else text


@cache
def get_node(chain_id: int) -> Node:
    """The nodes that the settings name for `chain_id`, one object a process. Raises `NodeUnavailable` for none."""
    urls = get_settings().rpc_urls.get(chain_id)
    if not urls:
        raise NodeUnavailable(f"PORTAL_CHAIN_RPC_URLS names no node for chain {chain_id}.")
    return Node(chain_id, urls)


async def close_nodes() -> None:
    """Close the connections of this process to all nodes; they open again when used."""
    for chain_id in get_settings().rpc_urls:
        await get_node(chain_id).close()


def _call_object(call: Call) -> dict[str, str]:
    shape = {"from": call.from_address, "data": "0x" + call.calldata.hex(), "value": hex(call.value_wei)}
    if call.to_address:
        shape["to"] = call.to_address
    if call.gas_limit is not None:
        shape["gas"] = hex(call.gas_limit)
    return shape


def _tag(block_number: int | None) -> str:
    return "latest" if block_number is None else hex(block_number)


def _parse(parse: Callable[[Any], T], result: Any, chain_id: int) -> T:
    try:
        return parse(result)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NodeUnavailable(f"The node of chain {chain_id} answers something that makes no sense.") from None


def _optional(parse: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda result: None if result is None else parse(result)


def _number(result: Any) -> int:
    return int(result, 16)


def _bytes(result: Any) -> bytes:
    return bytes.fromhex(result.removeprefix("0x"))


def _parent_hash(result: Any) -> str:
    return str(result["parentHash"]).lower()


def _block(result: Any) -> Block:
    base_fee = result.get("baseFeePerGas")
    return Block(
        number=_number(result["number"]),
        hash=result["hash"].lower(),
        timestamp=_number(result["timestamp"]),
        base_fee_wei=None if base_fee is None else _number(base_fee),
    )


def _log(result: Any) -> Log:
    if result.get("removed"):
        raise ValueError("a log of a block that is not canonical")
    return Log(
        address=result["address"].lower(),
        topics=[_bytes(topic) for topic in result["topics"]],
        data=_bytes(result["data"]),
        block_number=_number(result["blockNumber"]),
        block_hash=result["blockHash"].lower(),
        transaction_hash=result["transactionHash"].lower(),
        index=_number(result["logIndex"]),
    )


def _receipt(result: Any) -> Receipt | None:
    if result["blockHash"] is None or result["blockNumber"] is None:  # a pending one, as some nodes give
        return None
    return Receipt(
        hash=result["transactionHash"].lower(),
        block_number=_number(result["blockNumber"]),
        block_hash=result["blockHash"].lower(),
        ok=_number(result["status"]) == 1,
        gas_used=_number(result["gasUsed"]),
        gas_price_wei=_number(result["effectiveGasPrice"]),
        contract_address=result["contractAddress"] and to_checksum_address(result["contractAddress"]),
    )
