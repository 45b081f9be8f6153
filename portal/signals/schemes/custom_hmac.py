"""Any other sender that signs with HMAC and a shared secret, as its settings describe it."""

import base64
import binascii
import hmac
import secrets as randomness
from collections.abc import Sequence
from typing import Literal

from portal.errors import InputInvalid
from portal.signals.schemes import described
from portal.signals.schemes.base import Delivery, Scheme, Verified, check_text_secret, matching
from portal.signals.schemes.naming import named


class HmacSettings(described.Signed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a sender signs with a shared secret."""

    algorithm: Literal["sha256", "sha512"] = "sha256"
    key_encoding: Literal["text", "hex", "base64"] = "text"
    """How the key is read from the secret: its characters, or the bytes that they stand for."""


def verify(delivery: Delivery, secrets: Sequence[str], settings: HmacSettings) -> Verified:
    index, skew_ms = prove(delivery, secrets, settings)
    return Verified(*named(delivery, settings), index, skew_ms)


def prove(delivery: Delivery, secrets: Sequence[str], settings: HmacSettings) -> tuple[int, int | None]:
    """Which secret signed the delivery, and the skew. Raises `SignatureInvalid`."""
    given, stamp, skew_ms = described.signatures_and_time(delivery, settings)
    signed = described.signed_text(delivery, settings, stamp)
    # Compared as text: decoding would let several spellings of one signature pass.
    return matching((signature_of(signed, secret, settings) for secret in secrets), given), skew_ms


def signature_of(signed: bytes, secret: str, settings: HmacSettings) -> bytes:
    mac = hmac.digest(_key(secret, settings), signed, settings.algorithm)
    text = mac.hex().encode() if settings.encoding == "hex" else base64.b64encode(mac)
    return settings.prefix.encode() + text


def _key(secret: str, settings: HmacSettings) -> bytes:
    if settings.key_encoding == "hex":
        return bytes.fromhex(secret)
    return base64.b64decode(secret, validate=True) if settings.key_encoding == "base64" else secret.encode()


def check_secret(secret: str, settings: HmacSettings) -> str:
    check_text_secret(secret)
    try:
        size = len(_key(secret, settings))
    except (ValueError, binascii.Error):
        size = 0
    if size < 16:
        raise InputInvalid.at("/secret", f"The secret must be at least 16 bytes in {settings.key_encoding}.")
    return secret


def new_secret(settings: HmacSettings) -> str:
    key = randomness.token_bytes(32)
    return base64.b64encode(key).decode() if settings.key_encoding == "base64" else key.hex()


SCHEME = Scheme(
    name="hmac",
    label="HMAC, described by you",
    used_by="Any sender that signs with a shared secret: you say in which header, how, and over what.",
    key_from="The secret that the sender signs with: made here, or given by the sender.",
    verify=verify,
    headers=described.headers_of,
    check_secret=check_secret,
    new_secret=new_secret,
    settings_type=HmacSettings,
    check_settings=described.checked,
    signs_time=described.signs_time,
)


def preset(name: str, label: str, used_by: str, key_from: str, *, settings: HmacSettings) -> Scheme:
    """A scheme of its own for senders that all have the same settings."""
    return Scheme(
        name=name,
        label=label,
        used_by=used_by,
        key_from=key_from,
        verify=lambda delivery, secrets, _settings: verify(delivery, secrets, settings),
        headers=lambda _settings: described.headers_of(settings),
        check_secret=lambda secret, _settings: check_secret(secret, settings),
        new_secret=lambda _settings: new_secret(settings),
        signature_header=settings.header.encode(),
        id_header=settings.id_header.encode() if settings.id_header else None,
        signs_time=lambda _settings: described.signs_time(settings),
        preset=settings,
    )
