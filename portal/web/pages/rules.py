"""Rules: written beside a real signal from history, published in versions, disabled."""

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.chain import queries as chain
from portal.errors import InputInvalid, PortalError
from portal.rules import queries as rules
from portal.rules import service
from portal.rules.schemas import RuleView
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, see_other
from portal.web.rule_forms import at_our_fields, editor_of, rule_change, rule_input, values_of

READ = {"permission": Permission.RULES_READ}
WRITE = {"permission": Permission.RULES_WRITE}


@get("/rules", opt=READ)
async def show_rules(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await rules.list_rules(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "rules/list.html",
        active="rules",
        rules=found.items,
        may_write=desk.may("rules:write"),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/rules/new", opt=WRITE)
async def show_new_rule(
    request: AnyRequest,
    desk: AtDesk,
    signal_id: FromQuery[UUID | None] = None,
    source_id: FromQuery[UUID | None] = None,
) -> Response[str]:
    """Empty, or begun for a source, or with a signal from history beside it."""
    values = {name: str(id) for name, id in (("signal_id", signal_id), ("source_id", source_id)) if id}
    return await _editor_page(request, desk, values)


@post("/rules/new", opt=WRITE)
async def create_rule(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    try:
        rule = await service.create_rule(desk.actor, rule_input(values))
    except PortalError as error:
        return await _editor_page(request, desk, values, error=at_our_fields(error))
    return see_other(desk.url(f"rules/{rule.id}"), done="rule_created")


@post("/rules/draft", opt=WRITE)
async def try_draft(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """The editor as it was sent, with what it would do; saves nothing. A script takes only the parts it needs."""
    values = await read_values(request)
    rule = await _rule_of(desk, values)
    return await _editor_page(request, desk, values, rule)


@get("/rules/{rule_id:uuid}", opt=READ)
async def show_rule(request: AnyRequest, desk: AtDesk, rule_id: FromPath[UUID]) -> Response[str]:
    return await _rule_page(request, desk, rule_id)


@get("/rules/{rule_id:uuid}/edit", opt=WRITE)
async def show_rule_editor(request: AnyRequest, desk: AtDesk, rule_id: FromPath[UUID]) -> Response[str]:
    rule = await rules.get_rule(desk.actor.organization_id, rule_id)
    return await _editor_page(request, desk, values_of(rule), rule)


@post("/rules/{rule_id:uuid}/edit", opt=WRITE)
async def change_rule(request: AnyRequest, desk: AtDesk, rule_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    rule = await rules.get_rule(desk.actor.organization_id, rule_id)
    try:
        await service.change_rule(desk.actor, rule_id, rule_change(values))
    except PortalError as error:
        return await _editor_page(request, desk, values, rule, at_our_fields(error))
    return see_other(desk.url(f"rules/{rule_id}"), done="rule_changed")


@post("/rules/{rule_id:uuid}/publish", opt=WRITE)
async def publish_rule(request: AnyRequest, desk: AtDesk, rule_id: FromPath[UUID]) -> Response[Any]:
    number = (await read_values(request)).get("number", "")
    try:
        if number and not (number.isascii() and number.isdigit() and len(number) < 9):
            raise InputInvalid.at("/number", "Choose one of the versions.")
        await service.publish_rule(desk.actor, rule_id, number=int(number) if number else None)
    except PortalError as error:
        return await _rule_page(request, desk, rule_id, error)
    return see_other(desk.url(f"rules/{rule_id}"), done="rule_published")


@post("/rules/{rule_id:uuid}/disable", opt=WRITE)
async def disable_rule(request: AnyRequest, desk: AtDesk, rule_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.disable_rule(desk.actor, rule_id)
    except PortalError as error:
        return await _rule_page(request, desk, rule_id, error)
    return see_other(desk.url(f"rules/{rule_id}"), done="rule_disabled")


async def _rule_of(desk: Desk, values: dict[str, str]) -> RuleView | None:
    """The rule that a draft changes; None for a new one."""
    if not values.get("rule_id"):
        return None
    try:
        rule_id = UUID(values["rule_id"])
    except ValueError:
        raise InputInvalid.at("/rule_id", "There is no such rule.") from None
    return await rules.get_rule(desk.actor.organization_id, rule_id)


async def _rule_page(request: AnyRequest, desk: Desk, rule_id: UUID, error: PortalError | None = None) -> Response[str]:
    organization = desk.actor.organization_id
    rule = await rules.get_rule(organization, rule_id)
    contract = await chain.get_contract(organization, rule.latest.contract_id)
    return desk_page(
        request,
        desk,
        "rules/detail.html",
        active="rules",
        http_status=error.status if error else 200,
        rule=rule,
        home=desk.url(f"rules/{rule_id}"),
        versions=await rules.list_rule_versions(organization, rule_id),
        contract=contract,
        may_write=desk.may("rules:write"),
        error=error,
    )


async def _editor_page(
    request: AnyRequest,
    desk: Desk,
    values: dict[str, str],
    rule: RuleView | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    return desk_page(
        request,
        desk,
        "rules/edit.html",
        active="rules",
        http_status=error.status if error else 200,
        rule=rule,
        saves_to=desk.url(f"rules/{rule.id}/edit" if rule else "rules/new"),
        draft=desk.url("rules/draft"),
        error=error,
        **await editor_of(desk, values, rule),
    )


handlers = [
    show_rules,
    show_new_rule,
    create_rule,
    try_draft,
    show_rule,
    show_rule_editor,
    change_rule,
    publish_rule,
    disable_rule,
]
