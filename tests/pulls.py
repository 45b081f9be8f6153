"""Sources that are pulled, and a real HTTP API for them to ask, which says whatever a test wants."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from portal.db.engine import run_sql
from portal.settings import get_settings
from portal.signals.pulls.jobs import pull_sources
from portal.signals.pulls.service import PullView, get_pull
from portal.signals.schemas import SourceInput
from portal.signals.service import create_source
from tests.people import Player


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Reply:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    wait_seconds: float = 0
    drip: bool = False
    """Sends the head, and then a byte now and again."""

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Api:
    """A server on a free port of this machine. `say` decides what it answers; `asked` is what came."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.say: Callable[[Asked], Reply] = lambda _: Reply([])
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                asked = Asked(parts.path, query, {name.lower(): value for name, value in self.headers.items()})
                api.asked.append(asked)
                api._answer(self, api.say(asked))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.wait_seconds)
        try:
            handler.send_response(reply.status)
            content = b"" if reply.status == 304 else reply.content
            headers = {"Content-Type": reply.content_type, "Content-Length": str(len(content)), **reply.headers}
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            for byte in content if reply.drip else ():
                handler.wfile.write(bytes([byte]))
                time.sleep(0.2)
            if not reply.drip:
                handler.wfile.write(content)
        except OSError:
            pass  # who asked has had enough

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_api(tls: ssl.SSLContext | None = None) -> Iterator[Api]:
    api = Api(tls)
    try:
        yield api
    finally:
        api.stop()


@contextmanager
def egress_allowed(networks: str) -> Iterator[None]:
    """The setting as an operator with systems of his own has it."""
    settings = get_settings()
    before = settings.egress_allow
    object.__setattr__(settings, "egress_allow", networks)
    try:
        yield
    finally:
        object.__setattr__(settings, "egress_allow", before)


@dataclass(frozen=True)
class Pulled:
    """A source that is pulled, with what tests ask of it again and again."""

    organization_id: UUID
    id: UUID

    async def pull(self) -> PullView:
        """Run the job as if the time for this source had come; where it stands after that."""
        await run_sql("UPDATE pull SET due_at = now() - interval '1 s' WHERE source = {}", self.id)
        await pull_sources()
        return await self.view()

    async def view(self) -> PullView:
        return await get_pull(self.organization_id, self.id)

    async def signals(self) -> list[dict[str, Any]]:
        """What is stored, in the order it was stored in; `payload` is the body."""
        rows = await run_sql(
            """SELECT external_id, type, status, reasons, body, secret, skew_ms FROM signal
               WHERE source = {} ORDER BY id""",
            self.id,
        )
        return [{**row, "payload": json.loads(bytes(row["body"]))} for row in rows]

    async def ids(self) -> list[str]:
        return [signal["external_id"] for signal in await self.signals()]

    async def position(self) -> dict[str, Any]:
        rows = await run_sql("SELECT position FROM pull WHERE source = {}", self.id)
        return dict(json.loads(rows[0]["position"]))


async def make_pulled(by: Player, kind: str, settings: dict[str, Any], *, secret: str | None = None) -> Pulled:
    view, _ = await create_source(
        by.actor,
        SourceInput(name=f"{kind} {time.monotonic_ns()}", scheme=kind, settings=settings, secret=secret),  # type: ignore[arg-type]
    )
    return Pulled(by.actor.organization_id, view.id)


def make_certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context with a certificate for `name` that vouches for itself, and that certificate's file."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, file
