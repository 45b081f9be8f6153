"""Senders that sign with Ed25519 (RFC 8032) and a private key of their own, as settings describe it."""

import base64
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from portal.errors import InputInvalid
from portal.signals.errors import SignatureInvalid
from portal.signals.schemes import described
from portal.signals.schemes.base import MAX_SIGNATURES, Delivery, Scheme, Verified
from portal.signals.schemes.naming import named

HEX = re.compile(r"[0-9a-fA-F]{64}")
WEAK = frozenset(
    bytes.fromhex(low) + bytes.fromhex(middle) * 30 + bytes.fromhex(high)
    for low, middle, high in (
        ("00", "00", "00"),
        ("01", "00", "00"),
        ("ec", "ff", "7f"),
        ("ed", "ff", "7f"),
        ("ee", "ff", "7f"),
    )
) | {
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
}
"""The points of small order in every spelling, but for the sign: with such a key, signatures can be made by anybody."""


class Ed25519Settings(described.Signed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a sender signs with its private key."""


def verify(delivery: Delivery, secrets: Sequence[str], settings: Ed25519Settings) -> Verified:
    given, stamp, skew_ms = described.signatures_and_time(delivery, settings)
    signatures = [signature for text in given if (signature := _decoded(text, settings))]
    signed = described.signed_text(delivery, settings, stamp)
    index = signed_by((public_key(secret) for secret in secrets), signatures, signed)
    return Verified(*named(delivery, settings), index, skew_ms)


def _decoded(text: bytes, settings: Ed25519Settings) -> bytes | None:
    """The signature; None for any text but its one spelling."""
    prefix = settings.prefix.encode()
    written = text.removeprefix(prefix)
    try:
        raw = bytes.fromhex(written.decode()) if settings.encoding == "hex" else base64.b64decode(written)
    except ValueError:
        return None
    spelled = raw.hex().encode() if settings.encoding == "hex" else base64.b64encode(raw)
    return raw if text == prefix + spelled else None


def signed_by(keys: Iterable[Ed25519PublicKey | None], signatures: Sequence[bytes], signed: bytes) -> int:
    """The first place in `keys` whose key made one of the signatures; None stands for no key.

    Raises `SignatureInvalid` where none did. Nothing here is secret, so it may take as long as it takes.
    """
    if len(signatures) > MAX_SIGNATURES:
        raise SignatureInvalid(f"there are more than {MAX_SIGNATURES} signatures")
    for index, key in enumerate(keys):
        for signature in signatures:
            try:
                if key:
                    key.verify(signature, signed)
                    return index
            except InvalidSignature:
                continue
    raise SignatureInvalid("the signature was made with another key or for another body")


@lru_cache(maxsize=1024)
def public_key(text: str) -> Ed25519PublicKey:
    """The key in hex or base64. Raises `ValueError`, for a key that protects nothing too."""
    raw = bytes.fromhex(text) if HEX.fullmatch(text) else base64.b64decode(text, validate=True)
    key = Ed25519PublicKey.from_public_bytes(raw)
    if raw[:-1] + bytes([raw[-1] & 0x7F]) in WEAK:
        raise ValueError("a key of small order")
    return key


def check_secret(secret: str, _settings: Ed25519Settings) -> str:
    try:
        public_key(secret)
    except ValueError:
        raise InputInvalid.at("/secret", "Give the sender's public key: 32 bytes in hex or base64.") from None
    return secret


SCHEME = Scheme(
    name="ed25519",
    label="Ed25519, described by you",
    used_by="Senders that sign with a private key and publish the public one: Discord, Telnyx, and others.",
    key_from="The sender's public key, 32 bytes in hex or base64. It is no secret, and only the sender has one.",
    verify=verify,
    headers=described.headers_of,
    check_secret=check_secret,
    new_secret=None,
    settings_type=Ed25519Settings,
    check_settings=described.checked,
    is_public_key=lambda _secret: True,
    signs_time=described.signs_time,
)
