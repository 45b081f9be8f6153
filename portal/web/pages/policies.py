"""Policies: how many people must approve, and until when; a change is a new version."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts import queries as accounts
from portal.accounts.permissions import GRANTS, Permission
from portal.actions import queries as actions
from portal.actions import service
from portal.actions.schemas import PolicyInput
from portal.errors import PortalError
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values, to_input
from portal.web.render import AnyRequest, see_other

READ = {"permission": Permission.POLICIES_READ}
WRITE = {"permission": Permission.POLICIES_WRITE}
DEADLINES = {
    3600: "An hour",
    86400: "A day",
    259200: "3 days",
    604800: "A week",
    2592000: "30 days",
    31536000: "A year",
}


@get("/policies", opt=READ)
async def show_policies(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await actions.list_policies(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "policies/list.html",
        active="policies",
        policies=found.items,
        deadlines=DEADLINES,
        may_write=desk.may("policies:write"),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/policies/new", opt=WRITE)
async def show_new_policy(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return await _form_page(request, desk, {})


@post("/policies/new", opt=WRITE)
async def create_policy(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    try:
        policy = await service.create_policy(desk.actor, to_input(values, PolicyInput))
    except PortalError as error:
        return await _form_page(request, desk, values, error=error)
    return see_other(desk.url(f"policies/{policy.id}"), done="policy_created")


@get("/policies/{policy_id:uuid}", opt=READ)
async def show_policy(request: AnyRequest, desk: AtDesk, policy_id: FromPath[UUID]) -> Response[str]:
    return await _form_page(request, desk, {}, policy_id)


@post("/policies/{policy_id:uuid}", opt=WRITE)
async def change_policy(request: AnyRequest, desk: AtDesk, policy_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    try:
        await service.change_policy(desk.actor, policy_id, to_input(values, PolicyInput))
    except PortalError as error:
        return await _form_page(request, desk, values, policy_id, error)
    return see_other(desk.url(f"policies/{policy_id}"), done="policy_changed")


async def _form_page(
    request: AnyRequest,
    desk: Desk,
    values: dict[str, str],
    policy_id: UUID | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    policy = await actions.get_policy(organization, policy_id) if policy_id else None
    known: dict[str, Any] = {"name": "", "approvals_required": 2, "expires_after_seconds": 604800}
    if policy is not None:
        known = msgspec.structs.asdict(policy)
    deadline = known["expires_after_seconds"]
    deadlines = DEADLINES if deadline in DEADLINES else DEADLINES | {deadline: f"{deadline:,} seconds"}
    return desk_page(
        request,
        desk,
        "policies/form.html",
        active="policies",
        http_status=error.status if error else 200,
        policy=policy,
        values=known | values,
        deadlines=sorted(deadlines.items()),
        approvers=await _count_approvers(organization),
        may_write=desk.may("policies:write"),
        error=error,
    )


async def _count_approvers(organization_id: UUID) -> int:
    """Members of the newest 200 who may approve now: a policy that asks for more can never be met."""
    members = (await accounts.list_members(organization_id, limit=200)).items
    return sum(1 for each in members if not each.disabled_at and Permission.ACTIONS_APPROVE in GRANTS[each.role])


handlers = [show_policies, show_new_policy, create_policy, show_policy, change_policy]
