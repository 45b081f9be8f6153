"""Signers: the keys by which the organisation's transactions are sent."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromQuery

from portal.accounts.permissions import Permission
from portal.actions import service
from portal.chain import queries as chain
from portal.errors import PortalError
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, see_other


@get("/signers", opt={"permission": Permission.SIGNERS_READ})
async def show_signers(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    return await _signers_page(request, desk, cursor=cursor)


@post("/signers", opt={"permission": Permission.SIGNERS_WRITE})
async def create_signer(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    try:
        await service.create_signer(desk.actor, values.get("name", ""))
    except PortalError as error:
        return await _signers_page(request, desk, name=values.get("name", ""), error=error)
    return see_other(desk.url("signers"), done="signer_created")


async def _signers_page(
    request: AnyRequest, desk: Desk, *, cursor: str | None = None, name: str = "", error: PortalError | None = None
) -> Response[str]:
    found = await chain.list_signers(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "signers/list.html",
        active="signers",
        http_status=error.status if error else 200,
        signers=found.items,
        pending=any(signer.status == "pending" for signer in found.items),
        next_cursor=found.next_cursor,
        cursor=cursor,
        may_write=desk.may("signers:write"),
        name=name,
        error=error,
    )


handlers = [show_signers, create_signer]
