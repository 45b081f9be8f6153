"""Ends what is not to be carried out any more, as far as that is in our hands: cancelled, expired, refused.

What has no nonce just ends. A nonce without signed bytes goes back to its lane where it is the newest; every other one
is used up by a freshly signed empty transaction, and what is mined decides. In the same way a nonce goes
back of what only has to wait.
"""

import msgspec

from portal import clock
from portal.chain.rpc import Block
from portal.db.engine import run_sql, transaction
from portal.logging import get_logger
from portal.transactions.attempts import list_offers
from portal.transactions.costs.limits import TooCostly
from portal.transactions.deployments import end_deployment
from portal.transactions.lanes import answers, leases
from portal.transactions.lanes.leases import Lease
from portal.transactions.lanes.pushing import noop_gas, send_newest
from portal.transactions.lanes.signing import NotSigned
from portal.transactions.lanes.writer import Writer
from portal.transactions.moves import Work, correlated, move
from portal.transactions.states import CANCELLABLE
from portal.transactions.tables import AttemptKind, ClosingReason
from portal.transactions.tables import TransactionStatus as Status

log = get_logger(__name__)


class Ending(msgspec.Struct, frozen=True):
    """Why a transaction is not to be carried out any more."""

    reason: ClosingReason
    sentence: str


CANCELLED = Ending(ClosingReason.CANCELLED, "A member cancelled it.")


def ending_of(work: Work, head: Block) -> Ending | None:
    """Why `work` is to be closed now, if it is: somebody cancelled it, or its time is over.

    By the chain's clock and by ours: ours may jump, and a node may lie about its newest block.
    """
    if work.status not in CANCELLABLE:
        return None
    if work.cancel_requested_at is not None:
        return CANCELLED
    now = min(head.timestamp, clock.now().timestamp())
    if work.execute_before is not None and work.execute_before.timestamp() <= now:
        before = f"{work.execute_before:%Y-%m-%d %H:%M}"
        return Ending(ClosingReason.EXPIRED, f"It was to be carried out before {before} UTC, and that time is over.")
    return None


async def close(writer: Writer, work: Work, ending: Ending) -> None:
    """End `work` if nothing of it was signed and its nonce can be handed back, else begin to use up its nonce."""
    if not await end_unsigned(writer.lane.lease, work, ending):
        await use_up_nonce(writer, work, ending)


async def end_unsigned(lease: Lease, work: Work, ending: Ending) -> bool:
    """End a transaction of which nothing was signed; False, and nothing is changed, where its nonce must be used up.

    Raises `LaneLost`.
    """
    if work.status not in (Status.QUEUED, Status.NONCED):
        return False
    after = Status(ending.reason.value)
    async with transaction():
        await leases.hold(lease)
        if work.nonce is not None and not await hand_back_nonce(work):
            return False
        ended = await move(work, after, after.value, {"nonce": None, "reason": ending.sentence}, reason=ending.sentence)
        if ended:
            await end_deployment(work, None)
    with correlated(work):
        log.info("transaction.ended", status=after, reason=ending.sentence)
    return True


async def requeue(lease: Lease, work: Work, why: str) -> bool:
    """Hand the nonce of `work` back and let it wait in the queue; False, and nothing is changed, where it must keep it.

    That is where bytes of it are stored, or a later nonce was given out. The caller knows that no signer elsewhere may
    have signed it. Raises `LaneLost`.
    """
    async with transaction():
        await leases.hold(lease)
        if await list_offers(work.id) or not await hand_back_nonce(work):
            return False
        await move(work, Status.QUEUED, "requeued", {"nonce": None, "reason": why}, nonce=work.nonce, reason=why)
    with correlated(work):
        log.warning("transaction.requeued", nonce=work.nonce, reason=why)
    return True


async def use_up_nonce(writer: Writer, work: Work, ending: Ending) -> None:
    """Sign an empty transaction in the place of `work`, for more than all before it, and send it."""
    offers = await list_offers(work.id)
    try:
        gas = await noop_gas(writer)
        attempt = await writer.sign(work, AttemptKind.NOOP, gas, earlier=offers, closing_reason=ending.reason)
    except (TooCostly, NotSigned) as why:
        await writer.note(work, f"{ending.sentence} What takes its place cannot be signed now. {why}")
        return
    closing = msgspec.structs.replace(work, status=Status.CLOSING, reason=None)
    sends = await send_newest(writer, closing, answers.REPRICED_WHEN_OUT, attempt)
    await writer.note(closing, answers.reason_of(closing, sends[-1].answer), sends)


async def hand_back_nonce(work: Work) -> bool:
    """Make its nonce the lane's next one again, in the caller's db transaction, which must take it from `work`.

    False if a later one was given out, or if `work` is no longer as it was read; what was read is locked.
    """
    assert work.nonce is not None
    rows = await run_sql(
        """WITH held AS (SELECT lane FROM transaction WHERE id = {} AND status = {} AND nonce = {} FOR NO KEY UPDATE)
           UPDATE lane SET next_nonce = {} FROM held WHERE lane.id = held.lane AND next_nonce = {} RETURNING lane.id""",
        work.id,
        work.status.value,
        work.nonce,
        work.nonce,
        work.nonce + 1,
    )
    return bool(rows)
