"""Work that is claimed piece by piece from rows and done several pieces at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from portal.jobs.queue import ring

LOOK_SECONDS = 0.5
"""How often it is looked for what has become due meanwhile: what is slow keeps nothing else waiting."""

Claim = TypeVar("Claim")


async def take_turns(
    job: str,
    claim_next: Callable[[], Awaitable[Claim | None]],
    do: Callable[[Claim], Coroutine[Any, Any, None]],
    *,
    at_once: int,
    seconds: float,
) -> int:
    """Claim what is due and do it, up to `at_once` pieces side by side, until there is none; how many were claimed.

    After `seconds` nothing more is claimed, and `job` is rung for the rest.
    """
    count, ends = 0, time.monotonic() + seconds
    turns: set[asyncio.Task[None]] = set()
    try:
        while True:
            while len(turns) < at_once and time.monotonic() < ends and (claimed := await claim_next()):
                turns.add(asyncio.create_task(do(claimed)))
                count += 1
            if not turns:
                break
            _, turns = await asyncio.wait(turns, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in turns:
            task.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
    if time.monotonic() > ends:
        ring(job)
    return count
