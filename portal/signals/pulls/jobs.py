"""What the worker does for pull sources. Safe to run twice, or at once in two workers."""

import asyncio
import time

from portal.jobs.queue import ring
from portal.signals.pulls.running import RUN_SECONDS, claim_next, pull

AT_ONCE = 8
LOOK_SECONDS = 0.5
"""How often it is looked for what has become due meanwhile: a slow source keeps no other waiting."""


async def pull_sources() -> int:
    """Pull the sources that are due, several at once, until none is; how many pulls."""
    count, ends = 0, time.monotonic() + RUN_SECONDS
    pulls: set[asyncio.Task[None]] = set()
    try:
        while True:
            while len(pulls) < AT_ONCE and time.monotonic() < ends and (claimed := await claim_next()):
                pulls.add(asyncio.create_task(pull(claimed)))
                count += 1
            if not pulls:
                break
            _, pulls = await asyncio.wait(pulls, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pulls:
            task.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
    if time.monotonic() > ends:
        ring("pull_sources")
    return count
