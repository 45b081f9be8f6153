"""Senders for tests: sources of both schemes, and deliveries signed as their senders sign them."""

import base64
import hmac
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from portal import clock
from portal.db.columns import new_id
from portal.signals.schemas import Receipt, SourceInput
from portal.signals.service import create_source, receive
from tests.people import Player

Headers = list[tuple[bytes, bytes]]
IP = "192.0.2.7"
EXAMPLES = Path(__file__).parent.parent / "node_modules/@octokit/webhooks-examples/api.github.com/index.json"


@dataclass(frozen=True)
class Sender:
    """A configured source and what signs for it."""

    source_id: UUID
    scheme: str
    secret: str

    def headers(
        self, body: bytes, *, id: str | None = None, event: str = "sponsorship", secret: str | None = None
    ) -> Headers:
        """What the sender would send with `body`, under a new id unless one is given."""
        id = id or new_id().hex
        if self.scheme == "github":
            return github_headers(body, secret or self.secret, id=id, event=event)
        return standard_headers(body, secret or self.secret, id=id)

    async def deliver(self, payload: Any, *, id: str | None = None, event: str = "sponsorship") -> Receipt:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return await receive(self.source_id, self.headers(body, id=id, event=event), body, IP)


def github_headers(body: bytes, secret: str, *, id: str, event: str = "sponsorship") -> Headers:
    return [
        (b"content-type", b"application/json"),
        (b"x-github-event", event.encode()),
        (b"x-github-delivery", id.encode()),
        (b"x-hub-signature-256", b"sha256=" + hmac.digest(secret.encode(), body, "sha256").hex().encode()),
    ]


def standard_headers(body: bytes, secret: str, *, id: str, at: float | None = None) -> Headers:
    stamp = str(int(at if at is not None else clock.now().timestamp())).encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.digest(key, b".".join((id.encode(), stamp, body)), "sha256")
    return [
        (b"content-type", b"application/json"),
        (b"webhook-id", id.encode()),
        (b"webhook-timestamp", stamp),
        (b"webhook-signature", b"v1," + base64.b64encode(mac)),
    ]


async def make_sender(by: Player, scheme: str = "github", *, name: str = "", **more: Any) -> Sender:
    view, secret = await create_source(
        by.actor, SourceInput(name=name or f"{scheme} {new_id().hex}", scheme=scheme, **more)
    )  # type: ignore[arg-type]
    return Sender(view.id, scheme, secret)


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
