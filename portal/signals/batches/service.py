"""Long work over many signals: asked for once, done by workers in slices, seen as it goes.

Guarantees: a slice and the position behind it are written in one db transaction, under the lock of the batch's row, so
no signal is done twice and none is left out, whoever dies in between; a worker that hangs loses its lease, and what it
still does is undone; a slice that no worker survives fails the batch instead of being tried for ever; what arrives
while a batch runs does not make it longer.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, system_actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import is_unreachable, run_sql, transaction
from portal.db.notices import announce
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of
from portal.errors import NotFound, Unavailable
from portal.jobs.queue import ring
from portal.logging import bind_correlation_id, correlation_id, get_logger
from portal.signals.batches.schemas import BatchView
from portal.signals.batches.selections import MOST_COUNTED
from portal.signals.errors import BatchEnded, TooManyBatches
from portal.signals.tables import BatchKind, BatchStatus

log = get_logger(__name__)
LEASE = timedelta(seconds=60)
"""Longer than a slice takes; a batch whose worker died goes on after it."""
SLICE_MILLISECONDS = 20_000
"""Of one statement of a slice. Longer, and the batch fails: trying again would take as long."""
MAX_ATTEMPTS = 5
"""At one slice: more than come of workers that are restarted, or of a database that is away for a moment."""
KEPT = timedelta(days=7)
"""After its end, with its file."""
MAX_OPEN = 3
"""Batches of one kind that an organisation may have waiting or running."""

NEEDS = {
    BatchKind.EXPORT: Permission.SIGNALS_READ,
    BatchKind.REPLAY: Permission.RULES_WRITE,
    BatchKind.RECHECK: Permission.SOURCES_WRITE,
}
"""What whoever starts or cancels one must be allowed to do."""
JOBS = {BatchKind.EXPORT: "run_batches", BatchKind.RECHECK: "run_batches", BatchKind.REPLAY: "run_replays"}
DID = {
    BatchKind.EXPORT: "exported",
    BatchKind.REPLAY: "set back to be assessed again",
    BatchKind.RECHECK: "released from quarantine",
}
LEFT = {
    BatchKind.EXPORT: "",
    BatchKind.REPLAY: "The others wait already, are in quarantine, or have an expired body.",
    BatchKind.RECHECK: "The others are not in quarantine, still fail, or have an expired body.",
}
VIEW = """b.id, b.kind, b.status, b.done, b.changed, b.total, b.error, b.requested_by, b.requested_at, b.started_at,
          b.ended_at, b.given"""


class Batch(msgspec.Struct, frozen=True):
    """A batch as the worker that holds it needs it."""

    id: UUID
    organization_id: UUID
    kind: BatchKind
    given: dict[str, Any]
    until: UUID
    position: UUID | None
    done: int
    correlation_id: str
    claimed_until: datetime
    attempts: int
    """At the slice that is next, this one included."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What was done in one db transaction."""

    done: list[UUID]
    """The signals, the newest first."""
    changed: int
    more: bool
    wakes: str | None = None
    """The job to ring for once it is committed."""


class BatchFailed(Exception):
    """The batch cannot be done; the text says why, for people."""


Slicer = Callable[[Batch], Awaitable[Slice]]
"""Does the next slice of a batch within the caller's db transaction. Raises `BatchFailed`."""


async def start(actor: Actor, kind: BatchKind, given: Any, total: int | None) -> BatchView:
    """Let a worker do `given` (a Struct, kept as JSON) with the signals that there are now. Raises `TooManyBatches`.

    `total` is how many they are, as `count_selected` says.
    """
    actor.require(NEEDS[kind])
    if total is not None and total > MOST_COUNTED:
        total = None
    id, asked = new_id(), _stated(msgspec.to_builtins(given))
    said = {"signals": len(ids)} if (ids := asked.get("signal_ids")) else asked
    async with transaction():
        await run_sql("SELECT pg_advisory_xact_lock(hashtextextended({}, 0))", f"batches:{actor.organization_id}")
        open_ones = await run_sql(
            """SELECT 1 FROM signal_batch
               WHERE organization = {} AND kind = {} AND status IN ('waiting', 'running') LIMIT {}""",
            actor.organization_id,
            kind.value,
            MAX_OPEN,
        )
        if len(open_ones) == MAX_OPEN:
            raise TooManyBatches(f"{MAX_OPEN} of this kind are under way. Wait for one to end, or cancel one.")
        await run_sql(
            """INSERT INTO signal_batch (id, organization, kind, status, given, until, total, done, changed,
                                         requested_by, correlation_id, requested_at)
               VALUES ({}, {}, {}, 'waiting', {}, {}, {}, 0, 0, {}, {}, {})""",
            id,
            actor.organization_id,
            kind.value,
            msgspec.json.encode(asked).decode(),
            await _newest_signal(actor.organization_id),
            total,
            actor.label,
            correlation_id(),
            clock.now(),
        )
        await audit.append(actor, "batch.started", "batch", id, {"kind": kind.value, "total": total, **said})
    ring(JOBS[kind])
    return await get_batch(actor.organization_id, kind, id)


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    """Without what was not asked for."""
    return {
        name: _stated(value) if isinstance(value, dict) else value for name, value in given.items() if value is not None
    }


