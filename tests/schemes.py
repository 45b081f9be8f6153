"""One sender of every scheme, and several of those that settings describe: what all tests of schemes go through."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from portal.signals.schemes import SCHEMES, Verified, verify
from portal.signals.source_input import settings_from
from tests.signals import Headers, Secret, public_key, sign

URL = "https://portal.example.org/api/v1/sources/0199c3a4-6f2e-7b1d-9c57-2f8e4a1b3c5d/signals"
SENT = 1614265330
SENT_AT = datetime.fromtimestamp(SENT, UTC)
TEXT_SECRET = "It's a Secret to Everybody"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def plain(id: str, event: str) -> bytes:
    return json.dumps({"type": event, "n": 1}).encode()


@dataclass(frozen=True)
class Case:
    """A sender: how it signs, what the source was given, and where its signature and time are."""

    name: str
    scheme: str
    signature: bytes
    """The header of the signature."""
    key: Secret = TEXT_SECRET
    secret: str = TEXT_SECRET
    """What the source has: the public key where `key` is a private one."""
    settings: dict[str, Any] = field(default_factory=dict)
    body: Callable[[str, str], bytes] = plain
    """The body of a delivery with this id and type."""
    timestamp: bytes | None = None
    """The header of the timestamp, if there is one."""
    has_id: bool = True
    """Whether id and body are different things."""
    signs_body: bool = True
    any_body: bool = True
    """Whether the body may be other than a JSON object or array."""
    other_secret: str = "another secret of a good length"

    def read_settings(self) -> msgspec.Struct | None:
        scheme = SCHEMES[self.scheme]
        if scheme.settings_type is None:
            return None
        checked: msgspec.Struct = scheme.check_settings(settings_from(scheme.settings_type, self.settings))
        return checked

    def delivery(self, id: str = "evt_1", event: str = "paid", *, at: float = SENT) -> tuple[Headers, bytes]:
        body = self.body(id, event)
        return self.sign(body, id=id, event=event, at=at), body

    def sign(self, body: bytes, *, id: str = "evt_1", event: str = "paid", at: float = SENT) -> Headers:
        return sign(self.scheme, self.settings, self.key, body, id=id, event=event, at=at, url=URL)

    def verify(
        self, headers: Headers, body: bytes, *, secrets: list[str] | None = None, now: datetime = SENT_AT
    ) -> Verified:
        secrets = [self.secret] if secrets is None else secrets
        return verify(self.scheme, self.read_settings(), headers, body, secrets, now=now, url=URL)


def stripe_body(id: str, event: str) -> bytes:
    return json.dumps({"id": id, "object": "event", "type": event}).encode()


def slack_body(id: str, event: str) -> bytes:
    return json.dumps({"type": "event_callback", "event_id": id, "event": {"type": event}}).encode()


def twilio_body(id: str, event: str) -> bytes:
    return f"MessageSid={id}&StatusCallbackEvent={event}&Body=a+b%26c%C3%BC&Empty=".encode()


def nested(id: str, event: str) -> bytes:
    return json.dumps({"meta": [{"a/b": id}], "what": {"happened": event}}).encode()


CASES = [
    Case(
        "standard_webhooks",
        "standard_webhooks",
        b"webhook-signature",
        STANDARD_SECRET,
        STANDARD_SECRET,
        timestamp=b"webhook-timestamp",
        other_secret="whsec_" + base64.b64encode(b"another secret, 32 bytes long...").decode(),
    ),
    Case(
        "standard_webhooks v1a",
        "standard_webhooks",
        b"webhook-signature",
        PRIVATE,
        "whpk_" + public_key(PRIVATE),
        timestamp=b"webhook-timestamp",
        other_secret="whpk_" + public_key(Ed25519PrivateKey.from_private_bytes(bytes(32))),
    ),
    Case(
        "svix",
        "svix",
        b"svix-signature",
        STANDARD_SECRET,
        STANDARD_SECRET,
        timestamp=b"svix-timestamp",
        other_secret="whsec_" + base64.b64encode(b"another secret, 32 bytes long...").decode(),
    ),
    Case("github", "github", b"x-hub-signature-256"),
    Case("stripe", "stripe", b"stripe-signature", body=stripe_body, timestamp=b"stripe-signature"),
    Case("shopify", "shopify", b"x-shopify-hmac-sha256"),
    Case("slack", "slack", b"x-slack-signature", body=slack_body, timestamp=b"x-slack-request-timestamp"),
    Case("twilio", "twilio", b"x-twilio-signature", body=twilio_body, has_id=False, any_body=False),
    Case(
        "hmac like Hookdeck",
        "hmac",
        b"x-hookdeck-signature",
        settings={"header": "x-hookdeck-signature", "encoding": "base64", "id_header": "X-Hookdeck-Eventid"},
    ),
    Case(
        "hmac like thirdweb",
        "hmac",
        b"x-engine-signature",
        settings={
            "header": "X-Engine-Signature",
            "signed": "{timestamp}.{body}",
            "timestamp_header": "x-engine-timestamp",
            "id_pointer": "/meta/0/a~1b",
            "type_pointer": "/what/happened",
        },
        body=nested,
        timestamp=b"x-engine-timestamp",
    ),
    Case(
        "hmac like Hook0",
        "hmac",
        b"x-hook0-signature",
        settings={
            "header": "X-Hook0-Signature",
            "signed": "{timestamp}.x-event-id x-event-type.{header:x-event-id}.{header:x-event-type}.{body}",
            "signature_part": "v1",
            "timestamp_part": "t",
            "id_header": "x-event-id",
            "type_header": "x-event-type",
        },
        timestamp=b"x-hook0-signature",
        any_body=False,
    ),
    Case(
        "hmac with everything",
        "hmac",
        b"x-signature",
        base64.b64encode(bytes(range(40))).decode(),
        base64.b64encode(bytes(range(40))).decode(),
        settings={
            "header": "X-Signature",
            "algorithm": "sha512",
            "encoding": "base64",
            "key_encoding": "base64",
            "prefix": "sha512=",
            "signed": "POST\n{url}\n{id}.{body}.{header:x-nonce}.{timestamp}",
            "timestamp_header": "X-Time",
            "timestamp_unit": "milliseconds",
            "id_header": "X-Id",
            "type_header": "X-Type",
        },
        timestamp=b"x-time",
        other_secret=base64.b64encode(b"another key of 25 bytes..").decode(),
    ),
    Case(
        "hmac without an id",
        "hmac",
        b"x-signature",
        bytes(range(20)).hex(),
        bytes(range(20)).hex(),
        settings={"header": "x-signature", "key_encoding": "hex"},
        has_id=False,
        other_secret=bytes(20).hex(),
    ),
    Case(
        "ed25519 like Discord",
        "ed25519",
        b"x-signature-ed25519",
        PRIVATE,
        PRIVATE.public_key().public_bytes_raw().hex(),
        settings={
            "header": "X-Signature-Ed25519",
            "signed": "{timestamp}{body}",
            "timestamp_header": "X-Signature-Timestamp",
            "id_header": "x-id",
        },
        timestamp=b"x-signature-timestamp",
        other_secret=Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex(),
    ),
    Case(
        "ed25519 in base64",
        "ed25519",
        b"telnyx-signature-ed25519",
        PRIVATE,
        public_key(PRIVATE),
        settings={
            "header": "telnyx-signature-ed25519",
            "encoding": "base64",
            "signed": "{timestamp}|{body}",
            "timestamp_header": "telnyx-timestamp",
            "id_pointer": "/meta/0/a~1b",
            "type_pointer": "/what/happened",
        },
        body=nested,
        timestamp=b"telnyx-timestamp",
        other_secret=public_key(Ed25519PrivateKey.from_private_bytes(bytes(32))),
    ),
    Case(
        "bearer",
        "bearer",
        b"authorization",
        "a-token-of-some-length",
        "a-token-of-some-length",
        settings={"id_header": "x-id"},
        signs_body=False,
        other_secret="another-token-of-some-length",
    ),
    Case(
        "bearer as an API key",
        "bearer",
        b"x-api-key",
        "a-token-of-some-length",
        "a-token-of-some-length",
        settings={"header": "X-API-Key", "prefix": ""},
        has_id=False,
        signs_body=False,
        other_secret="another-token-of-some-length",
    ),
    Case(
        "basic",
        "basic",
        b"authorization",
        settings={"username": "Jürgen", "id_pointer": "/meta/0/a~1b", "type_pointer": "/what/happened"},
        body=nested,
        signs_body=False,
    ),
]
