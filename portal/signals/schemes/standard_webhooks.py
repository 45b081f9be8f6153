"""Standard Webhooks 1.0 (https://www.standardwebhooks.com): `id.timestamp.body`, signed with HMAC-SHA256 and a shared
secret (`v1`) or with Ed25519 and a private key (`v1a`). What the source was given decides: `whsec_` or `whpk_`."""

import base64
import hmac
import secrets as randomness
from collections.abc import Sequence
from typing import Any

from portal.errors import InputInvalid
from portal.signals.errors import SignatureInvalid
from portal.signals.schemes.base import MAX_SIGNATURES, Delivery, Scheme, Verified, id_in_header, matching, skew_of
from portal.signals.schemes.custom_ed25519 import public_key, signed_by

SHARED, PUBLIC = "whsec_", "whpk_"


def verify(delivery: Delivery, secrets: Sequence[str], prefix: bytes) -> Verified:
    """`prefix` is what the names of the headers begin with. The published library decodes the body as text, so it
    cannot see raw bytes."""
    id, stamp = delivery.required(prefix + b"id"), delivery.required(prefix + b"timestamp")
    given = delivery.required(prefix + b"signature").split(b" ", MAX_SIGNATURES)
    skew_ms = skew_of(stamp, delivery.now)
    index = _signer(b".".join((id, stamp, delivery.body)), given, secrets)
    return Verified(id_in_header(delivery, prefix + b"id"), None, index, skew_ms)


def _signer(signed: bytes, given: list[bytes], secrets: Sequence[str]) -> int:
    """Which of the secrets signed; shared ones are tried first."""
    shared = [place for place, secret in enumerate(secrets) if not secret.startswith(PUBLIC)]
    try:
        # Compared as base64 text: decoding would let several spellings of one signature pass.
        return shared[matching((_signature(_key(secrets[place]), signed) for place in shared), given)]
    except SignatureInvalid:
        if len(shared) == len(secrets):
            raise
    keys = [public_key(secret.removeprefix(PUBLIC)) if secret.startswith(PUBLIC) else None for secret in secrets]
    return signed_by(keys, [raw for text in given if (raw := _asymmetric(text))], signed)


def _signature(key: bytes, signed: bytes) -> bytes:
    return b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))


def _asymmetric(text: bytes) -> bytes | None:
    """The signature in `v1a,` and base64; None for any text but its one spelling."""
    try:
        raw = base64.b64decode(text.removeprefix(b"v1a,"), validate=True)
    except ValueError:
        return None
    return raw if text == b"v1a," + base64.b64encode(raw) else None


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix(SHARED)
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def check_secret(secret: str, _settings: Any) -> str:
    try:
        if secret.startswith(PUBLIC):
            public_key(secret.removeprefix(PUBLIC))
            return secret
        if 24 <= len(_key(secret)) <= 64:
            return SHARED + secret.removeprefix(SHARED)
    except ValueError:
        pass
    raise InputInvalid.at(
        "/secret", "Give whsec_ and 24 to 64 bytes in base64, or the sender's public key: whpk_ and 32 bytes in base64."
    )


def scheme(name: str, label: str, used_by: str, prefix: bytes) -> Scheme:
    """The scheme with headers whose names begin with `prefix`."""
    return Scheme(
        name=name,
        label=label,
        used_by=used_by,
        key_from="The sender's signing secret, whsec_... or, for Ed25519, its public key whpk_....",
        verify=lambda delivery, secrets, _settings: verify(delivery, secrets, prefix),
        headers=lambda _settings: frozenset({prefix + b"id", prefix + b"timestamp", prefix + b"signature"}),
        check_secret=check_secret,
        new_secret=lambda _settings: SHARED + base64.b64encode(randomness.token_bytes(32)).decode(),
        signature_header=prefix + b"signature",
        id_header=prefix + b"id",
        id_is_signed=True,
        is_public_key=lambda secret: secret.startswith(PUBLIC),
        signs_time=lambda _settings: True,
    )


SCHEME = scheme(
    "standard_webhooks",
    "Standard Webhooks",
    "Standard Webhooks (Polar, Resend, many others): id, time and body are signed together.",
    b"webhook-",
)
