"""How long a signer can pay, when to raise the alarm, and from where it is topped up."""

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.actions.effects import WEI_DECIMALS, parse_units
from portal.chain import queries as chain
from portal.errors import FieldError, InputInvalid, PortalError
from portal.transactions.signers import runway
from portal.transactions.signers.runway import TopUpInput, TopUpView
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values, to_input
from portal.web.render import AnyRequest, amount, see_other

AMOUNTS = ("low_balance_wei", "top_up_wei")
CHOICES = 200
MONTHS_FROM = 90
YEARS_FROM = 730


@get("/signers/{signer_id:uuid}/runway", opt={"permission": Permission.SIGNERS_READ})
async def show_runway(request: AnyRequest, desk: AtDesk, signer_id: FromPath[UUID]) -> Response[str]:
    top_up = await runway.get_top_up(desk.actor.organization_id, signer_id)
    return await _runway_page(request, desk, top_up, _written(top_up))


@post("/signers/{signer_id:uuid}/runway", opt={"permission": Permission.SIGNERS_WRITE})
async def set_runway(request: AnyRequest, desk: AtDesk, signer_id: FromPath[UUID]) -> Response[Any]:
    top_up = await runway.get_top_up(desk.actor.organization_id, signer_id)
    values = await read_values(request)
    try:
        given = {name: values.get(name, "") for name in TopUpInput.__struct_fields__}
        given |= {name: _wei(values.get(name, ""), name) for name in AMOUNTS}
        await runway.set_top_up(desk.actor, signer_id, to_input(given, TopUpInput))
    except PortalError as error:
        return await _runway_page(request, desk, top_up, _written(top_up) | values, error)
    return see_other(desk.url(f"signers/{signer_id}/runway"), done="runway_set")


async def _runway_page(
    request: AnyRequest, desk: Desk, top_up: TopUpView, values: dict[str, str], error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    signers = (await chain.list_signers(organization, limit=CHOICES)).items
    policies = (await actions.list_policies(organization, limit=CHOICES)).items if desk.may("policies:read") else []
    return desk_page(
        request,
        desk,
        "signers/runway.html",
        active="signers",
        http_status=error.status if error else 200,
        home=desk.url(f"signers/{top_up.signer_id}"),
        signer=await chain.get_signer(organization, top_up.signer_id),
        runways=top_up.runways,
        days_in_words=days_in_words,
        top_up=top_up,
        treasuries=[
            ("", "Nobody"),
            *((str(each.id), each.name) for each in signers if each.id != top_up.signer_id and each.status == "active"),
        ],
        policies=[("", "None"), *((str(each.id), each.name) for each in policies)],
        values=values,
        error=error,
    )


def days_in_words(days: float) -> str:
    """`About 12 days`, `Less than a day`, `More than 2 years`: no more exact than a forecast can be."""
    if days < 1:
        return "Less than a day"
    if days >= YEARS_FROM:
        return "More than 2 years"
    if days >= MONTHS_FROM:
        return f"About {days / 30:.0f} months"
    return f"About {days:.0f} {'day' if round(days) == 1 else 'days'}"


def _written(top_up: TopUpView) -> dict[str, str]:
    """The settings as the form shows them."""
    written = {name: getattr(top_up, name) for name in AMOUNTS}
    ids = {"treasury_id": top_up.treasury_id, "policy_id": top_up.policy_id}
    return {name: amount(wei, WEI_DECIMALS).replace(",", "") if wei else "" for name, wei in written.items()} | {
        name: str(id or "") for name, id in ids.items()
    }


def _wei(text: str, name: str) -> str:
    try:
        return str(parse_units(text, WEI_DECIMALS)) if text else ""
    except ValueError as problem:
        raise InputInvalid(str(problem), fields=[FieldError(f"/{name}", str(problem))]) from None


handlers = [show_runway, set_runway]
