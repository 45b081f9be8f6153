"""Raises an alarm for lanes whose head does not move. It only looks: what is to be done the lanes do by themselves."""

from datetime import timedelta
from typing import Any

from prometheus_client import Gauge

from portal import clock
from portal.accounts.schemas import system_actor
from portal.audit.service import Entry
from portal.db.engine import run_sql, transaction
from portal.logging import get_logger
from portal.notify.outbox import record_entries
from portal.transactions.controls.pauses import find_pauses
from portal.transactions.lanes.queries import HEAD, STILL_SINCE

log = get_logger(__name__)
STUCK_LANES = Gauge("portal_lanes_stuck", "Lanes whose head has not moved for ten minutes", ["chain"])
STUCK_AFTER = timedelta(minutes=10)
"""Dozens of blocks of the slowest chains: fees were raised several times by then, so something else is wrong."""

STILL = f"""
    SELECT * FROM (
        SELECT l.id, l.organization, l.chain, l.stuck_since, head.id AS head_id, head.status, head.nonce, head.reason,
               {STILL_SINCE} AS still_since
        FROM lane l CROSS JOIN LATERAL {HEAD} head
    ) lanes WHERE still_since < {{}}"""  # noqa: S608  constants


async def watch_lanes() -> int:
    """Mark the lanes whose head has not moved for ten minutes, and clear those that move again; how many changed.

    What is paused on purpose is not stuck. Each change is logged, audited and told to subscribers, once.
    """
    still = await run_sql(STILL, clock.now() - STUCK_AFTER)
    paused = await find_pauses([lane["head_id"] for lane in still if lane["status"] in ("queued", "nonced")])
    stuck = {lane["id"]: lane for lane in still if lane["head_id"] not in paused}
    changed = 0
    for lane in stuck.values():
        if lane["stuck_since"] is None:
            changed += await _mark(lane)
    for lane in await run_sql("SELECT id, organization, chain, stuck_since FROM lane WHERE stuck_since IS NOT NULL"):
        if lane["id"] not in stuck:
            changed += await _clear(lane)
    return changed


async def refresh() -> None:
    """Set the gauge to what the database says now."""
    STUCK_LANES.clear()
    for row in await run_sql("SELECT chain, count(stuck_since) AS stuck FROM lane GROUP BY chain"):
        STUCK_LANES.labels(str(row["chain"])).set(row["stuck"])


async def _mark(lane: dict[str, Any]) -> bool:
    async with transaction():
        marked = await run_sql(
            "UPDATE lane SET stuck_since = {} WHERE id = {} AND stuck_since IS NULL RETURNING id",
            lane["still_since"],
            lane["id"],
        )
        if marked:
            detail = {
                "transaction_id": str(lane["head_id"]),
                "nonce": lane["nonce"],
                "reason": lane["reason"],
                "since": lane["still_since"].isoformat(),
            }
            await _record(lane, "stuck", detail)
    if marked:
        log.error("lane.stuck", lane_id=str(lane["id"]), chain_id=lane["chain"], **detail)
    return bool(marked)


async def _clear(lane: dict[str, Any]) -> bool:
    async with transaction():
        cleared = await run_sql(
            "UPDATE lane SET stuck_since = NULL WHERE id = {} AND stuck_since IS NOT NULL RETURNING id", lane["id"]
        )
        if cleared:
            await _record(lane, "moving", {"stuck_since": lane["stuck_since"].isoformat()})
    if cleared:
        log.info("lane.moving", lane_id=str(lane["id"]), chain_id=lane["chain"])
    return bool(cleared)


async def _record(lane: dict[str, Any], verb: str, detail: dict[str, Any]) -> None:
    actor = system_actor(lane["organization"], "watchdog")
    await record_entries([Entry(actor, f"lane.{verb}", "lane", lane["id"], {"chain_id": lane["chain"], **detail})])
