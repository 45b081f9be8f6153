"""How long signers can pay for gas, and how they are topped up."""

from typing import Annotated
from uuid import UUID

from litestar import Response, Router, get, put
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.api.operations import ETAG, EXAMPLE_ID, Acting, example, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.transactions.signers import runway
from portal.transactions.signers.runway import Runway, TopUpInput, TopUpView, version_of

READ = {"permission": Permission.SIGNERS_READ}
TopUpInputBody = Annotated[
    TopUpInput,
    example(
        {
            "low_balance_wei": "200000000000000000",
            "top_up_wei": "500000000000000000",
            "treasury_id": EXAMPLE_ID,
            "policy_id": EXAMPLE_ID,
        }
    ),
]


@get(
    "/runways",
    summary="List runways",
    description=(
        "What each active signer has on each chain where it sends, and for how many days that lasts at the pace of the "
        "last seven; `days_left` is null where too little is known. At most 200, those that are low first."
    ),
    opt=READ,
    responses=problems(),
)
async def list_runways(actor: Acting) -> Page[Runway]:
    return Page(await runway.list_runways(actor.organization_id))


@get(
    "/signers/{signer_id:uuid}/top-up",
    summary="Get how a signer is topped up",
    opt=READ,
    response_headers=ETAG,
    responses=problems(404),
)
async def get_top_up(actor: Acting, signer_id: FromPath[UUID]) -> Response[TopUpView]:
    view = await runway.get_top_up(actor.organization_id, signer_id)
    return with_etag(view, version_of(view))


@put(
    "/signers/{signer_id:uuid}/top-up",
    summary="Set how a signer is topped up",
    description=(
        "Below `low_balance_wei` there is an alarm. With `top_up_wei`, `treasury_id` and `policy_id` a transfer from "
        "that signer is proposed, once: an action that its policy has to approve. Needs If-Match."
    ),
    opt={"permission": Permission.SIGNERS_WRITE},
    response_headers=ETAG,
    responses=problems(404, 412, 428),
)
async def set_top_up(
    actor: Acting, signer_id: FromPath[UUID], data: TopUpInputBody, *, if_match: IfMatch = None
) -> Response[TopUpView]:
    before = await runway.get_top_up(actor.organization_id, signer_id)
    require_match(if_match, version_of(before))
    view = await runway.set_top_up(actor, signer_id, data, expected=version_of(before))
    return with_etag(view, version_of(view))


runway_router = Router("/", route_handlers=[list_runways, get_top_up, set_top_up], tags=["Signers"])
