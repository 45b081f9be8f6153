"""Stores verified deliveries: those that arrive together share one insert and its commit.

Guarantees: a result is given only after the commit; a row is stored only if its source still has the version that it
was checked against and is active; one external id of a source is stored once; one row that cannot be stored does not
keep the others from it.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from portal.db.engine import ReservedConnection, database_unavailable, numbered, run_sql
from portal.jobs.queue import ring
from portal.logging import get_logger
from portal.signals.tables import SignalStatus
from portal.together import Together

log = get_logger(__name__)
FLUSH_SECONDS = 2.0
"""After that the senders are asked to send again; what the database stored all the same is then a duplicate. Who waits
for the flush before its own, too, still has an answer within Shopify's five seconds, the shortest patience there is."""


class Row(NamedTuple):
    """A signal to be stored, in the order of the statement's arguments."""

    id: UUID
    source: UUID
    version: datetime
    """Of the source it was checked against."""
    external_id: str
    type: str
    status: str
    reasons: str
    content_type: str
    body: bytes
    body_digest: bytes
    words: str | None
    """One a line, of what is searched although it is not assessed."""
    schema: UUID | None
    secret: UUID | None
    skew_ms: int | None
    correlation_id: str
    received_at: datetime


class Fate(StrEnum):
    STORED = "stored"
    DUPLICATE = "duplicate"
    """The same id with the same body is there already."""
    CONFLICTING = "conflicting"
    """The same id is there with another body."""
    STALE = "stale"
    """The source has changed since it was checked, so nothing is stored: check it again."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a row; the signal is the stored one, none where it is stale."""

    fate: Fate
    signal_id: UUID
    status: str


# Sorted, so that two processes that insert the same ids wait for each other in one order only.
INSERT = """
    INSERT INTO signal (id, organization, source, external_id, type, status, reasons, content_type, body, body_bytes,
                        body_digest, words, schema, secret, skew_ms, correlation_id, received_at)
    SELECT made.id, s.organization, made.source, made.external_id, made.type, made.status, made.reasons::jsonb,
           made.content_type, made.body, octet_length(made.body), made.body_digest,
           string_to_array(made.words, chr(10)), made.schema, made.secret, made.skew_ms, made.correlation_id,
           made.received_at
    FROM unnest({}::uuid[], {}::uuid[], {}::timestamptz[], {}::text[], {}::text[], {}::text[], {}::text[], {}::text[],
                {}::bytea[], {}::bytea[], {}::text[], {}::uuid[], {}::uuid[], {}::bigint[], {}::text[],
                {}::timestamptz[])
         AS made (id, source, version, external_id, type, status, reasons, content_type, body, body_digest, words,
                  schema, secret, skew_ms, correlation_id, received_at)
    JOIN source s ON s.id = made.source AND s.updated_at = made.version AND s.status = 'active'
    ORDER BY made.source, made.external_id COLLATE "C"
    ON CONFLICT (source, external_id) DO NOTHING RETURNING id"""

INSERT_NUMBERED = numbered(INSERT)


async def store(row: Row) -> Outcome:
    """Store a delivery together with those that arrive at the same time; returns after the commit.

    Raises `Unavailable` where the database cannot store anything now: then nothing is stored, trying again is safe.
    """
    return await _flush.do(row, weight=len(row.body))


async def settle() -> None:
    """Wait until what has arrived is stored; for a process that is about to end."""
    await _flush.settle()


async def insert(rows: Sequence[Row]) -> set[UUID]:
    """Insert within the current db transaction, if there is one; the ids of those that are new and not stale."""
    return {row["id"] for row in await run_sql(INSERT, *_columns(rows))}


def _columns(rows: Sequence[Row]) -> Iterable[list[Any]]:
    return map(list, zip(*rows, strict=True))


async def _store_all(rows: list[Row]) -> list[Outcome | Exception]:
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            inserted = await _reserved.fetch(INSERT_NUMBERED, *_columns(rows))
            stored = {row["id"] for row in inserted}
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        # One of them cannot be stored at all. Halving finds it in a few more inserts.
        if len(rows) == 1:
            log.error("signal.unstorable", external_id=rows[0].external_id, exc_info=error)
            return [error]
        half = len(rows) // 2
        return [*await _store_all(rows[:half]), *await _store_all(rows[half:])]
    except Exception as error:
        return _unavailable(rows, error)
    if any(row.id in stored and row.status == SignalStatus.RECEIVED for row in rows):
        ring("assess_signals")
    outcomes: dict[UUID, Outcome | Exception] = {
        row.id: Outcome(Fate.STORED, row.id, row.status) for row in rows if row.id in stored
    }
    if missing := [row for row in rows if row.id not in stored]:
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                outcomes |= await _find_stored(missing)
        except Exception as error:
            outcomes |= zip((row.id for row in missing), _unavailable(missing, error), strict=True)
    return [outcomes[row.id] for row in rows]


def _unavailable(rows: list[Row], error: Exception) -> list[Outcome | Exception]:
    log.warning("signals.unstored", count=len(rows), error=type(error).__name__)
    return [database_unavailable() for _ in rows]


async def _find_stored(rows: list[Row]) -> dict[UUID, Outcome]:
    """What each row that was not inserted met."""
    # On the same connection: a duplicate must not keep everybody waiting for one of those that others hold.
    met = await _reserved.fetch(
        """SELECT made.id AS row, g.id, g.status, g.body_digest = made.digest AS same,
                  s.updated_at = made.version AND s.status = 'active' AS current
           FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::timestamptz[])
                AS made (id, source, external_id, digest, version)
           JOIN source s ON s.id = made.source
           LEFT JOIN signal g ON g.source = made.source AND g.external_id = made.external_id""",
        [row.id for row in rows],
        [row.source for row in rows],
        [row.external_id for row in rows],
        [row.body_digest for row in rows],
        [row.version for row in rows],
    )
    outcomes = {row.id: Outcome(Fate.STALE, row.id, row.status) for row in rows}
    for row in met:
        # A secret that has ended proves nothing, not even a delivery that is stored already.
        if row["current"] and row["id"]:
            fate = Fate.DUPLICATE if row["same"] else Fate.CONFLICTING
            outcomes[row["row"]] = Outcome(fate, row["id"], row["status"])
    return outcomes


_flush: Together[Row, Outcome] = Together(_store_all)
_reserved = ReservedConnection()
