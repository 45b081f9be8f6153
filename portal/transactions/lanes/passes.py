"""One pass over the lanes: each is taken under a lease, and taken as far as it goes, one transaction after the other.

In each lane, what is signed goes out before anything new is begun; what is cancelled or has expired is closed; what is
out is pushed on; then new ones get nonces while there is room. Lanes run side by side, so that a chain or a signer that
is stuck stops nobody else.
"""

import asyncio
from contextlib import suppress
from uuid import UUID

import msgspec

from portal.actions.errors import GateRefused
from portal.chain.rpc import NodeUnavailable
from portal.chain.tables import SignerKind
from portal.db.engine import run_sql, transaction
from portal.jobs.queue import ring
from portal.logging import get_logger
from portal.transactions.attempts import newest_attempt
from portal.transactions.costs import spending
from portal.transactions.costs.fees import gas_limit
from portal.transactions.costs.limits import Limits, TooCostly, first_fees
from portal.transactions.lanes import leases
from portal.transactions.lanes.closing import CANCELLED, Ending, close, end_unsigned, ending_of, requeue
from portal.transactions.lanes.leases import LaneLost
from portal.transactions.lanes.looking import Task, find_lanes
from portal.transactions.lanes.pushing import MOST_GAPS, push
from portal.transactions.lanes.sending import send_first
from portal.transactions.lanes.signing import NotNow, NotSigned, Overtaken
from portal.transactions.lanes.writer import Shared, Writer
from portal.transactions.moves import Work, correlated, list_work
from portal.transactions.tables import AttemptKind, ClosingReason
from portal.transactions.tables import TransactionStatus as Status

log = get_logger(__name__)


