"""The clock of the workers, on the real queue: each turn is run once, and no turn depends on the one before."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from saq import Job, Queue, Status, Worker

from portal.db.engine import run_sql
from portal.jobs import registry
from portal.jobs.queue import POLICIES, make_queue, open_doorbell
from portal.jobs.registry import saq_crons, saq_functions
from portal.transactions.jobs import watch_chains
from tests.transactions import Play

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    queue = make_queue()
    await queue.connect()
    await run_sql("DELETE FROM saq_jobs")
    yield queue
    await queue.disconnect()


@pytest.fixture
def only_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {
        name: msgspec.structs.replace(policy, cron=policy.cron if name == "watch_chains" else None)
        for name, policy in POLICIES.items()
    }
    monkeypatch.setattr(registry, "POLICIES", alone)


def worker_of(queue: Queue) -> Worker[Any]:
    return Worker(queue, functions=saq_functions(), cron_jobs=saq_crons(), concurrency=1)


async def next_turn(queue: Queue, *workers: Worker[Any]) -> Job:
    """The next turn that comes up while the clocks of these workers run."""
    async with asyncio.timeout(10):
        while True:
            for worker in workers:
                await worker.schedule()
            if job := await queue.dequeue(timeout=0.2):
                return job


@pytest.mark.usefixtures("only_watching")
async def test_a_turn_in_which_a_worker_was_killed_holds_up_no_later_one(queue: Queue) -> None:
    died = await next_turn(queue, worker_of(queue))
    await died.update(status=Status.ACTIVE)
    later = await next_turn(queue, worker_of(queue))
    assert (later.function, later.scheduled > died.scheduled) == ("watch_chains", True)


@pytest.mark.usefixtures("only_watching")
async def test_several_workers_run_a_turn_once(queue: Queue) -> None:
    workers = [worker_of(queue) for _ in range(3)]
    turns = [(await next_turn(queue, *workers)).scheduled for _ in range(3)]
    assert len(set(turns)) == 3


async def test_a_slow_turn_is_not_overtaken_by_the_next_but_a_ring_is_answered(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = 0, asyncio.Event()

    async def watch_chains() -> int:
        nonlocal begun
        begun += 1
        await may_end.wait()
        return 1

    monkeypatch.setitem(registry.WORK, "watch_chains", watch_chains)
    watch = worker_of(queue).functions["watch_chains"]
    turn = {"job": Job(function="watch_chains", key="cron:watch_chains@1")}
    slow = asyncio.create_task(watch(turn))
    await asyncio.sleep(0)
    assert (await watch(turn), begun) == (0, 1)
    rung = asyncio.create_task(watch({"job": Job(function="watch_chains")}))
    await asyncio.sleep(0)
    may_end.set()
    assert (await asyncio.gather(slow, rung), begun) == ([1, 1], 2)


@pytest.mark.parametrize(("block_seconds", "asks"), [(1, True), (12, False)])
async def test_a_quick_chain_is_looked_at_again_before_the_clock_says_so(
    play: Play, queue: Queue, block_seconds: int, asks: bool
) -> None:
    play.node.rpc("anvil_mine", hex(70), hex(block_seconds))
    await play.sent_mint()
    async with open_doorbell(queue):
        await watch_chains()
    rung = await queue.dequeue(timeout=2 if asks else 0.5)
    assert bool(rung) is asks
    assert rung is None or rung.function == "watch_chains"
