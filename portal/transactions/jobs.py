"""The jobs of this room; the database says what there is to do, so running one twice or not at all loses nothing."""

from portal.jobs.queue import ring
from portal.transactions.lanes import passes
from portal.transactions.service import queue_approved
from portal.transactions.watching import watcher


async def run_lanes() -> int:
    """Queue what was approved, then sign and send what waits in every lane; the number of steps taken."""
    queued = await queue_approved()
    return queued + await passes.run_lanes()


async def watch_chains() -> int:
    """Follow every chain's head and what is on its way there; the number of steps taken."""
    moved = await watcher.watch_chains()
    if moved:
        ring("run_lanes")  # what was mined makes room in its lane
    return moved
