"""What a member can ask of a transaction under way, from its page."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from litestar import Response, post
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.errors import Conflict
from portal.transactions.controls import service as controls
from portal.transactions.schemas import TransactionView
from portal.web.asking import AtDesk
from portal.web.desk import Desk
from portal.web.pages.transactions import transaction_page
from portal.web.render import AnyRequest, see_other

WRITE = {"permission": Permission.TRANSACTIONS_WRITE}


@post("/transactions/{transaction_id:uuid}/cancel", opt=WRITE)
async def cancel_transaction(request: AnyRequest, desk: AtDesk, transaction_id: FromPath[UUID]) -> Response[Any]:
    return await _ask(request, desk, transaction_id, controls.cancel, "cancellation_requested")


@post("/transactions/{transaction_id:uuid}/speed-up", opt=WRITE)
async def speed_up_transaction(request: AnyRequest, desk: AtDesk, transaction_id: FromPath[UUID]) -> Response[Any]:
    return await _ask(request, desk, transaction_id, controls.speed_up, "speed_up_requested")


async def _ask(
    request: AnyRequest,
    desk: Desk,
    transaction_id: UUID,
    ask: Callable[[Actor, UUID], Awaitable[TransactionView]],
    done: str,
) -> Response[Any]:
    try:
        await ask(desk.actor, transaction_id)
    except Conflict as error:
        return await transaction_page(request, desk, transaction_id, error)
    return see_other(desk.url(f"transactions/{transaction_id}"), done=done)


handlers = [cancel_transaction, speed_up_transaction]
