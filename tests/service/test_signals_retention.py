"""Retention: bodies expire once their time has come, digests and everything else stay."""

import hashlib
from datetime import timedelta

import pytest

from portal import clock
from portal.audit.queries import list_entries
from portal.db.columns import oldest_id
from portal.db.engine import run_sql, transaction
from portal.errors import Forbidden, InputInvalid, PreconditionFailed
from portal.rules.jobs import assess_signals, run_replays
from portal.rules.replays import start_replay
from portal.signals import retention
from portal.signals.batches.schemas import SignalSelection
from portal.signals.errors import SignalConflict
from portal.signals.intake.acceptance import get_rejected
from portal.signals.jobs import expire_bodies
from portal.signals.queries import get_signal
from portal.signals.retention import RetentionView, get_retention, set_retention
from portal.signals.schemas import SignalFilter
from portal.signals.tables import SignalStatus
from tests.signals import make_sender


@pytest.fixture
async def sender(cast):
    return await make_sender(cast.alice)


async def received(sender, days, **payload):
    """A signal that came so many days ago."""
    receipt = await sender.deliver(payload or {"days": days}, event="ping")
    at = clock.now() - timedelta(days=days, seconds=1)
    id = oldest_id(at).int + receipt.signal_id.int % 2**64
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")
        rows = await run_sql(
            "UPDATE signal SET id = {}::uuid, received_at = {} WHERE id = {} RETURNING id",
            type(receipt.signal_id)(int=id),
            at,
            receipt.signal_id,
        )
    return rows[0]["id"]


async def has_body(signal_id):
    rows = await run_sql("SELECT body IS NOT NULL AS kept FROM signal WHERE id = {}", signal_id)
    return rows[0]["kept"]


async def test_bodies_expire_after_their_days_and_digests_stay(cast, sender):
    old, young = await received(sender, 31, secret="of ada"), await received(sender, 29)
    await assess_signals()
    assert await expire_bodies() == 0, "nobody has said so yet"
    await set_retention(cast.alice.actor, 30)
    assert await expire_bodies() == 1
    signal = await get_signal(cast.organization_id, old)
    assert (signal.payload, signal.body, signal.body_expired) == (None, None, True)
    assert signal.body_digest == hashlib.sha256(b'{"secret": "of ada"}').hexdigest()
    assert (signal.status, signal.body_bytes) == (SignalStatus.IGNORED, 20)
    assert await run_sql("SELECT words FROM signal WHERE id = {}", old) == [{"words": None}]
    kept = await get_signal(cast.organization_id, young)
    assert (kept.payload, kept.body_expired) == ({"days": 29}, False)
    assert await expire_bodies() == 0


async def test_a_delivery_is_known_by_its_digest_once_its_body_has_expired(cast, sender):
    first = await sender.deliver({"n": 1}, id="same", event="ping")
    await assess_signals()
    await run_sql("UPDATE signal SET body = NULL, words = NULL WHERE id = {}", first.signal_id)
    again = await sender.deliver({"n": 1}, id="same", event="ping")
    assert (again.signal_id, again.duplicate) == (first.signal_id, True)
    with pytest.raises(SignalConflict):
        await sender.deliver({"n": 2}, id="same", event="ping")
    assert not await has_body(first.signal_id)


async def test_what_waits_to_be_assessed_keeps_its_body_until_it_is(cast, sender):
    await set_retention(cast.alice.actor, 1)
    waiting, later = await received(sender, 9), await received(sender, 8)
    await run_sql("UPDATE signal SET status = 'ignored' WHERE id = {}", later)
    assert await expire_bodies() == 1
    assert [await has_body(waiting), await has_body(later)] == [True, False]
    assert await expire_bodies() == 0
    await assess_signals()
    assert await expire_bodies() == 1
    assert not await has_body(waiting)


async def test_it_is_done_in_slices_and_goes_on_where_it_stopped(cast, sender, monkeypatch):
    monkeypatch.setattr(retention, "SLICE_SIGNALS", 2)
    ids = [await received(sender, 20 - number) for number in range(5)]
    await assess_signals()
    await set_retention(cast.alice.actor, 17)
    assert await expire_bodies() == 4
    assert [await has_body(id) for id in ids] == [False] * 4 + [True]
    await set_retention(cast.alice.actor, 10)
    assert await retention.expire_bodies(seconds=0) == 0
    assert await expire_bodies() == 1


async def test_each_organisation_has_its_own(cast, sender):
    theirs = await received(await make_sender(cast.dave), 50)
    ours = await received(sender, 50)
    await assess_signals()
    await set_retention(cast.dave.actor, 10)
    await expire_bodies()
    assert [await has_body(theirs), await has_body(ours)] == [False, True]
    assert await get_retention(cast.organization_id) == RetentionView(body_days=None)


async def test_refused_deliveries_lose_body_and_headers(cast, sender):
    ids = {days: oldest_id(clock.now() - timedelta(days=days)) for days in (2, 0)}
    for id in ids.values():
        await run_sql(
            """INSERT INTO rejected_delivery (id, organization, source, cause, detail, body_bytes, body, headers, ip,
                                              correlation_id, received_at)
               VALUES ({}, {}, {}, 'source_paused', '', 2, 'ab', 'cd', '', '', now())""",
            id,
            cast.organization_id,
            sender.source_id,
        )
    await set_retention(cast.alice.actor, 1)
    assert await expire_bodies() == 1
    assert (await get_rejected(cast.organization_id, ids[2])).acceptable is False
    assert (await get_rejected(cast.organization_id, ids[0])).acceptable is True
    assert await run_sql("SELECT 1 FROM rejected_delivery WHERE (body IS NULL) <> (headers IS NULL)") == []


async def test_what_has_expired_is_not_replayed(cast, sender):
    old = await received(sender, 5)
    await assess_signals()
    await set_retention(cast.alice.actor, 1)
    await expire_bodies()
    await start_replay(cast.alice.actor, SignalSelection(filter=SignalFilter()))
    await run_replays()
    assert (await get_signal(cast.organization_id, old)).status is SignalStatus.IGNORED


async def test_what_failed_is_dead_once_nobody_can_mend_it(cast, sender):
    failed, ignored = await received(sender, 5), await received(sender, 5)
    await run_sql("UPDATE signal SET status = 'failed' WHERE id = {}", failed)
    await run_sql("UPDATE signal SET status = 'ignored' WHERE id = {}", ignored)
    await set_retention(cast.alice.actor, 1)
    await expire_bodies()
    assert (await get_signal(cast.organization_id, failed)).status is SignalStatus.DEAD
    assert (await get_signal(cast.organization_id, ignored)).status is SignalStatus.IGNORED


async def test_owners_and_admins_decide_and_it_is_noted(cast):
    for player in (cast.oscar, cast.carol, cast.bob):
        with pytest.raises(Forbidden):
            await set_retention(player.actor, 1)
    for days in (0, 3651):
        with pytest.raises(InputInvalid):
            await set_retention(cast.alice.actor, days)
    seen = await get_retention(cast.organization_id)
    assert await set_retention(cast.alice.actor, 365, expected=seen) == RetentionView(body_days=365)
    with pytest.raises(PreconditionFailed):
        await set_retention(cast.alice.actor, 1, expected=seen)
    assert (await set_retention(cast.alice.actor, None)).body_days is None
    entries = (await list_entries(cast.organization_id, kind="organization.retention_changed")).items
    assert [entry.detail for entry in entries] == [{"before": 365, "after": None}, {"before": None, "after": 365}]
