"""Takes what was recorded out of the outbox, gives it its place among the organisation's events, and makes a delivery
of it for each webhook that wants it.

Why the order holds. Transactions commit in another order than that in which they wrote, so neither an id nor a number
drawn at the insert tells a reader that nothing lower is still to come. A position does: it is given after the commit,
by one publisher at a time, in the same db transaction that makes the event visible, so all lower positions are visible
already. And what was written after another's commit has the higher number and is seen no sooner, so it comes later.
"""

from typing import Any
from uuid import UUID

from portal import clock
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.db.notices import announce_in_transaction
from portal.notify.event_types import TEST, is_wanted

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
    RETURNING id, organization, position, kind, subject_id"""


async def publish(limit: int = BATCH) -> int:
    """Publish up to `limit` of what was recorded, the oldest first; returns how many events there are more."""
    async with transaction():
        await run_sql("SELECT pg_advisory_xact_lock(hashtextextended('publish_events', 0))")
        events = await run_sql(PLACE, limit)
        await _address(events)
        for organization_id in {event["organization"] for event in events}:
            announce_in_transaction("event", organization_id)
    return len(events)


async def _address(events: list[dict[str, Any]]) -> None:
    """Make the deliveries of new events: due at once, to each active webhook that wants them."""
    webhooks = await run_sql(
        """SELECT id, organization, types FROM webhook
           WHERE organization = ANY({}::uuid[]) AND status = 'active' ORDER BY id""",
        list({event["organization"] for event in events}),
    )
    wanted = [
        (event, webhook["id"])
        for event in sorted(events, key=lambda event: event["position"])
        for webhook in webhooks
        if event["organization"] == webhook["organization"] and _is_for(event, webhook["id"], webhook["types"])
    ]
    if not wanted:
        return
    now = clock.now()
    await run_sql(
        """INSERT INTO delivery (status, attempts, due_at, created_at, id, organization, webhook, event, position)
           SELECT 'waiting', 0, {}, {}, made.*
           FROM unnest({}::uuid[], {}::uuid[], {}::uuid[], {}::uuid[], {}::bigint[]) AS made""",
        now,
        now,
        [new_id() for _ in wanted],
        [event["organization"] for event, _ in wanted],
        [webhook_id for _, webhook_id in wanted],
        [event["id"] for event, _ in wanted],
        [event["position"] for event, _ in wanted],
    )


def _is_for(event: dict[str, Any], webhook_id: UUID, types: list[str]) -> bool:
    return event["subject_id"] == str(webhook_id) if event["kind"] == TEST else is_wanted(event["kind"], types)
