"""What a member can ask of a transaction under way: call it off, or pay more so that it is mined sooner.

Asking writes down a wish and wakes the worker that holds the transaction's lane; nothing is signed here. Whether a
cancellation came in time is decided by what is mined.
"""

from uuid import UUID

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict
from portal.jobs.queue import ring
from portal.transactions.queries import get_transaction
from portal.transactions.schemas import TransactionView
from portal.transactions.states import HURRIABLE, TERMINAL
from portal.transactions.tables import TransactionStatus as Status


class NotCancellable(Conflict):
    title = "It cannot be cancelled"


class NotHurriable(Conflict):
    title = "It cannot be sped up"


async def cancel(actor: Actor, transaction_id: UUID) -> TransactionView:
    """Ask for the transaction to be called off.

    Without a nonce it ends with the next pass; with one, an empty transaction is sent at the same nonce, and
    what is mined of the two decides. Raises `Forbidden`, `NotFound`, and `NotCancellable` with a sentence once it is
    mined, has ended, or was cancelled already.
    """
    actor.require(Permission.TRANSACTIONS_WRITE)
    async with transaction():
        view = await _lock(actor.organization_id, transaction_id)
        if not view.may_cancel:
            raise NotCancellable(_why_not_cancel(view))
        await run_sql("UPDATE transaction SET cancel_requested_at = {} WHERE id = {}", clock.now(), transaction_id)
        await _record(actor, view, "cancel_requested")
    ring("run_lanes")
    return await get_transaction(actor.organization_id, transaction_id)


async def speed_up(actor: Actor, transaction_id: UUID) -> TransactionView:
    """Ask for the fees of the transaction to be raised now, within its limits.

    Raises `Forbidden`, `NotFound`, and `NotHurriable` with a sentence where that would change nothing.
    """
    actor.require(Permission.TRANSACTIONS_WRITE)
    async with transaction():
        view = await _lock(actor.organization_id, transaction_id)
        if not view.may_hurry:
            raise NotHurriable(await _why_not_speed_up(view))
        await run_sql("UPDATE transaction SET hurry_requested_at = {} WHERE id = {}", clock.now(), transaction_id)
        await _record(actor, view, "hurry_requested")
    ring("run_lanes")
    return await get_transaction(actor.organization_id, transaction_id)


async def _lock(organization_id: UUID, transaction_id: UUID) -> TransactionView:
    """The transaction as it stays until the db transaction ends."""
    await run_sql(
        "SELECT id FROM transaction WHERE id = {} AND organization = {} FOR NO KEY UPDATE",
        transaction_id,
        organization_id,
    )
    return await get_transaction(organization_id, transaction_id)


async def _record(actor: Actor, view: TransactionView, verb: str) -> None:
    detail = {"status": view.status.value, "nonce": view.nonce}
    await audit.append(actor, f"transaction.{verb}", "transaction", view.id, detail)


def _why_not_cancel(view: TransactionView) -> str:
    if ended := _ended(view):
        return ended
    if view.status is Status.CLOSING:
        return "It is already being closed: an empty transaction is taking its place."
    return "It was cancelled already; the worker is about to carry that out."


async def _why_not_speed_up(view: TransactionView) -> str:
    if ended := _ended(view):
        return ended
    if view.status not in HURRIABLE:
        return "It is not sent yet, so there are no fees to raise."
    if view.hurry_requested_at:
        return "That was asked for already; its fees are raised in a moment."
    rows = await run_sql(
        """SELECT count(*) FROM transaction t JOIN transaction o ON o.lane = t.lane AND o.nonce < t.nonce
           WHERE t.id = {} AND o.status IN ('nonced', 'signed', 'broadcast', 'closing', 'suspect')""",
        view.id,
    )
    if ahead := rows[0]["count"]:
        many = "An earlier transaction" if ahead == 1 else f"{ahead} earlier transactions"
        return f"{many} of the same signer must be mined first, so raising the fees of this one would not help."
    return "It offers the most that its limits allow already; the same bytes are sent again from time to time."


def _ended(view: TransactionView) -> str | None:
    """Why nothing can be changed any more about what is mined or has ended."""
    if view.status is Status.SUSPECT:
        return "Its nonce was used on the chain, so nothing can replace it; the portal is finding out what was mined."
    if view.block_number is not None:
        return f"It was included in block {view.block_number:,} of {view.chain_name}, so it cannot be changed any more."
    return f"It is already {view.status.value}; nothing was changed." if view.status in TERMINAL else None
