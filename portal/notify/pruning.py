"""Lets go of events that are too old to be asked for; what happened stays in the audit."""

from datetime import timedelta

from portal import clock
from portal.db.columns import oldest_id
from portal.db.engine import run_sql, transaction

KEPT = timedelta(days=90)
BATCH = 5000


async def prune() -> int:
    """Delete a batch of events older than 90 days that nothing waits for; returns how many.

    Each organisation's newest event stays, however old: the next one's position follows it.
    """
    async with transaction():
        await run_sql("SELECT pg_advisory_xact_lock(hashtextextended('publish_events', 0))")
        rows = await run_sql(
            """SELECT e.id FROM event e WHERE e.id < {}
               AND e.position < (SELECT max(position) FROM event o WHERE o.organization = e.organization)
               AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.event = e.id AND d.status = 'waiting')
               ORDER BY e.id LIMIT {}""",
            oldest_id(clock.now() - KEPT),
            BATCH,
        )
        old = [row["id"] for row in rows]
        await run_sql(
            "DELETE FROM delivery_attempt a USING delivery d WHERE d.id = a.delivery AND d.event = ANY({}::uuid[])", old
        )
        await run_sql("DELETE FROM delivery WHERE event = ANY({}::uuid[])", old)
        await run_sql("DELETE FROM event WHERE id = ANY({}::uuid[])", old)
    return len(old)
