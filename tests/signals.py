"""Senders for tests: sources of every scheme, and deliveries signed as their senders sign them.

Signed by code of its own, not by the code under test."""

import base64
import hmac
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from portal import clock
from portal.db.columns import new_id
from portal.signals.intake.service import receive
from portal.signals.schemas import Receipt, SourceInput
from portal.signals.service import create_source
from tests.people import Player

Headers = list[tuple[bytes, bytes]]
Secret = str | Ed25519PrivateKey
IP = "192.0.2.7"
EXAMPLES = Path(__file__).parent.parent / "node_modules/@octokit/webhooks-examples/api.github.com/index.json"


@dataclass(frozen=True)
class Sender:
    """A configured source and what signs for it."""

    source_id: UUID
    scheme: str
    secret: Secret
    settings: dict[str, Any] = field(default_factory=dict)

    def headers(
        self, body: bytes, *, id: str | None = None, event: str = "sponsorship", secret: Secret | None = None
    ) -> Headers:
        """What the sender would send with `body`, under a new id unless one is given."""
        url = f"http://127.0.0.1:8000/api/v1/sources/{self.source_id}/signals"
        return sign(
            self.scheme, self.settings, secret or self.secret, body, id=id or new_id().hex, event=event, url=url
        )

    async def deliver(self, payload: Any, *, id: str | None = None, event: str = "sponsorship") -> Receipt:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return await receive(self.source_id, self.headers(body, id=id, event=event), body, IP)


def sign(
    scheme: str,
    settings: dict[str, Any],
    secret: Secret,
    body: bytes,
    *,
    id: str,
    event: str = "sponsorship",
    at: float | None = None,
    url: str = "",
) -> Headers:
    """What a sender with these settings would send with `body`. A private key signs where the sender has one.

    Id and event go where the scheme has them in headers; `at` is in seconds since 1970, by default now.
    """
    at = clock.now().timestamp() if at is None else at
    if scheme == "github":
        return github_headers(body, str(secret), id=id, event=event)
    if scheme in ("standard_webhooks", "svix"):
        prefix = b"webhook-" if scheme == "standard_webhooks" else b"svix-"
        return standard_headers(body, secret, id=id, at=at, prefix=prefix)
    if scheme == "twilio":
        fields = parse_qsl(body.decode(), keep_blank_values=True)
        text = url + "".join(name + value for name, value in sorted(fields))
        mac = hmac.digest(str(secret).encode(), text.encode(), "sha1")
        form = (b"content-type", b"application/x-www-form-urlencoded")
        return [form, (b"x-twilio-signature", base64.b64encode(mac))]
    named = [JSON_BODY, *_named(settings, id, event)]
    if scheme == "bearer":
        header, prefix = settings.get("header", "authorization"), settings.get("prefix", "Bearer ")
        return [*named, (header.lower().encode(), f"{prefix}{secret}".encode())]
    if scheme == "basic":
        login = base64.b64encode(f"{settings['username']}:{secret}".encode())
        return [*named, (b"authorization", b"Basic " + login)]
    if scheme in PRESETS:
        settings = PRESETS[scheme]
        named = [JSON_BODY, *_named(settings, id, event)]
    return [*named, *_described(settings, secret, body, id=id, event=event, at=at, url=url)]


JSON_BODY = (b"content-type", b"application/json")
PRESETS: dict[str, dict[str, Any]] = {
    "stripe": {
        "header": "Stripe-Signature",
        "signed": "{timestamp}.{body}",
        "signature_part": "v1",
        "timestamp_part": "t",
    },
    "shopify": {
        "header": "X-Shopify-Hmac-SHA256",
        "encoding": "base64",
        "id_header": "X-Shopify-Webhook-Id",
        "type_header": "X-Shopify-Topic",
    },
    "slack": {
        "header": "X-Slack-Signature",
        "prefix": "v0=",
        "signed": "v0:{timestamp}:{body}",
        "timestamp_header": "X-Slack-Request-Timestamp",
    },
}
"""What their documentation says, in the words of the scheme `hmac`."""


