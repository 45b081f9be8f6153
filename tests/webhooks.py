"""Webhooks, and a real HTTP receiver for them, which answers whatever a test wants."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from standardwebhooks import Webhook as Verifier

from portal.db.engine import run_sql, transaction
from portal.notify.jobs import deliver_events, publish_events
from portal.notify.outbox import record
from portal.notify.queries import get_webhook, list_deliveries
from portal.notify.schemas import DeliveryItem, WebhookInput, WebhookView
from portal.notify.service import create_webhook
from tests.people import Player


@dataclass(frozen=True)
class Delivered:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    """By the monotonic clock."""

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def verify(self, secret: str) -> None:
        """As a receiver does it, with the published library. Raises where the signature is not right."""
        Verifier(secret).verify(self.body, self.headers)


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"thanks"
    wait_seconds: float = 0


class Endpoint:
    """A server on a port of this machine. `say` decides what it answers; `came` is what it got, in order."""

    def __init__(self, port: int = 0) -> None:
        self.came: list[Delivered] = []
        self.say: Callable[[Delivered], Reply] = lambda _: Reply()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                delivered = Delivered(self.path, headers, body, time.monotonic())
                endpoint.came.append(delivered)
                endpoint._answer(self, endpoint.say(delivered))

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.wait_seconds)
        try:
            handler.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(reply.body)
        except OSError:
            pass  # who sent it has had enough

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_endpoint(port: int = 0) -> Iterator[Endpoint]:
    endpoint = Endpoint(port)
    try:
        yield endpoint
    finally:
        endpoint.stop()


@dataclass(frozen=True)
class Subscribed:
    """A webhook with its secret, and what tests ask of it again and again."""

    organization_id: UUID
    id: UUID
    secret: str

    async def view(self) -> WebhookView:
        return await get_webhook(self.organization_id, self.id)

    async def deliveries(self) -> list[DeliveryItem]:
        """In the order of their positions."""
        return (await list_deliveries(self.organization_id, self.id, limit=200)).items[::-1]

    async def due_now(self) -> None:
        """As if the time for everything that waits had come, and the receiver had rested."""
        await run_sql("UPDATE delivery SET due_at = now() - interval '1 s' WHERE webhook = {}", self.id)
        await run_sql("UPDATE webhook SET rest_until = NULL WHERE id = {}", self.id)


async def subscribe(by: Player, url: str, *types: str, name: str = "ERP") -> Subscribed:
    view, secret = await create_webhook(by.actor, WebhookInput(name=name, url=url, types=list(types or ("*",))))
    return Subscribed(by.actor.organization_id, view.id, secret)


async def happen(organization_id: UUID, kind: str, *subjects: str) -> None:
    """Events of one kind about these subjects, each in a db transaction of its own, published."""
    for subject in subjects:
        async with transaction():
            await record(organization_id, kind, "action", subject, {"summary": subject})
    await publish_events()


async def deliver() -> None:
    await deliver_events()
