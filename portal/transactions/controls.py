"""What a member can ask of a transaction under way: call it off, or pay more so that it is mined sooner.

Asking writes down a wish and wakes the worker that holds the transaction's lane; nothing is signed here. Whether a
cancellation came in time is decided by what is mined.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.chain.rpc import Fees
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict, NotFound
from portal.jobs.queue import ring
from portal.transactions.fees import fee_cap, raised
from portal.transactions.states import CANCELLABLE, HURRIABLE, TERMINAL
from portal.transactions.tables import TransactionStatus as Status

STATE = """
    SELECT t.status, t.nonce, t.block_number, t.cancel_requested_at, t.hurry_requested_at, c.most_fee_wei, c.name,
           attempts.first_fee, attempts.newest_fee,
           (SELECT count(*) FROM transaction o WHERE o.lane = t.lane AND o.nonce < t.nonce
               AND o.status IN ('nonced', 'signed', 'broadcast', 'closing', 'suspect')) AS ahead
    FROM transaction t JOIN lane l ON l.id = t.lane JOIN chain c ON c.id = l.chain
    LEFT JOIN LATERAL (
        SELECT min(max_fee_wei) AS first_fee, max(max_fee_wei) AS newest_fee FROM attempt a WHERE a.transaction = t.id
    ) attempts ON true
    WHERE t.id = {} AND t.organization = {} """


class NotCancellable(Conflict):
    title = "It cannot be cancelled"


class NotHurriable(Conflict):
    title = "It cannot be sped up"


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of a transaction now; a sentence says why not, None that it can."""

    why_not_cancel: str | None
    why_not_speed_up: str | None
    cancel_requested_at: datetime | None
    hurry_requested_at: datetime | None
    """None again once the fees are raised."""


async def cancel(actor: Actor, transaction_id: UUID) -> None:
    """Ask for the transaction to be called off.

    Without a nonce it ends at once; with one, a transaction that does nothing is sent at the same nonce, and what is
    mined of the two decides. Raises `Forbidden`, `NotFound`, and `NotCancellable` with a sentence once it is mined,
    has ended, or was asked for already.
    """
    actor.require(Permission.TRANSACTIONS_WRITE)
    await _ask(actor, transaction_id, "cancel_requested_at", "cancel_requested")


async def speed_up(actor: Actor, transaction_id: UUID) -> None:
    """Ask for the fees of the transaction to be raised now, within its limits.

    Raises `Forbidden`, `NotFound`, and `NotHurriable` with a sentence where that would change nothing.
    """
    actor.require(Permission.TRANSACTIONS_WRITE)
    await _ask(actor, transaction_id, "hurry_requested_at", "hurry_requested")


async def get_controls(organization_id: UUID, transaction_id: UUID) -> Controls:
    """What can be asked of the transaction as it is now. Raises `NotFound`."""
    row = await _read(organization_id, transaction_id)
    return Controls(
        why_not_cancel=_why_not_cancel(row),
        why_not_speed_up=_why_not_speed_up(row),
        cancel_requested_at=row["cancel_requested_at"],
        hurry_requested_at=row["hurry_requested_at"],
    )


async def _ask(actor: Actor, transaction_id: UUID, column: str, verb: str) -> None:
    cancelling = column == "cancel_requested_at"
    async with transaction():
        row = await _read(actor.organization_id, transaction_id, lock=True)
        if why_not := (_why_not_cancel if cancelling else _why_not_speed_up)(row):
            raise (NotCancellable if cancelling else NotHurriable)(why_not)
        await run_sql(
            f"UPDATE transaction SET {column} = {{}} WHERE id = {{}}",  # noqa: S608  one of two names of ours
            clock.now(),
            transaction_id,
        )
        detail = {"status": row["status"], "nonce": row["nonce"]}
        await audit.append(actor, f"transaction.{verb}", "transaction", transaction_id, detail)
    ring("run_lanes")


async def _read(organization_id: UUID, transaction_id: UUID, *, lock: bool = False) -> dict[str, Any]:
    rows = await run_sql(STATE + ("FOR NO KEY UPDATE OF t" if lock else ""), transaction_id, organization_id)
    if not rows:
        raise NotFound("There is no such transaction.")
    return rows[0]


def _why_not_cancel(row: dict[str, Any]) -> str | None:
    if ended := _ended(row):
        return ended
    if row["status"] == Status.CLOSING:
        return "It is being closed already: a transaction that does nothing takes its place."
    if row["cancel_requested_at"] is not None:
        return f"That was asked for at {row['cancel_requested_at']:%Y-%m-%d %H:%M} UTC already."
    assert row["status"] in CANCELLABLE
    return None


def _why_not_speed_up(row: dict[str, Any]) -> str | None:
    if ended := _ended(row):
        return ended
    if row["status"] not in HURRIABLE:
        return "It is not sent yet, so there are no fees to raise."
    if row["hurry_requested_at"] is not None:
        return "That was asked for already; its fees are raised in a moment."
    if row["ahead"]:
        many = f"{row['ahead']} transactions" if row["ahead"] > 1 else "A transaction"
        return f"{many} of the same signer must come first, so higher fees of this one would change nothing."
    cap = min(fee_cap(Fees(int(row["first_fee"]), 0)), int(row["most_fee_wei"] or 2**256))
    if raised(int(row["newest_fee"])) > cap:
        return "It offers the most that its limits allow already; the same bytes are sent again and again."
    return None


def _ended(row: dict[str, Any]) -> str | None:
    """Why nothing can be changed any more about what is mined or has ended."""
    status = Status(row["status"])
    if status is Status.SUSPECT:
        return "Its nonce is used up on the chain, so nothing can take its place; what was mined is being established."
    if row["block_number"] is not None:
        return f"It was included in block {row['block_number']:,} of {row['name']}, so it cannot be changed any more."
    return f"It is already {status.value}; nothing was changed." if status in TERMINAL else None
