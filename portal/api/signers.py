"""Signers and their groups: who sends and pays, and which of them send a contract's calls."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, put
from litestar.params import FromPath, JSONBody

from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.actions import service
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, EXAMPLE_ID, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.chain import queries
from portal.chain.schemas import ContractView, SignerGroupView, SignerView
from portal.db.paging import Page

READ = {"permission": Permission.SIGNERS_READ}
WRITE = {"permission": Permission.SIGNERS_WRITE}

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class SignerInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    kind: Literal["local", "aws_kms", "web3signer"] = "local"
    kms_key: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    """Of an `aws_kms` one: id, ARN or alias of the key."""
    service_url: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    """Of a `web3signer` one: the base address of the service."""
    public_key: Annotated[str, msgspec.Meta(max_length=140)] | None = None
    """Of a `web3signer` one: the key, as the service lists it."""


class SignerStatusInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Literal["active", "disabled"]


class GroupInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name


class GroupChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    signer_ids: Annotated[list[UUID], msgspec.Meta(max_length=64)]
    """All of them: who is missing is taken out."""


class SendersInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    signer_id: UUID
    signer_group_id: UUID | None = None


SignerInputBody = Annotated[SignerInput, example({"name": "Treasury", "kind": "aws_kms", "kms_key": "alias/treasury"})]
GroupChangeBody = Annotated[GroupChange, example({"name": "Minters", "signer_ids": [EXAMPLE_ID]})]
SendersInputBody = Annotated[SendersInput, example({"signer_id": EXAMPLE_ID, "signer_group_id": EXAMPLE_ID})]


@get("/signers", summary="List signers", opt=READ, responses=problems())
async def list_signers(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[SignerView]:
    page = await queries.list_signers(actor.organization_id, cursor=cursor, limit=limit)
    return msgspec.structs.replace(page, items=[_for(actor, view) for view in page.items])


@get("/signers/{signer_id:uuid}", summary="Get a signer", opt=READ, response_headers=ETAG, responses=problems(404))
async def get_signer(actor: Acting, signer_id: FromPath[UUID]) -> Response[SignerView]:
    return _answer(actor, await queries.get_signer(actor.organization_id, signer_id))


@post(
    "/signers",
    summary="Create a signer",
    description=(
        "It is `pending`, without an address, until the worker has made its key, usually within a second. A key in AWS "
        "KMS or behind a Web3Signer is asked for its address and a signature; until that succeeds `trouble` says why "
        "not. The worker's own settings say which keys and services it may ask."
    ),
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(422),
)
async def create_signer(actor: Acting, data: SignerInputBody) -> Response[SignerView]:
    view = await service.create_signer(
        actor,
        data.name,
        kind=data.kind,
        kms_key=data.kms_key,
        service_url=data.service_url,
        public_key=data.public_key,
    )
    return created(_for(actor, view), f"signers/{view.id}", version=_for(actor, view))


@put(
    "/signers/{signer_id:uuid}/status",
    summary="Disable or enable a signer",
    description=(
        "A disabled signer signs nothing new; what is out is followed and sent again. Open proposals that name it stay "
        "open, and what is approved waits until it is enabled again. Needs If-Match with the ETag of the signer."
    ),
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def set_signer_status(
    actor: Acting, signer_id: FromPath[UUID], data: JSONBody[SignerStatusInput], *, if_match: IfMatch = None
) -> Response[SignerView]:
    require_match(if_match, _for(actor, await queries.get_signer(actor.organization_id, signer_id)))
    turn = service.disable_signer if data.status == "disabled" else service.enable_signer
    return _answer(actor, await turn(actor, signer_id))


@delete(
    "/signers/{signer_id:uuid}",
    summary="Remove a signer that has no key yet",
    description="Only a pending one; others can be disabled. Needs If-Match.",
    opt=WRITE,
    responses=problems(404, 409, 412, 428),
)
async def remove_signer(actor: Acting, signer_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    require_match(if_match, _for(actor, await queries.get_signer(actor.organization_id, signer_id)))
    await service.remove_signer(actor, signer_id)


@get("/signer-groups", summary="List groups of signers", opt=READ, responses=problems())
async def list_groups(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[SignerGroupView]:
    return await queries.list_signer_groups(actor.organization_id, cursor=cursor, limit=limit)


@get(
    "/signer-groups/{group_id:uuid}",
    summary="Get a group of signers",
    opt=READ,
    response_headers=ETAG,
    responses=problems(404),
)
async def get_group(actor: Acting, group_id: FromPath[UUID]) -> Response[SignerGroupView]:
    view = await queries.get_signer_group(actor.organization_id, group_id)
    return with_etag(view, view)


@post(
    "/signer-groups",
    summary="Create a group of signers",
    description="Signers in a group share the calls of contracts: each proposal takes the one with the least to do.",
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(409, 422),
)
async def create_group(
    actor: Acting, data: Annotated[GroupInput, example({"name": "Minters"})]
) -> Response[SignerGroupView]:
    view = await service.create_group(actor, data.name)
    return created(view, f"signer-groups/{view.id}", version=view)


@put(
    "/signer-groups/{group_id:uuid}",
    summary="Change a group of signers",
    description=(
        "Its name and all its signers. Open proposals whose signer may not send them any more are cancelled. Needs "
        "If-Match."
    ),
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def change_group(
    actor: Acting, group_id: FromPath[UUID], data: GroupChangeBody, *, if_match: IfMatch = None
) -> Response[SignerGroupView]:
    require_match(if_match, await queries.get_signer_group(actor.organization_id, group_id))
    view = await service.change_group(actor, group_id, data.name, data.signer_ids)
    return with_etag(view, view)


@delete(
    "/signer-groups/{group_id:uuid}",
    summary="Dissolve a group of signers",
    description="Its signers stay. Not while a contract uses it. Needs If-Match.",
    opt=WRITE,
    responses=problems(404, 409, 412, 428),
)
async def remove_group(actor: Acting, group_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    require_match(if_match, await queries.get_signer_group(actor.organization_id, group_id))
    await service.remove_group(actor, group_id)


@put(
    "/contracts/{contract_id:uuid}/senders",
    summary="Change who sends a contract's calls",
    description=(
        "Another signer, a group whose active signers send them too, or both. Open proposals that name a signer which "
        "may not send them any more are cancelled; approved actions of such a signer are refused at signing. Needs "
        "If-Match with the ETag of the contract."
    ),
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def change_senders(
    actor: Acting, contract_id: FromPath[UUID], data: SendersInputBody, *, if_match: IfMatch = None
) -> Response[ContractView]:
    require_match(if_match, await queries.get_contract(actor.organization_id, contract_id))
    view = await service.change_senders(actor, contract_id, data.signer_id, data.signer_group_id)
    return with_etag(view, view)


def _for(actor: Actor, view: SignerView) -> SignerView:
    """Where a remote key lies is for those who administer signers."""
    may_see = Permission.SIGNERS_WRITE in actor.permissions
    return view if may_see else msgspec.structs.replace(view, key_reference=None)


def _answer(actor: Actor, view: SignerView) -> Response[SignerView]:
    shown = _for(actor, view)
    return with_etag(shown, shown)


signers_router = Router(
    "/",
    route_handlers=[
        list_signers,
        get_signer,
        create_signer,
        set_signer_status,
        remove_signer,
        list_groups,
        get_group,
        create_group,
        change_group,
        remove_group,
        change_senders,
    ],
    tags=["Signers"],
)
