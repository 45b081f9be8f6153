"""A client's view of the JSON API: keys, sessions, signed deliveries and a database that can be cut off."""

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import httpx

from portal.accounts.api_keys import create_api_key
from portal.accounts.permissions import SCOPES
from portal.accounts.sessions import sign_in
from portal.db.engine import get_engine
from portal.settings import get_settings
from tests.people import Player

GITHUB_SECRET = "It's a Secret to Everybody"


async def key_of(player: Player, *scopes: str) -> dict[str, str]:
    """The header of a new API key with `scopes`, by default all that a key may have."""
    _, token = await create_api_key(player.actor, "test", list(scopes) or [scope.value for scope in SCOPES])
    return {"Authorization": f"Bearer {token}"}


async def session_of(player: Player) -> dict[str, str]:
    """The header of a complete session; spends the player's current code."""
    signed_in = await sign_in(player.email, player.password, player.code(), ip="127.0.0.1", user_agent="test")
    return {"Authorization": f"Bearer {signed_in.token}"}


async def make_source(http: httpx.AsyncClient, key: dict[str, str], **given: Any) -> dict[str, Any]:
    body = {"name": f"GitHub {uuid4().hex[:8]}", "scheme": "github", "secret": GITHUB_SECRET, **given}
    answer = await http.post("/api/v1/sources", json=body, headers=key)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def github_headers(body: bytes, *, secret: str = GITHUB_SECRET, delivery: str | None = None) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "sponsorship",
        "X-GitHub-Delivery": delivery or str(uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }


async def deliver(
    http: httpx.AsyncClient, source: dict[str, Any], payload: Any, *, delivery: str | None = None
) -> httpx.Response:
    """Send `payload` as GitHub would."""
    body = json.dumps(payload).encode()
    return await http.post(source["url"], content=body, headers=github_headers(body, delivery=delivery))


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem+json of a refusal, checked for what every refusal has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].split(";")[0] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert said["status"] == status
    assert said["code"] == code, said
    assert said["title"]
    assert said["detail"]
    assert said["correlation_id"] == answer.headers["x-correlation-id"]
    assert "Traceback" not in answer.text
    return said


def paths(said: dict[str, Any]) -> list[str]:
    """The JSON pointers that a refusal of input names."""
    return [error["path"] for error in said["errors"]]


class Wire:
    """The line between the portal and its database, which can be cut and mended."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        assert self._server
        self._server.close()
        for pipe in self._pipes:
            pipe.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        database = urlsplit(get_settings().database_url)
        back_reader, back_writer = await asyncio.open_connection(database.hostname, database.port)
        self._pipes |= {writer, back_writer}
        await asyncio.gather(self._pump(reader, back_writer), self._pump(back_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def wired_database() -> AsyncIterator[Wire]:
    """The application's connections, for the length of the block, over a wire that can be cut."""
    wire, engine = Wire(), get_engine()
    await wire.mend()
    database = urlsplit(get_settings().database_url)
    login = database.netloc.rpartition("@")[0]
    address = urlunsplit(database._replace(netloc=f"{login}@127.0.0.1:{wire.port}"))
    own, own_config = engine.pool, engine.config
    engine.pool = await asyncpg.create_pool(address, min_size=1, max_size=2, timeout=2)
    engine.config = {"dsn": address}
    try:
        yield wire
    finally:
        engine.pool.terminate()
        engine.pool, engine.config = own, own_config
        wire.cut()
