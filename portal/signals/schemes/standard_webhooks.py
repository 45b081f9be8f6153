"""Standard Webhooks 1.0 (https://www.standardwebhooks.com): `id.timestamp.body`, signed with HMAC-SHA256 (`v1`)."""

import base64
import hmac
import secrets as randomness
from collections.abc import Sequence
from typing import Any

from portal.errors import InputInvalid
from portal.signals.schemes.base import Delivery, Scheme, Verified, id_in_header, matching, skew_of

SIGNATURE, ID, TIMESTAMP = b"webhook-signature", b"webhook-id", b"webhook-timestamp"


def verify(delivery: Delivery, secrets: Sequence[str], _settings: Any) -> Verified:
    """The published library decodes the body as text, so it cannot see raw bytes."""
    id, stamp = delivery.required(ID), delivery.required(TIMESTAMP)
    signatures = delivery.required(SIGNATURE).split(b" ")
    skew_ms = skew_of(stamp, delivery.now)
    signed = b".".join((id, stamp, delivery.body))
    # Compared as base64 text: decoding would let several spellings of one signature pass.
    right = (b"v1," + base64.b64encode(hmac.digest(_key(secret), signed, "sha256")) for secret in secrets)
    index = matching(right, signatures)
    return Verified(id_in_header(delivery, ID), None, index, skew_ms)


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix("whsec_")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def check_secret(secret: str, _settings: Any) -> str:
    try:
        size = len(_key(secret))
    except ValueError:
        size = 0
    if not 24 <= size <= 64:
        raise InputInvalid.at("/secret", "The secret must be whsec_ and 24 to 64 bytes in base64.")
    return "whsec_" + secret.removeprefix("whsec_")


SCHEME = Scheme(
    name="standard_webhooks",
    label="Standard Webhooks",
    used_by="Standard Webhooks (Polar, Resend, many others): id, time and body are signed together.",
    verify=verify,
    headers=lambda _settings: frozenset({SIGNATURE, ID, TIMESTAMP}),
    check_secret=check_secret,
    new_secret=lambda _settings: "whsec_" + base64.b64encode(randomness.token_bytes(32)).decode(),
    signs_time=lambda _settings: True,
)
