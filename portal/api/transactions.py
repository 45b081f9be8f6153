"""Transactions: what carries out approved actions."""

from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath, FromQuery, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit, choice, choices
from portal.api.operations import Acting, problems
from portal.db.paging import Page
from portal.transactions import queries
from portal.transactions.schemas import TransactionView

READ = {"permission": Permission.TRANSACTIONS_READ}
HeldFilter = Annotated[bool | None, QueryParameter(description="Whether it waits for something out of the ordinary.")]
OutcomeFilter = Annotated[str | None, QueryParameter(schema_extra={"enum": choices(TransactionView, "outcome")})]
StatusFilter = Annotated[str | None, QueryParameter(schema_extra={"enum": choices(TransactionView, "status")})]


@get("/transactions", summary="List transactions", opt=READ, responses=problems())
async def list_transactions(
    actor: Acting,
    *,
    status: StatusFilter = None,
    outcome: OutcomeFilter = None,
    held: HeldFilter = None,
    signer_id: FromQuery[UUID | None] = None,
    chain_id: Annotated[int | None, QueryParameter(ge=1, le=2**53)] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[TransactionView]:
    return await queries.list_transactions(
        actor.organization_id,
        status=choice(TransactionView, "status", status),
        outcome=choice(TransactionView, "outcome", outcome),
        held=held,
        signer_id=signer_id,
        chain_id=chain_id,
        cursor=cursor,
        limit=limit,
    )


@get("/transactions/{transaction_id:uuid}", summary="Get a transaction", opt=READ, responses=problems(404))
async def get_transaction(actor: Acting, transaction_id: FromPath[UUID]) -> TransactionView:
    return await queries.get_transaction(actor.organization_id, transaction_id)


transactions_router = Router("/", route_handlers=[list_transactions, get_transaction], tags=["Transactions"])
