"""Replay: signals are assessed again, by the rules that are published then.

A replay only sets signals back to `received`; the ordinary assessment does the rest, and proposes nothing twice, since
(signal, rule) is unique among actions. So nothing is executed twice, however often a signal is replayed.
"""

from uuid import UUID

import msgspec

from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.engine import run_sql, transaction
from portal.errors import NotFound
from portal.jobs.queue import ring
from portal.rules.errors import SignalNotReassessable
from portal.signals.batches import service as batches
from portal.signals.batches.schemas import BatchView, SignalSelection
from portal.signals.batches.selections import count_selected, next_ids
from portal.signals.batches.service import Batch, Slice
from portal.signals.tables import BatchKind, SignalStatus

REPLAYABLE = (SignalStatus.ASSESSED, SignalStatus.IGNORED, SignalStatus.FAILED, SignalStatus.DEAD)
"""Quarantined signals are not: no rule sees them before a recheck has released them."""
SLICE_SIGNALS = 1000


async def reassess(actor: Actor, signal_id: UUID) -> None:
    """Let the rules that are published now assess a signal again; what a rule proposed for it once, it does not again.

    Raises `SignalNotReassessable` for one that waits to be assessed, is in quarantine or has no body any more, and
    `NotFound`.
    """
    actor.require(Permission.RULES_WRITE)
    async with transaction():
        rows = await run_sql(
            "SELECT status, body IS NULL AS expired FROM signal WHERE id = {} AND organization = {} FOR UPDATE",
            signal_id,
            actor.organization_id,
        )
        if not rows:
            raise NotFound("There is no such signal.")
        if not await _set_back([signal_id]):
            raise SignalNotReassessable(_why_not(**rows[0]))
        await audit.append(actor, "signal.reassessed", "signal", signal_id, {"before": rows[0]["status"]})
    ring("assess_signals")


def _why_not(status: str, expired: bool) -> str:
    if status in REPLAYABLE and expired:
        return "The body of the signal has expired, so there is nothing left to assess."
    return f"The signal is {status}; one that was assessed can be assessed again."


async def _set_back(ids: list[UUID]) -> int:
    """Let those of the signals that can be assessed again wait for it; how many."""
    changed = await run_sql(
        """UPDATE signal SET status = 'received', reasons = '[]'
           WHERE id = ANY({}) AND status = ANY({}) AND body IS NOT NULL RETURNING id""",
        ids,
        [status.value for status in REPLAYABLE],
    )
    return len(changed)


async def start_replay(actor: Actor, selection: SignalSelection) -> BatchView:
    """Let a worker set the selected signals back to be assessed again. Raises `TooManyBatches`, `InputInvalid`."""
    actor.require(batches.NEEDS[BatchKind.REPLAY])
    total = await count_selected(actor.organization_id, selection)
    return await batches.start(actor, BatchKind.REPLAY, selection, total)


async def replay_slice(batch: Batch) -> Slice:
    """Set the next signals back; those that wait, are in quarantine or have an expired body stay as they are."""
    ids, more = await next_ids(
        batch.organization_id,
        msgspec.convert(batch.given, SignalSelection),
        until=batch.until,
        position=batch.position,
        most=SLICE_SIGNALS,
    )
    changed = await _set_back(ids)
    return Slice(done=ids, changed=changed, more=more, wakes="assess_signals" if changed else None)
