"""Where the sources stand that are asked instead of sending."""

from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.api.operations import Acting, example, post, problems
from portal.signals.pulls import service
from portal.signals.pulls.service import PullInput, PullView


@get(
    "/sources/{source_id:uuid}/pull",
    summary="Get where a pull source stands",
    description="What was pulled last, when it is pulled next, and why the last pull failed if it did.",
    opt={"permission": Permission.SOURCES_READ},
    responses=problems(404, 409),
)
async def get_pull(actor: Acting, source_id: FromPath[UUID]) -> PullView:
    return await service.get_pull(actor.organization_id, source_id)


@post(
    "/sources/{source_id:uuid}/pull",
    summary="Pull a source now",
    description=(
        "Without waiting for the next time. `from_start` begins anew, as where an API no longer knows a cursor; what "
        "is stored already is not stored twice."
    ),
    opt={"permission": Permission.SOURCES_WRITE},
    status_code=202,
    responses=problems(404, 409, 422),
)
async def pull_now(
    actor: Acting, source_id: FromPath[UUID], data: Annotated[PullInput, example({"from_start": False})]
) -> PullView:
    return await service.pull_now(actor, source_id, data)


pulls_router = Router("/", route_handlers=[get_pull, pull_now], tags=["Sources"])
