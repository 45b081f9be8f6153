"""Members, end users and API keys."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, put
from litestar.params import FromPath, JSONBody, QueryParameter

from portal.accounts import api_keys, queries, service
from portal.accounts.permissions import Permission, Role
from portal.accounts.schemas import ApiKeyView, EndUserView, InvitationView, MemberView
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.settings import get_settings

READ_MEMBERS = {"permission": Permission.MEMBERS_READ}
WRITE_MEMBERS = {"permission": Permission.MEMBERS_WRITE}
READ_END_USERS = {"permission": Permission.END_USERS_READ}
READ_KEYS = {"permission": Permission.API_KEYS_READ}
WRITE_KEYS = {"permission": Permission.API_KEYS_WRITE}


class MemberInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    email: str
    role: Role


class RoleInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role


class ApiKeyInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    scopes: list[str]
    """Permissions such as `signals:read`. No key can approve."""
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class NewInvitation(InvitationView, frozen=True, kw_only=True):
    url: str
    """The one-time link to send to the person. It is shown only this once."""


class NewApiKey(ApiKeyView, frozen=True, kw_only=True):
    token: str
    """For `Authorization: Bearer`. It is shown only this once."""


MemberInputBody = Annotated[MemberInput, example({"email": "eve@example.org", "role": "approver"})]
TextFilter = Annotated[
    str | None, QueryParameter(max_length=200, description="Occurs in subject, name, e-mail or address.")
]
ApiKeyInputBody = Annotated[ApiKeyInput, example({"name": "ERP", "scopes": ["signals:read", "actions:read"]})]


@get("/members", summary="List members", opt=READ_MEMBERS, tags=["Members"], responses=problems())
async def list_members(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[MemberView]:
    return await queries.list_members(actor.organization_id, cursor=cursor, limit=limit)


@post(
    "/members",
    summary="Invite a member",
    description="The answer holds a one-time link by which the person sets a password and a second factor.",
    opt=WRITE_MEMBERS,
    tags=["Members"],
    responses=problems(409, 422),
)
async def invite_member(actor: Acting, data: MemberInputBody) -> NewInvitation:
    return _with_url(*await service.invite_member(actor, data.email, data.role))


@get(
    "/members/{member_id:uuid}",
    summary="Get a member",
    opt=READ_MEMBERS,
    tags=["Members"],
    response_headers=ETAG,
    responses=problems(404),
)
async def get_member(actor: Acting, member_id: FromPath[UUID]) -> Response[MemberView]:
    view = await queries.get_member(actor.organization_id, member_id)
    return with_etag(view, view)


@put(
    "/members/{member_id:uuid}/role",
    summary="Change a member's role",
    description="Needs If-Match with the ETag of the member.",
    opt=WRITE_MEMBERS,
    tags=["Members"],
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def change_role(
    actor: Acting, member_id: FromPath[UUID], data: JSONBody[RoleInput], *, if_match: IfMatch = None
) -> Response[MemberView]:
    seen = await queries.get_member(actor.organization_id, member_id)
    require_match(if_match, seen)
    view = await service.change_role(actor, member_id, data.role, expected=seen)
    return with_etag(view, view)


@delete(
    "/members/{member_id:uuid}",
    summary="Disable a member",
    description="Takes away their access at once. Needs If-Match with the ETag of the member.",
    opt=WRITE_MEMBERS,
    tags=["Members"],
    responses=problems(404, 409, 412, 428),
)
async def disable_member(actor: Acting, member_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    require_match(if_match, await queries.get_member(actor.organization_id, member_id))
    await service.disable_member(actor, member_id)


@get("/end-users", summary="List end users", opt=READ_END_USERS, tags=["End users"], responses=problems())
async def list_end_users(
    actor: Acting,
    *,
    text: TextFilter = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[EndUserView]:
    return await queries.list_end_users(actor.organization_id, text=text, cursor=cursor, limit=limit)


@get(
    "/end-users/{end_user_id:uuid}",
    summary="Get an end user",
    opt=READ_END_USERS,
    tags=["End users"],
    responses=problems(404),
)
async def get_end_user(actor: Acting, end_user_id: FromPath[UUID]) -> EndUserView:
    return await queries.get_end_user(actor.organization_id, end_user_id)


@post(
    "/end-users/{end_user_id:uuid}/invitations",
    summary="Invite an end user",
    description="The answer holds a one-time link by which the person sets a password to see what they own.",
    opt={"permission": Permission.END_USERS_WRITE},
    tags=["End users"],
    responses=problems(404, 409, 422),
)
async def invite_end_user(actor: Acting, end_user_id: FromPath[UUID]) -> NewInvitation:
    return _with_url(*await service.invite_end_user(actor, end_user_id))


@get("/api-keys", summary="List API keys", opt=READ_KEYS, tags=["API keys"], responses=problems())
async def list_api_keys(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[ApiKeyView]:
    return await queries.list_api_keys(actor.organization_id, cursor=cursor, limit=limit)


@get(
    "/api-keys/{api_key_id:uuid}",
    summary="Get an API key",
    description="Without its secret, which is not stored.",
    opt=READ_KEYS,
    tags=["API keys"],
    response_headers=ETAG,
    responses=problems(404),
)
async def get_api_key(actor: Acting, api_key_id: FromPath[UUID]) -> Response[ApiKeyView]:
    view = await queries.get_api_key(actor.organization_id, api_key_id)
    return with_etag(view, view.revoked_at)


@post(
    "/api-keys",
    summary="Create an API key",
    description="For a program, with some of one's own permissions. The token is shown only this once.",
    opt=WRITE_KEYS,
    tags=["API keys"],
    responses=problems(422),
)
async def create_api_key(actor: Acting, data: ApiKeyInputBody) -> Response[NewApiKey]:
    view, token = await api_keys.create_api_key(actor, data.name, data.scopes, data.expires_at)
    made = NewApiKey(**msgspec.structs.asdict(view), token=token)
    return created(made, f"api-keys/{view.id}", version=view.revoked_at)


@delete(
    "/api-keys/{api_key_id:uuid}",
    summary="Revoke an API key",
    description="Its next request is refused. Needs If-Match with the ETag of the key.",
    opt=WRITE_KEYS,
    tags=["API keys"],
    responses=problems(404, 409, 412, 428),
)
async def revoke_api_key(actor: Acting, api_key_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    require_match(if_match, (await queries.get_api_key(actor.organization_id, api_key_id)).revoked_at)
    await api_keys.revoke_api_key(actor, api_key_id)


def _with_url(view: InvitationView, token: str) -> NewInvitation:
    return NewInvitation(**msgspec.structs.asdict(view), url=f"{get_settings().public_url}/invitations/{token}")


accounts_router = Router(
    "/",
    route_handlers=[
        list_members,
        invite_member,
        get_member,
        change_role,
        disable_member,
        list_end_users,
        get_end_user,
        invite_end_user,
        list_api_keys,
        get_api_key,
        create_api_key,
        revoke_api_key,
    ],
)
