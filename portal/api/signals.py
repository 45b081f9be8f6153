"""Signals: what was received, and what came of it."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Router, get
from litestar.params import FromPath, FromQuery, QueryParameter

from portal.accounts.permissions import Permission
from portal.actions.queries import list_action_ids_of_signal
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit, Since, Until, choice, choices
from portal.api.operations import Acting, problems
from portal.db.paging import Page
from portal.signals import queries
from portal.signals.schemas import SignalFilter, SignalItem, SignalView

READ = {"permission": Permission.SIGNALS_READ}
StatusFilter = Annotated[str | None, QueryParameter(schema_extra={"enum": choices(SignalView, "status")})]


class SignalDetail(SignalView, frozen=True, kw_only=True):
    """A signal with everything that came of it."""

    action_ids: list[UUID]
    """The actions that rules proposed because of it, oldest first."""


@get(
    "/signals",
    summary="List signals",
    description=(
        "The newest first; every filter narrows the others down. `text` finds signals in whose payload all of its "
        "words occur, the last one perhaps as a beginning, in upper or lower case, however the sender escaped them; "
        "and the one whose external id it is. Words are strings, parts of strings such as `example.org` in "
        "`ada@example.org`, and numbers; names of fields are none. A payload is searched once it is assessed."
    ),
    opt=READ,
    responses=problems(),
)
async def list_signals(
    actor: Acting,
    *,
    status: StatusFilter = None,
    source_id: FromQuery[UUID | None] = None,
    type_: Annotated[str | None, QueryParameter(name="type")] = None,
    subject: Annotated[
        str | None, QueryParameter(description="The end user, such as `github:octocat`, of an action that came of it.")
    ] = None,
    external_id: FromQuery[str | None] = None,
    correlation_id: FromQuery[str | None] = None,
    text: Annotated[str | None, QueryParameter(max_length=200)] = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[SignalItem]:
    wanted = SignalFilter(
        status=choice(SignalView, "status", status),
        source_id=source_id,
        type=type_,
        subject=subject,
        external_id=external_id,
        correlation_id=correlation_id,
        text=text,
        since=since,
        until=until,
    )
    return await queries.list_signals(actor.organization_id, wanted, cursor=cursor, limit=limit)


@get(
    "/signals/{signal_id:uuid}",
    summary="Get a signal",
    description="With its payload, how it was verified, and the actions that came of it.",
    opt=READ,
    responses=problems(404),
)
async def get_signal(actor: Acting, signal_id: FromPath[UUID]) -> SignalDetail:
    view = await queries.get_signal(actor.organization_id, signal_id)
    action_ids = await list_action_ids_of_signal(actor.organization_id, signal_id)
    return SignalDetail(**msgspec.structs.asdict(view), action_ids=action_ids)


signals_router = Router("/", route_handlers=[list_signals, get_signal], tags=["Signals"])
