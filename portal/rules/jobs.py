"""What the worker does for signals. Safe to run twice, or at once in two workers."""

import asyncio
import time

from portal.jobs.queue import ring
from portal.rules import assessment, replays
from portal.signals.batches import service as batches
from portal.signals.tables import BatchKind

RUN_SECONDS = 20
"""Less than a job's heartbeat; what is left then gets a job of its own."""
BATCHES = 2
"""At once, where more than one waits: while the database writes one, the next is evaluated."""


async def assess_signals() -> int:
    """Assess until nothing waits; returns how many signals."""
    ends = time.monotonic() + RUN_SECONDS
    first = await assessment.assess()
    if not first:
        return 0
    counts = await asyncio.gather(*(_assess_until(ends) for _ in range(BATCHES)))
    if time.monotonic() > ends:
        ring("assess_signals")
    return first + sum(counts)


async def _assess_until(ends: float) -> int:
    total = 0
    while time.monotonic() < ends and (count := await assessment.assess()):
        total += count
    return total


async def run_replays() -> int:
    """Set signals back to be assessed again, until no replay is left to do; how many signals."""
    return await batches.run({BatchKind.REPLAY: replays.replay_slice}, seconds=RUN_SECONDS)
