"""What can be asked of a transaction under way."""

from uuid import UUID

from litestar import Router
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.api.operations import Acting, post, problems
from portal.transactions.controls import service as controls
from portal.transactions.schemas import TransactionView

WRITE = {"permission": Permission.TRANSACTIONS_WRITE}


@post(
    "/transactions/{transaction_id:uuid}/cancellations",
    summary="Cancel a transaction",
    description=(
        "Without a nonce it ends at once. With one, an empty transaction is sent at the same nonce, and whichever of "
        "the two the chain includes takes effect: `outcome` says which. 409 once it is included or has ended."
    ),
    opt=WRITE,
    status_code=202,
    responses=problems(404, 409, 422),
)
async def cancel_transaction(actor: Acting, transaction_id: FromPath[UUID]) -> TransactionView:
    return await controls.cancel(actor, transaction_id)


@post(
    "/transactions/{transaction_id:uuid}/speed-ups",
    summary="Speed up a transaction",
    description="Raises the fees of what is sent and waits for a block, within its limits. 409 where nothing can be.",
    opt=WRITE,
    status_code=202,
    responses=problems(404, 409, 422),
)
async def speed_up_transaction(actor: Acting, transaction_id: FromPath[UUID]) -> TransactionView:
    return await controls.speed_up(actor, transaction_id)


transaction_controls_router = Router(
    "/", route_handlers=[cancel_transaction, speed_up_transaction], tags=["Transactions"]
)