def _named(settings: dict[str, Any], id: str, event: str) -> Headers:
    given = {settings.get("id_header"): id, settings.get("type_header"): event}
    return [(name.lower().encode(), value.encode()) for name, value in given.items() if name]


def _described(
    settings: dict[str, Any], secret: Secret, body: bytes, *, id: str, event: str, at: float, url: str
) -> Headers:
    stamp = str(int(at * (1000 if settings.get("timestamp_unit") == "milliseconds" else 1)))
    headers = (
        [(settings["timestamp_header"].lower().encode(), stamp.encode())] if "timestamp_header" in settings else []
    )
    template = settings.get("signed", "{body}")
    template = template.replace("{timestamp}", stamp).replace("{id}", id).replace("{url}", url)
    for name in re.findall(r"{header:([^}]*)}", template):
        meant = {settings.get("id_header"): id, settings.get("type_header"): event}.get(name)
        template = template.replace(f"{{header:{name}}}", meant or "example")
        headers += [] if meant else [(name.lower().encode(), b"example")]
    before, after = template.encode().split(b"{body}")
    value = (settings.get("prefix", "") + _signature(settings, secret, before + body + after)).encode()
    if "signature_part" in settings:
        value = f"{settings['signature_part']}=".encode() + value
    if "timestamp_part" in settings:
        value = f"{settings['timestamp_part']}={stamp},".encode() + value
    return [*headers, (settings["header"].lower().encode(), value)]


def _signature(settings: dict[str, Any], secret: Secret, text: bytes) -> str:
    if isinstance(secret, Ed25519PrivateKey):
        raw = secret.sign(text)
    else:
        decode = {"hex": bytes.fromhex, "base64": base64.b64decode}.get(settings.get("key_encoding", ""), str.encode)
        raw = hmac.digest(decode(secret), text, settings.get("algorithm", "sha256"))
    return raw.hex() if settings.get("encoding", "hex") == "hex" else base64.b64encode(raw).decode()


def public_key(key: Ed25519PrivateKey) -> str:
    """In base64, as sources take it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def github_headers(body: bytes, secret: str, *, id: str, event: str = "sponsorship") -> Headers:
    return [
        JSON_BODY,
        (b"x-github-event", event.encode()),
        (b"x-github-delivery", id.encode()),
        (b"x-hub-signature-256", b"sha256=" + hmac.digest(secret.encode(), body, "sha256").hex().encode()),
    ]


def standard_headers(
    body: bytes, secret: Secret, *, id: str, at: float | None = None, prefix: bytes = b"webhook-"
) -> Headers:
    stamp = str(int(at if at is not None else clock.now().timestamp())).encode()
    text = b".".join((id.encode(), stamp, body))
    if isinstance(secret, Ed25519PrivateKey):
        signature = b"v1a," + base64.b64encode(secret.sign(text))
    else:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signature = b"v1," + base64.b64encode(hmac.digest(key, text, "sha256"))
    return [
        JSON_BODY,
        (prefix + b"id", id.encode()),
        (prefix + b"timestamp", stamp),
        (prefix + b"signature", signature),
    ]


async def make_sender(by: Player, scheme: str = "github", *, name: str = "", **more: Any) -> Sender:
    view, secret = await create_source(
        by.actor, SourceInput(name=name or f"{scheme} {new_id().hex}", scheme=scheme, **more)
    )  # type: ignore[arg-type]
    assert secret is not None, "a sender with a private key signs by `sign`"
    return Sender(view.id, scheme, secret, more.get("settings", {}))


@cache
def github_examples() -> tuple[tuple[str, bytes], ...]:
    """Every delivery of GitHub's own collection: its event and its body."""
    events = json.loads(EXAMPLES.read_bytes())
    return tuple((event["name"], json.dumps(example).encode()) for event in events for example in event["examples"])


def sponsorship() -> dict[str, Any]:
    """GitHub's example of a new sponsorship."""
    return next(
        payload
        for name, body in github_examples()
        if name == "sponsorship" and (payload := json.loads(body))["action"] == "created"
    )
