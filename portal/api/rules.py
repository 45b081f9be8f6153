"""Rules: conditions on signals and the actions they propose, in versions."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, put
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit, choice, choices
from portal.api.operations import ETAG, EXAMPLE_ID, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.rules import queries, service
from portal.rules.schemas import RuleChange, RuleInput, RuleVersionView, RuleView
from portal.signals.queries import get_signal
from portal.signals.schemas import SignalView

READ = {"permission": Permission.RULES_READ}
WRITE = {"permission": Permission.RULES_WRITE}
StatusFilter = Annotated[str | None, QueryParameter(schema_extra={"enum": choices(RuleView, "status")})]


class PublicationInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None
    """The version to put in force; the newest if it is not given."""


RuleInputBody = Annotated[
    RuleInput,
    example(
        {
            "name": "Points for sponsors",
            "source_id": EXAMPLE_ID,
            "condition": "payload.action == 'created'",
            "subject": "{'id': 'github:' + payload.sponsorship.sponsor.login}",
            "contract_id": EXAMPLE_ID,
            "function": "mint(address,uint256)",
            "arguments": {"to": "subject.address", "amount": "units('50', 18)"},
            "policy_id": EXAMPLE_ID,
        }
    ),
]


@get("/rules", summary="List rules", opt=READ, responses=problems())
async def list_rules(
    actor: Acting,
    *,
    source_id: FromQuery[UUID | None] = None,
    status: StatusFilter = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[RuleView]:
    return await queries.list_rules(
        actor.organization_id,
        source_id=source_id,
        status=choice(RuleView, "status", status),
        cursor=cursor,
        limit=limit,
    )


@post(
    "/rules",
    summary="Create a rule",
    description="A draft: it proposes nothing before it is published. `errors` names everything that is wrong with it.",
    opt=WRITE,
    responses=problems(409, 422),
)
async def create_rule(actor: Acting, data: RuleInputBody) -> Response[RuleView]:
    view = await service.create_rule(actor, data)
    return created(view, f"rules/{view.id}", version=view.updated_at)


@get("/rules/{rule_id:uuid}", summary="Get a rule", opt=READ, response_headers=ETAG, responses=problems(404))
async def get_rule(actor: Acting, rule_id: FromPath[UUID]) -> Response[RuleView]:
    view = await queries.get_rule(actor.organization_id, rule_id)
    return with_etag(view, view.updated_at)


@get("/rules/{rule_id:uuid}/versions", summary="List the versions of a rule", opt=READ, responses=problems(404))
async def list_rule_versions(actor: Acting, rule_id: FromPath[UUID]) -> Page[RuleVersionView]:
    return Page(await queries.list_rule_versions(actor.organization_id, rule_id))


@put(
    "/rules/{rule_id:uuid}",
    summary="Change a rule",
    description="Makes a new version; the one in force stays so until another is published. Needs If-Match.",
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def change_rule(
    actor: Acting, rule_id: FromPath[UUID], data: JSONBody[RuleChange], *, if_match: IfMatch = None
) -> Response[RuleView]:
    seen = await queries.get_rule(actor.organization_id, rule_id)
    require_match(if_match, seen.updated_at)
    view = await service.change_rule(actor, rule_id, data, expected=seen.updated_at)
    return with_etag(view, view.updated_at)


@post(
    "/rules/{rule_id:uuid}/publications",
    summary="Publish a rule",
    description="Puts a version in force for the signals that are assessed from now on.",
    opt=WRITE,
    responses=problems(404, 409, 422),
)
async def publish_rule(
    actor: Acting, rule_id: FromPath[UUID], data: JSONBody[PublicationInput | None] = None
) -> Response[RuleView]:
    view = await service.publish_rule(actor, rule_id, number=data.number if data else None)
    return created(view, f"rules/{view.id}", version=view.updated_at)


@delete(
    "/rules/{rule_id:uuid}",
    summary="Disable a rule",
    description="It proposes nothing any more; what it proposed stays. Needs If-Match.",
    opt=WRITE,
    responses=problems(404, 409, 412, 428),
)
async def disable_rule(actor: Acting, rule_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    require_match(if_match, (await queries.get_rule(actor.organization_id, rule_id)).updated_at)
    await service.disable_rule(actor, rule_id)


@post(
    "/signals/{signal_id:uuid}/reassessments",
    summary="Assess a signal again",
    description="By the rules that are published now. What a rule proposed for it once, it does not propose again.",
    opt=WRITE,
    tags=["Signals"],
    responses=problems(404, 409, 422),
)
async def reassess_signal(actor: Acting, signal_id: FromPath[UUID]) -> SignalView:
    await service.reassess(actor, signal_id)
    return await get_signal(actor.organization_id, signal_id)


rules_router = Router(
    "/",
    route_handlers=[
        Router(
            "/",
            route_handlers=[
                list_rules,
                create_rule,
                get_rule,
                list_rule_versions,
                change_rule,
                publish_rule,
                disable_rule,
            ],
            tags=["Rules"],
        ),
        reassess_signal,
    ],
)
