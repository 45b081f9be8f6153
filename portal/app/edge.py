"""What every request and every answer gets: a correlation id, security headers, a limit on headers."""

from functools import cache
from itertools import chain

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from portal.errors import PortalError
from portal.logging import bind_correlation_id
from portal.settings import get_settings

MAX_HEADER_BYTES = 32 * 1024
CORRELATION_HEADER = b"x-correlation-id"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "object-src 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
NO_STORE = (b"cache-control", b"no-store")
STRICT_TRANSPORT = "max-age=31536000; includeSubDomains"
OURS = {CORRELATION_HEADER, b"strict-transport-security", *(name.encode() for name in SECURITY_HEADERS)}


class HeadersTooLarge(PortalError):
    status = 431
    title = "The headers are too large"


def correlate(scope: Scope) -> str:
    """The request's correlation id: what the caller sent if it is a plain token, else a new one; bound to the logs."""
    state = scope.setdefault("state", {})
    if "correlation_id" not in state:
        sent = dict(scope["headers"]).get(CORRELATION_HEADER, b"")
        state["correlation_id"] = bind_correlation_id(sent.decode("latin-1"))
    return str(state["correlation_id"])


class EdgeMiddleware(ASGIMiddleware):
    """Binds the correlation id before anything else runs and refuses oversized headers."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        correlate(scope)
        check_headers(scope)
        await next_app(scope, receive, send)


def check_headers(scope: Scope) -> None:
    """Raises `HeadersTooLarge`."""
    if sum(map(len, chain.from_iterable(scope["headers"]))) > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"All headers together may have {MAX_HEADER_BYTES} bytes; send fewer or shorter ones.")


async def answer_head(app: ASGIApp, scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Answer HEAD as GET without the content (RFC 9110, section 9.3.2), which Litestar leaves to each route."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            # At once, so that a stream without an end, too, sees its reader gone.
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    asked: HTTPScope = {**scope, "method": "GET"}
    await app(asked, receive, send_head)


async def add_headers(message: Message, scope: Scope) -> None:
    """Add the correlation id and the security headers to every answer, those before routing included."""
    if message["type"] != "http.response.start":
        return
    headers = [pair for pair in message["headers"] if pair[0] not in OURS]
    if not scope["path"].startswith("/static/") and all(name != NO_STORE[0] for name, _ in headers):
        headers.append(NO_STORE)
    message["headers"] = headers + our_headers(correlate(scope))


def our_headers(correlation_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of ours that every answer has."""
    https = get_settings().public_url.startswith("https://")
    return [*_security_headers(https), (CORRELATION_HEADER, correlation_id.encode())]


@cache
def _security_headers(https: bool) -> list[tuple[bytes, bytes]]:
    headers = {**SECURITY_HEADERS, "strict-transport-security": STRICT_TRANSPORT} if https else SECURITY_HEADERS
    return [(name.encode(), value.encode()) for name, value in headers.items()]
