"""Work over many signals: seen as it goes, cancelled, and carried on by another worker where one died."""

import asyncio
from datetime import timedelta

import pytest

from portal import clock
from portal.audit.queries import list_entries
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound
from portal.signals.batches import exports, selections
from portal.signals.batches import service as batches
from portal.signals.batches.exports import get_export, list_exports, start_export
from portal.signals.batches.schemas import ExportInput, SignalSelection
from portal.signals.errors import BatchEnded, TooManyBatches
from portal.signals.jobs import prune_batches, run_batches
from portal.signals.queries import list_signals
from portal.signals.schemas import SignalFilter
from portal.signals.tables import BatchKind, BatchStatus
from tests.signals import make_sender

SIGNALS = 7


@pytest.fixture
async def sender(cast, monkeypatch):
    """A source with seven signals, and slices of three."""
    monkeypatch.setattr(exports, "SLICE_SIGNALS", 3)
    sender = await make_sender(cast.alice)
    for number in range(SIGNALS):
        await sender.deliver({"number": number}, id=f"d-{number}")
    return sender


async def one_slice():
    return await batches.run({BatchKind.EXPORT: exports.export_slice}, seconds=0)


async def numbers_in(organization_id, export_id):
    file = await exports.open_file(organization_id, export_id)
    lines = b"".join([chunk async for chunk in file.chunks]).decode().splitlines()
    return [line.split('"number": ')[1].split("}")[0] for line in lines]


async def lease_over(export_id):
    await run_sql(
        "UPDATE signal_batch SET claimed_until = {} WHERE id = {}", clock.now() - timedelta(seconds=1), export_id
    )


async def die(batch):
    raise asyncio.CancelledError


async def asks(export_id, given):
    await run_sql("UPDATE signal_batch SET given = {} WHERE id = {}", given, export_id)


