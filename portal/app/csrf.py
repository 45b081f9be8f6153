"""Forms are only taken from our own pages: by `Sec-Fetch-Site` or `Origin`, and by a token bound to the session."""

import asyncio
import hmac
from typing import Any
from urllib.parse import urlsplit

from litestar import Request

from portal.accounts.sessions import csrf_token
from portal.errors import Forbidden, PortalError
from portal.settings import get_settings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FIELD = "csrf_token"
FORM = "application/x-www-form-urlencoded"
FORM_SECONDS = 15.0
HEADER = "x-csrf-token"


class FormKindUnsupported(PortalError):
    status = 415
    title = "This kind of form is not understood"


class FormTooSlow(PortalError):
    status = 408
    title = "The form took too long to arrive"


class FormNotOurs(Forbidden):
    """A form was posted from another site, or from a page of an earlier session."""


async def check_form(request: Request[Any, Any, Any], session_token: str | None) -> None:
    """Raise `FormNotOurs` for an unsafe request that a page of ours, in this session, did not send.

    No page of ours uploads anything, so a body of another kind is `FormKindUnsupported` before anybody parses it; one
    that trickles in is `FormTooSlow`.

    Follows the OWASP CSRF prevention cheat sheet: fetch metadata, `Origin` where a browser sends none, and a token
    bound to the session where there is one.
    """
    if request.method in SAFE_METHODS:
        return
    if not _is_same_origin(request):
        raise FormNotOurs("This form was sent from another site. Open the portal itself and try again.")
    if request.content_type[0].lower() not in ("", FORM):
        raise FormKindUnsupported(f"Send the form as {FORM}.")
    try:
        async with asyncio.timeout(FORM_SECONDS):
            await request.body()
    except TimeoutError:
        raise FormTooSlow(f"The form did not arrive within {FORM_SECONDS:g} seconds. Nothing was changed.") from None
    if session_token is None:
        return
    sent = request.headers.get(HEADER) or str((await request.form()).get(FIELD, ""))
    if not hmac.compare_digest(sent.encode(), csrf_token(session_token).encode()):
        raise FormNotOurs("This page belongs to an earlier session. Reload it and try again; nothing was changed.")


def _is_same_origin(request: Request[Any, Any, Any]) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        # Not a browser of the last years: no cookie of a victim travels with it unasked.
        return True
    try:
        sender = urlsplit(origin).netloc
    except ValueError:
        return False
    return sender in (request.headers.get("host"), urlsplit(get_settings().public_url).netloc)
