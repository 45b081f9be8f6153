"""Gauges of the whole installation, read from the rows at each scrape: whether subscribers hear of things in time."""

from prometheus_client import Gauge

from portal import clock
from portal.db.engine import run_sql

MOST_COUNTED = 10_000
OUTBOX_SECONDS = Gauge("portal_outbox_oldest_seconds", "Age of the oldest event that is not published; 0 if none waits")
DELIVERIES_WAITING = Gauge(
    "portal_deliveries_waiting", "Deliveries to active webhooks that are due by now, counted up to 10,000"
)
WEBHOOKS = Gauge("portal_webhooks", "Webhooks by state: active, failing, disabled", ["state"])

OLDEST = "SELECT occurred_at FROM outbox ORDER BY number LIMIT 1"
DUE = """
    SELECT count(*) AS count FROM (
        SELECT 1 FROM webhook w JOIN delivery d ON d.webhook = w.id
        WHERE w.status = 'active' AND d.status = 'waiting' AND d.due_at <= {} LIMIT {}) AS due
"""
STATES = """
    SELECT CASE WHEN status = 'active' AND failing_since IS NOT NULL THEN 'failing' ELSE status END AS state,
           count(*) AS count
    FROM webhook WHERE status <> 'deleted' GROUP BY 1
"""


async def refresh() -> None:
    """Set the gauges to what the database says now."""
    now, oldest = clock.now(), await run_sql(OLDEST)
    OUTBOX_SECONDS.set((now - oldest[0]["occurred_at"]).total_seconds() if oldest else 0)
    [due] = await run_sql(DUE, now, MOST_COUNTED)
    DELIVERIES_WAITING.set(due["count"])
    counts = {row["state"]: row["count"] for row in await run_sql(STATES)}
    for state in ("active", "failing", "disabled"):
        WEBHOOKS.labels(state).set(counts.get(state, 0))