async def _newest_signal(organization_id: UUID) -> UUID:
    rows = await run_sql("SELECT id FROM signal WHERE organization = {} ORDER BY id DESC LIMIT 1", organization_id)
    return rows[0]["id"] if rows else UUID(int=0)


async def cancel(actor: Actor, kind: BatchKind, batch_id: UUID) -> BatchView:
    """Stop after the slice that runs now; what is done stays done. Raises `BatchEnded`, `NotFound`."""
    actor.require(NEEDS[kind])
    await get_batch(actor.organization_id, kind, batch_id)
    async with transaction():
        cancelled = await run_sql(
            """UPDATE signal_batch SET status = 'cancelled', ended_at = {}, claimed_until = NULL
               WHERE id = {} AND status IN ('waiting', 'running') RETURNING done, changed""",
            clock.now(),
            batch_id,
        )
        if not cancelled:
            raise BatchEnded("It has ended already, so there is nothing to cancel.")
        await audit.append(actor, "batch.cancelled", "batch", batch_id, cancelled[0])
    return await get_batch(actor.organization_id, kind, batch_id)


async def get_batch(organization_id: UUID, kind: BatchKind, batch_id: UUID) -> BatchView:
    """One batch and how far it has come. Raises `NotFound`."""
    return view_of(await get_row(organization_id, kind, batch_id))


async def get_row(organization_id: UUID, kind: BatchKind, batch_id: UUID) -> dict[str, Any]:
    """The columns of one batch in `VIEW`. Raises `NotFound`."""
    rows = await run_sql(
        f"SELECT {VIEW} FROM signal_batch b WHERE b.id = {{}} AND b.organization = {{}} AND b.kind = {{}}",  # noqa: S608
        batch_id,
        organization_id,
        kind.value,
    )
    if not rows:
        raise NotFound(f"There is no such {kind}.")
    return rows[0]


