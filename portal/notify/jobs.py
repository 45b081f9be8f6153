"""What the worker does for subscribers. Each is safe to run twice, or at once in two workers."""

from portal.jobs.queue import ring
from portal.jobs.turns import take_turns
from portal.notify import pruning, publishing
from portal.notify.delivering import RUN_SECONDS, claim_next, deliver

AT_ONCE = 16


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
        return await take_turns("deliver_events", claim_next, deliver, at_once=AT_ONCE, seconds=RUN_SECONDS)
    finally:
        Turn.taken = False


async def prune_events() -> int:
    """Delete events, with their deliveries, that are older than 90 days; returns how many events."""
    return await pruning.prune()
