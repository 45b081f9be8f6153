"""The session cookie, as strict as browsers allow: this host only, over TLS (or on this machine), not for scripts."""

from typing import Any

from litestar import Response
from litestar.datastructures import Cookie

from portal.accounts.schemas import SignedIn
from portal.accounts.sessions import COOKIE


def keep_session(response: Response[Any], signed_in: SignedIn) -> Response[Any]:
    """Give the browser the token; it forgets it when it closes, the server at the session's end."""
    response.set_cookie(_cookie(signed_in.token))
    return response


def forget_session(response: Response[Any]) -> Response[Any]:
    response.set_cookie(_cookie("", max_age=0))
    return response


def _cookie(value: str, *, max_age: int | None = None) -> Cookie:
    return Cookie(key=COOKIE, value=value, path="/", secure=True, httponly=True, samesite="lax", max_age=max_age)
