"""Takes what was recorded out of the outbox and gives it its place among the organisation's events.

Why the order holds. Transactions commit in another order than that in which they wrote, so neither an id nor a number
drawn at the insert tells a reader that nothing lower is still to come. A position does: it is given after the commit,
by one publisher at a time, in the same db transaction that makes the event visible, so all lower positions are visible
already. And what was written after another's commit has the higher number and is seen no sooner, so it comes later.
"""

from portal.db.engine import run_sql, transaction
from portal.db.notices import announce_in_transaction

BATCH = 1000

PLACE = """
    WITH taken AS (
        DELETE FROM outbox WHERE number IN (SELECT number FROM outbox ORDER BY number LIMIT {}) RETURNING *),
    heads AS (
        SELECT organization, coalesce(
            (SELECT max(position) FROM event WHERE event.organization = each.organization), 0) AS position
        FROM (SELECT DISTINCT organization FROM taken) AS each)
    INSERT INTO event (id, organization, position, kind, subject_kind, subject_id, payload, correlation_id, occurred_at)
    SELECT event_id, organization, heads.position + row_number() OVER (PARTITION BY organization ORDER BY number),
           kind, subject_kind, subject_id, payload, correlation_id, occurred_at
    FROM taken JOIN heads USING (organization) ORDER BY number
    RETURNING organization"""


async def publish(limit: int = BATCH) -> int:
    """Publish up to `limit` of what was recorded, the oldest first; returns how many events there are more."""
    async with transaction():
        await run_sql("SELECT pg_advisory_xact_lock(hashtextextended('publish_events', 0))")
        placed = await run_sql(PLACE, limit)
        for organization_id in {row["organization"] for row in placed}:
            announce_in_transaction("event", organization_id)
    return len(placed)
