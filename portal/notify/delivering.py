"""Delivers events to webhooks: one worker at a time to each, in the order of their positions, at least once.

What is guaranteed to a receiver: deliveries are started in order, up to `IN_FLIGHT` at once but never two of one
subject, so that of one action or transaction no event overtakes another. One that fails is tried again later by
`schedule` and holds up no other. A worker that dies between the request and its note leaves the delivery waiting: it is
made again, with the same id.
"""

import asyncio
import random
import time
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from prometheus_client import Counter, Histogram
from structlog.contextvars import bound_contextvars

from portal import clock
from portal.accounts.schemas import system_actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.db.notices import announce
from portal.logging import get_logger
from portal.notify.events import EVENT_COLUMNS, view_of
from portal.notify.posting import Answer, post
from portal.notify.schedule import FAILING_LIMIT, OUTAGE, rest_after, wait_after
from portal.notify.signing import secret_purpose
from portal.notify.states import DeliveryStatus
from portal.sealing import unseal
from portal.settings import secret_key

log = get_logger(__name__)
ATTEMPTS = Counter("portal_webhook_attempts_total", "Requests to webhooks by result", ["result"])
SECONDS = Histogram("portal_webhook_seconds", "Time until a receiver has answered")

LEASE = timedelta(seconds=60)
RUN_SECONDS = 20
"""After that other webhooks have their turn."""
IN_FLIGHT = 8
BATCH = 64
AWAY_AT_ONCE = 8
"""Receivers that did not answer last time and are tried at once, by all workers together: half of what one takes."""


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook that this worker alone delivers to."""

    id: UUID
    organization_id: UUID
    url: str
    was_away: bool
    """It was not there the last time: one delivery finds out whether it is, before others are spent on it."""
    secrets: list[str]


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that is to be made now."""

    id: UUID
    event_id: UUID
    subject: tuple[str, str]
    correlation_id: str
    attempts: int
    body: bytes


async def claim_next() -> UUID | None:
    """Claim the webhook with something due that was served the longest ago; None where there is none.

    Of those that were not there the last time, only a few at once: each may hang for as long as a request may take,
    and the others must not wait for it.
    """
    now = clock.now()
    rows = await run_sql(
        """UPDATE webhook SET claimed_until = {} WHERE id = (
               SELECT w.id FROM webhook w
               WHERE w.status = 'active' AND (w.claimed_until IS NULL OR w.claimed_until <= {})
                 AND (w.rest_until IS NULL OR w.rest_until <= {})
                 AND (w.rests = 0 OR {} > (
                     SELECT count(*) FROM webhook o WHERE o.rests > 0 AND o.status = 'active' AND o.claimed_until > {}))
                 AND EXISTS (SELECT 1 FROM delivery d
                             WHERE d.webhook = w.id AND d.status = 'waiting' AND d.due_at <= {})
               ORDER BY w.claimed_until NULLS FIRST LIMIT 1 FOR UPDATE OF w SKIP LOCKED)
           RETURNING id""",
        *(now + LEASE, now, now, AWAY_AT_ONCE, now, now),
    )
    return rows[0]["id"] if rows else None


async def deliver(webhook_id: UUID) -> None:
    """Deliver what is due to the webhook that `claim_next` gave, and let go of it. Raises nothing."""
    ends = time.monotonic() + RUN_SECONDS
    try:
        while time.monotonic() < ends and (receiver := await _load(webhook_id)):
            due = await _list_due(webhook_id)
            if not due or not await _send_in_order(receiver, due, ends):
                break
        await _release(webhook_id)
    except asyncio.CancelledError:
        await _release(webhook_id)
        raise
    except Exception:
        # The claim ends by itself, and then what waits is delivered.
        log.error("webhook.broken", webhook_id=str(webhook_id), exc_info=True)


async def _release(webhook_id: UUID) -> None:
    await run_sql("UPDATE webhook SET claimed_until = {} WHERE id = {}", clock.now(), webhook_id)


async def _load(webhook_id: UUID) -> Receiver | None:
    """The webhook as it is now, claimed for longer; None where it is disabled or rests by now."""
    now = clock.now()
    rows = await run_sql(
        """UPDATE webhook SET claimed_until = {}
           WHERE id = {} AND status = 'active' AND (rest_until IS NULL OR rest_until <= {})
           RETURNING id, organization AS organization_id, url, rests > 0 AS was_away""",
        now + LEASE,
        webhook_id,
        now,
    )
    if not rows:
        return None
    sealed = await run_sql(
        """SELECT id, ciphertext FROM webhook_secret WHERE webhook = {} AND (ends_at IS NULL OR ends_at > {})
           ORDER BY id DESC""",
        webhook_id,
        now,
    )
    secrets = [
        unseal(secret_key(), bytes(row["ciphertext"]), purpose=secret_purpose(row["id"])).decode() for row in sealed
    ]
    return Receiver(**rows[0], secrets=secrets)


async def _list_due(webhook_id: UUID) -> list[Due]:
    rows = await run_sql(
        f"""SELECT d.id AS delivery_id, d.attempts, {EVENT_COLUMNS} FROM delivery d JOIN event e ON e.id = d.event
            WHERE d.webhook = {{}} AND d.status = 'waiting' AND d.due_at <= {{}} ORDER BY d.position LIMIT {{}}""",  # noqa: S608
        webhook_id,
        clock.now(),
        BATCH,
    )
    return [
        Due(
            id=row["delivery_id"],
            event_id=row["id"],
            subject=(row["subject_kind"], row["subject_id"]),
            correlation_id=row["correlation_id"],
            attempts=row["attempts"],
            body=msgspec.json.encode(view_of(row)),
        )
        for row in rows
    ]


