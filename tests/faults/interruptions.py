"""A worker of this process that dies, or is stopped for a while, at one of its waits; killer.py has real ones."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from asyncpg.pool import PoolConnectionHolder

from portal.chain.endpoint import Endpoint
from portal.db.engine import Engine, Transaction, in_transaction
from portal.signals.pulls import poll
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes import writer
from tests.faults.world import World
from tests.transactions import Killed

WAITS = (
    (Engine, "run_querystring"),
    (Transaction, "get_connection"),
    (Endpoint, "_post"),
    (poll, "get_json"),
)
"""For the database, a node, or an API that is pulled."""


@contextmanager
def waits_seen(look: Callable[..., Awaitable[None]]) -> Iterator[None]:
    """Before each wait `look` is called with what is waited for."""

    def wrapped(real: Any) -> Any:
        async def call(*given: Any, **more: Any) -> Any:
            await look(*given)
            return await real(*given, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in WAITS:
            patch.setattr(owner, name, wrapped(getattr(owner, name)))
        yield


async def dies(waits: int, *jobs: Callable[[], Awaitable[Any]]) -> bool:
    """Do the jobs, one after the other, and die before wait number `waits`; whether they came so far.

    To die after one wait and before the next is the same: nothing that lasts happens in between.
    """
    left = waits

    async def look(*_given: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Killed

    with waits_seen(look):
        await _do_or_die(*jobs)
    return left <= 0


async def die_unsigned() -> None:
    """A worker's second, unless it dies before, with nonces claimed for what it is about to sign."""

    async def sign_all(_orders: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "sign_all", sign_all)
        await _do_or_die(run_lanes, watch_chains)


async def _do_or_die(*jobs: Callable[[], Awaitable[Any]]) -> None:
    """Do the jobs; where one dies, all that it had begun dies, too.

    But not asyncpg's task that gives a connection back to the pool: the tests after this would wait for it for ever.
    """
    others = asyncio.all_tasks()
    with suppress(Killed, asyncio.CancelledError):  # the latter where others wait for what the dead one asked
        for job in jobs:
            await job()
    begun = asyncio.all_tasks() - others
    for task in begun:
        if getattr(task.get_coro(), "cr_code", None) is not PoolConnectionHolder.release.__code__:
            task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


async def stall(world: World, waits: int) -> None:
    """A pass over the lanes stops at wait number `waits` until another worker has taken over and done a second's work.

    Not within a db transaction, whose locks keep all others waiting; nor where others of this process wait, too.
    """
    left, stopped, go_on = waits, asyncio.Event(), asyncio.Event()

    async def look(_owner: Any, asked: Any = None, *_more: Any) -> None:
        nonlocal left
        if in_transaction() or (isinstance(asked, list) and asked[0][0] == "eth_chainId"):
            return
        left -= 1
        if left == 0:
            stopped.set()
            await go_on.wait()

    with waits_seen(look):
        first, stop = asyncio.create_task(run_lanes()), asyncio.create_task(stopped.wait())
        await asyncio.wait([first, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        try:
            if stopped.is_set():
                await world.leases_end()
                await world.work()
        finally:
            go_on.set()
            await first
