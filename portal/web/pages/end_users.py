"""End users: whom the organisation acts for, what was done for them, and the link by which they come in."""

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts import queries as accounts
from portal.accounts import service
from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.errors import PortalError
from portal.settings import get_settings
from portal.transactions import queries as transactions
from portal.web import stories
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.render import AnyRequest

READ = {"permission": Permission.END_USERS_READ}
WRITE = {"permission": Permission.END_USERS_WRITE}


@get("/end-users", opt=READ)
async def show_end_users(
    request: AnyRequest, desk: AtDesk, text: FromQuery[str | None] = None, cursor: FromQuery[str | None] = None
) -> Response[str]:
    found = await accounts.list_end_users(desk.actor.organization_id, text=(text or "").strip(), cursor=cursor)
    return desk_page(
        request,
        desk,
        "end_users/list.html",
        active="end-users",
        end_users=found.items,
        text=(text or "").strip(),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/end-users/{end_user_id:uuid}", opt=READ)
async def show_end_user(
    request: AnyRequest, desk: AtDesk, end_user_id: FromPath[UUID], cursor: FromQuery[str | None] = None
) -> Response[str]:
    return await _end_user_page(request, desk, end_user_id, cursor=cursor)


@post("/end-users/{end_user_id:uuid}/invite", opt=WRITE)
async def invite_end_user(request: AnyRequest, desk: AtDesk, end_user_id: FromPath[UUID]) -> Response[str]:
    """The link is shown on this answer only; nothing keeps its token."""
    try:
        invitation, token = await service.invite_end_user(desk.actor, end_user_id)
    except PortalError as error:
        return await _end_user_page(request, desk, end_user_id, error=error)
    url = f"{get_settings().public_url}/invitations/{token}"
    return await _end_user_page(request, desk, end_user_id, link={"url": url, "expires_at": invitation.expires_at})


async def _end_user_page(
    request: AnyRequest,
    desk: Desk,
    end_user_id: UUID,
    *,
    cursor: str | None = None,
    link: dict[str, Any] | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    end_user = await accounts.get_end_user(organization, end_user_id)
    found = await actions.list_actions_of_end_user(organization, end_user_id, cursor=cursor)
    sent = await transactions.find_transactions_of_actions(organization, [action.id for action in found.items])
    return desk_page(
        request,
        desk,
        "end_users/detail.html",
        active="end-users",
        http_status=error.status if error else 200,
        end_user=end_user,
        home=desk.url(f"end-users/{end_user_id}"),
        rows=[{"action": each, "state": stories.current_state(each, sent.get(each.id))} for each in found.items],
        may_invite=desk.may("end-users:write") and end_user.person_id is None,
        next_cursor=found.next_cursor,
        cursor=cursor,
        link=link,
        error=error,
    )


handlers = [show_end_users, show_end_user, invite_end_user]
