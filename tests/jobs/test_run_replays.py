"""Replay and recheck: what would happen is told first, and nothing is ever proposed twice."""

import asyncio
import copy
from datetime import timedelta

import pytest

from portal import clock
from portal.actions.queries import list_actions
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound
from portal.rules import replay_previews, replays
from portal.rules.errors import SignalNotReassessable
from portal.rules.jobs import assess_signals, run_replays
from portal.rules.replay_previews import preview_replay
from portal.rules.replays import start_replay
from portal.rules.schemas import RuleChange
from portal.rules.service import change_rule, disable_rule, publish_rule, reassess
from portal.signals.batches import rechecks
from portal.signals.batches import service as batches
from portal.signals.batches.rechecks import start_recheck
from portal.signals.batches.schemas import SignalSelection
from portal.signals.errors import TooManyBatches
from portal.signals.jobs import run_batches
from portal.signals.json_schemas.service import set_schema
from portal.signals.queries import get_signal, list_signals
from portal.signals.schemas import SignalFilter
from portal.signals.tables import BatchKind, BatchStatus, SignalStatus
from tests.rules import ARGUMENTS, CONDITION, MINT, SUBJECT, make_rule_stage
from tests.signals import sponsorship

ALL = SignalSelection(filter=SignalFilter())


@pytest.fixture
async def stage(cast):
    return await make_rule_stage(cast)


def sponsored(login="ada", dollars=5):
    payload = copy.deepcopy(sponsorship())
    payload["sponsorship"]["sponsor"]["login"] = login
    payload["sponsorship"]["tier"]["monthly_price_in_dollars"] = dollars
    return payload


async def statuses(cast):
    return [item.status.value for item in (await list_signals(cast.organization_id)).items]


async def number_of_actions():
    rows = await run_sql("SELECT count(*) AS number FROM action")
    return rows[0]["number"]


async def everything():
    """What any replay must leave alone, and may not leave traces in."""
    rows = await run_sql(
        """SELECT (SELECT string_agg(g::text, '|' ORDER BY id) FROM signal g) AS signals,
                  (SELECT count(*) FROM end_user) AS people, (SELECT count(*) FROM signer) AS keys,
                  (SELECT count(*) FROM action) AS actions, (SELECT count(*) FROM audit_entry) AS entries"""
    )
    return rows[0]


async def test_a_preview_says_what_would_happen_and_stores_nothing(cast, stage):
    rule = await stage.publish()
    await stage.sender.deliver(sponsored("ada"), id="known")
    await assess_signals()
    await disable_rule(cast.alice.actor, rule.id)
    new = await stage.sender.deliver(sponsored("grace"), id="new")
    await stage.sender.deliver(sponsored("ada", "much"), id="failing")
    await stage.sender.deliver({"zen": "Keep it logically awesome."}, id="ignored", event="ping")
    await assess_signals()
    await stage.sender.deliver(b"not JSON", id="quarantined")
    await stage.sender.deliver(sponsored(), id="waiting")
    await publish_rule(cast.alice.actor, rule.id)
    before = await everything()
    preview = await preview_replay(cast.alice.actor, ALL)
    assert await everything() == before
    assert (preview.total, preview.previewed, preview.left) == (6, 6, 2)
    assert (preview.new, preview.known, preview.failing, preview.ignored) == (1, 1, 1, 1)
    [told] = preview.rules
    assert (told.rule_id, told.function, told.new, told.known, told.failing) == (rule.id, MINT, 1, 1, 1)
    examples = {example.external_id: example for example in told.examples}
    assert {name: example.prospect for name, example in examples.items()} == {
        "new": "new",
        "known": "known",
        "failing": "failing",
    }
    assert examples["new"].signal_id == new.signal_id
    values = {each["name"]: each["value"] for each in examples["new"].arguments}
    assert values == {"to": "0x" + "0" * 40, "amount": "5000000000000000000"}
    [failure] = preview.failures
    assert failure.signals == 1
    assert failure.message.startswith("Rule Thank sponsors: argument amount")


async def test_a_preview_is_what_then_happens(cast, stage):
    rule = await stage.publish(condition="false")
    for number in range(5):
        await stage.sender.deliver(sponsored(f"user-{number}", 5 if number else "much"))
    await assess_signals()
    await change_rule(
        cast.alice.actor,
        rule.id,
        RuleChange(
            name="Thank sponsors",
            condition=CONDITION,
            subject=SUBJECT,
            contract_id=stage.contract_id,
            function=MINT,
            arguments=ARGUMENTS,
            policy_id=stage.policy_id,
        ),
    )
    await publish_rule(cast.alice.actor, rule.id)
    preview = await preview_replay(cast.alice.actor, ALL)
    replay = await start_replay(cast.alice.actor, ALL)
    await run_replays()
    await assess_signals()
    assert (preview.new, preview.failing) == (4, 1)
    assert await number_of_actions() == 4
    assert sorted(await statuses(cast)) == ["assessed"] * 4 + ["failed"]
    again = await preview_replay(cast.alice.actor, ALL)
    assert (again.new, again.known, again.failing) == (0, 4, 1)
    assert (await batches.get_batch(cast.organization_id, BatchKind.REPLAY, replay.id)).changed == 5