async def test_progress_is_seen_slice_by_slice(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    assert (export.status, export.done, export.total, export.seconds_left) == (BatchStatus.WAITING, 0, SIGNALS, None)
    assert export.requested_by == cast.alice.email
    assert await one_slice() == 3
    seen = await get_export(cast.organization_id, export.id)
    assert (seen.status, seen.done, seen.file_bytes) == (BatchStatus.RUNNING, 3, None)
    assert seen.seconds_left is not None
    assert await run_batches() == 4
    seen = await get_export(cast.organization_id, export.id)
    assert (seen.status, seen.done, seen.changed, seen.total) == (BatchStatus.DONE, SIGNALS, SIGNALS, SIGNALS)
    assert seen.result == "7 of 7 signals were exported."
    assert seen.ended_at is not None
    assert await numbers_in(cast.organization_id, export.id) == ["6", "5", "4", "3", "2", "1", "0"]
    kinds = {entry.kind for entry in (await list_entries(cast.organization_id)).items}
    assert {"batch.started", "batch.finished"} <= kinds


async def test_what_arrives_meanwhile_does_not_make_it_longer(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await one_slice()
    await sender.deliver({"number": 99})
    await run_batches()
    assert len(await numbers_in(cast.organization_id, export.id)) == SIGNALS


async def test_another_worker_goes_on_where_one_died(cast, sender, monkeypatch):
    """Killed within a slice: nothing of it is kept, and nothing is done twice once the lease is over."""
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await one_slice()

    async def write_and_die(batch):
        await exports.export_slice(batch)
        await die(batch)

    with pytest.raises(asyncio.CancelledError):
        await batches.run({BatchKind.EXPORT: write_and_die}, seconds=60)
    assert await run_batches() == 0, "the lease of the dead worker still holds"
    await lease_over(export.id)
    assert await run_batches() == 4
    assert await numbers_in(cast.organization_id, export.id) == ["6", "5", "4", "3", "2", "1", "0"]


async def test_a_slice_that_no_worker_survives_fails_the_batch(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await one_slice()
    for _ in range(batches.MAX_ATTEMPTS):
        assert (await get_export(cast.organization_id, export.id)).status is BatchStatus.RUNNING
        with pytest.raises(asyncio.CancelledError):
            await batches.run({BatchKind.EXPORT: die}, seconds=60)
        await lease_over(export.id)
    assert await run_batches() == 0
    failed = await get_export(cast.organization_id, export.id)
    assert (failed.status, failed.done) == (BatchStatus.FAILED, 3)
    assert failed.error == "It broke off 5 times at the same signals. Choose others by the filter."
    assert await prune_batches() == 1, "what there was of its file"
    assert await run_sql("SELECT 1 FROM export_part") == []
    assert (await get_export(cast.organization_id, export.id)).error, "why it failed can be read for a week"


async def test_attempts_at_other_slices_do_not_count(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    for _ in range(2):
        for _ in range(batches.MAX_ATTEMPTS - 1):
            with pytest.raises(asyncio.CancelledError):
                await batches.run({BatchKind.EXPORT: die}, seconds=60)
            await lease_over(export.id)
        await one_slice()
    await run_batches()
    assert (await get_export(cast.organization_id, export.id)).status is BatchStatus.DONE


async def test_a_worker_that_was_taken_for_dead_changes_nothing_any_more(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    slow = await batches._claim([BatchKind.EXPORT])
    await lease_over(export.id)
    await run_batches()
    assert await batches._advance(slow, exports.export_slice) == 0
    assert await numbers_in(cast.organization_id, export.id) == ["6", "5", "4", "3", "2", "1", "0"]


async def test_workers_at_once_share_the_work(cast, sender):
    made = [await start_export(cast.alice.actor, ExportInput(format="ndjson")) for _ in range(3)]
    assert sum(await asyncio.gather(*(run_batches() for _ in range(4)))) == 3 * SIGNALS
    for export in made:
        assert await numbers_in(cast.organization_id, export.id) == ["6", "5", "4", "3", "2", "1", "0"]


async def test_a_short_one_does_not_wait_for_a_long_one(cast, sender):
    long = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await one_slice()
    short = await start_export(cast.alice.actor, ExportInput(format="csv", filter=SignalFilter(external_id="d-1")))
    await one_slice()
    assert (await get_export(cast.organization_id, short.id)).status is BatchStatus.DONE
    assert (await get_export(cast.organization_id, long.id)).done == 3


async def test_cancelling_ends_it_with_the_slice_that_runs(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await one_slice()
    cancelled = await batches.cancel(cast.alice.actor, BatchKind.EXPORT, export.id)
    assert (cancelled.status, cancelled.done) == (BatchStatus.CANCELLED, 3)
    assert await run_batches() == 0
    with pytest.raises(BatchEnded):
        await batches.cancel(cast.alice.actor, BatchKind.EXPORT, export.id)


async def test_a_batch_that_breaks_says_so_and_holds_up_no_other(cast, sender):
    broken = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await asks(broken.id, '{"format": 1}')
    whole = await start_export(cast.alice.actor, ExportInput(format="csv"))
    await run_batches()
    failed = await batches.get_batch(cast.organization_id, BatchKind.EXPORT, broken.id)
    assert failed.status is BatchStatus.FAILED
    assert failed.error.startswith("An internal error ended it.")
    assert (await get_export(cast.organization_id, whole.id)).status is BatchStatus.DONE


async def test_only_so_many_are_under_way_at_once(cast, sender):
    for _ in range(batches.MAX_OPEN):
        await start_export(cast.alice.actor, ExportInput(format="csv"))
    with pytest.raises(TooManyBatches):
        await start_export(cast.alice.actor, ExportInput(format="csv"))
    await start_export(cast.dave.actor, ExportInput(format="csv"))
    await run_batches()
    await start_export(cast.alice.actor, ExportInput(format="csv"))


async def test_each_organisation_sees_and_cancels_its_own_only(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    theirs = await start_export(cast.dave.actor, ExportInput(format="ndjson"))
    await run_batches()
    dave = cast.dave.actor
    assert [each.id for each in (await list_exports(dave.organization_id)).items] == [theirs.id]
    assert (await get_export(dave.organization_id, theirs.id)).done == 0
    assert await numbers_in(dave.organization_id, theirs.id) == []
    for refused in (
        get_export(dave.organization_id, export.id),
        exports.open_file(dave.organization_id, export.id),
        exports.delete_export(dave, export.id),
        batches.cancel(dave, BatchKind.EXPORT, export.id),
        batches.get_batch(cast.organization_id, BatchKind.REPLAY, export.id),
    ):
        with pytest.raises(NotFound):
            await refused


async def test_whoever_may_not_do_it_may_not_let_it_be_done(cast, sender):
    given = ExportInput(format="csv")
    for kind in (BatchKind.REPLAY, BatchKind.RECHECK):
        with pytest.raises(Forbidden):
            await batches.start(cast.carol.actor, kind, given, None)


async def test_more_than_a_file_holds_is_refused_or_fails_with_advice(cast, sender, monkeypatch):
    monkeypatch.setattr(exports, "MAX_SIGNALS", 5)
    with pytest.raises(InputInvalid, match="More than 5 signals match"):
        await start_export(cast.alice.actor, ExportInput(format="csv"))
    narrow = await start_export(cast.alice.actor, ExportInput(format="csv", filter=SignalFilter(external_id="d-1")))
    await asks(narrow.id, '{"format": "csv"}')
    await run_batches()
    failed = await get_export(cast.organization_id, narrow.id)
    assert (failed.status, failed.file_bytes) == (BatchStatus.FAILED, None)
    assert "Export it in parts" in failed.error


async def test_what_takes_long_to_count_is_not_counted(cast, sender, monkeypatch):
    def slow(organization_id, _filter):
        return "g.organization = {} AND pg_sleep(1) IS NOT NULL", [organization_id]

    monkeypatch.setattr(selections, "COUNT_MILLISECONDS", 50)
    with monkeypatch.context() as patched:
        patched.setattr(selections, "conditions_of", slow)
        export = await start_export(cast.alice.actor, ExportInput(format="csv"))
    assert export.total is None
    await one_slice()
    assert (await get_export(cast.organization_id, export.id)).seconds_left is None
    await run_batches()
    assert (await get_export(cast.organization_id, export.id)).total == SIGNALS


async def test_what_takes_too_long_to_find_fails_with_advice(cast, sender, monkeypatch):
    export = await start_export(cast.alice.actor, ExportInput(format="csv"))

    async def search(batch):
        await run_sql("SELECT pg_sleep(5)")

    monkeypatch.setattr(batches, "SLICE_MILLISECONDS", 50)
    await batches.run({BatchKind.EXPORT: search}, seconds=0)
    failed = await get_export(cast.organization_id, export.id)
    assert (failed.status, failed.error) == (
        BatchStatus.FAILED,
        "It takes too long to find these signals. Narrow the filter by since and until.",
    )


async def test_the_audit_says_what_was_asked_for(cast, sender):
    await start_export(cast.alice.actor, ExportInput(format="csv", filter=SignalFilter(external_id="d-1")))
    ids = [item.id for item in (await list_signals(cast.organization_id)).items]
    await batches.start(cast.alice.actor, BatchKind.REPLAY, SignalSelection(signal_ids=ids), None)
    entries = (await list_entries(cast.organization_id, kind="batch.started")).items
    assert [entry.detail for entry in entries] == [
        {"kind": "replay", "total": None, "signals": SIGNALS},
        {"kind": "export", "total": 1, "format": "csv", "filter": {"external_id": "d-1"}},
    ]
