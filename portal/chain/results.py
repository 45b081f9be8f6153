"""What nodes answer, from JSON to values. Pure; anything that makes no sense raises `ValueError` and its like."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from eth_utils.address import to_checksum_address

from portal.chain.logs import Log
from portal.chain.send_answers import error_text

T = TypeVar("T")


class Nonsense(ValueError):
    """An answer that no honest node gives; the text continues "The node of chain 1 ..."."""


class Refused(Exception):
    """An endpoint does not tell, though another one may; the text continues "The node of chain 1 ..."."""


NONSENSE = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What the functions here raise for an answer that is not of its form."""
QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
HASH = re.compile(r"0x[0-9a-f]{64}")
MOST_COUNTED = 2**63 - 1
"""Blocks, nonces (EIP-2681) and gas never come near it, and PostgreSQL counts no further."""
LEAST_GAS = 21_000
MOST_GAS = 2**53
"""Beyond the blocks of any chain; Arbitrum's, which hold 2^50, are the largest."""
LAST_SECOND = 253_402_300_799
"""The end of the year 9999: no clock of ours goes on."""
MOST_PRICE_WEI = 2**96
"""Of a unit of gas: one would cost more than there is of any currency."""


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


def why_senseless(error: Exception) -> str:
    """What is wrong about an answer that one of `NONSENSE` was raised for; continues "The node of chain 1 ..."."""
    return str(error) if isinstance(error, Nonsense) else "answers something that makes no sense"


def result_of(answer: dict[str, Any] | None) -> Any:
    """Raises `Refused` for an error, and what `NONSENSE` lists for none at all."""
    if answer is None:
        raise Nonsense("leaves a question unanswered")
    if "error" in answer:
        raise Refused(f"refuses: {error_text(answer['error'])}")
    return answer["result"]


def optional(parse: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda result: None if result is None else parse(result)


def parse_number(result: Any) -> int:
    """A quantity of JSON-RPC, of at most 256 bits."""
    if not QUANTITY.fullmatch(result):
        raise ValueError("no quantity")
    return int(result, 16)


def parse_count(result: Any) -> int:
    """A number of blocks, nonces, logs or units of gas."""
    return _at_most(MOST_COUNTED, result)


def parse_gas(result: Any) -> int:
    """What a transaction needs: at least what the plainest one costs (yellow paper, appendix G)."""
    gas = _at_most(MOST_GAS, result)
    if gas < LEAST_GAS:
        raise ValueError("less than any transaction needs")
    return gas


def parse_price(result: Any) -> int:
    """Wei per unit of gas."""
    return _at_most(MOST_PRICE_WEI, result)


def _at_most(most: int, result: Any) -> int:
    number = parse_number(result)
    if number > most:
        raise ValueError("beyond what there can be")
    return number


def parse_hash(result: Any) -> str:
    """32 bytes, in lower case."""
    text: str = result.lower()
    if not HASH.fullmatch(text):
        raise ValueError("no hash")
    return text


def parse_bytes(result: Any) -> bytes:
    return bytes.fromhex(result.removeprefix("0x"))


def parse_parent_hash(result: Any) -> str:
    return parse_hash(result["parentHash"])


def parse_block(result: Any) -> Block:
    base_fee = result.get("baseFeePerGas")
    return Block(
        number=parse_count(result["number"]),
        hash=parse_hash(result["hash"]),
        timestamp=_at_most(LAST_SECOND, result["timestamp"]),
        base_fee_wei=None if base_fee is None else parse_price(base_fee),
    )


def parse_hashes(result: Any) -> frozenset[str]:
    """Of the transactions of a block."""
    return frozenset(parse_hash(each) for each in result["transactions"])


def parse_log(result: Any) -> Log:
    if result.get("removed"):
        raise ValueError("a log of a block that is not canonical")
    return Log(
        address=result["address"].lower(),
        topics=[parse_bytes(topic) for topic in result["topics"]],
        data=parse_bytes(result["data"]),
        block_number=parse_count(result["blockNumber"]),
        block_hash=parse_hash(result["blockHash"]),
        transaction_hash=parse_hash(result["transactionHash"]),
        index=parse_count(result["logIndex"]),
    )


def parse_receipt(result: Any) -> Receipt | None:
    if result["blockHash"] is None or result["blockNumber"] is None:  # a pending one, as some nodes give
        return None
    return Receipt(
        hash=parse_hash(result["transactionHash"]),
        block_number=parse_count(result["blockNumber"]),
        block_hash=parse_hash(result["blockHash"]),
        ok=parse_number(result["status"]) == 1,
        gas_used=parse_count(result["gasUsed"]),
        gas_price_wei=parse_price(result["effectiveGasPrice"]),
        contract_address=to_checksum_address(result["contractAddress"]) if result["contractAddress"] else None,
    )
