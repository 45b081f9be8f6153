"""What every request and every answer gets: a correlation id, security headers, a limit on headers."""

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

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
ONE_YEAR_SECONDS = 31_536_000


class HeadersTooLarge(PortalError):
    status = 431
    title = "The headers are too large"


def correlate(scope: Scope) -> str:
    """The request's correlation id: what the caller sent if it is a plain token, else a new one; bound to the logs."""
    state = scope.setdefault("state", {})
    if "correlation_id" not in state:
        sent = next((value for name, value in scope["headers"] if name == CORRELATION_HEADER), b"")
        state["correlation_id"] = bind_correlation_id(sent.decode("latin-1"))
    return str(state["correlation_id"])


class EdgeMiddleware(ASGIMiddleware):
    """Binds the correlation id before anything else runs and refuses oversized headers."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        correlate(scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(
                f"All headers together may have {MAX_HEADER_BYTES} bytes; send fewer or shorter ones."
            )
        await next_app(scope, receive, send)


async def add_headers(message: Message, scope: Scope) -> None:
    """Add the correlation id and the security headers to every answer, those before routing included."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    headers["x-correlation-id"] = correlate(scope)
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    if not scope["path"].startswith("/static/"):
        headers.setdefault("cache-control", "no-store")
    if get_settings().public_url.startswith("https://"):
        headers["strict-transport-security"] = f"max-age={ONE_YEAR_SECONDS}; includeSubDomains"
