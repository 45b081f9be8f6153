"""Signatures of key services made Ethereum's: thousands of them, with libsecp256k1 as the judge."""

import hashlib
import random

import pytest
from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.signers import SignatureNotOurs
from portal.chain.signers.signatures import (
    ORDER,
    Signature,
    address_of,
    complete,
    from_der,
    read_der_public_key,
    read_public_key,
    recover,
)

MESSAGES = 4_000
HALF = ORDER // 2


def test_every_signature_of_openssl_becomes_the_one_that_libsecp256k1_accepts() -> None:
    """OpenSSL signs as KMS does: random nonces, either `s`, DER of 68 to 72 bytes, no parity."""
    keys = [ec.generate_private_key(ec.SECP256K1()) for _ in range(50)]
    points = [key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for key in keys]
    publics = [PublicKey(point) for point in points]
    addresses = [address_of(public) for public in publics]
    high, lengths, parities = 0, set(), set()
    for number in range(MESSAGES):
        which = number % len(keys)
        digest = hashlib.sha256(number.to_bytes(4, "big")).digest()
        der = keys[which].sign(digest, ec.ECDSA(Prehashed(SHA256())))
        r, s = from_der(der)
        done = complete(digest, r, s, addresses[which])
        assert done.r == r
        assert done.s in (s, ORDER - s)
        assert done.s <= HALF
        packed = done.r.to_bytes(32, "big") + done.s.to_bytes(32, "big") + bytes([done.parity])
        assert PublicKey.from_signature_and_message(packed, digest, hasher=None) == publics[which]
        high += s > HALF
        lengths.add(len(der))
        parities.add(done.parity)
    assert 0.45 < high / MESSAGES < 0.55, "half of them come with the higher s"
    assert {70, 71, 72} <= lengths, "short and padded numbers were among them"
    assert parities == {0, 1}


@given(st.binary(min_size=32, max_size=32), st.integers(1, ORDER - 1))
def test_it_is_what_libsecp256k1_itself_would_have_made(digest: bytes, secret: int) -> None:
    key = PrivateKey.from_int(secret)
    theirs = key.sign_recoverable(digest, hasher=None)
    r, s = int.from_bytes(theirs[:32], "big"), int.from_bytes(theirs[32:64], "big")
    for either in (s, ORDER - s):
        done = complete(digest, *from_der(encode_dss_signature(r, either)), address_of(key.public_key))
        assert (done.r, done.s, done.parity) == (r, s, theirs[64])


def test_small_numbers_keep_their_width() -> None:
    """A key whose address is known by heart (secret 1), and numbers with leading zeros in DER."""
    address = address_of(PrivateKey.from_int(1).public_key)
    assert address == Account.from_key((1).to_bytes(32, "big")).address == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
    found = 0
    for number in range(2000):
        digest = hashlib.sha256(number.to_bytes(4, "big")).digest()
        packed = PrivateKey.from_int(1).sign_recoverable(digest, hasher=None)
        if packed[0] == 0 or packed[32] == 0:
            found += 1
            r, s = int.from_bytes(packed[:32], "big"), int.from_bytes(packed[32:64], "big")
            assert complete(digest, *from_der(encode_dss_signature(r, s)), address).r == r
    assert found


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (ORDER, 1), (1, ORDER), (2**256, 1), (1, -1), (5, 1)])
def test_numbers_that_are_no_signature_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(SignatureNotOurs):
        complete(b"\x01" * 32, *wrong, "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf")


def test_the_higher_s_is_nobody_s_signature() -> None:
    """Libraries recover the same key from it; nodes do not take it (EIP-2)."""
    key, digest = PrivateKey.from_int(1), b"\x07" * 32
    packed = key.sign_recoverable(digest, hasher=None)
    low = Signature(int.from_bytes(packed[:32], "big"), int.from_bytes(packed[32:64], "big"), packed[64])
    assert recover(digest, low) == address_of(key.public_key)
    assert recover(digest, Signature(low.r, ORDER - low.s, 1 - low.parity)) is None


def test_a_signature_of_another_key_or_digest_is_refused() -> None:
    ours, theirs, digest = PrivateKey.from_int(1), PrivateKey.from_int(2), b"\x07" * 32
    packed = theirs.sign_recoverable(digest, hasher=None)
    r, s = int.from_bytes(packed[:32], "big"), int.from_bytes(packed[32:64], "big")
    complete(digest, r, s, address_of(theirs.public_key))
    with pytest.raises(SignatureNotOurs):
        complete(digest, r, s, address_of(ours.public_key))
    with pytest.raises(SignatureNotOurs):
        complete(b"\x08" * 32, r, s, address_of(theirs.public_key))


@given(st.binary(max_size=80))
def test_what_is_no_der_is_refused_and_nothing_else_is_raised(answer: bytes) -> None:
    try:
        r, s = from_der(answer)
    except SignatureNotOurs:
        return
    assert encode_dss_signature(r, s) == answer, "only one way to write a signature is read"


def test_public_keys_are_read_in_their_forms_and_only_of_our_curve() -> None:
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert (
        address_of(read_der_public_key(der))
        == address_of(read_public_key(point[1:]))
        == address_of(read_public_key(point))
    )
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for wrong in (other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), b"", random.randbytes(88)):
        with pytest.raises(ValueError, match=r".*"):
            read_der_public_key(wrong)
    for wrong in (bytes(64), b"\x01" * 10):
        with pytest.raises(ValueError, match=r".*"):
            read_public_key(wrong)
