"""Idempotency-Key: the same POST with the same key is carried out once and answered alike, however often it is sent.

The key is claimed after the guard, so that nobody is given an answer they may not have any more. An answer may hold a
secret that is shown only once, so it is kept encrypted.
"""

import hashlib
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from portal.accounts import idempotency
from portal.accounts.schemas import Actor
from portal.api.requests import single_header
from portal.db.engine import UNREACHABLE
from portal.logging import get_logger
from portal.sealing import seal, unseal
from portal.settings import secret_key

log = get_logger(__name__)
HEADER = "Idempotency-Key"
CLAIM = "idempotency_claim"
KEPT_HEADERS = ("location", "etag")
DECIDED = (404, 409)
"""Refusals that the state of things decided; any other means that nothing was begun, so the key stays free."""


class Claim(msgspec.Struct, frozen=True):
    """This request answers the key, on behalf of `caller`."""

    fresh: idempotency.Fresh
    caller: str


class Answer(msgspec.Struct, frozen=True):
    """What is kept of an answer."""

    headers: dict[str, str]
    body: bytes


async def find_answer(request: Request[Any, Any, Any]) -> Response[bytes] | None:
    """Before a handler runs: the kept answer, or None after claiming the key for this request.

    Raises `InputInvalid`, `IdempotencyKeyInUse` and `IdempotencyKeyReused`.
    """
    key = single_header(request, HEADER) if request.method == "POST" else None
    if key is None:
        return None
    actor: Actor = request.state.actor
    caller = str(actor.person_id or actor.id)
    asked = [str(actor.organization_id).encode(), request.scope["raw_path"], request.scope["query_string"]]
    fingerprint = hashlib.sha256(b"\0".join([*asked, await request.body()])).digest()
    found = await idempotency.begin(caller, key, fingerprint)
    if isinstance(found, idempotency.Fresh):
        request.state[CLAIM] = Claim(found, caller)
        return None
    answer = msgspec.msgpack.decode(unseal(secret_key(), found.body, purpose=_purpose(caller)), type=Answer)
    return Response(
        answer.body,
        status_code=found.status,
        media_type=found.content_type,
        headers={**answer.headers, "Idempotency-Replayed": "true"},
    )


class IdempotencyMiddleware(ASGIMiddleware):
    """Keeps the answer to a request that claimed its key, before anybody has it."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        messages: list[Message] = []

        async def hold(message: Message) -> None:
            if CLAIM in scope["state"]:
                messages.append(message)
            else:
                await send(message)

        await next_app(scope, receive, hold)
        if messages:
            await _keep(scope["state"][CLAIM], messages)
        for message in messages:
            await send(message)


async def _keep(claim: Claim, messages: list[Message]) -> None:
    status, headers, body = 500, Headers(), b""
    for message in messages:
        if message["type"] == "http.response.start":
            status, headers = message["status"], Headers(message["headers"])
        elif message["type"] == "http.response.body":
            body += message["body"]
    try:
        if status >= 300 and status not in DECIDED:
            await idempotency.release(claim.fresh)
            return
        answer = Answer({name: headers[name] for name in KEPT_HEADERS if name in headers}, body)
        sealed = seal(secret_key(), msgspec.msgpack.encode(answer), purpose=_purpose(claim.caller))
        content_type = headers.get("content-type", "")
        await idempotency.finish(claim.fresh, status=status, content_type=content_type, body=sealed)
    except UNREACHABLE as error:
        # The answer is true all the same; the key is free again two minutes later.
        log.warning("idempotency.not_kept", error=type(error).__name__)


def _purpose(caller: str) -> str:
    return f"idempotency:{caller}"
