"""What the worker does for pull sources. Safe to run twice, or at once in two workers."""

from portal.jobs.turns import take_turns
from portal.signals.pulls.running import RUN_SECONDS, claim_next, pull

AT_ONCE = 8


async def pull_sources() -> int:
    """Pull the sources that are due, several at once, until none is; how many pulls."""
    return await take_turns("pull_sources", claim_next, pull, at_once=AT_ONCE, seconds=RUN_SECONDS)
