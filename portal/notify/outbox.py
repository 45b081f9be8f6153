"""Records what subscribers are to be told, in the db transaction of the change: neither is there without the other.

`notify.publishing` makes it an event after the commit.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.audit import service as audit
from portal.audit.service import Entry
from portal.db.columns import new_id
from portal.db.engine import after_commit, in_transaction, run_sql
from portal.jobs.queue import ring
from portal.logging import correlation_id as current_correlation_id


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One event to record: `kind` (`noun.verb`) about a subject. `payload` holds JSON values and never a secret."""

    organization_id: UUID
    kind: str
    subject_kind: str
    subject_id: UUID | str
    payload: dict[str, Any] = {}
    correlation_id: str | None = None
    """None takes the one of the current request or job."""


async def record(
    organization_id: UUID,
    kind: str,
    subject_kind: str,
    subject_id: UUID | str,
    payload: dict[str, Any],
    *,
    correlation_id: str | None = None,
) -> None:
    """Record one event; see `record_many`."""
    await record_many(
        [
            Happening(
                organization_id=organization_id,
                kind=kind,
                subject_kind=subject_kind,
                subject_id=subject_id,
                payload=payload,
                correlation_id=correlation_id,
            )
        ]
    )


async def record_many(happenings: Sequence[Happening]) -> None:
    """Record events, in the order given, by one insert in the caller's db transaction.

    After its commit the publisher is woken; each event then reaches every subscriber at least once, with one id.
    """
    assert in_transaction(), "an event is recorded in the db transaction of what happened"
    if not happenings:
        return
    now, correlation = clock.now(), current_correlation_id()
    await run_sql(
        """INSERT INTO outbox (occurred_at, event_id, organization, kind, subject_kind, subject_id, payload,
                               correlation_id)
           SELECT {}, made.* FROM unnest({}::uuid[], {}::uuid[], {}::text[], {}::text[], {}::text[], {}::jsonb[],
                                         {}::text[]) AS made""",
        now,
        [new_id() for _ in happenings],
        [each.organization_id for each in happenings],
        [each.kind for each in happenings],
        [each.subject_kind for each in happenings],
        [str(each.subject_id) for each in happenings],
        [msgspec.json.encode(each.payload).decode() for each in happenings],
        [each.correlation_id or correlation for each in happenings],
    )
    after_commit(_wake)


async def record_entries(entries: Sequence[Entry]) -> None:
    """Write audit entries, and record each as an event, too: of the same kind, subject and facts.

    Must run inside the db transaction of the change, and best as its last statement, as `audit.append_many`.
    """
    await record_many(
        [
            Happening(
                organization_id=entry.actor.organization_id,
                kind=entry.kind,
                subject_kind=entry.subject_kind,
                subject_id=entry.subject_id,
                payload=entry.detail,
                correlation_id=entry.correlation_id,
            )
            for entry in entries
        ]
    )
    await audit.append_many(entries)


def _wake() -> None:
    ring("publish_events")
