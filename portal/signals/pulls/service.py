"""Where pull sources stand, as people see it, and what people may do about it."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.engine import in_transaction, run_sql, transaction
from portal.errors import NotFound
from portal.jobs.queue import ring
from portal.signals.errors import SourceNotActive, SourceNotPulled
from portal.signals.pulls import KINDS
from portal.signals.pulls.kinds import PullKind
from portal.signals.tables import Pull, SourceStatus


class PullInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    from_start: bool = False
    """Whether to begin anew, as where a cursor is no longer known to the API; what is stored already is not stored
    twice."""


class PullView(msgspec.Struct, frozen=True, kw_only=True):
    """Where a source stands that is asked instead of sending."""

    source_id: UUID
    kind: str
    position: str
    """In words."""
    interval_seconds: int
    pulled_at: datetime | None
    """The last pull that succeeded."""
    due_at: datetime
    """The next pull; a paused source is not pulled then either."""
    pulling: bool
    """A worker fetches just now."""
    failures: int
    """In a row; each makes the wait for the next pull longer."""
    error: str | None
    """Why the last pull failed, in a sentence; None if it did not."""


async def get_pull(organization_id: UUID, source_id: UUID) -> PullView:
    """Where the source stands. Raises `NotFound`, and `SourceNotPulled` for one to which is delivered."""
    rows = await run_sql(
        """SELECT p.*, s.scheme, s.settings FROM source s LEFT JOIN pull p ON p.source = s.id
           WHERE s.id = {} AND s.organization = {}""",
        source_id,
        organization_id,
    )
    kind, row = _kind_of(rows), rows[0]
    return PullView(
        source_id=source_id,
        kind=kind.name,
        position=kind.describe(msgspec.json.decode(row["position"])),
        interval_seconds=msgspec.json.decode(row["settings"], type=kind.settings_type).interval_seconds,  # type: ignore[attr-defined]
        pulled_at=row["pulled_at"],
        due_at=row["due_at"],
        pulling=row["claimed_until"] is not None and row["claimed_until"] > clock.now(),
        failures=row["failures"],
        error=row["error"],
    )


async def pull_now(actor: Actor, source_id: UUID, given: PullInput | None = None) -> PullView:
    """Pull without waiting for the next time. Raises `NotFound`, `SourceNotPulled`, `SourceNotActive`."""
    actor.require(Permission.SOURCES_WRITE)
    from_start = given is not None and given.from_start
    now = clock.now()
    async with transaction():
        rows = await run_sql(
            """SELECT scheme, settings, status FROM source
               WHERE id = {} AND organization = {} FOR NO KEY UPDATE""",
            source_id,
            actor.organization_id,
        )
        kind = _kind_of(rows)
        if rows[0]["status"] != SourceStatus.ACTIVE:
            raise SourceNotActive("The source is paused. Resume it first.")
        if from_start:
            settings = msgspec.json.decode(rows[0]["settings"], type=kind.settings_type)
            await _begin_anew(source_id, kind.first_position(settings), now)
        else:
            await Pull.update({Pull.due_at: now}).where(Pull.source == source_id)
        await audit.append(actor, "source.pull_requested", "source", source_id, {"from_start": from_start})
    ring("pull_sources")
    return await get_pull(actor.organization_id, source_id)


def _kind_of(found: list[dict[str, Any]]) -> PullKind:
    if not found:
        raise NotFound("There is no such source.")
    if found[0]["scheme"] not in KINDS:
        raise SourceNotPulled("Its sender delivers by itself; nothing is pulled.")
    return KINDS[found[0]["scheme"]]


async def insert_pull(source_id: UUID, kind: str, settings: Any) -> None:
    """Make a new source due at once. In the db transaction that makes the source; ring `pull_sources` after it."""
    assert in_transaction(), "a source and where it stands are made together"
    await Pull.insert(
        Pull(
            source=source_id,
            position=KINDS[kind].first_position(settings),
            due_at=clock.now(),
            claimed_until=None,
            pulled_at=None,
            failures=0,
            error=None,
        )
    )


async def change_pull(source_id: UUID, kind: str, before: Any, after: Any) -> None:
    """Begin anew where changed settings ask something else, and pull by the new ones at once.

    In the db transaction that changes the source, which holds its row.
    """
    assert in_transaction(), "a source and where it stands change together"
    if before == after:
        return
    if KINDS[kind].keeps_position(before, after):
        await Pull.update({Pull.due_at: clock.now()}).where(Pull.source == source_id)
    else:
        await _begin_anew(source_id, KINDS[kind].first_position(after), clock.now())


async def _begin_anew(source_id: UUID, position: dict[str, Any], now: datetime) -> None:
    """Whoever pulls at this moment loses the claim, and with it what was fetched from the old position."""
    await run_sql(
        """UPDATE pull SET position = {}, claimed_until = NULL, due_at = {}, failures = 0, error = NULL
           WHERE source = {}""",
        msgspec.json.encode(position).decode(),
        now,
        source_id,
    )
