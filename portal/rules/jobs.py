"""What the worker does for signals. Safe to run twice, or at once in two workers."""

import time

from portal.jobs.queue import ring
from portal.rules import assessment, replays
from portal.signals import batches
from portal.signals.tables import BatchKind

RUN_SECONDS = 20
"""Less than a job's heartbeat; what is left then gets a job of its own."""


async def assess_signals() -> int:
    """Assess until nothing waits; returns how many signals."""
    total, ends = 0, time.monotonic() + RUN_SECONDS
    while count := await assessment.assess():
        total += count
        if time.monotonic() > ends:
            ring("assess_signals")
            break
    return total


async def run_replays() -> int:
    """Set signals back to be assessed again, until no replay is left to do; how many signals."""
    return await batches.run({BatchKind.REPLAY: replays.replay_slice}, seconds=RUN_SECONDS)
