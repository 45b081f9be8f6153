"""The assessment: every received signal once, with its reasons where it fails, and nothing proposed twice."""

import asyncio
import copy
import json
from contextvars import ContextVar

import pytest

from portal.accounts import end_users
from portal.actions.queries import get_action, list_action_ids_of_signal, list_actions
from portal.audit.queries import list_story
from portal.audit.service import verify
from portal.chain import signers
from portal.db.engine import Engine, run_sql, transaction
from portal.errors import Forbidden, NotFound, Unavailable
from portal.logging import bind_correlation_id, correlation_id
from portal.rules import assessment, jobs
from portal.rules.errors import SignalNotReassessable
from portal.rules.jobs import assess_signals
from portal.rules.schemas import RuleChange
from portal.rules.service import assess, change_rule, disable_rule, publish_rule, reassess
from portal.signals.queries import get_signal, list_signals
from portal.signals.tables import SignalStatus
from tests.rules import make_rule_stage
from tests.signals import github_examples, make_sender, sponsorship
from tests.transactions import Killed


@pytest.fixture
async def stage(cast):
    return await make_rule_stage(cast)


def sponsored(login: str = "ada", dollars: object = 5) -> dict:
    payload = copy.deepcopy(sponsorship())
    payload["sponsorship"]["sponsor"]["login"] = login
    payload["sponsorship"]["tier"]["monthly_price_in_dollars"] = dollars
    return payload


async def status_of(cast, receipt):
    signal = await get_signal(cast.organization_id, receipt.signal_id)
    return signal.status, [reason.message for reason in signal.reasons]


async def test_a_matching_signal_proposes_a_call_for_its_end_user(cast, stage):
    rule = await stage.publish()
    bind_correlation_id("story-1")
    receipt = await stage.sender.deliver(sponsored("ada", 5))
    bind_correlation_id("the-job")
    assert await assess_signals() == 1
    assert correlation_id() == "the-job"
    assert await status_of(cast, receipt) == (SignalStatus.ASSESSED, [])
    [action_id] = await list_action_ids_of_signal(cast.organization_id, receipt.signal_id)
    action = await get_action(cast.organization_id, action_id)
    assert (action.status, action.rule_id, action.rule_version) == ("proposed", rule.id, 1)
    assert (action.end_user_name, action.correlation_id) == ("ada", "story-1")
    values = {each["name"]: each["value"] for each in action.arguments}
    [ada] = await run_sql("SELECT address FROM end_user WHERE subject = 'github:ada'")
    assert values == {"to": ada["address"], "amount": "5000000000000000000"}
    told = await list_story(cast.organization_id, "story-1")
    assert {"end_user.created", "end_user.address_set", "action.proposed"} <= {entry.kind for entry in told}
    assert await verify(cast.organization_id) is None


async def test_a_second_signal_finds_the_same_end_user(cast, stage):
    await stage.publish()
    await stage.sender.deliver(sponsored("ada", 5))
    await assess_signals()
    await stage.sender.deliver(sponsored("ada", 7))
    await stage.sender.deliver(sponsored("grace", 7))
    assert await assess_signals() == 2
    actions = (await list_actions(cast.organization_id)).items
    recipients = [{each["name"]: each["value"] for each in action.arguments}["to"] for action in actions]
    assert len(recipients) == 3
    assert len(set(recipients)) == 2
    assert len(await run_sql("SELECT id FROM signer WHERE purpose = 'holds'")) == 2


async def test_what_no_rule_wants_is_ignored(cast, stage):
    await stage.publish()
    receipt = await stage.sender.deliver({"zen": "Keep it logically awesome."}, event="ping")
    lonely = await (await make_rule_stage(cast, cast.dave)).sender.deliver(sponsored())
    assert await assess_signals() == 2
    assert await status_of(cast, receipt) == (SignalStatus.IGNORED, [])
    assert (await get_signal(cast.dave.actor.organization_id, lonely.signal_id)).status == SignalStatus.IGNORED
    assert (await list_actions(cast.organization_id)).items == []


