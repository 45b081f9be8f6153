"""Events: what happened, for programs that ask instead of being told."""

from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Limit
from portal.api.operations import Acting, problems
from portal.db.paging import Page
from portal.notify import events
from portal.notify.schemas import EventView

READ = {"permission": Permission.EVENTS_READ}
After = Annotated[
    int, QueryParameter(ge=0, le=2**53, description="Only events with a higher `position`; remember the last one's.")
]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before, instead of `after`.")]
TypeFilter = Annotated[str | None, QueryParameter(max_length=80, description="Of one type: `transaction.mined`.")]
SubjectFilter = Annotated[str | None, QueryParameter(max_length=80, description="About the subject with this id.")]


@get(
    "/events",
    summary="List events",
    description=(
        "What happened, the oldest first. A program that asks again and again goes on `after` the position of the last "
        "event it has seen: it misses none and sees none twice. Events are kept for 90 days."
    ),
    opt=READ,
    responses=problems(),
)
async def list_events(
    actor: Acting,
    *,
    after: After = 0,
    type: TypeFilter = None,
    subject_id: SubjectFilter = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[EventView]:
    return await events.list_events(
        actor.organization_id, after=after, type=type, subject_id=subject_id, cursor=cursor, limit=limit
    )


@get("/events/{event_id:uuid}", summary="Get an event", opt=READ, responses=problems(404))
async def get_event(actor: Acting, event_id: FromPath[UUID]) -> EventView:
    return await events.get_event(actor.organization_id, event_id)


events_router = Router("/", route_handlers=[list_events, get_event], tags=["Events"])
