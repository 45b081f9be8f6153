"""Sends stored bytes and writes down what the node answered. Nothing is sent that is not stored first."""

from uuid import UUID

import msgspec
from prometheus_client import Counter, Histogram

from portal import clock
from portal.chain.rpc import Node
from portal.chain.send_answers import SendAnswer, SendKind
from portal.db.engine import run_sql, transaction
from portal.logging import get_logger
from portal.transactions import answers
from portal.transactions.answers import Step
from portal.transactions.deployments import end_deployment
from portal.transactions.moves import Work, correlated, hold, move
from portal.transactions.signing import hand_back_nonce, sign_replacement
from portal.transactions.tables import TransactionStatus as Status

log = get_logger(__name__)
SENDS = Counter("portal_transaction_sends_total", "Sends of signed bytes, by what the node answered", ["answer"])
BROADCAST_SECONDS = Histogram(
    "portal_transaction_broadcast_seconds",
    "From the approval of an action to the first acceptance of its transaction by a node",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60, 300, 1800),
)
REPRICED_AT_FIRST = frozenset(kind for kind, step in answers.AFTER_FIRST_SEND.items() if step is Step.REPRICE)
REPRICES_AT_ONCE = 3
"""How often one send may raise its fees before it waits for the market."""


class StoredAttempt(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    hash: str
    raw_bytes: bytes
    may_be_out: bool
    """Whether some node may have accepted it, or one of the attempts before it."""


async def _newest_attempt(work: Work) -> StoredAttempt:
    rows = await run_sql(
        """SELECT id, hash, raw_bytes, bool_or(first_sent_at IS NOT NULL) OVER () AS may_be_out FROM attempt
           WHERE transaction = {} ORDER BY max_fee_wei DESC LIMIT 1""",
        work.id,
    )
    return StoredAttempt(**{**rows[0], "raw_bytes": bytes(rows[0]["raw_bytes"])})


async def send_first(work: Work, node: Node) -> bool:
    """Send the stored bytes of a signed transaction; whether its lane may go on to the next.

    Safe to repeat after a crash at any point: the same bytes go out, and a node that has them says so.
    Raises `NodeUnavailable` where the answer calls for another question that is not answered.
    """
    attempt, answer = await _send_newest(work, node, REPRICED_AT_FIRST)
    step = answers.AFTER_FIRST_SEND[answer.kind]
    if step is Step.GIVE_UP and await _reject(work, attempt, answer, node):
        return True
    if step is Step.ASK_NONCE and await _pool_has(work, node):
        step, answer = Step.BROADCAST, SendAnswer(SendKind.ACCEPTED, answer.message)
    if step is Step.BROADCAST:
        await _broadcast(work, attempt, answer)
        return True
    await hold(work, _reason(work, answer))
    return False


async def send_again(work: Work, node: Node) -> SendKind:
    """Send the newest stored bytes of a broadcast transaction, whether they were dropped, undone or never seen."""
    _, answer = await _send_newest(work, node, answers.REPRICED_WHEN_OUT)
    await hold(work, _reason(work, answer))
    return answer.kind


async def _send_newest(work: Work, node: Node, repriced: frozenset[SendKind]) -> tuple[StoredAttempt, SendAnswer]:
    """Send the newest attempt; after an answer in `repriced`, a few times one with higher fees, up to the cap."""
    for _ in range(REPRICES_AT_ONCE):
        attempt = await _newest_attempt(work)
        answer = await _send(work, attempt, node)
        if answer.kind not in repriced or not await sign_replacement(work, node):
            return attempt, answer
    attempt = await _newest_attempt(work)
    return attempt, await _send(work, attempt, node)


async def _send(work: Work, attempt: StoredAttempt, node: Node) -> SendAnswer:
    answer = await node.send(attempt.raw_bytes)
    SENDS.labels(answer.kind.value).inc()
    with correlated(work):
        log.info("transaction.sent", hash=attempt.hash, nonce=work.nonce, answer=answer.kind, said=answer.message)
    now = clock.now()
    await run_sql(
        """UPDATE attempt SET last_sent_at = {}, last_answer = {},
                              first_sent_at = CASE WHEN {} THEN coalesce(first_sent_at, {}) ELSE first_sent_at END
           WHERE id = {}""",
        now,
        None if answer.kind is SendKind.ACCEPTED else answer.message,
        answers.may_be_out(answer.kind),
        now,
        attempt.id,
    )
    return answer


async def _broadcast(work: Work, attempt: StoredAttempt, answer: SendAnswer) -> None:
    now = clock.now()
    async with transaction():
        moved = await move(
            work,
            Status.BROADCAST,
            "broadcast",
            {"broadcast_at": now, "reason": _reason(work, answer)},
            hash=attempt.hash,
            nonce=work.nonce,
            answer=answer.kind.value,
        )
    if moved and work.decided_at:
        BROADCAST_SECONDS.observe((now - work.decided_at).total_seconds())


async def _reject(work: Work, attempt: StoredAttempt, answer: SendAnswer, node: Node) -> bool:
    """Give up bytes that no node takes, and their nonce with them; False if somebody may have them after all."""
    if attempt.may_be_out or await _pool_has(work, node):
        return False
    async with transaction():
        if not await hand_back_nonce(work):
            return False
        await move(
            work,
            Status.REJECTED,
            "rejected",
            {"nonce": None, "reason": f"The node refused it for good: {answer.message}."},
            hash=attempt.hash,
            nonce=work.nonce,
            answer=answer.message,
        )
        await end_deployment(work, None)
    with correlated(work):
        log.error("transaction.rejected", hash=attempt.hash, said=answer.message)
    return True


async def _pool_has(work: Work, node: Node) -> bool:
    """Whether the node counts a transaction with this nonce among its pending ones. Raises `NodeUnavailable`."""
    assert work.nonce is not None
    return await node.transaction_count(work.signer_address, pending=True) > work.nonce


def _reason(work: Work, answer: SendAnswer) -> str | None:
    assert work.nonce is not None
    return answers.hold_reason(
        answer.kind,
        signer_address=work.signer_address,
        nonce=work.nonce,
        currency=work.currency,
        message=answer.message,
    )
