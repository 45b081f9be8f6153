"""Background work on signals. Each is safe to run twice, or at once in two workers."""

from portal.signals import retention
from portal.signals.batches import exports, rechecks
from portal.signals.batches import service as batches
from portal.signals.health import tallies, watching
from portal.signals.tables import BatchKind

RUN_SECONDS = 20
"""Less than a job's heartbeat; what is left then gets a job of its own."""


async def run_batches() -> int:
    """Write exports and check quarantined signals again, until nothing is left to do; how many signals."""
    slicers = {BatchKind.EXPORT: exports.export_slice, BatchKind.RECHECK: rechecks.recheck_slice}
    return await batches.run(slicers, seconds=RUN_SECONDS)


async def expire_bodies() -> int:
    """Let bodies expire that an organisation keeps no longer; how many."""
    return await retention.expire_bodies(seconds=RUN_SECONDS)


async def prune_batches() -> int:
    """Delete batches that ended a week ago, with the files of exports; how many."""
    return await batches.prune_batches()


async def tally_signals() -> int:
    """Count the signals that have arrived into their hours; how many."""
    return await tallies.tally(seconds=RUN_SECONDS)


async def watch_sources() -> int:
    """Set off the alarms of sources that have gone quiet, and end those that are over; how many."""
    return await watching.watch_sources()
