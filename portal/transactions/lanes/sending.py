"""Sends signed bytes for the first time, and decides what the node's answer means for their transaction."""

from portal.chain.rpc import NodeUnavailable
from portal.chain.send_answers import SendKind
from portal.db.engine import transaction
from portal.logging import get_logger
from portal.transactions.attempts import StoredAttempt
from portal.transactions.deployments import end_deployment
from portal.transactions.lanes import answers, leases
from portal.transactions.lanes.answers import Consequence
from portal.transactions.lanes.closing import Ending, hand_back_nonce, use_up_nonce
from portal.transactions.lanes.leases import Lease
from portal.transactions.lanes.noting import Sent, note_sent
from portal.transactions.lanes.pushing import fill_gaps, send_newest
from portal.transactions.lanes.writer import Writer
from portal.transactions.moves import Work, correlated, move
from portal.transactions.tables import ClosingReason
from portal.transactions.tables import TransactionStatus as Status

log = get_logger(__name__)
REPRICED_AT_FIRST = frozenset(
    kind for kind, consequence in answers.AFTER_FIRST_SEND.items() if consequence is Consequence.REPRICE
)


async def send_first(writer: Writer, work: Work, attempt: StoredAttempt | None = None) -> bool:
    """Send the stored bytes of a signed transaction (`attempt`, or the newest); whether its lane may go on.

    Safe to repeat after a crash at any point: the same bytes go out, and a node that has them says so.
    """
    sends = await send_newest(writer, work, REPRICED_AT_FIRST, attempt)
    last = sends[-1]
    consequence = answers.AFTER_FIRST_SEND[last.answer.kind]
    reason = answers.reason_of(work, last.answer)
    has, trouble = None, ""
    if consequence in (Consequence.ASK_NONCE, Consequence.GIVE_UP):
        try:
            has = await _pool_has(writer, work)
        except NodeUnavailable as error:
            trouble = f" {error.detail}"
    if consequence is Consequence.ASK_NONCE and has:
        consequence, reason = Consequence.BROADCAST, None
    if consequence is Consequence.GIVE_UP and has is False and not _may_be_out(sends):
        await _reject(writer, work, last)
        return True
    await writer.note(
        work, f"{reason}{trouble}" if reason else None, sends, is_out=consequence is Consequence.BROADCAST
    )
    if last.answer.kind is SendKind.NONCE_TOO_HIGH:
        await fill_gaps(writer, work)
    return consequence is Consequence.BROADCAST


def _may_be_out(sends: list[Sent]) -> bool:
    """Whether some node may have what was sent now or before."""
    return any(sent.attempt.may_be_out or answers.may_be_out(sent.answer.kind) for sent in sends)


async def _pool_has(writer: Writer, work: Work) -> bool:
    """Whether the node counts a transaction with this nonce among its pending ones. Raises `NodeUnavailable`."""
    assert work.nonce is not None
    return await writer.node.transaction_count(work.signer_address, pending=True) > work.nonce


async def _reject(writer: Writer, work: Work, sent: Sent) -> None:
    """Give up bytes that no node takes and surely none has; their nonce goes to the next, or is used up."""
    sentence = f"The node refused it for good: {sent.answer.message}."
    with correlated(work):
        log.error("transaction.rejected", hash=sent.attempt.hash, said=sent.answer.message)
    if not await _end_rejected(writer.lane.lease, work, sent, sentence):
        await use_up_nonce(writer, work, Ending(ClosingReason.REFUSED, sentence))


async def _end_rejected(lease: Lease, work: Work, sent: Sent, sentence: str) -> bool:
    async with transaction():
        await leases.hold(lease)
        if not await hand_back_nonce(work):
            return False
        await note_sent([sent])
        detail = {"hash": sent.attempt.hash, "nonce": work.nonce, "answer": sent.answer.message}
        await move(work, Status.REJECTED, "rejected", {"nonce": None, "reason": sentence}, **detail)
        await end_deployment(work, None)
    return True
