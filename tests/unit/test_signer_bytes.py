"""Transactions as bytes: written by us, read by eth-account, and nothing else is taken for one of ours."""

from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account
from eth_utils.crypto import keccak
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.signers import SignatureNotOurs, TransactionFields, read_fields
from portal.chain.signers.encoding import check_signed, encode_payload, encode_signed
from portal.chain.signers.signatures import Signature, address_of

KEY = PrivateKey(b"\x42" * 32)
ADDRESS = address_of(KEY.public_key)
TO = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"

# Numbers as small and as long as they can be: RLP writes each length in its own way.
words = st.integers(0, 2**256 - 1) | st.integers(0, 300)
small = st.integers(0, 2**63 - 1) | st.integers(0, 300)


@st.composite
def transactions(draw: st.DrawFn) -> TransactionFields:
    is_legacy, fee = draw(st.booleans()), draw(words)
    return TransactionFields(
        chain_id=draw(st.integers(1, 2**53)),
        nonce=draw(small),
        to_address=draw(st.sampled_from([None, TO])),
        value_wei=draw(words),
        data=draw(st.binary(max_size=80)),
        gas_limit=draw(small),
        max_fee_wei=fee,
        max_priority_fee_wei=fee if is_legacy else draw(words),
        is_legacy=is_legacy,
    )


def signed(fields: TransactionFields, key: PrivateKey = KEY) -> bytes:
    packed = key.sign_recoverable(keccak(encode_payload(fields)), hasher=None)
    r, s = int.from_bytes(packed[:32], "big"), int.from_bytes(packed[32:64], "big")
    return encode_signed(fields, Signature(r, s, packed[64])).raw


def as_dict(fields: TransactionFields) -> dict[str, Any]:
    """What eth-account takes."""
    shape: dict[str, Any] = {
        "chainId": fields.chain_id,
        "nonce": fields.nonce,
        "value": fields.value_wei,
        "data": fields.data,
        "gas": fields.gas_limit,
    }
    if fields.to_address:
        shape["to"] = fields.to_address
    if fields.is_legacy:
        return shape | {"gasPrice": fields.max_fee_wei}
    return shape | {
        "type": 2,
        "maxFeePerGas": fields.max_fee_wei,
        "maxPriorityFeePerGas": fields.max_priority_fee_wei,
    }


@given(transactions())
def test_our_bytes_are_those_of_eth_account(fields: TransactionFields) -> None:
    theirs = Account.sign_transaction(as_dict(fields), KEY.secret)
    raw = signed(fields)
    assert raw == bytes(theirs.raw_transaction)
    assert read_fields(raw) == fields
    check_signed(raw, fields, ADDRESS)


@given(transactions(), transactions())
def test_bytes_of_another_transaction_or_key_are_refused(fields: TransactionFields, other: TransactionFields) -> None:
    if fields != other:
        with pytest.raises(SignatureNotOurs):
            check_signed(signed(other), fields, ADDRESS)
    with pytest.raises(SignatureNotOurs):
        check_signed(signed(fields, PrivateKey(b"\x43" * 32)), fields, ADDRESS)


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": 2},
        {"nonce": 8},
        {"to_address": None},
        {"value_wei": 4},
        {"data": b"\x12\x35"},
        {"gas_limit": 50_001},
        {"max_fee_wei": 11, "max_priority_fee_wei": 11},
    ],
)
def test_one_wrong_field_is_noticed(is_legacy: bool, change: dict[str, Any]) -> None:
    said = {"chain_id": 1, "nonce": 7, "to_address": TO, "value_wei": 3, "data": b"\x12\x34", "gas_limit": 50_000}
    fields = TransactionFields(**said, max_fee_wei=10, max_priority_fee_wei=10, is_legacy=is_legacy)
    wrong = TransactionFields(**(said | {"max_fee_wei": 10, "max_priority_fee_wei": 10} | change), is_legacy=is_legacy)
    check_signed(signed(fields), fields, ADDRESS)
    with pytest.raises(SignatureNotOurs):
        check_signed(signed(wrong), fields, ADDRESS)


def test_the_same_call_of_the_other_kind_is_refused() -> None:
    fields = TransactionFields(1, 7, TO, 3, b"", 50_000, 10, 10)
    legacy = TransactionFields(1, 7, TO, 3, b"", 50_000, 10, 10, is_legacy=True)
    with pytest.raises(SignatureNotOurs):
        check_signed(signed(legacy), fields, ADDRESS)


def test_bytes_that_are_not_our_kind_of_transaction() -> None:
    without_chain = {"nonce": 0, "gasPrice": 1, "gas": 21_000, "to": TO, "value": 0, "data": b""}
    access_list = [{"address": TO, "storageKeys": ["0x" + "00" * 32]}]
    common = {"chainId": 1, "nonce": 0, "to": TO, "value": 0, "data": b"", "gas": 30_000, "accessList": access_list}
    raws = [
        bytes(Account.sign_transaction(fields, KEY.secret).raw_transaction)
        for fields in (
            without_chain,
            common | {"type": 1, "gasPrice": 1},
            common | {"type": 2, "maxFeePerGas": 1, "maxPriorityFeePerGas": 1},
        )
    ]
    for raw in (*raws, b"", b"\x02", b"\x02\xc0", b"\x03\xff", b"\xff" * 100, b"\xc0"):
        with pytest.raises(SignatureNotOurs):
            read_fields(raw)


@given(transactions(), st.binary(min_size=1, max_size=3))
def test_nothing_may_follow_a_transaction(fields: TransactionFields, rest: bytes) -> None:
    with pytest.raises(SignatureNotOurs):
        check_signed(signed(fields) + rest, fields, ADDRESS)


def test_who_signed_is_found_by_eth_account_too() -> None:
    fields = TransactionFields(31337, 0, None, 0, b"\xfe", 10**6, 2**64, 0)
    assert Account.recover_transaction(HexBytes(signed(fields))) == ADDRESS
