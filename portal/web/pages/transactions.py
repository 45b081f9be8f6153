"""Transactions: how each approved action is carried out, attempt by attempt, and what it waits for."""

from typing import Any
from uuid import UUID

from litestar import Response, get
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.audit import queries as audit
from portal.chain import queries as chain
from portal.errors import PortalError
from portal.transactions import queries as transactions
from portal.transactions.lanes import queries as lanes
from portal.transactions.schemas import TransactionView
from portal.web import stories
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.render import AnyRequest
from portal.web.states import STATES, action_state

READ = {"permission": Permission.TRANSACTIONS_READ}
HELD = "held"
REVERTED = "reverted"


@get("/transactions", opt=READ)
async def show_transactions(
    request: AnyRequest, desk: AtDesk, status: FromQuery[str | None] = None, cursor: FromQuery[str | None] = None
) -> Response[str]:
    """`status` is one of a transaction, `reverted`, or `held` for what waits for something out of the ordinary."""
    organization = desk.actor.organization_id
    counts = await transactions.count_by_status(organization)
    held_up = await transactions.count_held(organization)
    wanted = next((each for each in counts if each == status), None)
    outcome = REVERTED if status == REVERTED else None
    held = True if status == HELD else None
    found = await transactions.list_transactions(organization, status=wanted, outcome=outcome, held=held, cursor=cursor)
    choices: list[tuple[str | None, str, int | None]] = [
        (None, "All", sum(counts.values())),
        (HELD, "Held up", held_up),
    ]
    choices += [
        (each.value, STATES[action_state("approved", each, None)].word, number)
        for each, number in counts.items()
        if number or each is wanted
    ]
    choices.append((REVERTED, STATES[REVERTED].word, None))
    return desk_page(
        request,
        desk,
        "transactions/list.html",
        active="transactions",
        rows=[{"transaction": each, "state": _state(each)} for each in found.items],
        summaries=await actions.summaries_of(organization, [each.action_id for each in found.items]),
        choices=choices,
        status=status if wanted or held or outcome else None,
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/transactions/{transaction_id:uuid}", opt=READ)
async def show_transaction(request: AnyRequest, desk: AtDesk, transaction_id: FromPath[UUID]) -> Response[str]:
    return await transaction_page(request, desk, transaction_id)


async def transaction_page(
    request: AnyRequest, desk: Desk, transaction_id: UUID, error: PortalError | None = None
) -> Response[str]:
    """The page of one transaction, with what was wrong about what was asked of it. Raises `NotFound`."""
    organization = desk.actor.organization_id
    transaction = await transactions.get_transaction(organization, transaction_id)
    action = await actions.get_action(organization, transaction.action_id)
    entries = await audit.list_entries(
        organization, subject_kind="transaction", subject_id=str(transaction_id), limit=200
    )
    lane = await lanes.list_lanes(organization, chain_id=transaction.chain_id, signer_id=transaction.signer_id, limit=1)
    context: dict[str, Any] = {
        "transaction": transaction,
        "action": action,
        "state": _state(transaction),
        "settled": stories.is_settled(action, transaction),
        "stages": stories.stages(action, transaction),
        "waiting": stories.waiting(action, transaction),
        "story": stories.tell(entries.items[::-1]),
        "signer": await chain.get_signer(organization, transaction.signer_id),
        "lane": next(iter(lane.items), None),
        "error": error,
        "path": desk.url(f"transactions/{transaction_id}"),
    }
    status = error.status if error else 200
    return desk_page(request, desk, "transactions/detail.html", active="transactions", http_status=status, **context)


def _state(transaction: TransactionView) -> str:
    return action_state("approved", transaction.status, transaction.outcome, transaction.closing_reason)


handlers = [show_transactions, show_transaction]
