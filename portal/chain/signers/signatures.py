"""ECDSA over secp256k1 as Ethereum wants it: from whatever form a signature comes in. Pure.

Ethereum accepts the lower one of the two `s` only (EIP-2) and needs the parity of the point, which key services do not
say: it is found by trying both against the address that is known (SEC 1, section 4.1.6).
"""

import msgspec
from coincurve import PublicKey
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from eth_utils.crypto import keccak

from portal.chain.signers.errors import SignatureNotOurs
from portal.chain.values import checksum_address

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of the curve's group (SEC 2, section 2.4.1)."""


class Signature(msgspec.Struct, frozen=True):
    """With the lower `s`; `parity` of the point's y coordinate is 0 or 1."""

    r: int
    s: int
    parity: int


def from_der(der: bytes) -> tuple[int, int]:
    """`r` and `s` of an ASN.1 `ECDSA-Sig-Value` (RFC 3279, section 2.2.3). Raises `SignatureNotOurs`."""
    try:
        return decode_dss_signature(der)
    except ValueError as error:
        raise SignatureNotOurs("The answer of the key service is no ECDSA signature.") from error


def complete(digest: bytes, r: int, s: int, address: str) -> Signature:
    """The signature of `digest` with the lower `s`, and the parity with which it recovers to `address` (EIP-55).

    Raises `SignatureNotOurs` where neither does: another key signed, or something else was signed.
    """
    if 0 < r < ORDER and 0 < s < ORDER:
        low = min(s, ORDER - s)
        for parity in (0, 1):
            signature = Signature(r, low, parity)
            if recover(digest, signature) == address:
                return signature
    raise SignatureNotOurs(f"The signature does not come from the key of {address}.")


def recover(digest: bytes, signature: Signature) -> str | None:
    """The address (EIP-55) whose key made the signature of `digest`; None where no key did, or not with the lower s."""
    r, s, parity = signature.r, signature.s, signature.parity
    if not (0 < r < ORDER and 0 < s <= ORDER // 2 and parity in (0, 1)):
        return None
    packed = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([parity])
    try:
        return address_of(PublicKey.from_signature_and_message(packed, digest, hasher=None))
    except ValueError:  # no point of the curve has this r
        return None


def address_of(key: PublicKey) -> str:
    """EIP-55: of the last 20 bytes of the Keccak-256 of the point."""
    return checksum_address("0x" + keccak(key.format(compressed=False)[1:])[-20:].hex())


def read_public_key(key: bytes) -> PublicKey:
    """A point of 64 bytes, or of 65 with the prefix 4. Raises `ValueError` for any other, or one not on the curve."""
    return PublicKey(b"\x04" + key if len(key) == 64 else key)


def read_der_public_key(der: bytes) -> PublicKey:
    """A `SubjectPublicKeyInfo` (RFC 5480). Raises `ValueError` unless it is a point of secp256k1."""
    key = load_der_public_key(der)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256K1):
        raise ValueError("not a key of the curve secp256k1")
    return PublicKey(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
