"""How many signals came in each hour, counted once, so that no chart counts millions of rows again.

By its id alone a signal is in the tally or in the tail: ids before the mark are counted in `source_hour`, later ones
are counted whenever somebody asks. So the sum is exact at any moment, whoever moves the mark meanwhile.
"""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from portal import clock
from portal.db.columns import EPOCH, oldest_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid

LAG = timedelta(seconds=60)
"""Longer than a new id waits before the db transaction that stores it begins to write."""
SLICE = 50_000
"""Signals counted in one db transaction."""
MAX_HOURS = 168
MILLISECOND = timedelta(milliseconds=1)
MARK = UUID(int=0)
"""The key of the one row."""
COUNTED_TO = """(SELECT rpad(lpad(to_hex(floor(extract(epoch FROM counted_to) * 1000)::bigint), 12, '0'), 32, '0')::uuid
                 FROM tally_mark)"""
"""The oldest id that is not counted yet; null where nothing is."""


class HourTally(msgspec.Struct, frozen=True):
    """What came within the hour that begins at `hour`."""

    hour: datetime
    stored: int
    refused: int


async def counts_by_hour(organization_id: UUID, *, hours: int = 24, source_id: UUID | None = None) -> list[HourTally]:
    """Of all sources or of one: the last `hours` hours (1 to 168), the oldest first, the current one last.

    Exact for what is committed; hours without anything are there, too. Raises `InputInvalid`.
    """
    if not 1 <= hours <= MAX_HOURS:
        raise InputInvalid.at("/hours", f"The number of hours must be between 1 and {MAX_HOURS}.")
    last = clock.now().replace(minute=0, second=0, microsecond=0)
    first = last - timedelta(hours=hours - 1)
    of_source, of_signal, whose = "", "", [organization_id]
    if source_id:
        of_source, of_signal, whose = "AND id = {}", "AND source = {}", [organization_id, source_id]
    # The mark is read in the same statement as the counts, hence in the same snapshot.
    rows = await run_sql(
        f"""WITH counted AS (
                SELECT hour, sum(number) FILTER (WHERE outcome = 'stored') AS stored,
                       sum(number) FILTER (WHERE outcome <> 'stored') AS refused
                FROM source_hour WHERE source IN (SELECT id FROM source WHERE organization = {{}} {of_source})
                    AND hour >= {{}} GROUP BY hour
                UNION ALL
                SELECT date_trunc('hour', received_at, 'UTC'), count(*), 0
                FROM signal WHERE organization = {{}} {of_signal} AND received_at >= {{}}
                    AND id >= greatest({{}}, {COUNTED_TO})
                GROUP BY 1)
            SELECT hour, coalesce(sum(stored), 0)::bigint AS stored, coalesce(sum(refused), 0)::bigint AS refused
            FROM generate_series({{}}::timestamptz, {{}}::timestamptz, interval '1 hour') AS hour
                 LEFT JOIN counted USING (hour)
            GROUP BY hour ORDER BY hour""",  # noqa: S608
        *whose,
        first,
        *whose,
        first,
        oldest_id(first),
        first,
        last,
    )
    return [HourTally(**row) for row in rows]


async def counts_of_day(source_ids: Sequence[UUID]) -> dict[UUID, tuple[int, int]]:
    """How many deliveries of each source were stored and refused in this hour and the 23 before it."""
    first = clock.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=23)
    rows = await run_sql(
        f"""SELECT s.id, coalesce(counted.stored, 0)::bigint + (SELECT count(*) FROM signal
                       WHERE source = s.id AND id >= greatest({{}}, {COUNTED_TO})) AS stored,
                   coalesce(counted.refused, 0)::bigint AS refused
            FROM unnest({{}}::uuid[]) AS s (id) CROSS JOIN LATERAL (
                SELECT sum(number) FILTER (WHERE outcome = 'stored') AS stored,
                       sum(number) FILTER (WHERE outcome <> 'stored') AS refused
                FROM source_hour WHERE source = s.id AND hour >= {{}}) counted""",  # noqa: S608
        oldest_id(first),
        source_ids,
        first,
    )
    return {row["id"]: (row["stored"], row["refused"]) for row in rows}


async def tally(*, seconds: float) -> int:
    """Count what is old enough into `source_hour`, in slices, for so many seconds; how many signals were counted.

    Whatever is interrupted counts again from the mark. Only one process counts at a time; others return 0 at once.
    """
    total, ends = 0, time.monotonic() + seconds
    while (counted := await _tally_slice()) is not None:
        total += counted
        if time.monotonic() > ends:
            break
    return total


async def _tally_slice() -> int | None:
    """Count one slice and move the mark behind it; None if there is nothing to do or somebody else does it."""
    async with transaction():
        begins, settled = await _find_mark(), await _settled()
        if begins is None or begins >= settled:
            return None
        ends = await _end_of_slice(begins, settled)
        counted = await run_sql(
            """WITH counted AS (
                   SELECT organization, source, date_trunc('hour', received_at, 'UTC') AS hour, count(*) AS number
                   FROM signal WHERE id >= {} AND id < {} GROUP BY 1, 2, 3),
               added AS (
                   INSERT INTO source_hour (organization, source, hour, outcome, number)
                   SELECT organization, source, hour, 'stored', number FROM counted ORDER BY source, hour
                   ON CONFLICT (source, hour, outcome) DO UPDATE SET number = source_hour.number + excluded.number)
               SELECT coalesce(sum(number), 0)::bigint AS number FROM counted""",
            oldest_id(begins),
            oldest_id(ends),
        )
        await run_sql("UPDATE tally_mark SET counted_to = {} WHERE id = {}", ends, MARK)
    return int(counted[0]["number"])


async def _find_mark() -> datetime | None:
    """Up to where signals are counted, locked for this db transaction; None if another one holds it."""
    rows = await run_sql("SELECT counted_to FROM tally_mark WHERE id = {} FOR UPDATE SKIP LOCKED", MARK)
    if not rows and (oldest := await run_sql("SELECT id FROM signal ORDER BY id LIMIT 1")):
        rows = await run_sql(
            "INSERT INTO tally_mark (id, counted_to) VALUES ({}, {}) ON CONFLICT (id) DO NOTHING RETURNING counted_to",
            MARK,
            _moment_of(oldest[0]["id"]) - LAG,  # one with an older id may not be committed yet
        )
    return rows[0]["counted_to"] if rows else None


async def _settled() -> datetime:
    """Before this moment no id is missing any more: what was written with an older one has been committed or undone."""
    rows = await run_sql(
        """SELECT min(xact_start) AS oldest FROM pg_stat_activity
           WHERE datname = current_database() AND backend_type = 'client backend' AND backend_xid IS NOT NULL
                 AND pid <> pg_backend_pid()"""
    )
    now, oldest = clock.now(), rows[0]["oldest"]
    settled = min(now, oldest or now) - LAG
    return settled.replace(microsecond=settled.microsecond // 1000 * 1000)


async def _end_of_slice(begins: datetime, settled: datetime) -> datetime:
    rows = await run_sql(
        "SELECT id FROM signal WHERE id >= {} AND id < {} ORDER BY id OFFSET {} LIMIT 1",
        oldest_id(begins),
        oldest_id(settled),
        SLICE,
    )
    return max(_moment_of(rows[0]["id"]), begins + MILLISECOND) if rows else settled


def _moment_of(id: UUID) -> datetime:
    """When a UUIDv7 was made, to the millisecond."""
    return EPOCH + (id.int >> 80) * MILLISECOND
