"""Transactions as bytes: what is hashed to be signed, what is sent, and what bytes say. Pure.

EIP-155 and EIP-1559 on top of RLP. The tests hold it against eth-account, thousands of transactions both ways; to use
that here would make a signature ten times as dear, and each process start half a second later.
"""

from typing import Any

import msgspec
import rlp  # type: ignore[import-untyped]
from eth_utils.crypto import keccak
from rlp.sedes import BigEndianInt, Binary, List, binary  # type: ignore[import-untyped]

from portal.chain.signers.errors import SignatureNotOurs
from portal.chain.signers.signatures import Signature, recover
from portal.chain.values import checksum_address

DYNAMIC_FEE = b"\x02"
"""Type byte of EIP-1559; a legacy transaction begins with its list (EIP-2718)."""
WORD = BigEndianInt()
ADDRESS = Binary.fixed_length(20, allow_empty=True)
LEGACY = List([WORD, WORD, WORD, ADDRESS, WORD, binary, WORD, WORD, WORD])
"""Nonce, gas price, gas limit, to, value, data, v, r, s."""
DYNAMIC_PAYLOAD = List([WORD, WORD, WORD, WORD, WORD, ADDRESS, WORD, binary, List([])])
"""Chain id, nonce, priority fee, fee, gas limit, to, value, data, access list (never any)."""
DYNAMIC = List([*DYNAMIC_PAYLOAD, WORD, WORD, WORD])
"""And parity, r, s."""
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
        return bytes(rlp.encode([*_legacy_items(fields), fields.chain_id, 0, 0], LEGACY))
    return DYNAMIC_FEE + bytes(rlp.encode(_dynamic_items(fields), DYNAMIC_PAYLOAD))


def encode_signed(fields: TransactionFields, signature: Signature) -> SignedTransaction:
    """The transaction as nodes take it, and its hash."""
    r, s, parity = signature.r, signature.s, signature.parity
    if fields.is_legacy:
        raw = bytes(rlp.encode([*_legacy_items(fields), parity + 2 * fields.chain_id + FIRST_V, r, s], LEGACY))
    else:
        raw = DYNAMIC_FEE + bytes(rlp.encode([*_dynamic_items(fields), parity, r, s], DYNAMIC))
    return SignedTransaction(raw=raw, hash="0x" + keccak(raw).hex())


def check_signed(raw: bytes, fields: TransactionFields, address: str) -> None:
    """Raise `SignatureNotOurs` unless `raw` says exactly `fields` and was signed by the key of `address`."""
    said, signature = _read(raw)
    if said != fields or recover(keccak(encode_payload(said)), signature) != address:
        raise SignatureNotOurs("The signed bytes are not the transaction that was to be signed.")


def read_fields(raw: bytes) -> TransactionFields:
    """What signed bytes say, whoever signed them. Raises `SignatureNotOurs` for bytes of any other kind."""
    return _read(raw)[0]


def _read(raw: bytes) -> tuple[TransactionFields, Signature]:
    is_legacy = raw[:1] != DYNAMIC_FEE
    try:
        if is_legacy:
            nonce, fee, gas_limit, to, value, data, v, r, s = rlp.decode(raw, LEGACY)
            if v < FIRST_V:
                raise ValueError("without a chain id it would be valid on every chain")
            tip, (chain_id, parity) = fee, divmod(v - FIRST_V, 2)
        else:
            chain_id, nonce, tip, fee, gas_limit, to, value, data, _, parity, r, s = rlp.decode(raw[1:], DYNAMIC)
    except (rlp.DecodingError, rlp.DeserializationError, ValueError) as error:
        raise SignatureNotOurs("These bytes are not a signed transaction of a kind that the portal sends.") from error
    fields = TransactionFields(
        chain_id=chain_id,
        nonce=nonce,
        to_address=checksum_address("0x" + to.hex()) if to else None,
        value_wei=value,
        data=data,
        gas_limit=gas_limit,
        max_fee_wei=fee,
        max_priority_fee_wei=tip,
        is_legacy=is_legacy,
    )
    return fields, Signature(r, s, parity)


def _legacy_items(fields: TransactionFields) -> list[Any]:
    return [fields.nonce, fields.max_fee_wei, fields.gas_limit, _to(fields), fields.value_wei, fields.data]


def _dynamic_items(fields: TransactionFields) -> list[Any]:
    fees = [fields.max_priority_fee_wei, fields.max_fee_wei]
    return [fields.chain_id, fields.nonce, *fees, fields.gas_limit, _to(fields), fields.value_wei, fields.data, []]


def _to(fields: TransactionFields) -> bytes:
    return bytes.fromhex(fields.to_address[2:]) if fields.to_address else b""
