"""Idempotency-Key: the same POST with the same key is carried out once and answered alike, however often it is sent.

An answer may hold a secret that is shown only once, so it is kept encrypted.
"""

import hashlib
from typing import Any

import msgspec
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from portal.accounts import idempotency
from portal.api.requests import ApiRequest, single_header
from portal.db.engine import UNREACHABLE
from portal.logging import get_logger
from portal.sealing import seal, unseal
from portal.settings import get_settings

log = get_logger(__name__)
HEADER = "Idempotency-Key"
KEPT_HEADERS = ("location", "etag")
DECIDED = (404, 409)
"""Refusals that the state of things decided; any other means that nothing was begun, so the key stays free."""


class Answer(msgspec.Struct, frozen=True):
    """What is kept of an answer."""

    headers: list[tuple[str, str]]
    body: bytes


class IdempotencyMiddleware(ASGIMiddleware):
    """Repeats the kept answer to a POST, or keeps the one that the handler gives."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        request = ApiRequest(scope, receive, send)
        key = single_header(request, HEADER) if request.method == "POST" else None
        caller = _caller_id(request.scope.get("user"))
        if key is None or caller is None:
            await next_app(scope, receive, send)
            return
        found = await idempotency.begin(caller, key, await _fingerprint(request))
        if isinstance(found, idempotency.Replay):
            await _repeat(found, caller, send)
            return
        messages: list[Message] = []

        async def hold(message: Message) -> None:
            messages.append(message)

        await next_app(scope, receive, hold)
        # Kept before it is sent, so that whoever has the answer finds it again under the key.
        await _keep(found, caller, messages)
        for message in messages:
            await send(message)


async def _fingerprint(request: ApiRequest) -> bytes:
    """What makes it the same request; the body that is read here stays with the request for the handler."""
    asked = (
        request.scope["raw_path"],
        request.scope["query_string"],
        request.headers.get("x-organization", "").encode(),
    )
    return hashlib.sha256(b"\0".join([*asked, await request.body()])).digest()


async def _keep(claim: idempotency.Fresh, caller: str, messages: list[Message]) -> None:
    status, headers, body = 500, Headers(), b""
    for message in messages:
        if message["type"] == "http.response.start":
            status, headers = message["status"], Headers(message["headers"])
        elif message["type"] == "http.response.body":
            body += message["body"]
    try:
        if status >= 300 and status not in DECIDED:
            await idempotency.release(claim)
            return
        answer = Answer([(name, headers[name]) for name in KEPT_HEADERS if name in headers], body)
        sealed = seal(_key(), msgspec.msgpack.encode(answer), purpose=f"idempotency:{caller}")
        await idempotency.finish(claim, status=status, content_type=headers.get("content-type", ""), body=sealed)
    except UNREACHABLE as error:
        # The answer is true all the same; the key is free again two minutes later.
        log.warning("idempotency.not_kept", error=type(error).__name__)


async def _repeat(replay: idempotency.Replay, caller: str, send: Send) -> None:
    opened = unseal(_key(), replay.body, purpose=f"idempotency:{caller}")
    answer = msgspec.msgpack.decode(opened, type=Answer)
    headers = [("content-type", replay.content_type), ("idempotency-replayed", "true"), *answer.headers]
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers if value]
    raw.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": replay.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


def _caller_id(user: Any) -> str | None:
    """The id of the key or person that sends the request; None for a stranger, whom the guard refuses."""
    if user is None:
        return None
    if user.api_key is not None:
        return str(user.api_key.id)
    return str(user.session.person_id) if user.session is not None else None


def _key() -> str:
    key = get_settings().secret_key
    assert key is not None, "the web process requires the secret key"
    return key
