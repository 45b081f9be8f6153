"""Pulls one source: claims it, fetches step by step, and stores each step together with the position it leads to.

Guarantees: one worker at a time pulls a source, and one that lost its claim stores nothing more; a step is stored whole
or not at all, so a kill leaves neither a gap nor a double; a source that was paused or changed meanwhile stores
nothing that was fetched before.
"""

import asyncio
import random
import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from prometheus_client import Counter

from portal import clock
from portal.accounts.schemas import system_actor
from portal.audit import service as audit
from portal.audit.service import Entry
from portal.db.engine import is_unreachable, run_sql, transaction
from portal.db.notices import announce
from portal.jobs.queue import ring
from portal.logging import get_logger
from portal.signals.errors import SourceChanged
from portal.signals.intake.senders import Sender, load_sender
from portal.signals.intake.service import store_pulled
from portal.signals.pulls import KINDS
from portal.signals.pulls.kinds import Claim, Position, PullFailed, Step

log = get_logger(__name__)
PULLS = Counter("portal_pulls_total", "Pulls of sources by kind and result", ["kind", "result"])

LEASE = timedelta(seconds=90)
STEP_SECONDS = 60
RUN_SECONDS = 20
"""After that other sources have their turn; what is left is due at once."""
LONGEST_BACKOFF_SECONDS = 3600


class LeaseLost(Exception):
    """Another worker pulls the source, or it was paused or changed."""


class Pulling(msgspec.Struct):
    """A source while it is pulled."""

    sender: Sender
    claim: Claim
    secret_id: UUID | None
    position: Position
    claimed_until: datetime


async def claim_next() -> dict[str, Any] | None:
    """Claim the source that is due the longest; None where none is."""
    now = clock.now()
    rows = await run_sql(
        """UPDATE pull SET claimed_until = {} WHERE source = (
               SELECT p.source FROM pull p JOIN source s ON s.id = p.source
               WHERE p.due_at <= {} AND (p.claimed_until IS NULL OR p.claimed_until < {}) AND s.status = 'active'
               ORDER BY p.due_at LIMIT 1 FOR UPDATE OF p SKIP LOCKED)
           RETURNING source, position, failures, claimed_until""",
        now + LEASE,
        now,
        now,
    )
    return rows[0] if rows else None


async def pull(claimed: dict[str, Any]) -> None:
    """Pull what `claim_next` gave. What goes wrong is noted with the source and raised to nobody."""
    try:
        pulling = await _prepare(claimed)
        if pulling is None:
            await _release(claimed["source"], claimed["claimed_until"])
        else:
            PULLS.labels(pulling.claim.kind, await _pull_noting_failure(pulling)).inc()
    except Exception:
        # The claim ends by itself, and then the source is tried again.
        log.error("pull.broken", source_id=str(claimed["source"]), exc_info=True)


async def _pull_noting_failure(pulling: Pulling) -> str:
    try:
        await _pull(pulling)
        return "done"
    except LeaseLost:
        await _release(pulling.claim.source_id, pulling.claimed_until)
        return "lost"
    except asyncio.CancelledError:
        await _release(pulling.claim.source_id, pulling.claimed_until)
        raise
    except PullFailed as failure:
        await _fail(pulling, str(failure), failure.retry_after_seconds)
    except TimeoutError:
        await _fail(pulling, f"It took longer than {STEP_SECONDS} seconds.", None)
    except Exception as error:
        if is_unreachable(error):
            raise
        log.error("pull.broken", source_id=str(pulling.claim.source_id), exc_info=True)
        await _fail(pulling, f"Something unexpected went wrong ({type(error).__name__}); the log says more.", None)
    return "failed"


async def _release(source_id: UUID, claimed_until: datetime) -> None:
    """Let any worker pull the source again, if it is still claimed by this one."""
    await run_sql(
        "UPDATE pull SET claimed_until = NULL WHERE source = {} AND claimed_until = {}", source_id, claimed_until
    )


async def _prepare(row: dict[str, Any]) -> Pulling | None:
    """What was claimed, with its settings and secret; None where the source changes at this moment."""
    sender = await load_sender(row["source"])
    found = await run_sql("SELECT settings, updated_at FROM source WHERE id = {}", row["source"])
    if sender is None or sender.organization_id is None or sender.version != found[0]["updated_at"]:
        return None
    secrets = sender.active_secrets(clock.now())
    claim = Claim(
        source_id=sender.id,
        organization_id=sender.organization_id,
        kind=sender.scheme,
        settings=msgspec.json.decode(found[0]["settings"], type=KINDS[sender.scheme].settings_type),
        secret=secrets[0].text if secrets else None,
        failures=row["failures"],
    )
    secret_id = secrets[0].id if secrets else None
    return Pulling(sender, claim, secret_id, msgspec.json.decode(row["position"]), row["claimed_until"])


