"""A person's own account: second factor, sessions, password."""

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts import password_change, service, sessions
from portal.accounts.permissions import Permission
from portal.accounts.schemas import CurrentSession
from portal.errors import NotSignedIn, PortalError
from portal.web.asking import Person, Token
from portal.web.cookies import keep_session
from portal.web.forms import read_values
from portal.web.render import AnyRequest, local_path, page, see_other

OWN = {"permission": Permission.ACCOUNT}


@get("/account", opt=OWN)
async def show_account(request: AnyRequest, session: Person) -> Response[str]:
    return await _account_page(request, session)


@get("/account/second-factor", opt=OWN)
async def show_second_factor(request: AnyRequest, session: Person, welcome: FromQuery[bool] = False) -> Response[str]:
    enrolment = await service.start_enrolment(session.person_id)
    next = "/" if welcome else "/account"
    context = {"enrolment": enrolment, "next": next, "welcome": welcome, "session": session}
    return page(request, "account/second_factor.html", context)


@post("/account/second-factor", opt=OWN)
async def confirm_second_factor(request: AnyRequest, session: Person, session_token: Token) -> Response[Any]:
    """A wrong code shows the same QR code again, so that nothing has to be scanned twice."""
    values = await read_values(request)
    sealed, next = values.get("sealed", ""), local_path(values.get("next"), "/account")
    try:
        signed_in = await service.confirm_enrolment(
            session.person_id,
            sealed,
            values.get("code", ""),
            session_token=session_token or "",
            current_code=values.get("current_code"),
        )
    except NotSignedIn:
        raise
    except PortalError as error:
        enrolment = await service.start_enrolment(session.person_id, sealed)
        context = {"enrolment": enrolment, "next": next, "welcome": next == "/", "session": session, "error": error}
        return page(request, "account/second_factor.html", context, status=error.status)
    return keep_session(see_other(next, done="second_factor_set"), signed_in)


@post("/account/sessions/{session_id:uuid}/end", opt=OWN)
async def end_session(session: Person, session_id: FromPath[UUID]) -> Response[Any]:
    await sessions.revoke_session(session.person_id, session_id)
    return see_other("/account", done="session_revoked")


@post("/account/password", opt=OWN)
async def change_password(request: AnyRequest, session: Person) -> Response[Any]:
    values = await read_values(request)
    try:
        await password_change.change_password(session, values.get("current_password", ""), values.get("password", ""))
    except PortalError as error:
        return await _account_page(request, session, error)
    return see_other("/account", done="password_changed")


async def _account_page(
    request: AnyRequest, session: CurrentSession, error: PortalError | None = None
) -> Response[str]:
    context = {"session": session, "sessions": await sessions.list_sessions(session.person_id), "error": error}
    return page(request, "account/account.html", context, status=error.status if error else 200)


handlers = [show_account, show_second_factor, confirm_second_factor, end_session, change_password]