async def test_drafts_and_disabled_rules_do_nothing(cast, stage):
    rule = await stage.publish()
    changed = RuleChange(
        **{name: getattr(stage.input(), name) for name in RuleChange.__struct_fields__ if name != "condition"},
        condition="false",
    )
    await change_rule(cast.alice.actor, rule.id, changed)
    first = await stage.sender.deliver(sponsored())
    await assess_signals()
    assert (await status_of(cast, first))[0] == SignalStatus.ASSESSED
    await disable_rule(cast.alice.actor, rule.id)
    second = await stage.sender.deliver(sponsored())
    await assess_signals()
    assert (await status_of(cast, second))[0] == SignalStatus.IGNORED


async def test_one_bad_signal_fails_alone_and_says_why(cast, stage):
    await stage.publish()
    good = [await stage.sender.deliver(sponsored("ada")), await stage.sender.deliver(sponsored("grace"))]
    missing = await stage.sender.deliver({"action": "created"})
    free = await stage.sender.deliver(sponsored("eve", "free"))
    huge = await stage.sender.deliver(sponsored("mallory", "9" * 70))
    nul = await stage.sender.deliver(json.dumps(sponsored("nul\u0000")).encode())
    assert await assess_signals() == 6
    for receipt in good:
        assert await status_of(cast, receipt) == (SignalStatus.ASSESSED, [])
    assert await status_of(cast, missing) == (
        SignalStatus.FAILED,
        ["Rule Thank sponsors: payload has no field `sponsorship`."],
    )
    status, [reason] = await status_of(cast, free)
    assert status == SignalStatus.FAILED
    assert reason.startswith("Rule Thank sponsors: argument amount: units()")
    assert (await status_of(cast, huge))[0] == SignalStatus.FAILED
    assert (await status_of(cast, nul))[0] == SignalStatus.FAILED
    # What failed left nothing: no end user, no key.
    people = await run_sql("SELECT subject FROM end_user ORDER BY subject")
    assert [row["subject"] for row in people] == ["github:ada", "github:grace"]
    assert await verify(cast.organization_id) is None


async def test_a_value_that_the_contract_refuses_fails_its_signal_only(cast, stage):
    await stage.publish(arguments={"to": "payload.sponsorship.sponsor.login", "amount": '"1"'})
    bad = await stage.sender.deliver(sponsored("not an address"))
    good = await stage.sender.deliver(sponsored("0x52908400098527886E0F7030069857D2E4169EE7"))
    await assess_signals()
    status, [reason] = await status_of(cast, bad)
    assert status == SignalStatus.FAILED
    assert "address" in reason
    assert (await status_of(cast, good))[0] == SignalStatus.ASSESSED


async def test_an_unexpected_error_is_a_reason_without_its_insides(cast, stage, monkeypatch):
    await stage.publish()
    receipt = await stage.sender.deliver(sponsored())

    async def broken(*_):
        raise LookupError("the insides")

    monkeypatch.setattr(signers, "store_holding_keys", broken)
    await assess_signals()
    status, [reason] = await status_of(cast, receipt)
    assert status == SignalStatus.FAILED
    assert "internal error" in reason
    assert "insides" not in reason
    assert await run_sql("SELECT id FROM end_user") == []


async def test_what_is_down_leaves_the_signal_waiting(cast, stage, monkeypatch):
    await stage.publish()
    receipt = await stage.sender.deliver(sponsored())
    with monkeypatch.context() as patched:

        async def down(*_):
            raise Unavailable("It does not answer.")

        patched.setattr(signers, "store_holding_keys", down)
        with pytest.raises(Unavailable):
            await assess_signals()
    assert await status_of(cast, receipt) == (SignalStatus.RECEIVED, [])
    assert await run_sql("SELECT id FROM end_user") == []
    assert await assess_signals() == 1


async def test_two_rules_are_judged_apart(cast, stage):
    await stage.publish(name="Good")
    bad = await stage.publish(name="Bad", condition="payload.nothing == 1")
    receipt = await stage.sender.deliver(sponsored())
    await assess_signals()
    signal = await get_signal(cast.organization_id, receipt.signal_id)
    assert signal.status == SignalStatus.FAILED
    assert [(reason.rule_id, reason.message) for reason in signal.reasons] == [
        (bad.id, "Rule Bad: payload has no field `nothing`.")
    ]
    assert len(await list_action_ids_of_signal(cast.organization_id, receipt.signal_id)) == 1


