"""Refused deliveries: read whole, and accepted once what was wrong is mended."""

from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.api.operations import Acting, example, post, problems
from portal.signals.intake import acceptance
from portal.signals.intake.acceptance import AcceptanceInput, Acceptances, RejectedDetail
from portal.signals.queries import get_source
from portal.signals.schemas import Receipt

AcceptanceBody = Annotated[AcceptanceInput, example({"cause": "signature_invalid"})]


@get(
    "/rejected-deliveries/{rejected_id:uuid}",
    summary="Get a refused delivery",
    description="With its body as text, as far as it is kept.",
    opt={"permission": Permission.SIGNALS_READ},
    responses=problems(404),
)
async def get_rejected(actor: Acting, rejected_id: FromPath[UUID]) -> RejectedDetail:
    return await acceptance.get_rejected(actor.organization_id, rejected_id)


@post(
    "/rejected-deliveries/{rejected_id:uuid}/acceptances",
    summary="Accept a refused delivery",
    description=(
        "Once what was wrong is mended: it is verified again, with the secrets and limits of today and as of the time "
        "it came, and stored as a signal. A delivery that cannot be verified is never accepted; `detail` says why."
    ),
    opt={"permission": Permission.SOURCES_WRITE},
    responses=problems(404, 409, 422),
)
async def accept_rejected(actor: Acting, rejected_id: FromPath[UUID]) -> Receipt:
    return await acceptance.accept_rejected(actor, rejected_id)


@post(
    "/sources/{source_id:uuid}/acceptances",
    summary="Accept the refused deliveries of a source",
    description=(
        "Those that were refused for one cause, the oldest first, 100 at once; send it again with `next_cursor` for "
        "the next ones. Each is verified again, and `refused` says which still cannot be accepted, and why."
    ),
    opt={"permission": Permission.SOURCES_WRITE},
    responses=problems(404, 422),
)
async def accept_all(actor: Acting, source_id: FromPath[UUID], data: AcceptanceBody) -> Acceptances:
    await get_source(actor.organization_id, source_id)
    return await acceptance.accept_all(actor, source_id, data)


acceptances_router = Router("/", route_handlers=[get_rejected, accept_rejected, accept_all], tags=["Sources"])
