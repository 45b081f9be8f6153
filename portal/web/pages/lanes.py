"""Lanes: how far each signer is on each chain, and what its head waits for."""

from uuid import UUID

from litestar import Response, get
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.transactions.lanes import queries as lane_queries
from portal.transactions.schemas import TransactionView
from portal.web.asking import AtDesk
from portal.web.desk import desk_page
from portal.web.render import AnyRequest
from portal.web.states import action_state

READ = {"permission": Permission.TRANSACTIONS_READ}
NONCES = 25


@get("/lanes", opt=READ)
async def show_lanes(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await lane_queries.list_lanes(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "lanes/list.html",
        active="lanes",
        lanes=sorted(found.items, key=lambda lane: lane.stuck_since is None),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/lanes/{lane_id:uuid}", opt=READ)
async def show_lane(
    request: AnyRequest, desk: AtDesk, lane_id: FromPath[UUID], cursor: FromQuery[str | None] = None
) -> Response[str]:
    organization = desk.actor.organization_id
    lane = await lane_queries.get_lane(organization, lane_id)
    found = await lane_queries.list_nonces(organization, lane_id, cursor=cursor, limit=NONCES)
    return desk_page(
        request,
        desk,
        "lanes/detail.html",
        active="lanes",
        lane=lane,
        rows=[{"transaction": each, "state": _state(each)} for each in found.items],
        summaries=await actions.summaries_of(organization, [each.action_id for each in found.items]),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


def _state(transaction: TransactionView) -> str:
    return action_state("approved", transaction.status, transaction.outcome, transaction.closing_reason)


handlers = [show_lanes, show_lane]