async def test_a_mended_rule_runs_again_and_proposes_nothing_twice(cast, stage):
    await stage.publish(name="Good")
    bad = await stage.publish(name="Bad", condition="payload.nothing == 1")
    receipt = await stage.sender.deliver(sponsored())
    await assess_signals()
    mended = RuleChange(
        **{name: getattr(stage.input(), name) for name in RuleChange.__struct_fields__ if name != "name"}, name="Bad"
    )
    await change_rule(cast.alice.actor, bad.id, mended)
    await publish_rule(cast.alice.actor, bad.id)
    for _ in range(2):
        await reassess(cast.alice.actor, receipt.signal_id)
        assert await status_of(cast, receipt) == (SignalStatus.RECEIVED, [])
        await assess_signals()
        assert await status_of(cast, receipt) == (SignalStatus.ASSESSED, [])
    assert len(await list_action_ids_of_signal(cast.organization_id, receipt.signal_id)) == 2


async def test_only_what_was_assessed_is_assessed_again(cast, stage):
    waiting = await stage.sender.deliver(sponsored())
    broken = await stage.sender.deliver(b"{")
    for receipt in (waiting, broken):
        with pytest.raises(SignalNotReassessable):
            await reassess(cast.alice.actor, receipt.signal_id)
    with pytest.raises(Forbidden):
        await reassess(cast.carol.actor, waiting.signal_id)
    with pytest.raises(NotFound):
        await reassess(cast.dave.actor, waiting.signal_id)


async def test_workers_at_once_share_the_work(cast, stage):
    theirs = await make_rule_stage(cast, cast.dave)
    await stage.publish()
    await theirs.publish(cast.dave)
    for number in range(40):
        await (stage, theirs)[number % 2].sender.deliver(sponsored(f"person-{number // 4}"))
    counts = await asyncio.gather(*(_assess_all(3) for _ in range(4)))
    assert sum(counts) == 40
    assert (await run_sql("SELECT count(*) AS count FROM action"))[0]["count"] == 40
    assert (await run_sql("SELECT count(*) AS count FROM end_user"))[0]["count"] == 20
    for organization_id in (cast.organization_id, cast.dave.actor.organization_id):
        assert await verify(organization_id) is None


async def _assess_all(limit: int) -> int:
    total = 0
    while count := await assess(limit):
        total += count
    return total


async def test_a_signal_that_another_worker_holds_is_passed_over(cast, stage):
    await stage.sender.deliver(sponsored())

    async def hold(held: asyncio.Event, done: asyncio.Event) -> None:
        async with transaction():
            await run_sql("SELECT id FROM signal FOR UPDATE")
            held.set()
            await done.wait()

    held, done = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold(held, done))
    await held.wait()
    assert await assess() == 0
    done.set()
    await holder
    assert await assess() == 1


async def test_a_batch_ends_at_its_bytes(cast, stage, monkeypatch):
    monkeypatch.setattr(assessment, "BATCH_BYTES", 2000)
    for _ in range(5):
        await stage.sender.deliver({"text": "x" * 900})
    assert [await assess(), await assess(), await assess(), await assess()] == [2, 2, 1, 0]


async def test_a_job_assesses_batch_after_batch_until_nothing_waits(cast, stage, monkeypatch):
    monkeypatch.setattr(assessment, "BATCH_BYTES", 8000)
    await stage.publish()
    for number in range(15):
        await stage.sender.deliver(sponsored(f"person-{number % 4}"))
    assert await assess_signals() == 15
    assert (await run_sql("SELECT count(*) AS count FROM action"))[0]["count"] == 15
    assert (await run_sql("SELECT count(DISTINCT assessed_at) AS batches FROM signal"))[0]["batches"] > 3
    assert await verify(cast.organization_id) is None


async def test_a_long_run_hands_over_to_another_job(cast, stage, monkeypatch):
    rung = []
    monkeypatch.setattr(jobs, "RUN_SECONDS", -1)
    monkeypatch.setattr(jobs, "ring", rung.append)
    await stage.sender.deliver(sponsored())
    assert await assess_signals() == 1
    assert rung == ["assess_signals"]


