"""Pushes what is out and not mined: the same bytes where they may be lost, higher fees where they are passed over."""

from collections.abc import Collection

import msgspec

from portal.actions.errors import GateRefused
from portal.chain.rpc import Call, NodeUnavailable
from portal.chain.send_answers import SendKind
from portal.db.engine import run_sql
from portal.logging import get_logger
from portal.transactions.attempts import StoredAttempt, list_offers, newest_attempt
from portal.transactions.costs.fees import gas_limit
from portal.transactions.costs.limits import TooCostly
from portal.transactions.lanes import answers
from portal.transactions.lanes.looking import Task
from portal.transactions.lanes.noting import Sent
from portal.transactions.lanes.signing import NotSigned
from portal.transactions.lanes.writer import Writer
from portal.transactions.moves import Work, correlated, list_work

log = get_logger(__name__)
STUCK_SECONDS = 20
"""The least time by the chain's clock before fees are raised, for chains with many blocks a second."""
REPRICES_AT_ONCE = 3
"""How often one send may raise its fees before it waits for the market."""
NOOP_GAS = 21_000
"""What a plain transfer costs (Ethereum yellow paper, appendix G), where the node does not tell."""
MOST_GAPS = 64
"""The most missing nonces that are filled with no-ops. So many are never lost: a wider gap means that this node's count
contradicts the one with which the lane began, and filling it would spend all that the signer has."""


ASK_NODES = "See whether the nodes of this chain say the same; nothing is filled in before they do."


class NotRaised(Exception):
    """The fees stay as they are; the text says why, as a sentence."""


async def push(writer: Writer, task: Task) -> None:
    """Raise the fees where it is stuck or somebody asked for it, send it again where it has not been seen for a while.

    Raises `NodeUnavailable` where the node is silent: others would wait as long for it.
    """
    work, attempt, why = task.work, None, None
    if task.is_stuck:
        await fill_gaps(writer, work)
    if task.is_hurried or (task.is_stuck and await _passed_over(writer, work)):
        try:
            attempt = await raise_fees(writer, work)
        except NotRaised as unchanged:
            why = str(unchanged)
    sends: list[Sent] = []
    if attempt or task.is_quiet:
        sends = await send_newest(writer, work, answers.REPRICED_WHEN_OUT, attempt)
    reason = why or (answers.reason_of(work, sends[-1].answer) if sends else work.reason)
    await writer.note(work, reason, sends, hurried=task.is_hurried and attempt is None)
    if sends and sends[-1].answer.kind is SendKind.UNAVAILABLE:
        raise NodeUnavailable(sends[-1].answer.message)


async def _passed_over(writer: Writer, work: Work) -> bool:
    """Whether the newest attempt has been out for `STUCK_SECONDS` by the chain's clock.

    False where no node has taken it, for want of funds for example: higher fees would not help it.
    """
    rows = await run_sql(
        "SELECT signed_at_block, first_sent_at FROM attempt WHERE transaction = {} ORDER BY max_fee_wei DESC LIMIT 1",
        work.id,
    )
    if rows[0]["first_sent_at"] is None:
        return False
    head = (await writer.chain.now()).head
    then = await writer.node.block(max(0, rows[0]["signed_at_block"] or 0))
    return then is None or head.timestamp - then.timestamp >= STUCK_SECONDS


async def raise_fees(writer: Writer, work: Work) -> StoredAttempt:
    """A new attempt of the same kind at the same nonce, for more. Raises `NotRaised`."""
    offers = await list_offers(work.id)
    newest = offers[-1]
    try:
        return await writer.sign(work, newest.kind, newest.gas_limit, earlier=offers)
    except GateRefused as refusal:
        sentence = f"It is not signed again: {refusal.detail}"
        if sentence != work.reason:
            with correlated(work):
                log.error("security.transaction_refused", action_id=str(work.action_id), reason=refusal.detail)
        raise NotRaised(sentence) from refusal
    except TooCostly as limit:
        sentence = f"Its fees are at their limit, and the same bytes are sent on. {limit}"
        if sentence != work.reason:
            with correlated(work):
                log.warning("transaction.fees_at_cap", nonce=work.nonce, max_fee_wei=str(newest.fees.max_fee_wei))
        raise NotRaised(sentence) from limit
    except NotSigned as why:
        raise NotRaised(f"The attempt before is sent on: {why}") from why


async def send_newest(
    writer: Writer, work: Work, repriced: Collection[SendKind], attempt: StoredAttempt | None = None
) -> list[Sent]:
    """Send the newest attempt (or this one); after an answer in `repriced`, a few times one with higher fees."""
    attempt = attempt or await newest_attempt(work.id)
    sends = [await writer.send(work, attempt)]
    while len(sends) <= REPRICES_AT_ONCE and sends[-1].answer.kind in repriced:
        try:
            attempt = await raise_fees(writer, work)
        except NotRaised:
            break
        sends.append(await writer.send(work, attempt))
    return sends


async def fill_gaps(writer: Writer, work: Work) -> None:
    """Let the chain come up to the nonce of `work`: send what is out before it again, and no-ops where nothing is."""
    assert work.nonce is not None
    count = await writer.node.transaction_count(writer.lane.address)
    if count >= work.nonce:
        return
    gaps = await _list_gaps(work, count)
    if len(gaps) > MOST_GAPS:
        with correlated(work):
            log.error("lane.gap_too_wide", lane_id=str(work.lane_id), nonce=work.nonce, count=count)
        await writer.note(work, f"The chain's node expects nonce {count}, far before it. {ASK_NODES}")
        return
    for nonce in gaps:
        with correlated(work):
            log.error("lane.gap", lane_id=str(work.lane_id), nonce=nonce)
        behind = msgspec.structs.replace(work, nonce=nonce)
        try:
            await writer.send(behind, await writer.sign_filler(behind, await noop_gas(writer)))
        except (NotSigned, TooCostly) as why:
            await writer.note(work, f"Nonce {nonce} must be used first, and no transaction of ours has it. {why}")
            return
    for before in await list_work(
        "WHERE t.lane = {} AND t.status IN ('broadcast', 'closing') AND t.nonce BETWEEN {} AND {} - 1 ORDER BY t.nonce",
        *(work.lane_id, count, work.nonce),
    ):
        sends = await send_newest(writer, before, answers.REPRICED_WHEN_OUT)
        await writer.note(before, answers.reason_of(before, sends[-1].answer), sends)


async def _list_gaps(work: Work, count: int) -> list[int]:
    rows = await run_sql(
        """SELECT n FROM generate_series({}::bigint, {}::bigint) AS n
           WHERE NOT EXISTS (SELECT FROM transaction t WHERE t.lane = {} AND t.nonce = n) ORDER BY n LIMIT {}""",
        *(count, (work.nonce or 0) - 1, work.lane_id, MOST_GAPS + 1),
    )
    return [row["n"] for row in rows]


async def noop_gas(writer: Writer) -> int:
    """The gas limit of an empty transaction: on some chains it covers more than the transfer."""
    own = Call(from_address=writer.lane.address, to_address=writer.lane.address, calldata=b"")
    return gas_limit((await writer.chain.simulate.do(own)).gas or NOOP_GAS)
