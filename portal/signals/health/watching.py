"""Listens for sources that have gone quiet, and reads how well each is heard."""

from datetime import datetime
from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts.schemas import system_actor
from portal.audit import service as audit
from portal.db.engine import run_sql, transaction
from portal.errors import NotFound
from portal.signals.health.judgement import Heard, SourceHealth, SourceReading, is_silent_too_long, judge
from portal.signals.health.tallies import MAX_HOURS, counts_by_hour
from portal.signals.tables import SourceStatus

NEWEST = 200
NOBODY = UUID(int=0)


async def get_source_health(organization_id: UUID, source_id: UUID) -> SourceHealth:
    """How well a source is heard. Raises `NotFound`."""
    rows = await run_sql(
        """SELECT id, status, expected_every_seconds, quiet_since, created_at FROM source
           WHERE id = {} AND organization = {}""",
        source_id,
        organization_id,
    )
    if not rows:
        raise NotFound("There is no such source.")
    newest = await run_sql(
        f"SELECT received_at, skew_ms FROM signal WHERE source = {{}} ORDER BY id DESC LIMIT {NEWEST}",  # noqa: S608
        source_id,
    )
    reading = SourceReading(
        **{**rows[0], "status": SourceStatus(rows[0]["status"])},
        newest=[Heard(**row) for row in newest],
        hours=await counts_by_hour(organization_id, hours=MAX_HOURS, source_id=source_id),
        now=clock.now(),
    )
    return judge(reading)


async def quiet_sources(organization_id: UUID) -> dict[UUID, datetime]:
    """The active sources whose alarm is on, with the moment at which it went off."""
    rows = await run_sql(
        "SELECT id, quiet_since FROM source WHERE organization = {} AND quiet_since IS NOT NULL AND status = 'active'",
        organization_id,
    )
    return {row["id"]: row["quiet_since"] for row in rows}


async def watch_sources() -> int:
    """Set off the alarm of each active source that was silent for too long, and end those that are over; how many.

    What is silent is told by the rows alone, so that neither a worker that was down nor two of them make a difference.
    """
    rows = await run_sql(
        """SELECT s.id, s.organization, s.status, s.expected_every_seconds, s.quiet_since, s.created_at, s.updated_at,
                  last.id AS last_id, last.received_at AS last_at, p.source IS NOT NULL AS pulls, p.pulled_at,
                  p.failures
           FROM source s LEFT JOIN pull p ON p.source = s.id LEFT JOIN LATERAL (
               SELECT id, received_at FROM signal WHERE source = s.id ORDER BY id DESC LIMIT 1) last ON true
           WHERE s.quiet_since IS NOT NULL OR (s.status = 'active' AND s.expected_every_seconds IS NOT NULL)"""
    )
    now, changed = clock.now(), 0
    for row in rows:
        if row["quiet_since"] is None:
            changed += _should_be_heard(row, now) and await _set_off(row, now)
        elif kind := _end_of_alarm(row, now):
            changed += await _end(row, kind)
    return changed


def _should_be_heard(row: dict[str, Any], now: datetime) -> bool:
    # A change of the source begins the wait anew: it was made, resumed, or is expected at another pace.
    quiet_from = max(row["updated_at"], row["last_at"] or row["created_at"])
    if row["pulls"] and not row["failures"] and row["pulled_at"]:
        # Only a pull can tell that there is nothing; none was made while no worker ran.
        now = min(now, row["pulled_at"])
    return is_silent_too_long(quiet_from, row["expected_every_seconds"], now)


def _end_of_alarm(row: dict[str, Any], now: datetime) -> str | None:
    """The kind of audit entry that ends the alarm; None while it goes on."""
    if row["last_at"] and row["last_at"] > row["quiet_since"]:
        return "source.came_back"
    silent = is_silent_too_long(row["last_at"] or row["created_at"], row["expected_every_seconds"], now)
    return None if silent and row["status"] == SourceStatus.ACTIVE else "source.alarm_withdrawn"


async def _set_off(row: dict[str, Any], now: datetime) -> bool:
    async with transaction():
        changed = await run_sql(
            """UPDATE source SET quiet_since = {} WHERE id = {} AND updated_at = {} AND quiet_since IS NULL
               AND NOT EXISTS (SELECT 1 FROM signal WHERE source = {} AND id > {}) RETURNING id""",
            now,
            row["id"],
            row["updated_at"],
            row["id"],
            row["last_id"] or NOBODY,
        )
        if changed:
            await _tell(row, "source.went_quiet", {"expected_every_seconds": row["expected_every_seconds"]})
    return bool(changed)


async def _end(row: dict[str, Any], kind: str) -> bool:
    async with transaction():
        changed = await run_sql(
            "UPDATE source SET quiet_since = NULL WHERE id = {} AND quiet_since = {} RETURNING id",
            row["id"],
            row["quiet_since"],
        )
        if changed:
            await _tell(row, kind, {"quiet_since": row["quiet_since"].isoformat()})
    return bool(changed)


async def _tell(row: dict[str, Any], kind: str, detail: dict[str, Any]) -> None:
    last_at = row["last_at"].isoformat() if row["last_at"] else None
    actor = system_actor(row["organization"], "watch_sources")
    await audit.append(actor, kind, "source", row["id"], {**detail, "last_signal_at": last_at})
