"""Gauges of the whole installation, read from the rows at each scrape."""

from prometheus_client import Gauge

from portal import clock
from portal.db.engine import run_sql
from portal.transactions.states import TERMINAL
from portal.transactions.tables import TransactionStatus

TRANSACTIONS = Gauge("portal_transactions", "Transactions under way by status", ["status"])
HELD = Gauge("portal_transactions_held", "Transactions that wait for something out of the ordinary")
HEAD_AGE_SECONDS = Gauge("portal_chain_head_age_seconds", "Since the watcher saw a new block", ["chain"])


# One list for each of the partial indexes, so that what has ended is never counted.
UNDER_WAY = """
    SELECT status, count(*) AS count, count(reason) AS held FROM transaction
    WHERE status IN ('queued', 'nonced', 'signed') OR status IN ('broadcast', 'mined', 'confirmed') GROUP BY status
"""


async def refresh() -> None:
    """Set the gauges to what the database says now."""
    rows = await run_sql(UNDER_WAY)
    counted = {row["status"]: row["count"] for row in rows}
    for status in TransactionStatus:
        if status not in TERMINAL:
            TRANSACTIONS.labels(status.value).set(counted.get(status.value, 0))
    HELD.set(sum(row["held"] for row in rows))
    for chain in await run_sql("SELECT id, head_at FROM chain WHERE head_at IS NOT NULL"):
        HEAD_AGE_SECONDS.labels(str(chain["id"])).set((clock.now() - chain["head_at"]).total_seconds())
