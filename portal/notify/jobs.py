"""What the worker does for subscribers. Each is safe to run twice, or at once in two workers."""

import asyncio
import time

from portal.jobs.queue import ring
from portal.notify import pruning, publishing
from portal.notify.delivering import RUN_SECONDS, claim_next, deliver

AT_ONCE = 16
LOOK_SECONDS = 0.5
"""How often it is looked for what has become due meanwhile: a slow receiver keeps no other waiting."""


async def publish_events() -> int:
    """Publish all that was recorded; returns how many events."""
    count = 0
    while published := await publishing.publish():
        count += published
    if count:
        ring("deliver_events")
    return count


class Turn:
    """One `deliver_events` a process: receivers that are slow must not take up every place that jobs have."""

    taken = False


async def deliver_events() -> int:
    """Deliver to the webhooks for which something is due, several at once, until none is; how many turns they had.

    Returns at once where this process is at it already: the one under way looks for what has become due.
    """
    if Turn.taken:
        return 0
    Turn.taken = True
    try:
        return await _deliver_all()
    finally:
        Turn.taken = False


async def _deliver_all() -> int:
    count, ends = 0, time.monotonic() + RUN_SECONDS
    turns: set[asyncio.Task[None]] = set()
    try:
        while True:
            while len(turns) < AT_ONCE and time.monotonic() < ends and (webhook_id := await claim_next()):
                turns.add(asyncio.create_task(deliver(webhook_id)))
                count += 1
            if not turns:
                break
            _, turns = await asyncio.wait(turns, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in turns:
            task.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
    if time.monotonic() > ends:
        ring("deliver_events")
    return count


async def prune_events() -> int:
    """Delete events, with their deliveries, that are older than 90 days; returns how many events."""
    return await pruning.prune()
