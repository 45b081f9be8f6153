"""The mempool of geth in front of anvil, which has other rules: it drops what geth keeps, and replaces for any price.

The rules and words are those of go-ethereum (`core/txpool/legacypool`, `core/txpool/validation.go`): a replacement
needs a tenth more of both fees, an account must be able to pay for all it has in the pool, and what pays less than the
base fee stays and waits. Bytes reach anvil only when the test mines.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.anvil import Anvil, NodeError
from tests.faults.raw_transactions import RawTransaction, decode_raw

PRICE_BUMP_PERCENT = 10
MOST_BYTES = 128 * 1024
Forward = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Refused(Exception):
    """The pool does not take the bytes; the text is geth's."""


@dataclass
class GethPool:
    """Keyed by sender and nonce. Mining of `node` must be off (`evm_setAutomine`)."""

    node: Anvil
    least_tip_wei: int = 1
    holds_back: bool = False
    """Miners include nothing of it."""
    delegated: set[str] = field(default_factory=set)
    """EIP-7702 accounts (lower case): one transaction at a time."""
    slots: dict[tuple[str, int], tuple[RawTransaction, bytes]] = field(default_factory=dict)
    taken: list[tuple[RawTransaction, bytes]] = field(default_factory=list)
    """Whatever was ever in it, the oldest first: other nodes may have kept that."""

    async def answer(self, call: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
        """The pool's own answer; None where anvil knows better."""
        parameters = call.get("params", [])
        match call["method"]:
            case "eth_sendRawTransaction":
                raw = bytes.fromhex(parameters[0].removeprefix("0x"))
                try:
                    await self._take(raw, forward)
                except Refused as refused:
                    return {"error": {"code": -32000, "message": str(refused)}}
                return {"result": decode_raw(raw).hash}
            case "eth_getTransactionCount" if parameters[1] == "pending":
                count = await self._number(forward, "eth_getTransactionCount", parameters[0], "latest")
                while (parameters[0].lower(), count) in self.slots:
                    count += 1
                return {"result": hex(count)}
            case "eth_getTransactionByHash" if self.find(parameters[0]):
                return {"result": {"hash": parameters[0], "blockNumber": None, "blockHash": None}}
        return None

    def find(self, hash: str) -> RawTransaction | None:
        return next((each for each, _ in self.slots.values() if each.hash == hash), None)

    def drop(self) -> None:
        """Forget everything, as a node does that restarts."""
        self.slots.clear()

    def bring_back(self, which: int) -> None:
        """A miner has bytes that were taken once, dropped or replaced since, in place of what is here now."""
        new, raw = self.taken[which % len(self.taken)]
        if self._nonce_of(new.sender) <= new.nonce:
            self.slots[new.sender.lower(), new.nonce] = (new, raw)

    def mine(self, blocks: int = 1, *, seconds: int = 12) -> None:
        """Include what may be included, in the next block; the others follow `seconds` apart, empty."""
        if not self.holds_back:
            base_fee = self._next_base_fee()
            for sender in {sender for sender, _ in self.slots}:
                self._include(sender, base_fee)
        self.node.rpc("anvil_mine", hex(blocks), hex(seconds))

    def spike(self, base_fee_wei: int) -> None:
        """A block of this base fee; the next one is an eighth lower at most."""
        self.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
        self.node.mine()

    def _include(self, sender: str, base_fee: int) -> None:
        nonce = self._nonce_of(sender)
        for key in [key for key in self.slots if key[0] == sender and key[1] < nonce]:
            del self.slots[key]
        while (slot := self.slots.get((sender, nonce))) and slot[0].max_fee_wei >= base_fee:
            try:
                self.node.rpc("eth_sendRawTransaction", "0x" + slot[1].hex())
            except NodeError:
                return  # it cannot be paid for any more, so it waits
            del self.slots[sender, nonce]
            nonce += 1

    def _nonce_of(self, sender: str) -> int:
        return int(self.node.rpc("eth_getTransactionCount", sender, "latest"), 16)

    def _next_base_fee(self) -> int:
        return int(self.node.rpc("eth_feeHistory", "0x1", "latest", [])["baseFeePerGas"][-1], 16)

    async def _take(self, raw: bytes, forward: Forward) -> None:
        new = decode_raw(raw)
        key = (new.sender.lower(), new.nonce)
        if self.find(new.hash):
            raise Refused("already known")
        if len(raw) > MOST_BYTES:
            raise Refused(f"oversized data: transaction size {len(raw)}, limit {MOST_BYTES}")
        if new.max_priority_fee_wei < self.least_tip_wei:
            needed = f"gas tip cap {new.max_priority_fee_wei}, minimum needed {self.least_tip_wei}"
            raise Refused(f"transaction underpriced: {needed}")
        next_nonce = await self._number(forward, "eth_getTransactionCount", new.sender, "latest")
        if new.nonce < next_nonce:
            raise Refused(f"nonce too low: next nonce {next_nonce}, tx nonce {new.nonce}")
        for other in [other for other in self.slots if other[0] == key[0] and other[1] < next_nonce]:
            del self.slots[other]
        await self._must_be_payable(new, key, forward)
        if key[0] in self.delegated and any(other[0] == key[0] and other != key for other in self.slots):
            raise Refused("in-flight transaction limit reached for delegated accounts")
        if (old := self.slots.get(key)) and not _beats(new, old[0]):
            raise Refused("replacement transaction underpriced")
        self.slots[key] = (new, raw)
        self.taken.append((new, raw))

    async def _must_be_payable(self, new: RawTransaction, key: tuple[str, int], forward: Forward) -> None:
        balance = await self._number(forward, "eth_getBalance", new.sender, "latest")
        others = [each for other, (each, _) in self.slots.items() if other[0] == key[0] and other != key]
        queued = sum(_cost(each) for each in others)
        if queued + _cost(new) > balance:
            overshot = f"balance {balance}, queued cost {queued}, tx cost {_cost(new)}"
            raise Refused(f"insufficient funds for gas * price + value: {overshot}")

    async def _number(self, forward: Forward, method: str, *parameters: str) -> int:
        answer = await forward({"method": method, "params": list(parameters)})
        return int(answer["result"], 16)


def _cost(transaction: RawTransaction) -> int:
    return transaction.value_wei + transaction.gas_limit * transaction.max_fee_wei


def _beats(new: RawTransaction, old: RawTransaction) -> bool:
    def risen(mine: int, theirs: int) -> bool:
        return mine > theirs and mine * 100 >= theirs * (100 + PRICE_BUMP_PERCENT)

    return risen(new.max_fee_wei, old.max_fee_wei) and risen(new.max_priority_fee_wei, old.max_priority_fee_wei)
