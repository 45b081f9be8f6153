"""Proposing by hand: calls of one contract, argument by argument, one or several in one transaction."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromQuery

from portal.accounts import queries as accounts
from portal.accounts.permissions import Permission
from portal.accounts.schemas import EndUserView
from portal.actions import service
from portal.chain import queries as chain
from portal.chain.schemas import ContractView, SignerView
from portal.errors import InputInvalid, PortalError
from portal.web.asking import AtDesk
from portal.web.call_forms import (
    MOST_CALLS,
    action_input,
    at_our_fields,
    blocks_of,
    callable_functions,
    takes_batches,
    unit_choices,
)
from portal.web.choices import policy_choices
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, see_other

PROPOSE = {"permission": Permission.ACTIONS_PROPOSE}


@get("/actions/new", opt=PROPOSE)
async def show_new_action(
    request: AnyRequest, desk: AtDesk, contract_id: FromQuery[str] = "", function: FromQuery[str] = ""
) -> Response[str]:
    return await _form_page(request, desk, {"contract_id": contract_id, "calls/0/function": function})


@post("/actions/new", opt=PROPOSE)
async def propose_action(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    try:
        contract = _chosen(await _contracts(desk), values)
        if contract is None:
            raise InputInvalid.at("/contract_id", "Choose the contract that is called.")
        action = await service.propose(desk.actor, action_input(values, contract))
    except PortalError as error:
        return await _form_page(request, desk, values, at_our_fields(error, values))
    return see_other(desk.url(f"actions/{action.id}"), done="proposed")


@post("/actions/new/draft", opt=PROPOSE)
async def draft_action(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """The form with another contract, function or number of calls; nothing is proposed."""
    values = await read_values(request)
    change, _, place = values.get("change", "").partition(" ")
    if change == "add":
        places = [block.place for block in blocks_of(values, _chosen(await _contracts(desk), values))]
        if len(places) < MOST_CALLS:
            values[f"calls/{max(places, default=0) + 1}/function"] = ""
    elif change == "remove":
        values = {name: text for name, text in values.items() if not name.startswith(f"calls/{place}/")}
    return await _form_page(request, desk, values)


async def _form_page(
    request: AnyRequest, desk: Desk, values: dict[str, str], error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    contracts = await _contracts(desk)
    contract = _chosen(contracts, values)
    chains = {each.id: each for each in await chain.list_chains()}
    people = (await accounts.list_end_users(organization, limit=200)).items
    signers = (await chain.list_signers(organization, limit=200)).items
    known: list[EndUserView | SignerView | ContractView] = [*people, *signers, *contracts]
    return desk_page(
        request,
        desk,
        "actions/new.html",
        active="actions",
        http_status=error.status if error else 200,
        contracts=[(str(each.id), f"{each.name} on {each.chain_name}") for each in contracts],
        contract=contract,
        functions=[(each.signature, each.label) for each in callable_functions(contract)] if contract else [],
        blocks=blocks_of(values, contract),
        takes_batches=contract is not None and takes_batches(contract),
        most_calls=MOST_CALLS,
        money_units=unit_choices(chains[contract.chain_id].currency) if contract else [],
        policies=await policy_choices(organization),
        people=[("", "Nobody in particular"), *((str(each.id), each.name) for each in people)],
        known=[(each.address, each.name) for each in known if each.address],
        values=dict.fromkeys(("contract_id", "policy_id", "end_user_id", "value", "value_unit"), "") | values,
        error=error,
    )


async def _contracts(desk: Desk) -> list[ContractView]:
    """Those that can be called."""
    found = (await chain.list_contracts(desk.actor.organization_id, limit=200)).items
    return [each for each in found if each.status == "active" and callable_functions(each)]


def _chosen(contracts: list[ContractView], values: dict[str, str]) -> ContractView | None:
    wanted = values.get("contract_id", "")
    first = contracts[0] if contracts and not wanted else None
    return next((each for each in contracts if str(each.id) == wanted), first)


handlers = [show_new_action, propose_action, draft_action]
