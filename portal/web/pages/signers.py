"""Signers: the keys by which the organisation's transactions are sent, and who keeps them."""

from collections import defaultdict
from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import service
from portal.chain import queries as chain
from portal.errors import NotFound, PortalError
from portal.transactions.signers import queries as signer_queries
from portal.transactions.signers.runway import Runway, list_runways
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, see_other

READ = {"permission": Permission.SIGNERS_READ}
WRITE = {"permission": Permission.SIGNERS_WRITE}
KEEPERS = {
    "local": "In the portal's database, encrypted",
    "aws_kms": "In AWS KMS",
    "web3signer": "Behind a signing service",
}
"""Who keeps the key, by the kind of signer."""
REMOTE = ("aws_kms", "web3signer")


@get("/signers", opt=READ)
async def show_signers(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    return await _signers_page(request, desk, cursor=cursor)


@post("/signers", opt=WRITE)
async def create_signer(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    try:
        await service.create_signer(desk.actor, values.get("name", ""))
    except PortalError as error:
        return await _signers_page(request, desk, name=values.get("name", ""), error=error)
    return see_other(desk.url("signers"), done="signer_created")


@get("/signers/new", opt=WRITE)
async def show_new_signer(request: AnyRequest, desk: AtDesk, kind: FromQuery[str] = "aws_kms") -> Response[str]:
    return _new_page(request, desk, {"kind": kind})


@post("/signers/new", opt=WRITE)
async def create_remote_signer(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    """A signer whose key somebody else keeps; the worker looks at the key next."""
    values = await read_values(request)
    given = {name: values[name] for name in ("kms_key", "service_url", "public_key") if values.get(name)}
    try:
        signer = await service.create_signer(desk.actor, values.get("name", ""), kind=_kind(values), **given)
    except PortalError as error:
        return _new_page(request, desk, values, error)
    return see_other(desk.url(f"signers/{signer.id}"), done="signer_added")


@get("/signers/{signer_id:uuid}", opt=READ)
async def show_signer(request: AnyRequest, desk: AtDesk, signer_id: FromPath[UUID]) -> Response[str]:
    return await _signer_page(request, desk, signer_id)


@post("/signers/{signer_id:uuid}/disable", opt=WRITE)
async def disable_signer(request: AnyRequest, desk: AtDesk, signer_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.disable_signer(desk.actor, signer_id)
    except PortalError as error:
        return await _signer_page(request, desk, signer_id, error)
    return see_other(desk.url(f"signers/{signer_id}"), done="signer_disabled")


@post("/signers/{signer_id:uuid}/enable", opt=WRITE)
async def enable_signer(request: AnyRequest, desk: AtDesk, signer_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.enable_signer(desk.actor, signer_id)
    except PortalError as error:
        return await _signer_page(request, desk, signer_id, error)
    return see_other(desk.url(f"signers/{signer_id}"), done="signer_enabled")


@post("/signers/{signer_id:uuid}/remove", opt=WRITE)
async def remove_signer(request: AnyRequest, desk: AtDesk, signer_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.remove_signer(desk.actor, signer_id)
    except PortalError as error:
        return await _signer_page(request, desk, signer_id, error)
    return see_other(desk.url("signers"), done="signer_removed")


def _kind(values: dict[str, str]) -> str:
    kind = values.get("kind", "")
    if kind not in REMOTE:
        raise NotFound("There is no such kind of signer.")
    return kind


def _new_page(
    request: AnyRequest, desk: Desk, values: dict[str, str], error: PortalError | None = None
) -> Response[str]:
    return desk_page(
        request,
        desk,
        "signers/new.html",
        active="signers",
        http_status=error.status if error else 200,
        kind=_kind(values),
        values=dict.fromkeys(("name", "kms_key", "service_url", "public_key"), "") | values,
        error=error,
    )


async def _signers_page(
    request: AnyRequest, desk: Desk, *, cursor: str | None = None, name: str = "", error: PortalError | None = None
) -> Response[str]:
    found = await chain.list_signers(desk.actor.organization_id, cursor=cursor)
    runways: dict[UUID, list[Runway]] = defaultdict(list)
    for each in await list_runways(desk.actor.organization_id):
        runways[each.signer_id].append(each)
    return desk_page(
        request,
        desk,
        "signers/list.html",
        active="signers",
        http_status=error.status if error else 200,
        signers=found.items,
        runways=runways,
        pending=any(signer.status == "pending" for signer in found.items),
        keepers=KEEPERS,
        next_cursor=found.next_cursor,
        cursor=cursor,
        may_write=desk.may("signers:write"),
        name=name,
        error=error,
    )


async def _signer_page(
    request: AnyRequest, desk: Desk, signer_id: UUID, error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    signer = await chain.get_signer(organization, signer_id)
    if signer.purpose != "sends":
        raise NotFound("There is no such signer.")  # a key that holds what an end user owns is on that person's page
    return desk_page(
        request,
        desk,
        "signers/detail.html",
        active="signers",
        http_status=error.status if error else 200,
        home=desk.url(f"signers/{signer_id}"),
        signer=signer,
        keeper=KEEPERS[signer.kind],
        chains=await signer_queries.list_chains_of(organization, signer_id),
        contracts=await signer_queries.list_contracts_of(organization, signer_id),
        open_proposals=await signer_queries.count_open_of(organization, signer_id),
        may_write=desk.may("signers:write"),
        error=error,
    )


handlers = [
    show_signers,
    create_signer,
    show_new_signer,
    create_remote_signer,
    show_signer,
    disable_signer,
    enable_signer,
    remove_signer,
]
