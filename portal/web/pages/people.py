"""The members of an organisation: who they are, their roles, and invitations."""

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts import queries as accounts
from portal.accounts import service
from portal.accounts.invitations import list_invitations
from portal.accounts.permissions import Permission, Role
from portal.accounts.schemas import InvitationView
from portal.errors import InputInvalid, PortalError
from portal.settings import get_settings
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, see_other
from portal.web.roles import MEANINGS

READ = {"permission": Permission.MEMBERS_READ}
WRITE = {"permission": Permission.MEMBERS_WRITE}


@get("/people", opt=READ)
async def show_people(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    return await _people_page(request, desk, cursor=cursor)


@post("/people/invite", opt=WRITE)
async def invite_member(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    """The link is shown on this answer only; nothing keeps its token."""
    values = await read_values(request)
    try:
        invitation, token = await service.invite_member(desk.actor, values.get("email", ""), _role(values))
    except PortalError as error:
        return await _people_page(request, desk, values=values, error=error)
    return await _people_page(request, desk, link=_link(invitation, token))


@post("/people/{member_id:uuid}/role", opt=WRITE)
async def change_role(request: AnyRequest, desk: AtDesk, member_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    try:
        await service.change_role(desk.actor, member_id, _role(values))
    except PortalError as error:
        return await _people_page(request, desk, error=error)
    return see_other(desk.url("people"), done="role_changed")


@post("/people/{member_id:uuid}/disable", opt=WRITE)
async def disable_member(request: AnyRequest, desk: AtDesk, member_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.disable_member(desk.actor, member_id)
    except PortalError as error:
        return await _people_page(request, desk, error=error)
    return see_other(desk.url("people"), done="member_disabled")


@post("/people/{member_id:uuid}/second-factor/reset", opt=WRITE)
async def reset_second_factor(request: AnyRequest, desk: AtDesk, member_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.reset_second_factor(desk.actor, member_id)
    except PortalError as error:
        return await _people_page(request, desk, error=error)
    return see_other(desk.url("people"), done="second_factor_reset")


@post("/people/invitations/{invitation_id:uuid}/withdraw", opt=WRITE)
async def withdraw_invitation(request: AnyRequest, desk: AtDesk, invitation_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.withdraw_invitation(desk.actor, invitation_id)
    except PortalError as error:
        return await _people_page(request, desk, error=error)
    return see_other(desk.url("people"), done="invitation_withdrawn")


def _role(values: dict[str, str]) -> Role:
    try:
        return Role(values.get("role", ""))
    except ValueError:
        raise InputInvalid.at("/role", "Choose one of the roles.") from None


def _link(invitation: InvitationView, token: str) -> dict[str, Any]:
    url = f"{get_settings().public_url}/invitations/{token}"
    return {"email": invitation.email, "url": url, "expires_at": invitation.expires_at}


async def _people_page(
    request: AnyRequest,
    desk: Desk,
    *,
    cursor: str | None = None,
    values: dict[str, str] | None = None,
    link: dict[str, Any] | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    found = await accounts.list_members(desk.actor.organization_id, cursor=cursor)
    given = values or {}
    return desk_page(
        request,
        desk,
        "people/list.html",
        active="people",
        http_status=error.status if error else 200,
        members=found.items,
        next_cursor=found.next_cursor,
        cursor=cursor,
        may_write=desk.may("members:write"),
        invitations=[each for each in await list_invitations(desk.actor.organization_id) if each.email and each.role],
        roles=[{"name": role.value, "meaning": meaning.capitalize()} for role, meaning in MEANINGS.items()],
        values={"email": given.get("email", ""), "role": given.get("role", "")},
        link=link,
        error=error,
    )


handlers = [show_people, invite_member, change_role, disable_member, reset_second_factor, withdraw_invitation]
