"""Writes down what was sent, what the node answered, and why a transaction waits."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from prometheus_client import Histogram

from portal import clock
from portal.chain.send_answers import SendAnswer, SendKind
from portal.db.engine import run_sql, transaction
from portal.transactions.attempts import StoredAttempt
from portal.transactions.lanes import answers, leases
from portal.transactions.lanes.leases import LaneLost, Lease
from portal.transactions.moves import Step, Work, hold_many, move_many
from portal.transactions.tables import TransactionStatus as Status

BROADCAST_SECONDS = Histogram(
    "portal_transaction_broadcast_seconds",
    "From the approval of an action to the first acceptance of its transaction by a node",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60, 300, 1800),
)


class Sent(msgspec.Struct, frozen=True):
    """One send and its answer."""

    attempt: StoredAttempt
    answer: SendAnswer
    at: datetime


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written down of a transaction: sends, why it waits, whether it is out."""

    lease: Lease
    work: Work
    reason: str | None
    sent: Sequence[Sent] = ()
    is_out: bool = False
    """Whether it becomes `broadcast`."""
    hurried: bool = False
    """Whether a wish for higher fees is answered by this."""


async def note_all(notes: Sequence[Note]) -> list[bool | Exception]:
    """Write all of it down in one db transaction; for each whether it was, `LaneLost` where another has the lane.

    A transaction that is not any more as it was read keeps its state; its attempts were sent all the same.
    """
    async with transaction():
        lanes = await leases.held(note.lease for note in notes)
        ours = [note for note in notes if note.lease.lane_id in lanes]
        await note_sent([sent for note in ours for sent in note.sent])
        await hold_many([(note.work, note.reason) for note in ours if not note.is_out])
        await end_hurry([note.work.id for note in ours if note.hurried])
        now = clock.now()
        moved = await move_many([_broadcast(note, now) for note in ours if note.is_out], Status.BROADCAST, "broadcast")
    for work in moved:
        if work.decided_at:
            BROADCAST_SECONDS.observe((now - work.decided_at).total_seconds())
    return [True if note.lease.lane_id in lanes else LaneLost() for note in notes]


async def note_sent(sent: Sequence[Sent]) -> None:
    """Write down when attempts were sent and what was answered, in the caller's db transaction."""
    if not sent:
        return
    await run_sql(
        """UPDATE attempt SET last_sent_at = sent.at, last_answer = sent.answer, first_sent_at =
               CASE WHEN sent.may_be_out THEN coalesce(first_sent_at, sent.at) ELSE first_sent_at END
           FROM unnest({}::uuid[], {}::timestamptz[], {}::text[], {}::boolean[]) AS sent (id, at, answer, may_be_out)
           WHERE attempt.id = sent.id""",
        [each.attempt.id for each in sent],
        [each.at for each in sent],
        [None if each.answer.kind is SendKind.ACCEPTED else each.answer.message for each in sent],
        [answers.may_be_out(each.answer.kind) for each in sent],
    )


async def end_hurry(ids: Sequence[UUID]) -> None:
    """Take back the wish for higher fees of these transactions, in the caller's db transaction."""
    if ids:
        await run_sql("UPDATE transaction SET hurry_requested_at = NULL WHERE id = ANY({}::uuid[])", ids)


def _broadcast(note: Note, now: datetime) -> Step:
    last = note.sent[-1]
    return Step(
        work=note.work,
        changes={"broadcast_at": now, "reason": note.reason},
        detail={"hash": last.attempt.hash, "nonce": note.work.nonce, "answer": last.answer.kind.value},
    )
