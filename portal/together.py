"""Work that requests share: what arrives while one round is under way is done in one go by the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Generic, TypeVar

from portal.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
PATIENCE_SECONDS = 0.005
"""How long a round waits for those that are expected."""
ENOUGH = 50
"""Shared by so many, a round's own cost is next to nothing: waiting for more would only be slower."""


class Together(Generic[Item, Result]):
    """Calls `work` with all items that wait, one round at a time, and gives each caller the result of its item.

    `work` returns a result or an exception for each item, in their order; an exception that it raises is everybody's.
    A round takes at most `most_items` of at most `most_weight` together, but always one. Beyond `most_waiting` in
    weight an item is refused at once with `Unavailable`: what waits is held in memory. Where `expected` says how many
    may come, a round waits a moment for them: those that go the same way stay together.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        most_items: int = 500,
        most_weight: int = 8 * 1024 * 1024,
        most_waiting: int = 64 * 1024 * 1024,
        expected: Callable[[], int] = lambda: 0,
    ) -> None:
        self._work = work
        self._most_items = most_items
        self._most_weight = most_weight
        self._most_waiting = most_waiting
        self._expected = expected
        self._waiting: deque[tuple[Item, int, asyncio.Future[Result]]] = deque()
        self._waiting_weight = 0
        self._arrived = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def do(self, item: Item, weight: int = 1) -> Result:
        """The result for `item`, from a round that begins after this call.

        Whoever is cancelled while waiting takes nobody else along.
        """
        if self._waiting_weight and self._waiting_weight + weight > self._most_waiting:
            raise Unavailable(
                "More is waiting to be stored than fits. Nothing was stored; send the same request again.",
                retry_after_seconds=1,
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, weight, future))
        self._waiting_weight += weight
        self._arrived.set()
        if self._running is None or self._running.done():
            # In a context of its own: the caller's may hold a db transaction, which is not for the others' work.
            self._running = loop.create_task(self._run(), context=Context())
        return await future

    async def settle(self) -> None:
        """Wait until nothing is under way any more."""
        while self._running is not None and not self._running.done():
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        while self._waiting:
            await self._gather()
            items, futures = self._next_round()
            try:
                results = await self._work(items)
            except Exception as error:
                results = [error] * len(items)
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
            for future, result in zip(futures, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    async def _gather(self) -> None:
        """Wait as long as each turn of the event loop brings more: a round itself costs as much as several items."""
        seen = 0
        while seen < len(self._waiting) < ENOUGH:
            seen = len(self._waiting)
            await asyncio.sleep(0)
        if len(self._waiting) < self._expected():
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while len(self._waiting) < min(ENOUGH, self._expected()):
                        self._arrived.clear()
                        await self._arrived.wait()

    def _next_round(self) -> tuple[list[Item], list[asyncio.Future[Result]]]:
        items: list[Item] = []
        futures: list[asyncio.Future[Result]] = []
        weight = 0
        while self._waiting and len(items) < self._most_items:
            item, own, future = self._waiting[0]
            if items and weight + own > self._most_weight:
                break
            self._waiting.popleft()
            self._waiting_weight -= own
            weight += own
            items.append(item)
            futures.append(future)
        return items, futures
