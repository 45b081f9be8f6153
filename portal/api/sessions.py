"""Signing in as a person, and who one is."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, delete, get, post
from litestar.di import NamedDependency

from portal.accounts.permissions import Permission
from portal.accounts.queries import list_memberships
from portal.accounts.schemas import CurrentSession, Membership
from portal.accounts.sessions import find_session, sign_in, sign_out
from portal.api.operations import example, problems
from portal.errors import NotSignedIn


class SignInInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    email: str
    password: str
    code: str | None = None
    """Six digits of the authenticator; needed by whoever has one."""


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """A person who is signed in."""

    email: str
    name: str
    complete: bool
    """False while the second factor was not given: such a session may do nothing."""
    memberships: list[Membership]
    """Where they work. With several, name one by its slug in the header X-Organization."""


class NewSession(Me, frozen=True, kw_only=True):
    token: str
    """For `Authorization: Bearer`; ends after 30 minutes without use, and at `expires_at`."""
    expires_at: datetime


SignInInputBody = Annotated[
    SignInInput, example({"email": "bob@example.org", "password": "correct horse battery staple", "code": "123456"})
]


@post(
    "/sessions",
    summary="Sign in",
    description="Gives a person's session token. Only such a token can approve; an API key never can.",
    opt={"permission": Permission.PUBLIC, "exclude_from_auth": True},
    security=[{}],
    responses=problems(429),
)
async def create_session(request: Request[Any, Any, Any], data: SignInInputBody) -> NewSession:
    signed_in = await sign_in(
        data.email,
        data.password,
        data.code,
        ip=request.client.host if request.client else "",
        user_agent=request.headers.get("user-agent", "")[:400],
    )
    session = await find_session(signed_in.token)
    if session is None:
        raise NotSignedIn("The account was disabled at this moment.")
    return NewSession(
        token=signed_in.token,
        expires_at=signed_in.session.expires_at,
        email=session.email,
        name=session.name,
        complete=session.complete,
        memberships=await list_memberships(session.person_id),
    )


@delete(
    "/sessions/current",
    summary="Sign out",
    description="Ends the session of the token that is sent.",
    opt={"permission": Permission.ACCOUNT},
    responses=problems(),
)
async def delete_session(session_token: NamedDependency[str]) -> None:
    await sign_out(session_token)


@get("/me", summary="Who am I", opt={"permission": Permission.ACCOUNT}, responses=problems())
async def get_me(session: NamedDependency[CurrentSession]) -> Me:
    return Me(
        email=session.email,
        name=session.name,
        complete=session.complete,
        memberships=await list_memberships(session.person_id),
    )


sessions_router = Router("/", route_handlers=[create_session, delete_session, get_me], tags=["Sessions"])
