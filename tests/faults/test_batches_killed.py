"""Killed wherever it waits for the database, a batch goes on with nothing left out and nothing done twice."""

import asyncio
import json
import os
import signal
import sys
import time
from datetime import timedelta

import pytest

from portal import clock
from portal.audit.service import verify
from portal.db.engine import run_sql
from portal.rules import replays
from portal.rules.jobs import assess_signals, run_replays
from portal.rules.replays import start_replay
from portal.signals.batches import exports
from portal.signals.batches.exports import get_export, open_file, start_export
from portal.signals.batches.schemas import ExportInput, SignalSelection
from portal.signals.jobs import run_batches
from portal.signals.schemas import SignalFilter
from portal.signals.tables import BatchStatus
from tests.faults.interruptions import dies
from tests.people import Cast
from tests.rules import RuleStage, make_rule_stage
from tests.signals import Sender, make_sender, sponsorship

SIGNALS = 3


async def lease_over() -> None:
    await run_sql("UPDATE signal_batch SET claimed_until = {}", clock.now() - timedelta(seconds=1))


async def exported(cast: Cast, sender: Sender) -> list[str]:
    export = (await exports.list_exports(cast.organization_id)).items[0]
    assert (export.status, export.done) == (BatchStatus.DONE, export.total)
    file = await open_file(cast.organization_id, export.id)
    lines = b"".join([chunk async for chunk in file.chunks]).splitlines()
    return [json.loads(line)["external_id"] for line in lines]


async def test_an_export_that_is_killed_anywhere_holds_each_signal_once(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "SLICE_SIGNALS", 2)
    sender = await make_sender(cast.alice)
    for number in range(SIGNALS):
        await sender.deliver({"number": number}, id=f"d-{number}")
    for point in range(1, 200):
        await start_export(cast.alice.actor, ExportInput(format="ndjson"))
        struck = await dies(point, run_batches)
        await lease_over()
        await run_batches()
        assert await exported(cast, sender) == [f"d-{number}" for number in reversed(range(SIGNALS))], point
        if not struck:
            break
    assert point > 10, "there are more points than that"
    assert await verify(cast.organization_id) is None


async def test_a_replay_that_is_killed_anywhere_proposes_nothing_twice(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "SLICE_SIGNALS", 1)
    stage: RuleStage = await make_rule_stage(cast)
    await stage.publish()
    for _ in range(2):
        await stage.sender.deliver(sponsorship())
    await assess_signals()
    for point in range(1, 200):
        await start_replay(cast.alice.actor, SignalSelection(filter=SignalFilter()))
        struck = await dies(point, run_replays)
        await lease_over()
        await run_replays()
        await assess_signals()
        [counted] = await run_sql(
            """SELECT (SELECT count(*) FROM action) AS actions,
                      (SELECT count(*) FROM signal WHERE status = 'assessed') AS assessed,
                      (SELECT done FROM signal_batch ORDER BY id DESC LIMIT 1) AS done"""
        )
        assert counted == {"actions": 2, "assessed": 2, "done": 2}, point
        if not struck:
            break
    assert point > 10


WORKER = """
import asyncio
from portal.db.engine import open_pool, run_sql
from portal.signals.batches import service as batches
from portal.signals.batches import exports
from portal.signals.tables import BatchKind

async def slowly(batch):
    made = await exports.export_slice(batch)
    await run_sql("SELECT pg_sleep(0.05)")
    return made

async def work():
    exports.SLICE_SIGNALS = 1
    async with open_pool():
        await batches.run({BatchKind.EXPORT: slowly}, seconds=60)

asyncio.run(work())
"""


async def test_a_worker_that_is_killed_for_real_is_followed_by_another(cast: Cast) -> None:
    sender = await make_sender(cast.alice)
    for number in range(40):
        await sender.deliver({"number": number}, id=f"d-{number}")
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, env=os.environ)
    ends = time.monotonic() + 30
    while (seen := await get_export(cast.organization_id, export.id)).done < 5:
        assert time.monotonic() < ends, seen
        await asyncio.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    await worker.wait()
    left = await get_export(cast.organization_id, export.id)
    assert (left.status, left.done < 40) == (BatchStatus.RUNNING, True)
    await lease_over()
    assert await run_batches() + (await get_export(cast.organization_id, export.id)).done >= 40
    assert await exported(cast, sender) == [f"d-{number}" for number in reversed(range(40))]
