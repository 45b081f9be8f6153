"""Rules as they are written: checked whole, versioned, published, disabled, and tried without consequences."""

import pytest

from portal.audit.queries import list_entries
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound, PreconditionFailed
from portal.rules.errors import RuleNameTaken, RuleNotPublished, RulePublished
from portal.rules.queries import get_rule, list_rule_versions, list_rules
from portal.rules.schemas import RuleChange, RuleDraft
from portal.rules.service import change_rule, create_rule, disable_rule, publish_rule, try_rule
from portal.rules.tables import RuleStatus
from tests.rules import ARGUMENTS, CONDITION, MINT, SUBJECT, make_contract, make_rule_stage
from tests.signals import sponsorship


@pytest.fixture
async def stage(cast):
    return await make_rule_stage(cast)


def change_of(rule_input, **changed):
    fields = {name: getattr(rule_input, name) for name in RuleChange.__struct_fields__}
    return RuleChange(**{**fields, **changed})


async def test_a_rule_is_written_and_published(cast, stage):
    rule = await create_rule(cast.oscar.actor, stage.input())
    assert (rule.status, rule.published_number, rule.latest.number) == (RuleStatus.DRAFT, None, 1)
    assert (rule.latest.condition, rule.latest.subject, rule.latest.arguments) == (CONDITION, SUBJECT, ARGUMENTS)
    assert (rule.latest.contract_name, rule.latest.policy_name) == ("Acme Points", "Two people")
    assert rule.latest.created_by == "oscar@example.org"
    published = await publish_rule(cast.alice.actor, rule.id)
    assert (published.status, published.published_number) == (RuleStatus.PUBLISHED, 1)
    with pytest.raises(RulePublished):
        await publish_rule(cast.alice.actor, rule.id)
    entries = await list_entries(cast.organization_id, subject_kind="rule", subject_id=str(rule.id))
    assert [(entry.kind, entry.actor_label) for entry in reversed(entries.items)] == [
        ("rule.created", "oscar@example.org"),
        ("rule.published", "alice@example.org"),
    ]


async def test_a_change_is_a_new_version_that_waits_to_be_published(cast, stage):
    rule = await stage.publish()
    changed = await change_rule(cast.alice.actor, rule.id, change_of(stage.input(), condition="true", name="Renamed"))
    assert (changed.name, changed.published_number, changed.latest.number) == ("Renamed", 1, 2)
    assert (await publish_rule(cast.alice.actor, rule.id)).published_number == 2
    assert (await publish_rule(cast.alice.actor, rule.id, number=1)).published_number == 1
    with pytest.raises(NotFound):
        await publish_rule(cast.alice.actor, rule.id, number=3)
    versions = await list_rule_versions(cast.organization_id, rule.id)
    assert [(version.number, version.condition) for version in versions] == [(2, "true"), (1, CONDITION)]


async def test_a_change_of_what_somebody_else_has_changed_meanwhile_is_refused(cast, stage):
    seen, given = await stage.publish(), change_of(stage.input())
    await change_rule(cast.alice.actor, seen.id, given, expected=seen.updated_at)
    with pytest.raises(PreconditionFailed):
        await change_rule(cast.oscar.actor, seen.id, given, expected=seen.updated_at)
    assert len(await list_rule_versions(cast.organization_id, seen.id)) == 2


async def test_only_a_published_rule_can_be_disabled(cast, stage):
    rule = await create_rule(cast.alice.actor, stage.input())
    with pytest.raises(RuleNotPublished):
        await disable_rule(cast.alice.actor, rule.id)
    await publish_rule(cast.alice.actor, rule.id)
    assert (await disable_rule(cast.alice.actor, rule.id)).status == RuleStatus.DISABLED
    assert (await publish_rule(cast.alice.actor, rule.id)).status == RuleStatus.PUBLISHED


async def test_everything_wrong_with_a_rule_is_said_at_once(cast, stage):
    wrong = stage.input(
        condition="payload.",
        subject="sender.id",
        arguments={"to": "subject.address", "sum": "1 +"},
        policy_id=new_id(),
    )
    with pytest.raises(InputInvalid) as refused:
        await create_rule(cast.alice.actor, wrong)
    assert [field.path for field in refused.value.fields] == [
        "/condition",
        "/subject",
        "/arguments/sum",
        "/arguments/amount",
        "/arguments/sum",
        "/policy_id",
    ]
    assert (await list_rules(cast.organization_id)).items == []


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"source_id": new_id()}, "/source_id"),
        ({"contract_id": new_id()}, "/contract_id"),
        ({"policy_id": new_id()}, "/policy_id"),
        ({"function": "burn(uint256)"}, "/function"),
        ({"function": "mint"}, "/function"),
        ({"subject": None}, "/arguments/to"),
        ({"arguments": {"to": "subject.address"}}, "/arguments/amount"),
    ],
)
async def test_a_rule_names_only_what_there_is(cast, stage, changed, path):
    with pytest.raises(InputInvalid) as refused:
        await create_rule(cast.alice.actor, stage.input(**changed))
    assert refused.value.fields[0].path == path


