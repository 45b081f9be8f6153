"""How well sources are heard."""

from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.api.operations import Acting, problems
from portal.signals.health.judgement import SourceHealth
from portal.signals.health.watching import get_source_health


@get(
    "/sources/{source_id:uuid}/health",
    summary="Get the health of a source",
    description="What has come of late and what is usual. `findings` names what somebody should look at.",
    opt={"permission": Permission.SOURCES_READ},
    responses=problems(404),
)
async def get_health(actor: Acting, source_id: FromPath[UUID]) -> SourceHealth:
    return await get_source_health(actor.organization_id, source_id)


source_health_router = Router("/", route_handlers=[get_health], tags=["Sources"])