async def list_batches(
    organization_id: UUID, kind: BatchKind, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[BatchView]:
    """Batches of one kind, the newest first."""
    rows = await list_rows(organization_id, kind, cursor=cursor, limit=limit)
    return page_of(rows, limit, view_of)


async def list_rows(organization_id: UUID, kind: BatchKind, *, cursor: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit + 1` batches, the newest first, as `get_row` gives them."""
    where, arguments = ("AND b.id < {}", [decode_cursor(cursor)]) if cursor else ("", list[Any]())
    return await run_sql(
        f"""SELECT {VIEW} FROM signal_batch b WHERE b.organization = {{}} AND b.kind = {{}} {where}
            ORDER BY b.id DESC LIMIT {{}}""",  # noqa: S608
        organization_id,
        kind.value,
        *arguments,
        check_limit(limit) + 1,
    )


def view_of(row: dict[str, Any]) -> BatchView:
    """A row of `VIEW` with its estimate and its result."""
    fields = {name: value for name, value in row.items() if name != "given"}
    kind, status = BatchKind(row["kind"]), BatchStatus(row["status"])
    return BatchView(
        **{**fields, "kind": kind, "status": status},
        seconds_left=_seconds_left(row) if status is BatchStatus.RUNNING else None,
        result=_result(kind, row["done"], row["changed"]) if status is BatchStatus.DONE else None,
    )


def _seconds_left(row: dict[str, Any]) -> int | None:
    if row["total"] is None or not row["done"]:
        return None
    seconds: float = (clock.now() - row["started_at"]).total_seconds() / row["done"] * (row["total"] - row["done"])
    return max(0, round(seconds))


def _result(kind: BatchKind, done: int, changed: int) -> str:
    said = f"{changed:,} of {done:,} {'signal was' if done == 1 else 'signals were'} {DID[kind]}."
    return f"{said} {LEFT[kind]}" if changed < done else said


async def run(slicers: Mapping[BatchKind, Slicer], *, seconds: float) -> int:
    """Do slices of the batches of these kinds until none is left or `seconds` are over; how many signals were done.

    The batch that has come least far goes first: a short one is not kept waiting by a long one. Where the database is
    away, it raises what the driver raises, and the batch goes on after its lease.
    """
    before, total, ends = correlation_id(), 0, time.monotonic() + seconds
    try:
        while batch := await _claim(list(slicers)):
            bind_correlation_id(batch.correlation_id)
            total += await _advance(batch, slicers[batch.kind])
            announce("batch", batch.organization_id)
            if time.monotonic() > ends:
                for job in {JOBS[kind] for kind in slicers}:
                    ring(job)
                break
    finally:
        bind_correlation_id(before)
    return total


async def _claim(kinds: list[BatchKind]) -> Batch | None:
    now = clock.now()
    rows = await run_sql(
        """UPDATE signal_batch SET status = 'running', claimed_until = {}, started_at = coalesce(started_at, {}),
                                   attempts = attempts + 1
           WHERE id = (SELECT id FROM signal_batch
                       WHERE kind = ANY({}) AND status IN ('waiting', 'running')
                             AND (claimed_until IS NULL OR claimed_until < {})
                       ORDER BY done, id LIMIT 1 FOR UPDATE SKIP LOCKED)
           RETURNING id, organization AS organization_id, kind, given, until, position, done, correlation_id,
                     claimed_until, attempts""",
        now + LEASE,
        now,
        [kind.value for kind in kinds],
        now,
    )
    if not rows:
        return None
    return Batch(**{**rows[0], "kind": BatchKind(rows[0]["kind"]), "given": msgspec.json.decode(rows[0]["given"])})


async def _advance(batch: Batch, slicer: Slicer) -> int:
    """Do the next slice; how many signals that were. 0 where the batch has ended or is another worker's now."""
    if batch.attempts > MAX_ATTEMPTS:
        await _fail(batch, f"It broke off {MAX_ATTEMPTS} times at the same signals. Choose others by the filter.")
        return 0
    try:
        async with transaction():
            if not await run_sql(
                "SELECT 1 FROM signal_batch WHERE id = {} AND status = 'running' AND claimed_until = {} FOR UPDATE",
                batch.id,
                batch.claimed_until,
            ):
                return 0
            await run_sql(f"SET LOCAL statement_timeout = {SLICE_MILLISECONDS}")
            made = await slicer(batch)
            await _move(batch, made)
    except BatchFailed as error:
        await _fail(batch, str(error))
        return 0
    except asyncpg.QueryCanceledError:
        await _fail(batch, "It takes too long to find these signals. Narrow the filter by since and until.")
        return 0
    except (Unavailable, asyncpg.TransactionRollbackError):
        raise
    except Exception as error:
        if is_unreachable(error):
            raise
        log.error("batch.broken", kind=batch.kind, error=type(error).__name__, exc_info=error)
        await _fail(batch, f"An internal error ended it. Correlation id {batch.correlation_id}.")
        return 0
    if made.wakes:
        ring(made.wakes)
        announce("signals", batch.organization_id)
    return len(made.done)


async def _move(batch: Batch, made: Slice) -> None:
    rows = await run_sql(
        """UPDATE signal_batch SET position = coalesce({}, position), done = done + {}, changed = changed + {},
                                   total = CASE WHEN {} THEN total ELSE done + {} END,
                                   claimed_until = NULL, attempts = 0, status = {}, ended_at = {}
           WHERE id = {} RETURNING done, changed""",
        made.done[-1] if made.done else None,
        len(made.done),
        made.changed,
        made.more,
        len(made.done),
        (BatchStatus.RUNNING if made.more else BatchStatus.DONE).value,
        None if made.more else clock.now(),
        batch.id,
    )
    if not made.more:
        await audit.append(_worker(batch), "batch.finished", "batch", batch.id, rows[0])


async def _fail(batch: Batch, sentence: str) -> None:
    async with transaction():
        failed = await run_sql(
            """UPDATE signal_batch SET status = 'failed', error = {}, ended_at = {}, claimed_until = NULL
               WHERE id = {} AND status = 'running' AND claimed_until = {} RETURNING done, changed""",
            sentence,
            clock.now(),
            batch.id,
            batch.claimed_until,
        )
        if failed:
            await audit.append(_worker(batch), "batch.failed", "batch", batch.id, {"error": sentence, **failed[0]})


def _worker(batch: Batch) -> Actor:
    return system_actor(batch.organization_id, f"{batch.kind} job")


async def prune_batches() -> int:
    """Delete batches that ended a week ago, with their files, and sooner what failed and cancelled exports left of one.

    How many of both; at most 100 at a time.
    """
    week_ago = clock.now() - KEPT
    rows = await run_sql(
        """SELECT id FROM signal_batch b
           WHERE ended_at < {} OR (status IN ('failed', 'cancelled') AND EXISTS (
               SELECT 1 FROM export_part p WHERE p.batch = b.id)) LIMIT 100""",
        week_ago,
    )
    for row in rows:
        await run_sql("DELETE FROM export_part WHERE batch = {}", row["id"])
        await run_sql("DELETE FROM signal_batch WHERE id = {} AND ended_at < {}", row["id"], week_ago)
    return len(rows)