async def _send_in_order(receiver: Receiver, due: list[Due], ends: float) -> bool:
    """Make the deliveries; whether to go on. It ends early once the receiver is not there, or the time is over."""
    if receiver.was_away:
        return await _attempt(receiver, due[0])
    room, there = asyncio.Semaphore(IN_FLIGHT), True
    under_way: dict[tuple[str, str], asyncio.Task[bool]] = {}
    tasks: list[asyncio.Task[bool]] = []

    async def attempt(delivery: Due) -> bool:
        nonlocal there
        try:
            there = await _attempt(receiver, delivery) and there
        finally:
            room.release()
        return there

    try:
        for delivery in due:
            if before := under_way.get(delivery.subject):
                await asyncio.wait([before])
            await room.acquire()
            if not there or time.monotonic() >= ends:
                break
            under_way[delivery.subject] = asyncio.create_task(attempt(delivery))
            tasks.append(under_way[delivery.subject])
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return there


async def _attempt(receiver: Receiver, delivery: Due) -> bool:
    """Make one delivery and note what came of it; whether the receiver can take more."""
    with bound_contextvars(correlation_id=delivery.correlation_id, webhook_id=str(receiver.id)):
        answer = await post(receiver.url, delivery.event_id, delivery.body, receiver.secrets)
        ATTEMPTS.labels("failed" if answer.error else "delivered").inc()
        SECONDS.observe(answer.latency_ms / 1000)
        if answer.error:
            log.warning("webhook.failed", event_id=str(delivery.event_id), reason=answer.error)
        async with transaction():
            await _note(delivery, answer)
            goes_on = await (_note_failure if answer.error else _note_success)(receiver, answer)
        announce("webhook", receiver.organization_id)
        return goes_on


async def _note(delivery: Due, answer: Answer) -> None:
    """Store the attempt and what it means for the delivery, unless another worker has ended it meanwhile."""
    await run_sql(
        """INSERT INTO delivery_attempt (id, delivery, started_at, latency_ms, status_code, error, response_body)
           VALUES ({}, {}, {}, {}, {}, {}, {})""",
        new_id(),
        delivery.id,
        answer.started_at,
        answer.latency_ms,
        answer.status_code,
        answer.error,
        answer.body,
    )
    status, due_at = _standing_after(delivery.attempts + 1, answer)
    await run_sql(
        """UPDATE delivery SET status = {}, attempts = attempts + 1, due_at = {},
                               delivered_at = CASE {} WHEN 'delivered' THEN {}::timestamptz END
           WHERE id = {} AND status = 'waiting'""",
        status.value,
        due_at,
        status.value,
        clock.now(),
        delivery.id,
    )


def _standing_after(attempts: int, answer: Answer) -> tuple[DeliveryStatus, datetime]:
    """What a delivery is after so many attempts, and when the next one is due."""
    now = clock.now()
    if answer.error is None:
        return DeliveryStatus.DELIVERED, now
    wait = None if answer.is_gone else wait_after(attempts, random.random())  # noqa: S311
    if wait is None:
        return DeliveryStatus.FAILED, now
    return DeliveryStatus.WAITING, now + max(wait, timedelta(seconds=answer.retry_after_seconds or 0))


async def _note_success(receiver: Receiver, answer: Answer) -> bool:
    now = clock.now()
    [before] = await run_sql("SELECT failing_since FROM webhook WHERE id = {} FOR NO KEY UPDATE", receiver.id)
    await run_sql(
        "UPDATE webhook SET delivered_at = {}, failing_since = NULL, rests = 0, rest_until = NULL WHERE id = {}",
        answer.started_at,
        receiver.id,
    )
    if before["failing_since"] is not None and now - before["failing_since"] >= OUTAGE:
        await run_sql(
            "UPDATE delivery SET due_at = {} WHERE webhook = {} AND status = 'waiting' AND due_at > {}",
            now,
            receiver.id,
            now,
        )
    return True


async def _note_failure(receiver: Receiver, answer: Answer) -> bool:
    """Let a receiver rest that is not there, and disable one that is gone or failed for five days."""
    now = clock.now()
    rows = await run_sql(
        """UPDATE webhook SET failing_since = coalesce(failing_since, {}),
                              rests = rests + CASE WHEN {} AND coalesce(rest_until <= {}, true) THEN 1 ELSE 0 END
           WHERE id = {} RETURNING failing_since, rests""",
        now,
        answer.is_away,
        now,
        receiver.id,
    )
    failing_since, rests = rows[0]["failing_since"], rows[0]["rests"]
    if answer.is_gone:
        await _disable(receiver, "The receiver answered HTTP 410: it wants no more deliveries.")
    elif now - failing_since >= FAILING_LIMIT:
        await _disable(receiver, f"Nothing could be delivered for {FAILING_LIMIT.days} days. Last: {answer.error}")
    elif answer.is_away:
        rest = max(rest_after(rests), timedelta(seconds=answer.retry_after_seconds or 0))
        await run_sql("UPDATE webhook SET rest_until = {} WHERE id = {}", now + rest, receiver.id)
    return not answer.is_away and not answer.is_gone


async def _disable(receiver: Receiver, because: str) -> None:
    disabled = await run_sql(
        """UPDATE webhook SET status = 'disabled', disabled_because = {}, rest_until = NULL, updated_at = {}
           WHERE id = {} AND status = 'active' RETURNING id""",
        because,
        clock.now(),
        receiver.id,
    )
    if disabled:
        log.error("webhook.disabled", reason=because)
        actor = system_actor(receiver.organization_id, "deliver_events")
        await audit.append(actor, "webhook.disabled", "webhook", receiver.id, {"because": because})