async def test_every_example_of_github_is_assessed_without_an_accident(cast, stage):
    await stage.publish()
    for event, body in github_examples():
        await stage.sender.deliver(body, event=event)
    assert await assess_signals() == len(github_examples())
    failed = (await list_signals(cast.organization_id, limit=200)).items
    assert {item.status for item in failed} <= {SignalStatus.ASSESSED, SignalStatus.IGNORED}
    created = sum(
        event == "sponsorship" and json.loads(body)["action"] == "created" for event, body in github_examples()
    )
    assert len((await list_actions(cast.organization_id)).items) == created > 0


async def test_an_error_while_writing_costs_only_the_signal_that_causes_it(cast, stage, monkeypatch):
    make = end_users.make_end_users

    async def make_all_but_one(organization_id, people):
        entries = await make(organization_id, people)
        if any(person.subject == "github:mallory" for person in people):
            await run_sql("SELECT 1 / 0")
        return entries

    monkeypatch.setattr(end_users, "make_end_users", make_all_but_one)
    await stage.publish()
    names = ["ada", "grace", "mallory", "ada", "alan", "barbara", "mallory"]
    receipts = [await stage.sender.deliver(sponsored(name)) for name in names]
    await assess_signals()
    for name, receipt in zip(names, receipts, strict=True):
        status, reasons = await status_of(cast, receipt)
        assert status == (SignalStatus.FAILED if name == "mallory" else SignalStatus.ASSESSED)
        assert all("internal error" in reason for reason in reasons)
    assert len((await list_actions(cast.organization_id)).items) == 5
    people = await run_sql("SELECT subject FROM end_user ORDER BY subject")
    assert [row["subject"] for row in people] == ["github:ada", "github:alan", "github:barbara", "github:grace"]
    assert len(await run_sql("SELECT id FROM signer WHERE purpose = 'holds'")) == 4
    assert await verify(cast.organization_id) is None


async def test_actions_are_in_the_order_of_their_signals_each_with_its_story(cast, stage):
    await stage.publish(name="First")
    await stage.publish(name="Second", arguments={"to": "subject.address", "amount": "'1'"})
    receipts = []
    for number in range(12):
        bind_correlation_id(f"story-{number}")
        receipts.append(await stage.sender.deliver(sponsored(f"person-{number % 5}")))
    bind_correlation_id("the-job")
    await assess_signals()
    rows = await run_sql("SELECT signal, correlation_id FROM action ORDER BY id")
    assert [row["signal"] for row in rows] == [receipt.signal_id for receipt in receipts for _ in range(2)]
    assert [row["correlation_id"] for row in rows] == [f"story-{number}" for number in range(12) for _ in range(2)]
    for number in range(12):
        told = [entry.kind for entry in await list_story(cast.organization_id, f"story-{number}")]
        made = ["end_user.created", "end_user.address_set"] if number < 5 else []
        assert told == [*made, "action.proposed", "action.proposed"]


async def test_an_end_user_is_called_what_the_first_good_signal_calls_them(cast, stage):
    await stage.publish(subject='{"id": "one", "name": payload.sponsorship.sponsor.login}')
    await stage.sender.deliver(sponsored("first", "free"))
    await stage.sender.deliver(sponsored("n" * 150))
    await stage.sender.deliver(sponsored("second"))
    await stage.sender.deliver(sponsored("third"))
    await assess_signals()
    assert await run_sql("SELECT subject, name FROM end_user") == [{"subject": "one", "name": "second"}]
    assert len((await list_actions(cast.organization_id)).items) == 2


async def test_words_are_kept_of_whatever_can_be_read(cast, stage):
    await stage.publish()
    other = await make_sender(cast.alice)
    wanted = {
        (await stage.sender.deliver(sponsored("ada"))).signal_id: {"ada", "created"},
        (await stage.sender.deliver({"zen": "Design for failure."}, event="ping")).signal_id: {"design", "failure"},
        (await other.deliver({"note": "Überraschung"}, event="ping")).signal_id: {"überraschung"},
        (await other.deliver({}, event="ping")).signal_id: set(),
    }
    await assess_signals()
    for signal_id, words in wanted.items():
        [row] = await run_sql("SELECT words FROM signal WHERE id = {}", signal_id)
        assert words <= set(row["words"])
        assert bool(words) == bool(row["words"])


