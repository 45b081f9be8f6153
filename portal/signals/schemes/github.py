"""GitHub: `X-Hub-Signature-256: sha256=` and the HMAC-SHA256 of the body in hex.

GitHub signs the body alone: neither the delivery id, nor the event's name, nor a time. A rule that decides about value
should therefore look at the payload, not only at the type.
"""

import hmac
import secrets as randomness
from collections.abc import Sequence
from typing import Any

from portal.signals.schemes.base import Delivery, Scheme, Verified, check_text_secret, id_in_header, matching, type_of

SIGNATURE, ID, EVENT = b"x-hub-signature-256", b"x-github-delivery", b"x-github-event"


def verify(delivery: Delivery, secrets: Sequence[str], _settings: Any) -> Verified:
    given = delivery.required(SIGNATURE)
    right = (b"sha256=" + hmac.digest(secret.encode(), delivery.body, "sha256").hex().encode() for secret in secrets)
    index = matching(right, [given])
    return Verified(id_in_header(delivery, ID), type_of(delivery.header(EVENT)), index, None)


SCHEME = Scheme(
    name="github",
    label="GitHub",
    used_by="GitHub and what signs like it: the body, in X-Hub-Signature-256.",
    verify=verify,
    headers=lambda _settings: frozenset({SIGNATURE, ID, EVENT}),
    check_secret=check_text_secret,
    new_secret=lambda _settings: randomness.token_hex(32),
)
