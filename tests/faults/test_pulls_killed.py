"""A worker that pulls is killed at every point where it waits, and for real: nothing is left out, nothing is twice."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from portal.db.engine import run_sql
from portal.signals.pulls import running
from tests.faults.interruptions import dies
from tests.people import Cast
from tests.pulls import Api, Asked, Pulled, Reply, egress_allowed, make_pulled, running_api

PAGE = 10
WORKER = """
import asyncio
from portal.db.engine import open_pool
from portal.signals.pulls.jobs import pull_sources

async def work():
    async with open_pool():
        while True:
            await pull_sources()
            await asyncio.sleep(0.02)

asyncio.run(work())
"""


@pytest.fixture
def api() -> Iterator[Api]:
    with egress_allowed("127.0.0.0/8"), running_api() as running_one:
        yield running_one


def pages(count: int, *, wait_seconds: float = 0) -> Any:
    def say(asked: Asked) -> Reply:
        start = int(asked.query.get("cursor", 0))
        items = [{"id": number, "type": "order"} for number in range(start, min(start + PAGE, count))]
        return Reply({"data": items, "next": start + PAGE if start + PAGE < count else None}, wait_seconds=wait_seconds)

    return say


async def make_poll(cast: Cast, api: Api) -> Pulled:
    settings = {"url": api.url, "items": "/data", "id": "/id", "paging": {"by": "cursor", "next": "/next"}}
    return await make_pulled(cast.alice, "poll", settings)


async def later(source: Pulled) -> None:
    """As if the dead worker's claim had ended, and the source were due."""
    await run_sql("UPDATE pull SET claimed_until = NULL, due_at = now() - interval '1 s' WHERE source = {}", source.id)


async def pull_next() -> None:
    if claimed := await running.claim_next():
        await running.pull(claimed)


async def test_killed_at_every_point_it_stores_each_item_once(cast: Cast, api: Api) -> None:
    api.say = pages(3 * PAGE)
    point, deaths = 1, 0
    while True:
        source = await make_poll(cast, api)
        struck = await dies(point, pull_next)
        ids = await source.ids()
        assert ids == [str(number) for number in range(len(ids))]
        position = await source.position()
        if len(ids) < 3 * PAGE:
            assert position == ({"cursor": str(len(ids))} if ids else {}), "what is stored and where it stands agree"
        await later(source)
        await source.pull()
        assert await source.ids() == [str(number) for number in range(3 * PAGE)], point
        if not struck:
            break
        point, deaths = point + 1, deaths + 1
    assert deaths > 15


def kill_a_worker(api: Api, lifetime: float) -> None:
    """Start a worker, and kill it so many seconds after it asked the API for the first time."""
    before = len(api.asked)
    environment = {**os.environ, "PORTAL_EGRESS_ALLOW": "127.0.0.0/8"}
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=environment)
    try:
        while len(api.asked) == before:
            assert worker.poll() is None, "it ended by itself"
            time.sleep(0.01)
        time.sleep(lifetime)
    finally:
        worker.kill()
        worker.wait()


async def test_a_worker_that_is_killed_for_real_again_and_again(cast: Cast, api: Api) -> None:
    count = 60 * PAGE
    api.say = pages(count, wait_seconds=0.01)
    source = await make_poll(cast, api)
    stored: list[int] = []
    for lifetime in (0.1, 0.25, 0.2):
        await later(source)
        kill_a_worker(api, lifetime)
        stored.append(len(await source.ids()))
    assert 0 < stored[0] < stored[-1] < count, "it was killed in the middle, and went on each time"
    await later(source)
    await source.pull()
    assert await source.ids() == [str(number) for number in range(count)]
    assert api.asked[-1].query["cursor"] == str(count - PAGE)