async def test_a_preview_looks_at_the_newest_only_and_says_so(cast, stage, monkeypatch):
    monkeypatch.setattr(replay_previews, "PREVIEWED", 3)
    monkeypatch.setattr(replay_previews, "STEP", 2)
    await stage.publish()
    for number in range(5):
        await stage.sender.deliver({"number": number}, event="ping")
    await assess_signals()
    preview = await preview_replay(cast.alice.actor, ALL)
    assert (preview.total, preview.previewed, preview.ignored) == (5, 3, 3)


async def test_a_replay_never_proposes_twice(cast, stage, monkeypatch):
    """Whole, again, twice at once, with a worker that dies in between and with others that go on: three actions."""
    monkeypatch.setattr(replays, "SLICE_SIGNALS", 2)
    await stage.publish()
    for login in ("ada", "grace", "joan"):
        await stage.sender.deliver(sponsored(login))
    await assess_signals()
    digests = {action.digest for action in (await list_actions(cast.organization_id)).items}
    for _ in range(2):
        await start_replay(cast.alice.actor, ALL)

    async def die(batch):
        await replays.replay_slice(batch)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await batches.run({BatchKind.REPLAY: die}, seconds=60)
    await asyncio.gather(run_replays(), run_replays(), assess_signals(), assess_signals())
    await run_sql("UPDATE signal_batch SET claimed_until = {}", clock.now() - timedelta(seconds=1))
    await asyncio.gather(run_replays(), run_replays(), assess_signals(), assess_signals())
    await assess_signals()
    ended = (await batches.list_batches(cast.organization_id, BatchKind.REPLAY)).items
    assert [(each.status, each.done) for each in ended] == [(BatchStatus.DONE, 3)] * 2
    assert await statuses(cast) == ["assessed"] * 3
    assert {action.digest for action in (await list_actions(cast.organization_id)).items} == digests
    assert await number_of_actions() == 3
    assert len(await run_sql("SELECT DISTINCT signal, rule FROM action")) == 3


async def test_a_signal_is_set_back_once_in_each_replay(cast, stage, monkeypatch):
    """Assessed again and failing again while the replay runs, it still is not met a second time."""
    monkeypatch.setattr(replays, "SLICE_SIGNALS", 1)
    await stage.publish(condition="payload.missing == 1")
    for _ in range(3):
        await stage.sender.deliver(sponsored())
    await assess_signals()
    replay = await start_replay(cast.alice.actor, SignalSelection(filter=SignalFilter(status=SignalStatus.FAILED)))
    while await batches.run({BatchKind.REPLAY: replays.replay_slice}, seconds=0):
        await assess_signals()
    done = await batches.get_batch(cast.organization_id, BatchKind.REPLAY, replay.id)
    assert (done.status, done.done, done.changed) == (BatchStatus.DONE, 3, 3)
    assert await statuses(cast) == ["failed"] * 3


async def test_signals_are_replayed_by_their_ids(cast, stage):
    await stage.publish()
    chosen = await stage.sender.deliver({"one": 1}, event="ping")
    await stage.sender.deliver({"two": 2}, event="ping")
    await assess_signals()
    replay = await start_replay(cast.alice.actor, SignalSelection(signal_ids=[chosen.signal_id]))
    await run_replays()
    assert (await get_signal(cast.organization_id, chosen.signal_id)).status is SignalStatus.RECEIVED
    assert sorted(await statuses(cast)) == ["ignored", "received"]
    assert (await batches.get_batch(cast.organization_id, BatchKind.REPLAY, replay.id)).total == 1


async def test_what_cannot_be_replayed_is_left_and_counted(cast, stage):
    for id in ("assessable", "expired"):
        await stage.sender.deliver({"id": id}, id=id, event="ping")
    await assess_signals()
    expired = (await list_signals(cast.organization_id, SignalFilter(external_id="expired"))).items[0]
    await run_sql("UPDATE signal SET body = NULL WHERE id = {}", expired.id)
    await stage.sender.deliver(b"not JSON", id="quarantined")
    waiting = await stage.sender.deliver({"waiting": True}, event="ping")
    replay = await start_replay(cast.alice.actor, ALL)
    await run_replays()
    done = await batches.get_batch(cast.organization_id, BatchKind.REPLAY, replay.id)
    assert (done.done, done.changed) == (4, 1)
    assert done.result == (
        "1 of 4 signals were set back to be assessed again. "
        "The others wait already, are in quarantine, or have an expired body."
    )
    assert sorted(await statuses(cast)) == ["ignored", "quarantined", "received", "received"]
    with pytest.raises(SignalNotReassessable, match="has expired"):
        await reassess(cast.alice.actor, expired.id)
    with pytest.raises(SignalNotReassessable, match="is received"):
        await reassess(cast.alice.actor, waiting.signal_id)


async def test_a_selection_says_one_thing(cast, stage):
    for given in (SignalSelection(), SignalSelection(signal_ids=[cast.organization_id], filter=SignalFilter())):
        for begin in (start_replay, start_recheck, preview_replay):
            with pytest.raises(InputInvalid):
                await begin(cast.alice.actor, given)


