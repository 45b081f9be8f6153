"""How long an organisation keeps the bodies of its signals. Digests, and what came of a signal, stay for ever."""

import time
from datetime import timedelta
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.columns import oldest_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, PreconditionFailed
from portal.jobs.queue import ring

MAX_DAYS = 3650
SLICE_SIGNALS = 1000


class RetentionView(msgspec.Struct, frozen=True, kw_only=True):
    body_days: int | None
    """After how many days the bodies of signals and of refused deliveries expire; None keeps them for ever."""


async def get_retention(organization_id: UUID) -> RetentionView:
    rows = await run_sql("SELECT body_retention_days FROM organization WHERE id = {}", organization_id)
    return RetentionView(body_days=rows[0]["body_retention_days"])


async def set_retention(actor: Actor, body_days: int | None, *, expected: RetentionView | None = None) -> RetentionView:
    """Let bodies expire after 1 to 3,650 days, or never. What has expired does not come back.

    Raises `InputInvalid`, and `PreconditionFailed` unless it still is what `expected` says.
    """
    actor.require(Permission.ORGANIZATION_WRITE)
    if body_days is not None and not 1 <= body_days <= MAX_DAYS:
        raise InputInvalid.at("/body_days", f"Bodies are kept for 1 to {MAX_DAYS} days, or for ever (null).")
    async with transaction():
        rows = await run_sql(
            "SELECT body_retention_days AS days FROM organization WHERE id = {} FOR NO KEY UPDATE",
            actor.organization_id,
        )
        before = rows[0]["days"]
        if expected is not None and before != expected.body_days:
            raise PreconditionFailed("Somebody changed it since you read it. Read it again, then decide.")
        await run_sql(
            "UPDATE organization SET body_retention_days = {} WHERE id = {}", body_days, actor.organization_id
        )
        await audit.append(
            actor,
            "organization.retention_changed",
            "organization",
            actor.organization_id,
            {"before": before, "after": body_days},
        )
    return RetentionView(body_days=body_days)


async def expire_bodies(*, seconds: float) -> int:
    """Let bodies expire whose time has come, organisations in turn, for about `seconds`; how many did.

    Rings for itself where there is more to do.
    A signal that still waits to be assessed keeps its body; expiry goes on behind it once it is assessed.
    """
    rows = await run_sql("SELECT id, body_retention_days AS days FROM organization WHERE body_retention_days > 0")
    due = {row["id"]: oldest_id(clock.now() - timedelta(days=row["days"])) for row in rows}
    ends, expired = time.monotonic() + seconds, 0
    for organization_id, before in due.items():
        expired += await _expire_refused(organization_id, before)
    while due and time.monotonic() < ends:
        for organization_id, before in list(due.items()):
            count, more = await _expire_slice(organization_id, before)
            expired += count
            if not more:
                del due[organization_id]
    if due:
        ring("expire_bodies")
    return expired


async def _expire_refused(organization_id: UUID, before: UUID) -> int:
    rows = await run_sql(
        """UPDATE rejected_delivery SET body = NULL, headers = NULL
           WHERE organization = {} AND id < {} AND body IS NOT NULL RETURNING id""",
        organization_id,
        before,
    )
    return len(rows)


async def _expire_slice(organization_id: UUID, before: UUID) -> tuple[int, bool]:
    """The next signals from the oldest on; how many bodies went, and whether there is more to do now."""
    async with transaction():
        mark = await run_sql(
            """INSERT INTO body_expiry (organization, expired_to) VALUES ({}, {})
               ON CONFLICT (organization) DO UPDATE SET expired_to = body_expiry.expired_to RETURNING expired_to""",
            organization_id,
            UUID(int=0),
        )
        rows = await run_sql(
            """SELECT id, status FROM signal WHERE organization = {} AND id > {} AND id < {}
               ORDER BY id LIMIT {} FOR UPDATE""",
            organization_id,
            mark[0]["expired_to"],
            before,
            SLICE_SIGNALS,
        )
        ids = [row["id"] for row in rows]
        waiting = next((place for place, row in enumerate(rows) if row["status"] == "received"), len(rows))
        gone = await run_sql(
            # Nobody can mend a rule for what no rule can read any more.
            """UPDATE signal SET body = NULL, words = NULL,
                                 status = CASE status WHEN 'failed' THEN 'dead' ELSE status END
               WHERE id = ANY({}) AND body IS NOT NULL AND status <> 'received' RETURNING id""",
            ids,
        )
        if waiting:
            await run_sql(
                "UPDATE body_expiry SET expired_to = {} WHERE organization = {}", ids[waiting - 1], organization_id
            )
    return len(gone), waiting == len(rows) == SLICE_SIGNALS