async def test_a_contract_that_is_not_deployed_cannot_be_called_by_a_rule(cast, stage):
    contract_id = await make_contract(cast.organization_id, status="deploying")
    with pytest.raises(InputInvalid, match="deploying"):
        await create_rule(cast.alice.actor, stage.input(contract_id=contract_id))


async def test_another_organisations_parts_are_not_there(cast, stage):
    theirs = await make_rule_stage(cast, cast.dave)
    for changed in (
        {"source_id": theirs.sender.source_id},
        {"contract_id": theirs.contract_id},
        {"policy_id": theirs.policy_id},
    ):
        with pytest.raises(InputInvalid):
            await create_rule(cast.alice.actor, stage.input(**changed))
    rule = await stage.publish()
    for attempt in (
        get_rule(cast.dave.actor.organization_id, rule.id),
        publish_rule(cast.dave.actor, rule.id),
        disable_rule(cast.dave.actor, rule.id),
        change_rule(cast.dave.actor, rule.id, change_of(theirs.input())),
        list_rule_versions(cast.dave.actor.organization_id, rule.id),
    ):
        with pytest.raises(NotFound):
            await attempt


@pytest.mark.parametrize("who", ["bob", "carol"])
async def test_those_who_may_not_write_rules_do_not(cast, stage, who):
    rule = await stage.publish()
    actor = getattr(cast, who).actor
    for attempt in (
        create_rule(actor, stage.input(name="Mine")),
        change_rule(actor, rule.id, change_of(stage.input())),
        publish_rule(actor, rule.id),
        disable_rule(actor, rule.id),
        try_rule(actor, RuleDraft(condition="true"), new_id()),
    ):
        with pytest.raises(Forbidden):
            await attempt


async def test_names_are_unique(cast, stage):
    await create_rule(cast.alice.actor, stage.input())
    other = await create_rule(cast.alice.actor, stage.input(name="Other"))
    with pytest.raises(RuleNameTaken):
        await create_rule(cast.alice.actor, stage.input())
    with pytest.raises(RuleNameTaken):
        await change_rule(cast.alice.actor, other.id, change_of(stage.input()))


async def test_rules_are_listed_by_source_and_status(cast, stage):
    published = await stage.publish(name="One")
    draft = await create_rule(cast.alice.actor, stage.input(name="Two"))
    assert [rule.id for rule in (await list_rules(cast.organization_id)).items] == [draft.id, published.id]
    only = await list_rules(cast.organization_id, status=RuleStatus.PUBLISHED, source_id=stage.sender.source_id)
    assert [rule.id for rule in only.items] == [published.id]
    first = await list_rules(cast.organization_id, limit=1)
    second = await list_rules(cast.organization_id, limit=1, cursor=first.next_cursor)
    assert [rule.id for rule in second.items] == [published.id]


async def count_rows():
    tables = ("action", "end_user", "signer", "audit_entry", "rule")
    return [(await run_sql(f"SELECT count(*) AS count FROM {table}"))[0]["count"] for table in tables]


async def test_a_trial_shows_what_would_happen_and_changes_nothing(cast, stage):
    payload = sponsorship()
    receipt = await stage.sender.deliver(payload)
    before = await count_rows()
    draft = RuleDraft(
        condition=CONDITION, subject=SUBJECT, contract_id=stage.contract_id, function=MINT, arguments=ARGUMENTS
    )
    trial = await try_rule(cast.oscar.actor, draft, receipt.signal_id)
    login = payload["sponsorship"]["sponsor"]["login"]
    price = payload["sponsorship"]["tier"]["monthly_price_in_dollars"]
    assert (trial.matches, trial.problems) == (True, [])
    assert trial.subject
    assert (trial.subject.id, trial.subject.end_user_id, trial.subject.address) == (f"github:{login}", None, None)
    assert trial.arguments["amount"] == str(price * 10**18)
    assert await count_rows() == before


async def test_a_trial_says_what_is_wrong_and_where(cast, stage):
    receipt = await stage.sender.deliver(sponsorship())
    draft = RuleDraft(
        condition="payload.refund.id == 1",
        subject="1 +",
        arguments={"to": "payload.action", "amount": "subject.name", "more": "1.5"},
    )
    trial = await try_rule(cast.alice.actor, draft, receipt.signal_id)
    assert trial.matches is None
    assert trial.arguments == {"to": "created"}
    problems = {problem.path: problem.message for problem in trial.problems}
    assert problems["/condition"] == "payload has no field `refund`."
    assert problems.keys() == {"/condition", "/subject", "/arguments/amount", "/arguments/more"}
    called = RuleDraft(
        condition="true",
        contract_id=stage.contract_id,
        function=MINT,
        arguments={"to": "payload.action", "amount": '"1"'},
    )
    trial = await try_rule(cast.alice.actor, called, receipt.signal_id)
    assert [problem.path for problem in trial.problems] == ["/arguments/to"]


async def test_a_trial_on_what_cannot_be_read_says_so(cast, stage):
    receipt = await stage.sender.deliver(b"{")
    trial = await try_rule(cast.alice.actor, RuleDraft(condition="true"), receipt.signal_id)
    assert "not JSON" in trial.problems[0].message
    with pytest.raises(NotFound):
        await try_rule(cast.dave.actor, RuleDraft(condition="true"), receipt.signal_id)