async def test_open_pages_are_told_once_a_batch_is_committed(cast, stage, monkeypatch):
    told = []
    monkeypatch.setattr(assessment, "announce", lambda *notice: told.append(notice))
    await stage.sender.deliver(sponsored())
    await stage.sender.deliver(sponsored())
    await (await make_rule_stage(cast, cast.dave)).sender.deliver(sponsored())
    await assess_signals()
    assert sorted(told) == sorted([("signals", cast.organization_id), ("signals", cast.dave.actor.organization_id)])


async def test_rules_are_published_while_workers_assess_without_a_deadlock(cast, stage):
    """Whoever publishes holds the rule, to which actions refer, and waits for the end of the audit's chain."""
    rules = [await stage.publish(name=f"Rule {number}") for number in range(3)]
    for number in range(60):
        await stage.sender.deliver(sponsored(f"person-{number}"))

    async def publish_again(rule):
        for _ in range(5):
            await change_rule(cast.alice.actor, rule.id, _again(stage, rule.name))
            await publish_rule(cast.alice.actor, rule.id)

    await asyncio.gather(*(_assess_all(5) for _ in range(3)), *(publish_again(rule) for rule in rules))
    assert (await run_sql("SELECT count(*) AS count FROM action"))[0]["count"] == 180
    assert await verify(cast.organization_id) is None


def _again(stage, name):
    given = stage.input(name=name)
    return RuleChange(**{field: getattr(given, field) for field in RuleChange.__struct_fields__})


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_anywhere_a_batch_leaves_nothing_half_and_is_made_up_for(cast, stage, monkeypatch, after):
    await stage.publish()
    run, left, concerned = Engine.run_querystring, 0, ContextVar("concerned", default=False)

    async def run_or_die(*given, **more):
        nonlocal left
        if not concerned.get():  # what is announced to open pages has a context of its own
            return await run(*given, **more)
        left -= 1
        if left == 0 and not after:
            raise Killed
        answer = await run(*given, **more)
        if left == 0:
            raise Killed
        return answer

    monkeypatch.setattr(Engine, "run_querystring", run_or_die)
    point, signals = 0, 0
    while True:
        point += 1
        signals += 2
        for name in (f"person-{point}", "ada"):
            await stage.sender.deliver(sponsored(name))
        before = await _counts()
        left, token = point, concerned.set(True)
        try:
            await assess()
        except Killed:
            concerned.reset(token)
            assert await _counts() == before
            assert await assess() == 2
        else:
            break
    concerned.reset(token)
    assert point > 8, "too few points were struck to mean anything"
    counts = await _counts()
    assert (counts["received"], counts["actions"], counts["people"], counts["keys"]) == (
        0,
        signals,
        point + 1,
        point + 1,
    )
    assert counts["entries"] == before["entries"] + 4  # of the last pair: one new person, two actions
    assert await verify(cast.organization_id) is None


async def _counts():
    [row] = await run_sql(
        """SELECT (SELECT count(*) FROM signal WHERE status = 'received') AS received,
                  (SELECT count(*) FROM action) AS actions, (SELECT count(*) FROM end_user) AS people,
                  (SELECT count(*) FROM signer WHERE purpose = 'holds') AS keys,
                  (SELECT count(*) FROM audit_entry) AS entries"""
    )
    return row


async def test_a_rule_may_have_no_end_user(cast, stage):
    await stage.publish(
        subject=None,
        arguments={"to": '"0x52908400098527886E0F7030069857D2E4169EE7"', "amount": "payload.n"},
        condition="true",
    )
    receipt = await stage.sender.deliver({"n": 2**200})
    await assess_signals()
    [action_id] = await list_action_ids_of_signal(cast.organization_id, receipt.signal_id)
    action = await get_action(cast.organization_id, action_id)
    assert action.end_user_id is None
    assert action.arguments[1]["value"] == str(2**200)
    assert await run_sql("SELECT id FROM end_user") == []
