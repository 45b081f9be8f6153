"""Groups of signers, and which signers send a contract's calls."""

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import rights, service
from portal.actions.senders import can_let_others
from portal.chain import queries as chain
from portal.chain.schemas import ContractView
from portal.errors import InputInvalid, PortalError, Unavailable
from portal.transactions.signers import queries as signer_queries
from portal.web.asking import AtDesk
from portal.web.choices import policy_choices
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_list, read_values
from portal.web.render import AnyRequest, see_other

READ = {"permission": Permission.SIGNERS_READ}
WRITE = {"permission": Permission.SIGNERS_WRITE}


@get("/signers/groups", opt=READ)
async def show_groups(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    return await _groups_page(request, desk, cursor=cursor)


@post("/signers/groups", opt=WRITE)
async def create_group(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    name = (await read_values(request)).get("name", "")
    try:
        group = await service.create_group(desk.actor, name)
    except PortalError as error:
        return await _groups_page(request, desk, name=name, error=error)
    return see_other(desk.url(f"signers/groups/{group.id}"), done="group_created")


@get("/signers/groups/{group_id:uuid}", opt=READ)
async def show_group(request: AnyRequest, desk: AtDesk, group_id: FromPath[UUID]) -> Response[str]:
    return await _group_page(request, desk, group_id)


@post("/signers/groups/{group_id:uuid}", opt=WRITE)
async def change_group(request: AnyRequest, desk: AtDesk, group_id: FromPath[UUID]) -> Response[Any]:
    name, chosen = (await read_values(request)).get("name", ""), await read_list(request, "signer_ids")
    try:
        await service.change_group(desk.actor, group_id, name, [_id(each, "signer_ids") for each in chosen])
    except PortalError as error:
        return await _group_page(request, desk, group_id, {"name": name, "chosen": chosen}, error)
    return see_other(desk.url(f"signers/groups/{group_id}"), done="group_changed")


@post("/signers/groups/{group_id:uuid}/remove", opt=WRITE)
async def remove_group(request: AnyRequest, desk: AtDesk, group_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.remove_group(desk.actor, group_id)
    except PortalError as error:
        return await _group_page(request, desk, group_id, error=error)
    return see_other(desk.url("signers/groups"), done="group_removed")


@get("/contracts/{contract_id:uuid}/senders", opt=READ)
async def show_senders(
    request: AnyRequest, desk: AtDesk, contract_id: FromPath[UUID], group_id: FromQuery[str] = ""
) -> Response[str]:
    """With `group_id` the contract is asked what the signers of that group may do there."""
    return await _senders_page(request, desk, contract_id, {}, asked_group=group_id)


@post("/contracts/{contract_id:uuid}/senders", opt=WRITE)
async def change_senders(request: AnyRequest, desk: AtDesk, contract_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    try:
        group = values.get("signer_group_id")
        await service.change_senders(
            desk.actor,
            contract_id,
            _id(values.get("signer_id", ""), "signer_id"),
            _id(group, "signer_group_id") if group else None,
        )
    except PortalError as error:
        # What the contract does not let somebody do is said for each of the group, with what to do about it.
        asked = values.get("signer_group_id", "") if isinstance(error, rights.NotPermittedOnChain) else ""
        return await _senders_page(request, desk, contract_id, values, error, asked_group=asked)
    return see_other(desk.url(f"contracts/{contract_id}/senders"), done="senders_changed")


@post("/contracts/{contract_id:uuid}/rights", opt={"permission": Permission.ACTIONS_PROPOSE})
async def propose_right(request: AnyRequest, desk: AtDesk, contract_id: FromPath[UUID]) -> Response[Any]:
    """Leads to the action by which the contract's owner lets a signer mint, or no longer, or makes it the owner."""
    values = await read_values(request)
    try:
        policy = _id(values.get("policy_id", ""), "policy_id")
        if "own" in values:
            action = await service.propose_handover(desk.actor, contract_id, _id(values["own"], "own"), policy)
        else:
            may = "mint" in values
            signer = _id(values.get("mint" if may else "no_longer", ""), "mint")
            action = await service.propose_right(desk.actor, contract_id, signer, policy, may=may)
    except PortalError as error:
        return await _senders_page(request, desk, contract_id, {}, error, asked_group=values.get("group_id", ""))
    return see_other(desk.url(f"actions/{action.id}"), done="right_proposed")


def _id(text: str, field: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InputInvalid.at(f"/{field}", "Choose one of the list.") from None


async def _groups_page(
    request: AnyRequest, desk: Desk, *, cursor: str | None = None, name: str = "", error: PortalError | None = None
) -> Response[str]:
    found = await chain.list_signer_groups(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "signers/groups.html",
        active="signers",
        http_status=error.status if error else 200,
        home=desk.url("signers/groups"),
        groups=found.items,
        next_cursor=found.next_cursor,
        cursor=cursor,
        may_write=desk.may("signers:write"),
        name=name,
        error=error,
    )


async def _group_page(
    request: AnyRequest,
    desk: Desk,
    group_id: UUID,
    values: dict[str, Any] | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    group = await chain.get_signer_group(organization, group_id)
    signers = (await chain.list_signers(organization, limit=200)).items
    contracts = [await chain.get_contract(organization, id) for id in group.contract_ids[:20]]
    return desk_page(
        request,
        desk,
        "signers/group.html",
        active="signers",
        http_status=error.status if error else 200,
        home=desk.url(f"signers/groups/{group_id}"),
        group=group,
        candidates=sorted(signers, key=lambda each: (each.signer_group_id != group_id, each.name)),
        contracts=contracts,
        values={"name": group.name, "chosen": [str(each.id) for each in group.signers]} | (values or {}),
        may_write=desk.may("signers:write"),
        error=error,
    )


async def _senders_page(
    request: AnyRequest,
    desk: Desk,
    contract_id: UUID,
    values: dict[str, str],
    error: PortalError | None = None,
    *,
    asked_group: str = "",
) -> Response[str]:
    organization = desk.actor.organization_id
    contract = await chain.get_contract(organization, contract_id)
    signers = (await chain.list_signers(organization, limit=200)).items
    groups = (await chain.list_signer_groups(organization, limit=200)).items
    known = {"signer_id": str(contract.signer_id), "signer_group_id": str(contract.signer_group_id or "")}
    chosen = known | {name: values[name] for name in known if name in values}
    said, unread = await _read_rights(organization, contract, asked_group)
    return desk_page(
        request,
        desk,
        "signers/senders.html",
        active="contracts",
        http_status=error.status if error else 200,
        home=desk.url(f"contracts/{contract_id}"),
        contract=contract,
        signer=await chain.get_signer(organization, contract.signer_id),
        signers=[(str(each.id), each.name) for each in signers if each.status == "active"],
        others=[(str(each.id), each.name) for each in signers if each.address and each.id != contract.signer_id],
        groups=[("", "None"), *((str(each.id), f"{each.name} ({len(each.signers)})") for each in groups)],
        group=next((each for each in groups if each.id == contract.signer_group_id), None),
        asked=next((each for each in groups if str(each.id) == asked_group), None),
        shares=_is_asked_of(contract) and can_let_others(await chain.get_abi(organization, contract_id)),
        rights=said,
        unread=unread,
        values=chosen,
        open_proposals=await signer_queries.count_open_of(organization, contract.signer_id),
        policies=await policy_choices(organization),
        may_write=desk.may("signers:write") and desk.may("contracts:write"),
        may_propose=desk.may("actions:propose"),
        error=error,
    )


def _is_asked_of(contract: ContractView) -> bool:
    """Whether it is one of ours, and there to be asked."""
    return contract.template is not None and contract.status == "active"


async def _read_rights(
    organization_id: UUID, contract: ContractView, group_id: str
) -> tuple[list[rights.MemberRight] | None, bool]:
    """What the contract says of the group's signers, and whether that could not be read just now."""
    if not group_id or not _is_asked_of(contract):
        return None, False
    try:
        return await rights.list_rights(organization_id, contract.id, _id(group_id, "signer_group_id")), False
    except Unavailable:
        return None, True


handlers = [
    show_groups,
    create_group,
    show_group,
    change_group,
    remove_group,
    show_senders,
    change_senders,
    propose_right,
]
