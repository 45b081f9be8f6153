"""Coming in and going out: sign-in in two steps, the start page, sign-out, the theme."""

from typing import Any

from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.params import FromQuery
from litestar.response import Redirect

from portal.accounts import queries as accounts
from portal.accounts import sessions
from portal.accounts.permissions import Permission
from portal.accounts.proofs import SecondFactorInvalid, SignInFailed
from portal.errors import TooManyRequests
from portal.web.asking import Token, Visitor
from portal.web.cookies import forget_session, keep_session
from portal.web.forms import read_values
from portal.web.messages import DONE
from portal.web.render import THEMES, AnyRequest, local_path, page, query, see_other

PUBLIC = {"permission": Permission.PUBLIC}
YEAR_SECONDS = 31_536_000


@get("/", opt=PUBLIC, name="start")
async def show_start(request: AnyRequest, session: Visitor, done: FromQuery[str] = "") -> Response[Any]:
    """Where somebody belongs: their inbox, their own page, a choice, or the sign-in."""
    said = done if done in DONE else None
    if session is None:
        return see_other("/login")
    if not session.complete:
        return see_other("/login/code")
    memberships = await accounts.list_memberships(session.person_id)
    profiles = await accounts.list_end_user_profiles(session.person_id)
    if len(memberships) == 1 and not profiles:
        return see_other(f"/orgs/{memberships[0].slug}/inbox", done=said)
    if profiles and not memberships:
        return see_other("/my", done=said)
    context = {"session": session, "memberships": memberships, "profiles": profiles}
    return page(request, "sign_in/organizations.html", context)


@get("/login", opt=PUBLIC)
async def show_login(request: AnyRequest, session: Visitor, next: FromQuery[str] = "") -> Response[Any]:
    if session is not None:
        return see_other("/" if session.complete else f"/login/code{query(next=next)}")
    return page(request, "sign_in/login.html", {"next": next, "email": ""})


@post("/login", opt=PUBLIC)
async def sign_in(request: AnyRequest, session_token: Token) -> Response[Any]:
    values = await read_values(request)
    email, target = values.get("email", ""), values.get("next", "")
    try:
        signed_in = await sessions.sign_in(
            email,
            values.get("password", ""),
            ip=request.client.host if request.client else "",
            user_agent=request.headers.get("user-agent", ""),
        )
    except (SignInFailed, TooManyRequests) as error:
        context = {"next": target, "email": email, "error": error}
        return page(request, "sign_in/login.html", context, status=error.status)
    if session_token is not None:
        await sessions.sign_out(session_token)
    complete = signed_in.session.complete
    return keep_session(
        see_other(local_path(target, "/") if complete else f"/login/code{query(next=target)}"), signed_in
    )


@get("/login/code", opt=PUBLIC)
async def show_code(request: AnyRequest, session: Visitor, next: FromQuery[str] = "") -> Response[Any]:
    if session is None or session.complete:
        return see_other("/login" if session is None else "/")
    return page(request, "sign_in/code.html", {"next": next, "session": session})


@post("/login/code", opt=PUBLIC)
async def give_code(request: AnyRequest, session: Visitor, session_token: Token) -> Response[Any]:
    if session is None or session_token is None:
        return see_other("/login")
    values = await read_values(request)
    target = values.get("next", "")
    try:
        signed_in = await sessions.give_second_factor(session_token, values.get("code", ""))
    except (SecondFactorInvalid, TooManyRequests) as error:
        context = {"next": target, "session": session, "error": error}
        return page(request, "sign_in/code.html", context, status=error.status)
    return keep_session(see_other(local_path(target, "/")), signed_in)


@post("/logout", opt=PUBLIC)
async def sign_out(session_token: Token) -> Response[Any]:
    if session_token is not None:
        await sessions.sign_out(session_token)
    return forget_session(see_other("/login", done="signed_out"))


@post("/theme", opt=PUBLIC)
async def choose_theme(request: AnyRequest) -> Redirect:
    """Light, dark or as the system says: the switch for browsers without JavaScript."""
    values = await read_values(request)
    theme = values.get("theme", "")
    response = see_other(local_path(values.get("next"), "/"))
    chosen = theme in THEMES
    response.set_cookie(
        Cookie(
            key="theme",
            value=theme if chosen else "",
            path="/",
            secure=True,
            samesite="lax",
            max_age=YEAR_SECONDS if chosen else 0,
        )
    )
    return response


handlers = [show_start, show_login, sign_in, show_code, give_code, sign_out, choose_theme]
