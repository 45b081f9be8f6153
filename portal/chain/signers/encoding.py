"""Transactions as bytes: what is hashed to be signed, what is sent, and what bytes say. Pure.

We write them ourselves, so that a key that only signs digests can be used; eth-account reads them again, so that what
leaves this room was understood by somebody else's code.
"""

from typing import Any

import msgspec
import rlp  # type: ignore[import-untyped]
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak
from hexbytes import HexBytes
from rlp.sedes import BigEndianInt, Binary, List, binary  # type: ignore[import-untyped]

from portal.chain.signers.errors import SignatureNotOurs
from portal.chain.signers.signatures import Signature

DYNAMIC_FEE = b"\x02"
"""Type byte of EIP-1559; a legacy transaction begins with its list (EIP-2718)."""
WORD = BigEndianInt()
LEGACY = List([WORD, WORD, WORD, Binary.fixed_length(20, allow_empty=True), WORD, binary, WORD, WORD, WORD])
"""Nonce, gas price, gas limit, to, value, data, v, r, s."""
FIRST_V = 35
"""EIP-155: `v` is the parity, plus twice the chain id, plus this."""


class TransactionFields(msgspec.Struct, frozen=True):
    """Everything that a transaction says; `to_address` None creates a contract."""

    chain_id: int
    nonce: int
    to_address: str | None
    value_wei: int
    data: bytes
    gas_limit: int
    max_fee_wei: int
    max_priority_fee_wei: int
    is_legacy: bool = False
    """Of type 0 with EIP-155, whose gas price stands in both fees; else of type 2 (EIP-1559), without access list."""


class SignedTransaction(msgspec.Struct, frozen=True):
    raw: bytes
    hash: str
    """`0x` and lower-case hex."""


def encode_payload(fields: TransactionFields) -> bytes:
    """The bytes whose Keccak-256 is signed (EIP-155, EIP-1559)."""
    if fields.is_legacy:
        return bytes(rlp.encode([*_legacy_items(fields), fields.chain_id, 0, 0]))
    return DYNAMIC_FEE + bytes(rlp.encode(_dynamic_items(fields)))


def encode_signed(fields: TransactionFields, signature: Signature) -> SignedTransaction:
    """The transaction as nodes take it, and its hash."""
    r, s, parity = signature.r, signature.s, signature.parity
    if fields.is_legacy:
        raw = bytes(rlp.encode([*_legacy_items(fields), parity + 2 * fields.chain_id + FIRST_V, r, s]))
    else:
        raw = DYNAMIC_FEE + bytes(rlp.encode([*_dynamic_items(fields), parity, r, s]))
    return SignedTransaction(raw=raw, hash="0x" + keccak(raw).hex())


def check_signed(raw: bytes, fields: TransactionFields, address: str) -> None:
    """Raise `SignatureNotOurs` unless `raw` says exactly `fields` and was signed by the key of `address`."""
    if read_fields(raw) != fields or _sender(raw) != address:
        raise SignatureNotOurs("The signed bytes are not the transaction that was to be signed.")


def read_fields(raw: bytes) -> TransactionFields:
    """What signed bytes say, whoever signed them. Raises `SignatureNotOurs` for bytes of any other kind."""
    try:
        return _read_dynamic(raw) if raw[:1] == DYNAMIC_FEE else _read_legacy(raw)
    except Exception as error:
        # The decoders raise whatever their parts raise; anything means the same here.
        raise SignatureNotOurs("These bytes are not a signed transaction of a kind that the portal sends.") from error


def _read_dynamic(raw: bytes) -> TransactionFields:
    said: dict[str, Any] = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    if said["type"] != 2 or said["accessList"]:
        raise ValueError("an access list is never ours")
    return TransactionFields(
        chain_id=said["chainId"],
        nonce=said["nonce"],
        to_address=to_checksum_address(bytes(said["to"])) if said["to"] else None,
        value_wei=said["value"],
        data=bytes(said["data"]),
        gas_limit=said["gas"],
        max_fee_wei=said["maxFeePerGas"],
        max_priority_fee_wei=said["maxPriorityFeePerGas"],
    )


def _read_legacy(raw: bytes) -> TransactionFields:
    nonce, gas_price, gas_limit, to, value, data, v, _, _ = rlp.decode(raw, LEGACY)
    if v < FIRST_V:
        raise ValueError("without a chain id it would be valid on every chain")
    return TransactionFields(
        chain_id=(v - FIRST_V) // 2,
        nonce=nonce,
        to_address=to_checksum_address(to) if to else None,
        value_wei=value,
        data=data,
        gas_limit=gas_limit,
        max_fee_wei=gas_price,
        max_priority_fee_wei=gas_price,
        is_legacy=True,
    )


def _sender(raw: bytes) -> str | None:
    try:
        return str(Account.recover_transaction(raw))
    except Exception:  # whatever it is that cannot be recovered is not our signature
        return None


def _legacy_items(fields: TransactionFields) -> list[Any]:
    return [fields.nonce, fields.max_fee_wei, fields.gas_limit, _to(fields), fields.value_wei, fields.data]


def _dynamic_items(fields: TransactionFields) -> list[Any]:
    fees = [fields.max_priority_fee_wei, fields.max_fee_wei]
    return [fields.chain_id, fields.nonce, *fees, fields.gas_limit, _to(fields), fields.value_wei, fields.data, []]


def _to(fields: TransactionFields) -> bytes:
    return bytes(to_canonical_address(fields.to_address)) if fields.to_address else b""
