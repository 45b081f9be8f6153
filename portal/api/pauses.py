"""Pauses: what was stopped, by whom and why, and the votes to go on."""

from typing import Annotated
from uuid import UUID

from litestar import Response, Router, get
from litestar.params import FromPath, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import Acting, created, example, post, problems
from portal.db.paging import Page
from portal.transactions.controls import pauses
from portal.transactions.controls.pauses import PauseInput, PauseView

READ = {"permission": Permission.PAUSES_READ}
LastingFilter = Annotated[bool | None, QueryParameter(description="Only those that last, or only those that ended.")]
PauseInputBody = Annotated[
    PauseInput, example({"scope": "chain", "subject": "8453", "reason": "The node reports balances that cannot be."})
]


@get("/pauses", summary="List pauses", opt=READ, responses=problems())
async def list_pauses(
    actor: Acting, *, lasting: LastingFilter = None, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[PauseView]:
    return await pauses.list_pauses(actor.organization_id, lasting=lasting, cursor=cursor, limit=limit)


@get("/pauses/{pause_id:uuid}", summary="Get a pause", opt=READ, responses=problems(404))
async def get_pause(actor: Acting, pause_id: FromPath[UUID]) -> PauseView:
    return await pauses.get_pause(actor.organization_id, pause_id)


@post(
    "/pauses",
    summary="Begin a pause",
    description=(
        "Stops the whole organisation (`scope` is `organization`), or one `chain`, `contract` or `signer`, whose id is "
        "the `subject`. One person or key is enough. Nothing new is signed from then on; what is out is followed."
    ),
    opt={"permission": Permission.PAUSES_WRITE},
    responses=problems(404, 409, 422),
)
async def pause(actor: Acting, data: PauseInputBody) -> Response[PauseView]:
    view = await pauses.pause(actor, data.scope, data.subject, data.reason)
    return created(view, f"pauses/{view.id}")


@post(
    "/pauses/{pause_id:uuid}/resumptions",
    summary="Vote to go on",
    description=(
        "For a person with a session token who may approve actions. The pause ends with the vote that meets the "
        "quorum: as many as the strictest policy asks for, at most as many as there are people who may approve."
    ),
    opt={"permission": Permission.ACTIONS_APPROVE},
    responses=problems(404, 409, 422),
)
async def resume(actor: Acting, pause_id: FromPath[UUID]) -> PauseView:
    return await pauses.resume(actor, pause_id)


pauses_router = Router("/", route_handlers=[list_pauses, get_pause, pause, resume], tags=["Pauses"])
