"""Turns every exception into an answer that says what is wrong: problem+json for programs, a page for people."""

from typing import Any

from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from prometheus_client import Counter

from portal.api.problem import from_exception, problem_response
from portal.app.edge import correlate
from portal.db.engine import database_unavailable, is_unreachable
from portal.errors import NotSignedIn, PortalError
from portal.logging import get_logger
from portal.web.render import render_error

log = get_logger(__name__)
ERRORS = Counter("portal_errors_total", "Requests answered with an error, by code", ["code"])
FOR_PROGRAMS = ("/api/", "/health", "/metrics")


class InternalError(PortalError):
    status = 500
    title = "Something went wrong on our side"


def answer_exception(request: Request[Any, Any, Any], exception: Exception) -> Response[Any]:
    """The answer to a request that ended in `exception`; nothing of an unexpected one leaves the server but its log."""
    path, correlation = request.scope["path"], correlate(request.scope)
    error, headers = account_for(exception, path)
    response = (
        problem_response(error, correlation, instance=path)
        if path.startswith(FOR_PROGRAMS)
        else render_error(request, error, correlation)
    )
    response.headers.update(headers)
    if isinstance(exception, MethodNotAllowedException) and exception.headers:
        allowed = set(exception.headers["allow"].split(", "))
        response.headers["allow"] = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
    if isinstance(error, NotSignedIn) and response.media_type != MediaType.HTML:
        response.headers["www-authenticate"] = "Bearer"
    return response


def account_for(exception: Exception, path: str) -> tuple[PortalError, dict[str, str]]:
    """The error to answer with and the headers that go with it; counted, and logged where nobody expected it."""
    error = as_portal_error(exception)
    ERRORS.labels(error.code).inc()
    if isinstance(error, InternalError):
        log.error("request.failed", path=path, exc_info=exception)
    headers = {"retry-after": str(error.retry_after_seconds)} if error.retry_after_seconds is not None else {}
    return error, headers


def as_portal_error(exception: Exception) -> PortalError:
    if isinstance(exception, PortalError):
        return exception
    if isinstance(exception, HTTPException) and exception.status_code < 500:
        return from_exception(exception)
    if is_unreachable(exception):
        log.warning("database.unreachable", error=type(exception).__name__)
        return database_unavailable()
    return InternalError("It was written down with the correlation id; nothing of this request was half-done.")
