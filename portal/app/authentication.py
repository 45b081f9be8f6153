"""Who sends this request, and whether the handler's permission covers them.

Every handler states `opt={"permission": Permission.X}`. The guard here is the only door: `PUBLIC` lets anyone in,
`ACCOUNT` any person who is completely signed in, anything else an `Actor` with that permission.
"""

from typing import Any

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.middleware.authentication import AbstractAuthenticationMiddleware, AuthenticationResult

from portal.accounts import api_keys, queries, sessions
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, CurrentSession
from portal.accounts.sessions import COOKIE
from portal.app.csrf import check_form
from portal.errors import Forbidden, InputInvalid, NotFound, NotSignedIn
from portal.web.render import BACKGROUND


class Caller(msgspec.Struct, frozen=True):
    """What a request proved about its sender; nothing of it for a stranger."""

    session: CurrentSession | None = None
    token: str | None = None
    """The session token, from the cookie or the bearer header."""
    api_key: Actor | None = None


class AuthenticationMiddleware(AbstractAuthenticationMiddleware):
    """Resolves the bearer header (API key or session token) or, outside the API, the session cookie."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.startswith("sp_"):
            key = await api_keys.find_api_key(token)
            if key is None:
                raise NotSignedIn("This API key is not valid: it was mistyped, revoked or has expired.")
            return AuthenticationResult(user=Caller(api_key=key), auth=None)
        if scheme.lower() == "bearer":
            session = await sessions.find_session(token)
            if session is None:
                raise NotSignedIn("This session has ended. Sign in again with POST /api/v1/sessions.")
            return AuthenticationResult(user=Caller(session=session, token=token), auth=None)
        cookie = connection.cookies.get(COOKIE)
        if cookie and not connection.scope["path"].startswith("/api/"):
            session = await sessions.find_session(cookie, used=BACKGROUND not in connection.headers)
            return AuthenticationResult(user=Caller(session=session, token=cookie if session else None), auth=None)
        return AuthenticationResult(user=Caller(), auth=None)


async def check_permission(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The application's guard. Raises `NotSignedIn`, `Forbidden` or, for a foreign organisation, `NotFound`."""
    assert isinstance(connection, Request), "there are no websockets"
    if connection.method == "OPTIONS":
        return
    permission: Permission = handler.opt["permission"]
    caller: Caller = connection.scope.get("user") or Caller()
    if not connection.scope["path"].startswith("/api/"):
        await check_form(connection, caller.token)
    if permission is Permission.PUBLIC:
        return
    if caller.api_key is None and (caller.session is None or not caller.session.complete):
        raise NotSignedIn("Sign in first.")
    if permission is Permission.ACCOUNT:
        if caller.session is None:
            raise Forbidden("This is for a person; an API key cannot do it.")
        return
    actor = await _find_actor(connection, caller)
    actor.require(permission)
    connection.state.actor = actor


async def _find_actor(connection: ASGIConnection[Any, Any, Any, Any], caller: Caller) -> Actor:
    if caller.api_key is not None:
        return caller.api_key
    assert caller.session is not None
    slug = connection.path_params.get("slug") or connection.headers.get("x-organization")
    if slug is None:
        return await queries.get_sole_actor(caller.session.person_id)
    return await queries.get_actor(caller.session.person_id, slug)


def provide_actor(request: Request[Any, Any, Any]) -> Actor:
    """The member or API key that acts, as the guard found it."""
    actor: Actor = request.state.actor
    return actor


async def provide_visitor(request: Request[Any, Any, Any]) -> Actor | None:
    """Who acts, on a page that is open to anyone: None for a stranger or where no organisation is named."""
    caller: Caller = request.user
    if caller.api_key is None and (caller.session is None or not caller.session.complete):
        return None
    try:
        return await _find_actor(request, caller)
    except (InputInvalid, NotFound):
        return None


def provide_session(request: Request[Any, Any, Any]) -> CurrentSession | None:
    """The session of the person who sent the request, complete or still waiting for its second factor."""
    session: CurrentSession | None = request.user.session
    return session


def provide_session_token(request: Request[Any, Any, Any]) -> str | None:
    token: str | None = request.user.token
    return token
