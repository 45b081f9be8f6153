"""Secrets of webhooks, and what is signed with them: Standard Webhooks 1.0, symmetric (`v1`)."""

import base64
import secrets as randomness
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from standardwebhooks import Webhook as Signer

SECRET_BYTES = 32
"""The standard asks for 24 to 64."""


def new_secret() -> str:
    return "whsec_" + base64.b64encode(randomness.token_bytes(SECRET_BYTES)).decode()


def secret_purpose(secret_id: UUID) -> str:
    """What binds a sealed secret to its row."""
    return f"webhook-secret:{secret_id}"


def signed_headers(event_id: UUID, at: datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The standard's three headers, with one signature for each secret: the receiver needs to know one of them."""
    text = body.decode()
    return {
        "webhook-id": str(event_id),
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(str(event_id), at, text) for secret in secrets),
    }
