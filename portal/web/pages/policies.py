"""Policies: how many people must approve, and until when; a change is a new version."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.actions import service
from portal.actions.effects import WEI_DECIMALS, parse_units, units
from portal.actions.schemas import PolicyInput
from portal.errors import FieldError, InputInvalid, PortalError
from portal.web.asking import AtDesk
from portal.web.choices import approvers_of
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
CAPS = ("most_cost", "most_cost_a_day")
"""Fields of the form, in the chain's currency; without `_wei` at the end, which is how the API takes them."""


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
        policy = await service.create_policy(desk.actor, _input(values))
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
        await service.change_policy(desk.actor, policy_id, _input(values))
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
    known: dict[str, Any] = msgspec.structs.asdict(policy or PolicyInput(name="", approvals_required=2))
    caps = {name: _in_currency(known[f"{name}_wei"]) for name in CAPS}
    return desk_page(
        request,
        desk,
        "policies/form.html",
        active="policies",
        http_status=error.status if error else 200,
        policy=policy,
        values=known | caps | values,
        open_for=_choices(known["expires_after_seconds"]),
        within=_choices(known["execute_within_seconds"]),
        approvers=len(await approvers_of(organization)),
        may_write=desk.may("policies:write"),
        error=error and _at_our_fields(error),
    )


def _input(values: dict[str, str]) -> PolicyInput:
    """The form. Raises `InputInvalid` at the field."""
    given = dict(values)
    for name in CAPS:
        if text := given.pop(name, ""):
            try:
                given[f"{name}_wei"] = str(parse_units(text, WEI_DECIMALS))
            except ValueError as problem:
                raise InputInvalid.at(f"/{name}", str(problem)) from None
    return to_input(given, PolicyInput)


def _at_our_fields(error: PortalError) -> PortalError:
    error.fields = [FieldError(field.path.removesuffix("_wei"), field.message) for field in error.fields]
    return error


def _in_currency(wei: str | None) -> str:
    """As a person types it: exact, without separators."""
    return "" if wei is None else units(int(wei), WEI_DECIMALS).replace(",", "")


def _choices(seconds: int) -> list[tuple[int, str]]:
    known = DEADLINES if seconds in DEADLINES else DEADLINES | {seconds: f"{seconds:,} seconds"}
    return sorted(known.items())


handlers = [show_policies, show_new_policy, create_policy, show_policy, change_policy]
