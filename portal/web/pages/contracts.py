"""Contracts: what actions may call; registered by address, or deployed from a template by an approved action."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.actions import service
from portal.actions.schemas import ContractInput, DeploymentInput
from portal.chain import queries as chain
from portal.errors import FieldError, InputInvalid, PortalError
from portal.transactions import queries as transactions
from portal.web import stories
from portal.web.asking import AtDesk
from portal.web.choices import policy_choices
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, see_other

READ = {"permission": Permission.CONTRACTS_READ}
WRITE = {"permission": Permission.CONTRACTS_WRITE}
TEMPLATES = [
    ("points", "Points", "A balance for each person that only you can credit. An ERC-20 token with 18 decimals."),
    ("certificates", "Certificates", "Numbered certificates that you issue to people. An ERC-721 collection."),
    ("records", "Records", "An append-only log: what is written stays readable for ever, unchanged."),
]
WITH_SYMBOL = ("points", "certificates")


@get("/contracts", opt=READ)
async def show_contracts(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await chain.list_contracts(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "contracts/list.html",
        active="contracts",
        contracts=found.items,
        templates={name: label for name, label, _ in TEMPLATES},
        may_write=desk.may("contracts:write"),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/contracts/deploy", opt=WRITE)
async def show_deployment(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return await _form_page(request, desk, "contracts/deploy.html", {})


@post("/contracts/deploy", opt=WRITE)
async def deploy_contract(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    """Leads to the action, which people approve like any other."""
    values = await read_values(request)
    try:
        action = await service.propose_deployment(desk.actor, _deployment(values))
    except PortalError as error:
        return await _form_page(request, desk, "contracts/deploy.html", values, _at_our_fields(error))
    return see_other(desk.url(f"actions/{action.id}"), done="deployment_proposed")


@get("/contracts/new", opt=WRITE)
async def show_registration(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return await _form_page(request, desk, "contracts/register.html", {})


@post("/contracts/new", opt=WRITE)
async def register_contract(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    try:
        contract = await service.register_contract(desk.actor, _registration(values))
    except PortalError as error:
        return await _form_page(request, desk, "contracts/register.html", values, _at_our_fields(error))
    return see_other(desk.url(f"contracts/{contract.id}"), done="contract_registered")


@get("/contracts/{contract_id:uuid}", opt=READ)
async def show_contract(request: AnyRequest, desk: AtDesk, contract_id: FromPath[UUID]) -> Response[str]:
    organization = desk.actor.organization_id
    contract = await chain.get_contract(organization, contract_id)
    newest = (await actions.list_actions(organization, contract_id=contract_id, limit=10)).items
    sent = await transactions.find_transactions_of_actions(organization, [action.id for action in newest])
    return desk_page(
        request,
        desk,
        "contracts/detail.html",
        active="contracts",
        contract=contract,
        kind={name: label for name, label, _ in TEMPLATES}.get(contract.template or ""),
        signer=await chain.get_signer(organization, contract.signer_id),
        rows=[{"action": each, "state": stories.current_state(each, sent.get(each.id))} for each in newest],
    )


def _deployment(values: dict[str, str]) -> DeploymentInput:
    template, name = values.get("template", ""), values.get("name", "")
    # What people call it here is also its name on the chain.
    symbol = {"symbol": values.get("symbol", "")} if template in WITH_SYMBOL else {}
    if symbol == {"symbol": ""}:
        raise InputInvalid.at("/symbol", "Give the short name of a unit, such as PTS.")
    return DeploymentInput(
        name=name,
        template=template,
        chain_id=_number(values, "chain_id", "Choose a chain."),
        signer_id=_id(values, "signer_id", "Choose a signer."),
        policy_id=_id(values, "policy_id", "Choose a policy."),
        arguments={"name": name, **symbol},
    )


def _registration(values: dict[str, str]) -> ContractInput:
    abi = _abi(values.get("abi", ""))
    allowed = [line.replace(" ", "") for line in values.get("allowed_functions", "").splitlines() if line.strip()]
    if not allowed:
        example = "Name at least one function that actions may call, such as mint(address,uint256)."
        raise InputInvalid.at("/allowed_functions", example)
    return ContractInput(
        name=values.get("name", ""),
        chain_id=_number(values, "chain_id", "Choose a chain."),
        address=values.get("address", ""),
        abi=abi,
        allowed_functions=allowed,
        signer_id=_id(values, "signer_id", "Choose a signer."),
        symbol=values.get("symbol") or None,
        decimals=_number(values, "decimals", "Give a whole number.") if values.get("decimals") else None,
    )


def _abi(text: str) -> list[dict[str, Any]]:
    """The ABI as explorers and compilers print it: a list, or an object that has it under `abi`."""
    try:
        given = msgspec.json.decode(text)
        return msgspec.convert(
            given["abi"] if isinstance(given, dict) and "abi" in given else given, list[dict[str, Any]]
        )
    except (msgspec.DecodeError, RecursionError):
        raise InputInvalid.at(
            "/abi", "This is not an ABI: paste the JSON list that begins with [ and names its functions."
        ) from None


def _number(values: dict[str, str], name: str, sentence: str) -> int:
    text = values.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InputInvalid.at(f"/{name}", sentence)
    return int(text)


def _id(values: dict[str, str], name: str, sentence: str) -> UUID:
    try:
        return UUID(values.get(name, ""))
    except ValueError:
        raise InputInvalid.at(f"/{name}", sentence) from None


def _at_our_fields(error: PortalError) -> PortalError:
    """The same error with its paths as our fields are named."""
    error.fields = [
        FieldError("/" + field.path.removeprefix("/arguments").strip("/").partition("/")[0], field.message)
        for field in error.fields
    ]
    return error


async def _form_page(
    request: AnyRequest, desk: Desk, template: str, values: dict[str, str], error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    signers = (await chain.list_signers(organization, limit=200)).items
    empty = dict.fromkeys(
        ("name", "symbol", "chain_id", "signer_id", "policy_id", "address", "abi", "allowed_functions", "decimals"), ""
    )
    return desk_page(
        request,
        desk,
        template,
        active="contracts",
        http_status=error.status if error else 200,
        templates=TEMPLATES,
        chains=[(each.id, each.name) for each in await chain.list_chains()],
        signers=[(each.id, each.name) for each in signers if each.status == "active"],
        policies=await policy_choices(organization),
        values={"template": "points"} | empty | values,
        error=error,
    )


handlers = [show_contracts, show_deployment, deploy_contract, show_registration, register_contract, show_contract]