async def test_nobody_replays_without_the_right_or_in_another_organisation(cast, stage):
    receipt = await stage.sender.deliver({"ours": True}, event="ping")
    await assess_signals()
    for begin in (start_replay, preview_replay, start_recheck):
        with pytest.raises(Forbidden):
            await begin(cast.carol.actor, ALL)
    theirs = SignalSelection(signal_ids=[receipt.signal_id])
    assert (await preview_replay(cast.dave.actor, theirs)).previewed == 0
    await start_replay(cast.dave.actor, theirs)
    await start_replay(cast.dave.actor, ALL)
    await run_replays()
    assert await statuses(cast) == ["ignored"]
    with pytest.raises(NotFound):
        await reassess(cast.dave.actor, receipt.signal_id)
    await start_replay(cast.dave.actor, ALL)
    for _ in range(2):
        await start_replay(cast.dave.actor, ALL)
    with pytest.raises(TooManyBatches):
        await start_replay(cast.dave.actor, ALL)


@pytest.fixture
async def quarantine(cast, stage):
    """Three orders that fail a schema which asked for too much, one that is right to be there, and one unreadable."""
    await set_schema(cast.alice.actor, stage.sender.source_id, "order", {"required": ["customer", "coupon"]})
    for number in range(3):
        await stage.sender.deliver({"customer": f"c-{number}"}, id=f"d-{number}", event="order")
    await stage.sender.deliver({"nobody": True}, id="wrong", event="order")
    await stage.sender.deliver(b"{", id="unreadable", event="order")
    await stage.sender.deliver({"customer": 1, "coupon": 2}, id="fine", event="order")
    await assess_signals()
    return stage


async def test_quarantined_signals_are_released_once_the_schema_is_mended(cast, quarantine, monkeypatch):
    monkeypatch.setattr(rechecks, "SLICE_SIGNALS", 2)
    source_id = quarantine.sender.source_id
    mended = await set_schema(cast.alice.actor, source_id, "order", {"required": ["customer"], "minProperties": 1})
    selection = SignalSelection(filter=SignalFilter(source_id=source_id, type="order"))
    recheck = await start_recheck(cast.oscar.actor, selection)
    assert recheck.total == 5
    await run_batches()
    done = await batches.get_batch(cast.organization_id, BatchKind.RECHECK, recheck.id)
    assert (done.status, done.done, done.changed) == (BatchStatus.DONE, 5, 3)
    assert done.result.startswith("3 of 5 signals were released from quarantine.")
    found = {item.external_id: item for item in (await list_signals(cast.organization_id)).items}
    assert {name: item.status.value for name, item in found.items()} == {
        **{f"d-{number}": "received" for number in range(3)},
        "wrong": "quarantined",
        "unreadable": "quarantined",
        "fine": "ignored",
    }
    assert [reason.message for reason in found["wrong"].reasons] == ["The field customer is missing."]
    assert found["unreadable"].reasons[0].message.startswith("The body is not JSON")
    checked = await run_sql("SELECT DISTINCT schema FROM signal WHERE external_id LIKE 'd-%' OR external_id = 'wrong'")
    assert checked == [{"schema": mended.id}]
    await assess_signals()
    assert (await get_signal(cast.organization_id, found["d-0"].id)).status is SignalStatus.IGNORED


async def test_without_a_schema_everything_that_can_be_read_passes(cast, quarantine):
    await set_schema(cast.alice.actor, quarantine.sender.source_id, "order", None)
    await start_recheck(cast.alice.actor, ALL)
    await run_batches()
    assert sorted(await statuses(cast)) == ["ignored", "quarantined", "received", "received", "received", "received"]
    assert await run_sql("SELECT 1 FROM signal WHERE status = 'received' AND schema IS NOT NULL") == []


async def test_a_fact_that_was_pulled_wrongly_is_no_matter_of_a_schema(cast, quarantine):
    await set_schema(cast.alice.actor, quarantine.sender.source_id, "order", None)
    await run_sql(
        """INSERT INTO signal (id, organization, source, external_id, type, status, reasons, content_type, body,
                               body_bytes, body_digest, correlation_id, received_at)
           SELECT gen_random_uuid(), organization, source, 'pulled', type, status, {}::jsonb, content_type, body,
                  body_bytes, body_digest, correlation_id, received_at FROM signal WHERE external_id = 'd-0'""",
        '[{"rule_id": null, "path": null, "message": "The log cannot be decoded."}]',
    )
    await start_recheck(cast.alice.actor, SignalSelection(filter=SignalFilter(external_id="pulled")))
    await run_sql("UPDATE signal_batch SET until = 'ffffffff-ffff-ffff-ffff-ffffffffffff'")
    await run_batches()
    [pulled] = (await list_signals(cast.organization_id, SignalFilter(external_id="pulled"))).items
    assert pulled.status is SignalStatus.QUARANTINED
    assert [reason.message for reason in pulled.reasons] == ["The log cannot be decoded."]
