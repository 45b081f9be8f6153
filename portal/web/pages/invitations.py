"""One-time links: the first owner's set-up, a member's and an end user's invitation."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath

from portal.accounts import service, sessions
from portal.accounts.permissions import Permission
from portal.accounts.schemas import InvitationView
from portal.errors import InputInvalid, NotFound, PortalError
from portal.web.cookies import keep_session
from portal.web.forms import read_values
from portal.web.render import AnyRequest, page, see_other
from portal.web.roles import MEANINGS

PUBLIC = {"permission": Permission.PUBLIC}
FIELDS = ("organization_name", "name", "email")


@get("/setup", opt=PUBLIC)
async def show_setup_closed(request: AnyRequest) -> Response[str]:
    """Without a token: how to get one."""
    return page(request, "sign_in/setup_closed.html")


@get(["/setup/{token:str}", "/invitations/{token:str}"], opt=PUBLIC)
async def show_invitation(request: AnyRequest, token: FromPath[str]) -> Response[str]:
    return _invitation_page(request, await _get_invitation(token), {})


@post(["/setup/{token:str}", "/invitations/{token:str}"], opt=PUBLIC)
async def accept_invitation(request: AnyRequest, token: FromPath[str]) -> Response[Any]:
    """Come in, signed in at once; a member sets up the second factor next, without which nobody approves."""
    invitation = await _get_invitation(token)
    values = await read_values(request)
    ip = request.client.host if request.client else ""
    try:
        person = await service.accept_invitation(
            token,
            organization_name=values.get("organization_name"),
            name=values.get("name", ""),
            email=values.get("email"),
            password=values.get("password", ""),
            ip=ip,
        )
    except PortalError as error:
        return _invitation_page(request, invitation, values, error)
    signed_in = await sessions.sign_in(
        person.email, values["password"], ip=ip, user_agent=request.headers.get("user-agent", "")
    )
    if not signed_in.session.complete:
        return keep_session(see_other("/login/code"), signed_in)
    target = "/my" if invitation.kind == "end_user" else "/account/second-factor?welcome=true"
    return keep_session(see_other(target, done="joined"), signed_in)


async def _get_invitation(token: str) -> InvitationView:
    invitation = await service.find_invitation(token)
    if invitation is None:
        raise NotFound("This link was used already, was replaced by a newer one, or has expired. Ask for a new one.")
    return invitation


def _invitation_page(
    request: AnyRequest, invitation: InvitationView, values: dict[str, str], error: PortalError | None = None
) -> Response[str]:
    context = {
        "invitation": invitation,
        "role_meaning": MEANINGS[invitation.role] if invitation.role else "",
        "values": {name: values.get(name, "") for name in FIELDS},
        "error": error,
    }
    status = 200 if error is None else 422 if isinstance(error, InputInvalid) else error.status
    return page(request, "sign_in/invitation.html", context, status=status)


handlers = [show_setup_closed, show_invitation, accept_invitation]
