"""Deploying a contract that the organisation compiled itself: the artifact first, then what it asks for."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post

from portal.accounts.permissions import Permission
from portal.actions import service
from portal.actions.schemas import ArtifactView, DeploymentInput
from portal.chain import queries as chain
from portal.errors import FieldError, InputInvalid, PortalError
from portal.web.asking import AtDesk
from portal.web.call_forms import argument_fields, read_arguments
from portal.web.choices import policy_choices
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_list, read_values
from portal.web.render import AnyRequest, see_other

WRITE = {"permission": Permission.CONTRACTS_WRITE}
PREFIX = "constructor/"
FIELDS = ("artifact", "name", "chain_id", "signer_id", "policy_id", "symbol", "decimals")


@get("/contracts/deploy-own", opt=WRITE)
async def show_own_deployment(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return await _form_page(request, desk, {}, [], None)


@post("/contracts/deploy-own/draft", opt=WRITE)
async def read_own_artifact(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """The form with what the artifact asks for; nothing is proposed."""
    values = await read_values(request)
    try:
        found = service.inspect_artifact(_artifact(values))
    except PortalError as error:
        return await _form_page(request, desk, values, [], None, error=_at_our_fields(error))
    return await _form_page(request, desk, values, await read_list(request, "allowed_functions"), found)


@post("/contracts/deploy-own", opt=WRITE)
async def deploy_own_contract(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    """Leads to the action, which people approve like any other."""
    values, allowed = await read_values(request), await read_list(request, "allowed_functions")
    found = None
    try:
        artifact = _artifact(values)
        found = service.inspect_artifact(artifact)
        action = await service.propose_deployment(desk.actor, _deployment(values, allowed, artifact, found))
    except PortalError as error:
        return await _form_page(request, desk, values, allowed, found, error=_at_our_fields(error))
    return see_other(desk.url(f"actions/{action.id}"), done="deployment_proposed")


def _artifact(values: dict[str, str]) -> dict[str, Any]:
    try:
        return msgspec.json.decode(values.get("artifact", ""), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise InputInvalid.at(
            "/artifact", "This is not an artifact: paste the whole JSON that the compiler wrote, which begins with {."
        ) from None


def _deployment(
    values: dict[str, str], allowed: list[str], artifact: dict[str, Any], found: ArtifactView
) -> DeploymentInput:
    decimals = values.get("decimals", "")
    if decimals and not (decimals.isascii() and decimals.isdigit() and len(decimals) < 3):
        raise InputInvalid.at("/decimals", "Give a whole number, such as 18.")
    chain_id = values.get("chain_id", "")
    return DeploymentInput(
        name=values.get("name", ""),
        artifact=artifact,
        chain_id=int(chain_id) if chain_id.isascii() and chain_id.isdigit() and len(chain_id) < 19 else 0,
        signer_id=_id(values, "signer_id", "Choose a signer."),
        policy_id=_id(values, "policy_id", "Choose a policy."),
        arguments=read_arguments(argument_fields(found.inputs, PREFIX, values), values),
        allowed_functions=allowed,
        symbol=values.get("symbol") or None,
        decimals=int(decimals) if decimals else None,
    )


def _id(values: dict[str, str], name: str, sentence: str) -> UUID:
    try:
        return UUID(values.get(name, ""))
    except ValueError:
        raise InputInvalid.at(f"/{name}", sentence) from None


def _at_our_fields(error: PortalError) -> PortalError:
    """The same error with its paths as our fields are named: what is wrong in the artifact is said at the artifact."""
    error.fields = [FieldError(_our_path(each.path), each.message) for each in error.fields]
    return error


def _our_path(path: str) -> str:
    steps = path.strip("/").split("/")
    return f"/{PREFIX}{'/'.join(steps[:2])}" if steps[0] == "arguments" else path if PREFIX in path else f"/{steps[0]}"


async def _form_page(
    request: AnyRequest,
    desk: Desk,
    values: dict[str, str],
    allowed: list[str],
    found: ArtifactView | None,
    *,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    signers = (await chain.list_signers(organization, limit=200)).items
    return desk_page(
        request,
        desk,
        "contracts/deploy_own.html",
        active="contracts",
        http_status=error.status if error else 200,
        found=found,
        fields=argument_fields(found.inputs, PREFIX, values) if found else [],
        allowed=allowed,
        chains=[(each.id, each.name) for each in await chain.list_chains()],
        signers=[(each.id, each.name) for each in signers if each.status == "active"],
        known=[(each.address, each.name) for each in signers if each.address],
        policies=await policy_choices(organization),
        values=dict.fromkeys(FIELDS, "") | values,
        error=error,
    )


handlers = [show_own_deployment, read_own_artifact, deploy_own_contract]
