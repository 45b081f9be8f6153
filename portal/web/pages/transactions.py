"""Transactions: how each approved action is carried out, attempt by attempt, and what it waits for."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from litestar import Response, get
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.audit import queries as audit
from portal.chain import queries as chain
from portal.db.paging import Count
from portal.errors import PortalError
from portal.transactions import queries as transactions
from portal.transactions.lanes import queries as lanes
from portal.transactions.schemas import TransactionView
from portal.web import stories
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.fresh import MAX_IDS, fresh_address, fresh_rows, read_ids
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
    counts = await transactions.count_by_status(desk.actor.organization_id)
    filters = _filters(counts, status)
    found = await transactions.list_transactions(desk.actor.organization_id, cursor=cursor, **filters)
    status = status if filters else None
    return desk_page(
        request,
        desk,
        "transactions/list.html",
        active="transactions",
        rows=await _rows(desk, found.items),
        choices=await _choices(desk, counts, status),
        status=status,
        fresh=fresh_address(desk, "transactions", [each.id for each in found.items], status=status, older=bool(cursor)),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/transactions/fresh", opt=READ)
async def show_fresh_transactions(
    request: AnyRequest,
    desk: AtDesk,
    *,
    shown: FromQuery[str],
    status: FromQuery[str | None] = None,
    older: FromQuery[bool] = False,
) -> Response[str]:
    """What became of those `shown`, and how many more are among the newest, for a list that is not of `older` ones."""
    organization, ids = desk.actor.organization_id, read_ids(shown, "shown")
    counts = await transactions.count_by_status(organization)
    filters = _filters(counts, status)
    newest = [] if older else (await transactions.list_transactions(organization, **filters)).items
    found = await transactions.list_transactions(organization, ids=ids, limit=MAX_IDS)
    status = status if filters else None
    return fresh_rows(
        request,
        desk,
        "transactions",
        newest=[each.id for each in newest],
        shown=ids,
        rows=await _rows(desk, found.items),
        choices=await _choices(desk, counts, status),
        status=status,
    )


def _filters(counts: Mapping[Any, Count], status: str | None) -> dict[str, Any]:
    """What a list is asked for by the state in its address; nothing for a word that is no state."""
    if status == HELD:
        return {"held": True}
    if status == REVERTED:
        return {"outcome": REVERTED}
    return {"status": status} if status in list(counts) else {}


async def _choices(
    desk: Desk, counts: Mapping[Any, Count], status: str | None
) -> list[tuple[str | None, str, int | None]]:
    held_up = await transactions.count_held(desk.actor.organization_id)
    return [
        (None, "All", sum(counts.values())),
        (HELD, "Held up", held_up),
        *(
            (each.value, STATES[action_state("approved", each, None)].word, number)
            for each, number in counts.items()
            if number or each == status
        ),
        (REVERTED, STATES[REVERTED].word, None),
    ]


async def _rows(desk: Desk, found: Sequence[TransactionView]) -> list[dict[str, Any]]:
    summaries = await actions.summaries_of(desk.actor.organization_id, [each.action_id for each in found])
    return [
        {
            "key": f"transaction-{each.id}",
            "transaction": each,
            "state": _state(each),
            "summary": summaries[each.action_id],
        }
        for each in found
    ]


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


handlers = [show_transactions, show_fresh_transactions, show_transaction]
