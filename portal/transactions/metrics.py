"""Gauges of the whole installation, read from the rows at each scrape."""

from prometheus_client import Gauge

from portal import clock
from portal.db.engine import run_sql
from portal.transactions.states import TERMINAL
from portal.transactions.tables import TransactionStatus

TRANSACTIONS = Gauge("portal_transactions", "Transactions under way by status", ["status"])
HELD = Gauge("portal_transactions_held", "Transactions that wait for something out of the ordinary")
ENDED_BADLY = Gauge("portal_transactions_ended", "Transactions that ended without a final block, by status", ["status"])
OLDEST_SECONDS = Gauge(
    "portal_lane_oldest_unmined_seconds",
    "Age of the oldest transaction of a lane that holds a nonce and is not mined, of at most 500 lanes",
    ["chain", "signer"],
)
HEAD_AGE_SECONDS = Gauge("portal_chain_head_age_seconds", "Since the watcher saw a new block", ["chain"])
FINAL_LAG_BLOCKS = Gauge("portal_chain_final_lag_blocks", "Blocks from the newest back to the final one", ["chain"])

# Said as the partial indexes say it, so that the great number of those that ended well is never read.
UNDER_WAY = """
    SELECT status, count(*) AS count, count(reason) AS held FROM transaction
    WHERE status NOT IN ('finalized', 'refused', 'rejected', 'expired', 'cancelled', 'displaced') GROUP BY status
"""
ENDED = """
    SELECT status, count(*) AS count FROM transaction
    WHERE status IN ('refused', 'rejected', 'expired', 'cancelled', 'displaced') GROUP BY status
"""
OLDEST = """
    SELECT l.chain, s.address, min(coalesce(t.broadcast_at, t.queued_at)) AS since
    FROM transaction t JOIN lane l ON l.id = t.lane JOIN signer s ON s.id = l.signer
    WHERE t.status IN ('nonced', 'signed', 'broadcast', 'closing', 'suspect') GROUP BY l.chain, s.address
    ORDER BY since LIMIT 500
"""


async def refresh() -> None:
    """Set the gauges to what the database says now."""
    under_way, ended = await run_sql(UNDER_WAY), await run_sql(ENDED)
    counted = {row["status"]: row["count"] for row in (*under_way, *ended)}
    for status in TransactionStatus:
        if status is not TransactionStatus.FINALIZED:
            gauge = ENDED_BADLY if status in TERMINAL else TRANSACTIONS
            gauge.labels(status.value).set(counted.get(status.value, 0))
    HELD.set(sum(row["held"] for row in under_way))
    now = clock.now()
    OLDEST_SECONDS.clear()
    for lane in await run_sql(OLDEST):
        OLDEST_SECONDS.labels(str(lane["chain"]), lane["address"]).set((now - lane["since"]).total_seconds())
    for chain in await run_sql("SELECT id, head_at, head_number, final_number FROM chain WHERE head_at IS NOT NULL"):
        HEAD_AGE_SECONDS.labels(str(chain["id"])).set((now - chain["head_at"]).total_seconds())
        if chain["final_number"] is not None:
            FINAL_LAG_BLOCKS.labels(str(chain["id"])).set(chain["head_number"] - chain["final_number"])
