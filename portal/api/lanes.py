"""Lanes: the ordered nonces of one signer on one chain."""

from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath, FromQuery, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import Acting, problems
from portal.db.paging import Page
from portal.transactions.lanes import queries as lane_queries
from portal.transactions.lanes.queries import LaneView
from portal.transactions.schemas import TransactionView

READ = {"permission": Permission.TRANSACTIONS_READ}


@get(
    "/lanes",
    summary="List lanes",
    description="Each with what its head waits for. `stuck_since` is set while the head has not moved for ten minutes.",
    opt=READ,
    responses=problems(),
)
async def list_lanes(
    actor: Acting,
    *,
    chain_id: Annotated[int | None, QueryParameter(ge=1, le=2**53)] = None,
    signer_id: FromQuery[UUID | None] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[LaneView]:
    return await lane_queries.list_lanes(
        actor.organization_id, chain_id=chain_id, signer_id=signer_id, cursor=cursor, limit=limit
    )


@get("/lanes/{lane_id:uuid}", summary="Get a lane", opt=READ, responses=problems(404))
async def get_lane(actor: Acting, lane_id: FromPath[UUID]) -> LaneView:
    return await lane_queries.get_lane(actor.organization_id, lane_id)


@get(
    "/lanes/{lane_id:uuid}/nonces",
    summary="List the nonces of a lane",
    description="Every nonce that was given out, the highest first, as its transaction with all its attempts.",
    opt=READ,
    responses=problems(404),
)
async def list_nonces(
    actor: Acting, lane_id: FromPath[UUID], cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[TransactionView]:
    await lane_queries.get_lane(actor.organization_id, lane_id)
    return await lane_queries.list_nonces(actor.organization_id, lane_id, cursor=cursor, limit=limit)


lanes_router = Router("/", route_handlers=[list_lanes, get_lane, list_nonces], tags=["Lanes"])