async def _pull(pulling: Pulling) -> None:
    fetch = KINDS[pulling.claim.kind].fetch
    ends = time.monotonic() + RUN_SECONDS
    while True:
        async with asyncio.timeout(STEP_SECONDS):
            step = await fetch(pulling.claim, pulling.position)
        over = not step.more or time.monotonic() > ends
        new = await _store(pulling, step, over=over)
        if new:
            ring("assess_signals")
            announce("signals", pulling.claim.organization_id)
        if over:
            return


async def _store(pulling: Pulling, step: Step, *, over: bool) -> int:
    """Store what the step fetched and move on, or give the source back where it is over; how many signals are new."""
    claim, now = pulling.claim, clock.now()
    until = None if over else now + LEASE
    due_at = now if step.more else now + timedelta(seconds=claim.settings.interval_seconds)
    async with transaction():
        await _hold(pulling)
        await run_sql(
            """UPDATE pull SET position = {}, claimed_until = {}, due_at = {}, pulled_at = {}, failures = 0,
                               error = NULL WHERE source = {}""",
            msgspec.json.encode(step.position).decode(),
            until,
            due_at,
            now,
            claim.source_id,
        )
        try:
            new = await store_pulled(pulling.sender, step.facts)
        except SourceChanged:
            raise LeaseLost from None
        if pulling.secret_id:
            await run_sql("UPDATE source_secret SET last_used_at = {} WHERE id = {}", now, pulling.secret_id)
        if step.undone:
            await _audit_undone(claim, step.undone)
    if step.undone:
        log.warning("source.reorganised", source_id=str(claim.source_id), from_block=step.undone["from_block"])
    pulling.position = step.position
    pulling.claim = msgspec.structs.replace(claim, failures=0)
    if until:
        pulling.claimed_until = until
    return new


async def _hold(pulling: Pulling) -> None:
    """Lock source and claim, in this order as whoever changes a source does. Raises `LeaseLost` if they changed."""
    source = await run_sql(
        "SELECT id FROM source WHERE id = {} AND updated_at = {} AND status = 'active' FOR SHARE",
        pulling.sender.id,
        pulling.sender.version,
    )
    held = await run_sql(
        "SELECT id FROM pull WHERE source = {} AND claimed_until = {} FOR UPDATE",
        pulling.sender.id,
        pulling.claimed_until,
    )
    if not source or not held:
        raise LeaseLost


async def _audit_undone(claim: Claim, undone: dict[str, Any]) -> None:
    """One entry for the source, and one in the story of each signal whose block is gone."""
    actor = system_actor(claim.organization_id, "pull_sources")
    told = {name: value for name, value in undone.items() if name != "signals"}
    rows = await run_sql("SELECT id, correlation_id FROM signal WHERE id = ANY({})", undone["signals"])
    await audit.append_many(
        [
            Entry(actor, "source.reorganised", "source", claim.source_id, {**told, "signals": len(rows)}),
            *(
                Entry(actor, "signal.block_undone", "signal", row["id"], told, correlation_id=row["correlation_id"])
                for row in rows
            ),
        ]
    )


async def _fail(pulling: Pulling, sentence: str, retry_after_seconds: int | None) -> None:
    """Note why, and when to try again; nothing where the claim is lost, since then another worker knows better."""
    claim, now = pulling.claim, clock.now()
    log.warning("pull.failed", source_id=str(claim.source_id), kind=claim.kind, reason=sentence)
    wait = backoff_seconds(claim.failures + 1, claim.settings.interval_seconds, random.random())  # noqa: S311
    await run_sql(
        """WITH failed AS (
               UPDATE pull SET failures = failures + 1, error = {}, due_at = {}, claimed_until = NULL
               WHERE source = {} AND claimed_until = {} RETURNING source)
           INSERT INTO source_hour (organization, source, hour, outcome, number)
           SELECT {}, source, date_trunc('hour', {}::timestamptz, 'UTC'), 'pull_failed', 1 FROM failed
           ON CONFLICT (source, hour, outcome) DO UPDATE SET number = source_hour.number + 1""",
        sentence[:1000],
        now + timedelta(seconds=max(wait, retry_after_seconds or 0)),
        claim.source_id,
        pulling.claimed_until,
        claim.organization_id,
        now,
    )


def backoff_seconds(failures: int, interval_seconds: int, chance: float) -> float:
    """How long to wait after so many failures in a row: doubled with each from the interval on, at most an hour or the
    interval; up to a quarter less by `chance` (0 to 1), so that sources that failed together do not return together."""
    longest = max(LONGEST_BACKOFF_SECONDS, interval_seconds)
    return float(min(longest, interval_seconds * 2 ** min(failures - 1, 20))) * (1 - chance / 4)