async def run_lanes() -> int:
    """Do what there is to do in every lane that no other pass has; the number of transactions dealt with.

    Safe to run twice at once. A node that is down raises nothing: what waits says so, and the next pass tries again.
    """
    shared = Shared()
    lanes = await find_lanes(shared.tried, shared.exhausted)
    results = await asyncio.gather(*(_run_lane(lane["id"], shared) for lane in lanes), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        log.error("lane.failed", error=type(failure).__name__, exc_info=failure)
    if failures:
        raise failures[0]
    if shared.is_over():
        ring("run_lanes")  # something may be left
    return len(shared.tried)


async def _run_lane(lane_id: UUID, shared: Shared) -> None:
    """Take the lane, do what there is, and give it back, until there is nothing more: what comes meanwhile counts."""
    while not shared.is_over() and (lane := await shared.take.do(lane_id)):
        shared.writers += 1
        try:
            await _write(Writer(lane, shared))
        except LaneLost:
            log.warning("lane.lost", lane_id=str(lane_id), fence=lane.lease.fence)
            return
        except NodeUnavailable as error:
            await _hold_first(Writer(lane, shared), error.detail)
            return
        finally:
            shared.writers -= 1
            await shared.release.do(lane.lease)


async def _write(writer: Writer) -> None:
    if writer.lane.next_nonce is None:
        await _seed(writer)
    while await _round(writer, await writer.look()):
        pass


async def _seed(writer: Writer) -> None:
    """Take the first nonce from the chain, once; from then on it is ours to count.

    The highest answer counts: a node that lags answers too low, and a lane that begins too low would look as if
    another program used the key. Where the answers differ by more than a lag explains, none counts, since a lane that
    begins too high cannot come back. Raises `NodeUnavailable`.
    """
    counts = await asyncio.gather(
        *(node.transaction_count(writer.lane.address) for node in writer.node.each()), return_exceptions=True
    )
    known = [count for count in counts if isinstance(count, int)]
    for count in counts:
        if isinstance(count, BaseException) and not (known and isinstance(count, NodeUnavailable)):
            raise count
    if max(known) - min(known) > MOST_GAPS:
        said = f"{min(known)} and {max(known)}"
        raise NodeUnavailable(
            f"The nodes disagree on the next nonce of {writer.lane.address}: {said}. One of them is wrong."
        )
    async with transaction():
        await leases.hold(writer.lane.lease)
        await run_sql(
            "UPDATE lane SET next_nonce = {} WHERE id = {} AND next_nonce IS NULL", max(known), writer.lane.id
        )


async def _round(writer: Writer, tasks: list[Task]) -> bool:
    """Deal with each of the tasks; whether there were any that this pass had not dealt with."""
    free = all(writer.is_new(task.work) for task in tasks)  # else one is still unsent, and nothing is begun behind it
    begun, claimed = 0, writer.claimed
    for task in await _end_cancelled(writer, tasks):
        if writer.is_over():
            return False
        if not writer.is_new(task.work) or (task.work.status is Status.QUEUED and not free):
            continue
        writer.begin(task.work)
        begun += 1
        try:
            free = await _deal(writer, task) and free
        except Overtaken:
            continue  # whoever was quicker has done it, or it is looked at again
    if writer.claimed == claimed and any(task.work.reason for task in tasks):
        writer.exhaust()
    return begun > 0


async def _end_cancelled(writer: Writer, tasks: list[Task]) -> list[Task]:
    """End what was cancelled before it had a nonce, for which no node is needed; all others."""
    left = []
    for task in tasks:
        if task.work.status is Status.QUEUED and task.work.cancel_requested_at and not writer.is_over():
            writer.begin(task.work)
            await end_unsigned(writer.lane.lease, task.work, CANCELLED)
        else:
            left.append(task)
    return left


async def _deal(writer: Writer, task: Task) -> bool:
    """Do what `task` needs; whether something new may be begun behind it."""
    work = task.work
    head = (await writer.chain.now()).head
    if ending := ending_of(work, head):
        await close(writer, work, ending)
    elif work.status in (Status.BROADCAST, Status.CLOSING):
        await push(writer, task)
    elif work.status is not Status.SIGNED:
        return await _carry_out(writer, task)
    elif task.stopped and not (await newest_attempt(work.id)).may_be_out:
        await writer.note(work, task.stopped)
        return False
    else:
        return await send_first(writer, work)
    return True


async def _carry_out(writer: Writer, task: Task) -> bool:
    """Claim a nonce, unless it has one, sign and send, unless something speaks against it now.

    Whether something new may be begun behind it.
    """
    work = task.work
    try:
        if task.stopped:
            raise NotNow(task.stopped)
        gas = await _gas(writer, task)
        if work.status is Status.QUEUED:
            await _check_cost(writer, task, gas)
            work = await writer.claim(work)
        attempt = await writer.sign(work, AttemptKind.CALL, gas)
    except GateRefused as refusal:
        with correlated(work):
            log.error("security.transaction_refused", action_id=str(work.action_id), reason=refusal.detail)
        await close(writer, work, Ending(ClosingReason.REFUSED, refusal.detail))
        return True
    except NotNow as why:
        return await _hold_back(writer, work, str(why), claimed_now=work is not task.work)
    except TooCostly as limit:
        sentence = f"It is not signed now. {limit} It goes on by itself once that is enough; cancel it, or wait."
        return await _hold_back(writer, work, sentence, claimed_now=work is not task.work)
    except NotSigned as why:
        await writer.note(work, str(why))
        return False
    return await send_first(writer, msgspec.structs.replace(work, status=Status.SIGNED, reason=None), attempt)


async def _hold_back(writer: Writer, work: Work, why: str, *, claimed_now: bool) -> bool:
    """Let it wait in the queue, where it delays nobody; whether something new may be begun behind it.

    A nonce is kept where a remote signer may have been asked to sign for it in an earlier pass: we cannot know whether
    it did, and a transaction that may be signed for one nonce never gets another.
    """
    asked_nobody = claimed_now or writer.lane.signer_kind is SignerKind.LOCAL
    if work.status is not Status.QUEUED and asked_nobody and await requeue(writer.lane.lease, work, why):
        return True
    await writer.note(work, why)
    return work.status is Status.QUEUED


async def _gas(writer: Writer, task: Task) -> int:
    """The gas limit to sign with. Raises `NotNow` where the call would fail now."""
    if task.known_gas is not None:
        return gas_limit(task.known_gas)
    simulation = await writer.chain.simulate.do(task.call)
    if simulation.gas is None:
        raise NotNow(f"It would fail now, so it is not sent but tried again: {simulation.revert_reason}")
    return gas_limit(simulation.gas)


async def _check_cost(writer: Writer, task: Task, gas: int) -> None:
    """Raise `TooCostly` before a nonce is claimed for what could not be signed; what signs decides it again."""
    limited = [task.policy_id] if task.most_cost_a_day_wei is not None else []
    purse = await spending.read_purse(limited, [task.work.action_id])
    limits = Limits(
        value_wei=task.call.value_wei,
        gas_limit=gas,
        currency=task.work.currency,
        most_fee_wei=writer.lane.most_fee_wei,
        most_cost_wei=task.most_cost_wei,
        left_today_wei=purse.left(task.work, task.policy_id, task.most_cost_a_day_wei),
    )
    first_fees((await writer.chain.now()).fees, limits)


async def _hold_first(writer: Writer, reason: str) -> None:
    """Say on the next of the lane that waits why it does."""
    for work in await list_work(
        "WHERE t.lane = {} AND t.status IN ('queued', 'nonced', 'signed') ORDER BY t.nonce, t.id LIMIT 1",
        writer.lane.id,
    ):
        with suppress(LaneLost):
            await writer.note(work, reason)
