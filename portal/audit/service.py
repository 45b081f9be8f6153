"""Appends to an organisation's audit chain and verifies it.

Invariants: entries are numbered 1, 2, 3 ... without a gap; each hash covers the entry and the hash before it; the
append happens in the caller's db transaction, so there is no change without its entry and no entry without the change.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from portal import clock
from portal.audit.tables import AuditEntry
from portal.db.columns import new_id
from portal.db.engine import in_transaction, run_sql, transaction
from portal.db.notices import announce_in_transaction
from portal.logging import correlation_id

GENESIS = bytes(32)


class AuditActor(Protocol):
    """The part of `accounts.Actor` that an entry keeps (audit is a layer below accounts)."""

    @property
    def organization_id(self) -> UUID: ...
    @property
    def kind(self) -> Any: ...
    @property
    def id(self) -> UUID | None: ...
    @property
    def label(self) -> str: ...


class BrokenEntry(msgspec.Struct, frozen=True):
    """The first entry that is not what the chain says, and why."""

    sequence: int
    reason: str


class Entry(msgspec.Struct, frozen=True):
    """What one entry will say: `kind` (`noun.verb`) about a subject. `detail` holds JSON values and never a secret."""

    actor: AuditActor
    kind: str
    subject_kind: str
    subject_id: UUID | str
    detail: dict[str, Any] = {}
    correlation_id: str | None = None
    """None takes the one of the current request or job."""


async def append(
    actor: AuditActor, kind: str, subject_kind: str, subject_id: UUID | str, detail: dict[str, Any] | None = None
) -> None:
    """Append `kind` (`noun.verb`) about a subject to the actor's organisation's chain, under the lock of its head.

    Must run inside the db transaction that makes the change. `detail` holds JSON values and never a secret.
    """
    await append_many([Entry(actor, kind, subject_kind, subject_id, detail or {})])


async def append_many(entries: Sequence[Entry]) -> None:
    """Append entries of any organisations, each to its own organisation's chain, in the order given.

    Must run inside the db transaction that makes the changes, and best as its last statement: the heads, locked in the
    order of the organisations' ids, are everybody's until it ends. Whoever shows the subjects is told at its commit.
    """
    assert in_transaction(), "an audit entry is written in the db transaction of the change"
    if not entries:
        return
    heads = await _lock_heads({entry.actor.organization_id for entry in entries})
    now, rows = clock.now(), []
    for entry in entries:
        organization_id = entry.actor.organization_id
        sequence, previous = heads[organization_id]
        row = {
            "id": new_id(),
            "organization": organization_id,
            "sequence": sequence + 1,
            "kind": entry.kind,
            "actor_kind": str(entry.actor.kind),
            "actor_id": str(entry.actor.id) if entry.actor.id else None,
            "actor_label": entry.actor.label,
            "subject_kind": entry.subject_kind,
            "subject_id": str(entry.subject_id),
            "detail": entry.detail,
            "correlation_id": entry.correlation_id or correlation_id(),
            "at": now,
            "previous_hash": previous,
        }
        hash = row["hash"] = entry_hash(row)
        heads[organization_id] = sequence + 1, hash
        rows.append(row)
    await _insert(rows)
    await run_sql(
        """UPDATE audit_head SET sequence = made.sequence, hash = made.hash
           FROM unnest({}::uuid[], {}::bigint[], {}::bytea[]) AS made (organization, sequence, hash)
           WHERE audit_head.organization = made.organization""",
        list(heads),
        [sequence for sequence, _ in heads.values()],
        [hash for _, hash in heads.values()],
    )
    for topic, organization_id in {(entry.subject_kind, entry.actor.organization_id) for entry in entries}:
        announce_in_transaction(topic, organization_id)


async def _lock_heads(organization_ids: Iterable[UUID]) -> dict[UUID, tuple[int, bytes]]:
    """Sequence and hash of the last entry of each chain, locked; a chain without entries gets its head."""
    rows = await run_sql(
        """INSERT INTO audit_head (organization, sequence, hash) SELECT each, 0, {} FROM unnest({}::uuid[]) AS each
           ON CONFLICT (organization) DO UPDATE SET sequence = audit_head.sequence
           RETURNING organization, sequence, hash""",
        GENESIS,
        sorted(organization_ids),  # in one order, so that two who append to the same chains do not deadlock
    )
    return {row["organization"]: (row["sequence"], bytes(row["hash"])) for row in rows}


async def _insert(rows: list[dict[str, Any]]) -> None:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["detail"] = [msgspec.json.encode(detail).decode() for detail in columns["detail"]]
    await run_sql(
        """INSERT INTO audit_entry (id, organization, sequence, kind, actor_kind, actor_id, actor_label, subject_kind,
                                    subject_id, detail, correlation_id, at, previous_hash, hash)
           SELECT * FROM unnest({}::uuid[], {}::uuid[], {}::bigint[], {}::text[], {}::text[], {}::text[], {}::text[],
                                {}::text[], {}::text[], {}::jsonb[], {}::text[], {}::timestamptz[], {}::bytea[],
                                {}::bytea[])""",
        *columns.values(),
    )


def entry_hash(entry: dict[str, Any]) -> bytes:
    """SHA-256 over the previous hash and the entry as JSON with sorted keys, times in microseconds UTC."""
    covered = {name: _plain(value) for name, value in entry.items() if name not in ("hash", "previous_hash")}
    return hashlib.sha256(entry["previous_hash"] + msgspec.json.encode(covered, order="deterministic")).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    return str(value) if isinstance(value, UUID) else value


async def verify(organization_id: UUID) -> BrokenEntry | None:
    """Recompute the whole chain; None if it holds, else the first broken entry.

    A cut-off tail is found by comparing with the head. Somebody who can rewrite every row can rewrite the chain:
    keep the head's hash outside (`portal audit verify` prints it). Opens a db transaction of its own.
    """
    async with transaction():
        # One snapshot of entries and head: else what is appended meanwhile would look like a broken end.
        await run_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return await _find_broken(organization_id)


async def _find_broken(organization_id: UUID) -> BrokenEntry | None:
    previous, expected = GENESIS, 1
    while True:
        rows = (
            await AuditEntry.select()
            .where(AuditEntry.organization == organization_id, AuditEntry.sequence >= expected)
            .order_by(AuditEntry.sequence)
            .limit(1000)
            .output(load_json=True)
        )
        if not rows:
            break
        for row in rows:
            if row["sequence"] != expected:
                return BrokenEntry(expected, f"entry {expected} is missing; the next one is {row['sequence']}")
            if bytes(row["previous_hash"]) != previous:
                return BrokenEntry(expected, "it does not continue from the entry before it")
            if entry_hash(row) != bytes(row["hash"]):
                return BrokenEntry(expected, "its content is not what its hash says")
            previous, expected = bytes(row["hash"]), expected + 1
    head = await run_sql("SELECT sequence, hash FROM audit_head WHERE organization = {}", organization_id)
    if head and (head[0]["sequence"] != expected - 1 or bytes(head[0]["hash"]) != previous):
        return BrokenEntry(expected, f"the chain ends at {expected - 1}, but its head says {head[0]['sequence']}")
    return None
