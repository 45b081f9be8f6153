"""Policies: how many people must agree before an action runs, and what it may cost."""

from typing import Annotated
from uuid import UUID

from litestar import Response, Router, get, put
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.actions import queries, service
from portal.actions.schemas import PolicyInput, PolicyView
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page

READ = {"permission": Permission.POLICIES_READ}
WRITE = {"permission": Permission.POLICIES_WRITE}

PolicyInputBody = Annotated[
    PolicyInput,
    example(
        {
            "name": "Two people",
            "approvals_required": 2,
            "expires_after_seconds": 604800,
            "execute_within_seconds": 86400,
            "most_cost_wei": "10000000000000000",
            "most_cost_a_day_wei": "1000000000000000000",
        }
    ),
]


@get("/policies", summary="List policies", opt=READ, responses=problems())
async def list_policies(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[PolicyView]:
    return await queries.list_policies(actor.organization_id, cursor=cursor, limit=limit)


@post(
    "/policies",
    summary="Create a policy",
    description="One that asks nobody (`approvals_required` is 0) is made by a person with a session token only.",
    opt=WRITE,
    responses=problems(409, 422),
)
async def create_policy(actor: Acting, data: PolicyInputBody) -> Response[PolicyView]:
    view = await service.create_policy(actor, data)
    return created(view, f"policies/{view.id}", version=view.version_id)


@get("/policies/{policy_id:uuid}", summary="Get a policy", opt=READ, response_headers=ETAG, responses=problems(404))
async def get_policy(actor: Acting, policy_id: FromPath[UUID]) -> Response[PolicyView]:
    view = await queries.get_policy(actor.organization_id, policy_id)
    return with_etag(view, view.version_id)


@put(
    "/policies/{policy_id:uuid}",
    summary="Change a policy",
    description=(
        "Makes a new version; actions that are already proposed keep theirs, but for what becomes stricter. Only a "
        "person with a session token can give it one that asks nobody. Needs If-Match."
    ),
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def change_policy(
    actor: Acting, policy_id: FromPath[UUID], data: PolicyInputBody, *, if_match: IfMatch = None
) -> Response[PolicyView]:
    seen = await queries.get_policy(actor.organization_id, policy_id)
    require_match(if_match, seen.version_id)
    view = await service.change_policy(actor, policy_id, data, expected=seen.version_id)
    return with_etag(view, view.version_id)


policies_router = Router(
    "/", route_handlers=[list_policies, create_policy, get_policy, change_policy], tags=["Policies"]
)
