"""Proposing: what is stored is what was asked for, described in words, bound to a digest that others can recompute."""

import asyncio
import hashlib
import json
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from portal import clock
from portal.accounts.schemas import Actor, system_actor
from portal.accounts.tables import EndUser
from portal.actions.errors import ContractNotCallable, NameTaken, SignerNotReady
from portal.actions.queries import get_action, get_policy, list_action_ids_of_signal, list_policies
from portal.actions.schemas import ActionInput, ContractInput, DeploymentInput, PolicyInput, ProposedCall
from portal.actions.service import (
    change_policy,
    create_policy,
    create_signer,
    prepare_many,
    propose,
    propose_deployment,
    propose_in_transaction,
    register_contract,
    simulate,
    store_many,
)
from portal.actions.tables import ActionStatus
from portal.audit.queries import list_entries
from portal.audit.service import append_many, verify
from portal.chain.abi import Abi
from portal.chain.compiler import compile_template
from portal.chain.queries import get_contract
from portal.chain.tables import Contract, ContractStatus, Signer, SignerStatus
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict, Forbidden, InputInvalid, NotFound, PortalError
from portal.rules.tables import Rule, RuleVersion
from tests.actions import ADA, CHAIN, MINT, NOBODY, Stage, acting_key
from tests.signals import make_sender


def mint(stage: Stage, **more: Any) -> ActionInput:
    given = {
        "contract_id": stage.contract_id,
        "policy_id": stage.policy_id,
        "function": MINT,
        "arguments": {"to": ADA, "amount": "50000000000000000000"},
        "end_user_id": stage.ada_id,
        **more,
    }
    return ActionInput(**given)


async def test_a_proposal_says_what_would_happen_and_waits_for_people(stage: Stage) -> None:
    action = await propose(stage.cast.oscar.actor, mint(stage))

    assert action.summary == "Mint 50 PTS to Ada Park"
    assert action.status == ActionStatus.PROPOSED
    assert action.arguments == [
        {"name": "to", "type": "address", "value": ADA},
        {"name": "amount", "type": "uint256", "value": "50000000000000000000"},
    ]
    assert (action.proposed_by, action.end_user_name, action.approvals_required) == ("oscar@example.org", "Ada Park", 2)
    assert action.calldata.startswith("0x40c10f19")  # the selector of mint(address,uint256)
    entries = await list_entries(stage.cast.organization_id, subject_kind="action", subject_id=str(action.id))
    assert [(entry.kind, entry.actor_label) for entry in entries.items] == [("action.proposed", "oscar@example.org")]
    assert entries.items[0].detail["digest"] == action.digest


async def test_anybody_can_recompute_the_digest_from_what_is_shown(stage: Stage) -> None:
    action = await propose(stage.cast.oscar.actor, mint(stage))
    shown = json.loads(msgspec.json.encode(action))
    written = {
        "version": "1",
        "organization_id": str(stage.cast.organization_id),
        "chain_id": str(shown["chain_id"]),
        "to": shown["to_address"],
        "signer": shown["signer_address"],
        "function": shown["function"],
        "arguments": shown["arguments"],
        "calldata": shown["calldata"],
        "value_wei": shown["value_wei"],
        "policy": {"version_id": shown["policy"]["version_id"], "number": str(shown["policy"]["version"])},
    }
    text = json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == shown["digest"]
    assert shown["digest"].startswith(shown["fingerprint"].replace(" ", ""))


async def test_a_function_that_is_not_allowed_is_refused_naming_those_that_are(stage: Stage) -> None:
    with pytest.raises(InputInvalid, match=r"allowed: mint\(address,uint256\)") as refused:
        await propose(
            stage.cast.oscar.actor, mint(stage, function="transfer_ownership(address)", arguments={"new_owner": ADA})
        )
    assert refused.value.fields[0].path == "/function"


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"to": ADA}, "/arguments/amount"),
        ({"to": ADA, "amount": "-1"}, "/arguments/amount"),
        ({"to": ADA, "amount": 1.5}, "/arguments/amount"),
        ({"to": "ada", "amount": "1"}, "/arguments/to"),
        ({"to": ADA, "amount": "1", "more": "1"}, "/arguments/more"),
    ],
)
async def test_wrong_arguments_are_named(stage: Stage, arguments: dict[str, Any], path: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        await propose(stage.cast.oscar.actor, mint(stage, arguments=arguments))
    assert [field.path for field in refused.value.fields] == [path]


@pytest.mark.parametrize("value", ["-1", "1.0", "", "0x1", str(2**256)])
async def test_a_value_that_is_no_amount_of_wei_is_refused(stage: Stage, value: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        await propose(stage.cast.oscar.actor, mint(stage, value_wei=value))
    assert refused.value.fields[0].path == "/value_wei"


async def test_another_organisation_cannot_use_a_contract_a_policy_or_an_end_user(stage: Stage) -> None:
    dave, oscar = stage.cast.dave.actor, stage.cast.oscar.actor
    theirs = await create_policy(dave, PolicyInput(name="Theirs", approvals_required=1))
    stranger = new_id()
    await EndUser.insert(
        EndUser(
            id=stranger,
            organization=dave.organization_id,
            subject="x",
            name="X",
            address=NOBODY,
            created_at=clock.now(),
        )
    )
    with pytest.raises(NotFound, match="contract"):
        await propose(dave, mint(stage, policy_id=theirs.id, end_user_id=None))
    with pytest.raises(NotFound, match="policy"):
        await propose(oscar, mint(stage, policy_id=theirs.id))
    with pytest.raises(NotFound, match="end user"):
        await propose(oscar, mint(stage, end_user_id=stranger))
    # A name that another organisation gave to the address does not show.
    shown = await propose(oscar, mint(stage, arguments={"to": NOBODY, "amount": "0"}, end_user_id=None))
    assert shown.summary == "Mint 0 PTS to 0x8617…070D"


async def test_who_may_propose(stage: Stage) -> None:
    for player in (stage.cast.carol, stage.cast.bob):
        with pytest.raises(Forbidden, match="actions:propose"):
            await propose(player.actor, mint(stage))
    key = await acting_key(stage.cast.alice.actor)
    action = await propose(key, mint(stage))
    assert (action.proposed_by_member_id, action.proposed_by_key_id) == (None, key.id)
    assert (action.proposed_by_key, action.key_created_by) == ("ERP", "alice@example.org")
    assert action.proposer_member_id == stage.cast.alice.actor.id


async def test_a_contract_that_is_not_active_or_whose_signer_cannot_sign_is_not_called(stage: Stage) -> None:
    oscar = stage.cast.oscar.actor
    await Contract.update({Contract.status: ContractStatus.FAILED}).where(Contract.id == stage.contract_id)
    with pytest.raises(ContractNotCallable, match="failed"):
        await propose(oscar, mint(stage))
    await Contract.update({Contract.status: ContractStatus.ACTIVE}).where(Contract.id == stage.contract_id)
    await Signer.update({Signer.status: SignerStatus.DISABLED}).where(Signer.id == stage.signer_id)
    with pytest.raises(SignerNotReady, match="disabled"):
        await propose(oscar, mint(stage))


async def test_a_rule_proposes_once_for_a_signal(stage: Stage) -> None:
    signal_id, rule_id, version_id = await make_signal_and_rule(stage)
    job = system_actor(stage.cast.organization_id, "assess_signals")
    call = ProposedCall(
        contract_id=stage.contract_id,
        function=MINT,
        arguments={"to": ADA, "amount": "1000000000000000000"},
        policy_id=stage.policy_id,
        end_user_id=stage.ada_id,
        signal_id=signal_id,
        rule_id=rule_id,
        rule_version_id=version_id,
        correlation_id="story-1",
    )
    async with transaction():
        first = await propose_in_transaction(job, call)
    async with transaction():
        second = await propose_in_transaction(job, call)

    assert isinstance(first, UUID)
    assert second is None
    action = await get_action(stage.cast.organization_id, first)
    assert (action.signal_id, action.rule_id, action.rule_version) == (signal_id, rule_id, 1)
    assert (action.correlation_id, action.proposed_by) == ("story-1", None)
    assert await list_action_ids_of_signal(stage.cast.organization_id, signal_id) == [first]
    assert await list_action_ids_of_signal(stage.cast.dave.actor.organization_id, signal_id) == []
    entries = await list_entries(stage.cast.organization_id, correlation_id="story-1")
    assert [entry.kind for entry in entries.items] == ["action.proposed"]


async def test_many_prepared_together_are_each_what_they_would_be_alone(stage: Stage) -> None:
    job = system_actor(stage.cast.organization_id, "rule Reward")
    theirs = system_actor(stage.cast.dave.actor.organization_id, "rule Theirs")
    auditor = stage.cast.carol.actor

    def call(**more: Any) -> ProposedCall:
        given: dict[str, Any] = {"contract_id": stage.contract_id, "function": MINT, "policy_id": stage.policy_id}
        return ProposedCall(**{**given, "arguments": {"to": ADA, "amount": "7"}, **more})

    mixture: list[tuple[Actor, ProposedCall, type[Exception] | None]] = [
        (job, call(), None),
        (job, call(contract_id=uuid4()), NotFound),
        (theirs, call(), NotFound),
        (job, call(policy_id=uuid4()), NotFound),
        (job, call(arguments={"to": NOBODY.lower(), "amount": 10**20}), None),
        (job, call(function="burn(uint256)"), InputInvalid),
        (job, call(arguments={"to": "ada", "amount": "7"}), InputInvalid),
        (auditor, call(), Forbidden),
        (job, call(end_user_id=stage.ada_id, correlation_id="story-9", value_wei=3), None),
    ]
    prepared = await prepare_many([(actor, wanted) for actor, wanted, _ in mixture])
    assert [type(each) if isinstance(each, Exception) else None for each in prepared] == [
        refusal for _, _, refusal in mixture
    ]
    ready = [each for each in prepared if not isinstance(each, PortalError)]
    async with transaction():
        together, entries = await store_many(stage.cast.organization_id, ready)
        await append_many(entries)
    for each, id in zip(ready, together, strict=True):
        async with transaction():
            alone = await propose_in_transaction(job, each.call)
        assert id
        assert alone
        first, second = [await get_action(stage.cast.organization_id, wanted) for wanted in (id, alone)]
        for field in ("digest", "summary", "arguments", "calldata", "to_address", "value_wei", "end_user_id", "policy"):
            assert getattr(first, field) == getattr(second, field)
    assert together == sorted(id for id in together if id)
    [told] = (await list_entries(stage.cast.organization_id, subject_id=str(together[-1]))).items
    assert (told.kind, told.actor_label, told.correlation_id) == ("action.proposed", "rule Reward", "story-9")
    assert await verify(stage.cast.organization_id) is None


async def test_a_looser_policy_binds_what_is_proposed_from_then_on_and_a_stricter_one_at_once(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    before = await propose(stage.cast.oscar.actor, mint(stage))
    changed = await change_policy(
        alice, stage.policy_id, PolicyInput(name="Three people", approvals_required=3, expires_after_seconds=60)
    )
    after = await propose(stage.cast.oscar.actor, mint(stage))

    assert (changed.version, changed.name) == (2, "Three people")
    again = await get_action(alice.organization_id, before.id)
    assert (again.approvals_required, again.policy.version, again.digest) == (3, 1, before.digest)
    assert (after.approvals_required, after.policy.version) == (3, 2)
    await change_policy(alice, stage.policy_id, PolicyInput(name="One person", approvals_required=1))
    assert (await get_action(alice.organization_id, before.id)).approvals_required == 2
    assert (await get_action(alice.organization_id, after.id)).approvals_required == 3
    assert after.digest != before.digest
    assert (after.expires_at - after.proposed_at).total_seconds() == 60


async def test_policies_have_names_of_their_own_and_sensible_limits(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    with pytest.raises(NameTaken, match="Two people"):
        await create_policy(alice, PolicyInput(name=" Two people ", approvals_required=1))
    other = await create_policy(alice, PolicyInput(name="Automatic", approvals_required=0))
    with pytest.raises(NameTaken):
        await change_policy(alice, other.id, PolicyInput(name="Two people", approvals_required=0))
    for wrong, path in (
        (PolicyInput(name="x", approvals_required=21), "/approvals_required"),
        (PolicyInput(name="x", approvals_required=1, expires_after_seconds=59), "/expires_after_seconds"),
        (PolicyInput(name=" ", approvals_required=1), "/name"),
        (PolicyInput(name="a\0b", approvals_required=1), "/name"),
        (PolicyInput(name="x", approvals_required=1, execute_within_seconds=59), "/execute_within_seconds"),
        (PolicyInput(name="x", approvals_required=1, most_cost_wei="0"), "/most_cost_wei"),
        (PolicyInput(name="x", approvals_required=1, most_cost_wei="-1"), "/most_cost_wei"),
        (PolicyInput(name="x", approvals_required=1, most_cost_a_day_wei="1" + "0" * 78), "/most_cost_a_day_wei"),
        (
            PolicyInput(name="x", approvals_required=1, most_cost_wei="5", most_cost_a_day_wei="4"),
            "/most_cost_a_day_wei",
        ),
    ):
        with pytest.raises(InputInvalid) as refused:
            await create_policy(alice, wrong)
        assert refused.value.fields[0].path == path
    assert [policy.name for policy in (await list_policies(alice.organization_id)).items] == ["Automatic", "Two people"]
    first = await list_policies(alice.organization_id, limit=1)
    rest = await list_policies(alice.organization_id, limit=1, cursor=first.next_cursor)
    assert [policy.name for policy in rest.items] == ["Two people"]
    with pytest.raises(NotFound):
        await get_policy(stage.cast.dave.actor.organization_id, other.id)
    with pytest.raises(NotFound):
        await change_policy(stage.cast.dave.actor, other.id, PolicyInput(name="x", approvals_required=0))
    with pytest.raises(Forbidden):
        await create_policy(stage.cast.oscar.actor, PolicyInput(name="x", approvals_required=1))


async def test_an_action_shows_what_it_may_cost_by_the_version_that_it_was_proposed_under(stage: Stage) -> None:
    alice, most = stage.cast.alice.actor, str(10**77)
    capped = PolicyInput(
        name="Two people",
        approvals_required=2,
        most_cost_wei="10000000000000000",
        most_cost_a_day_wei=most,
        execute_within_seconds=3600,
    )
    changed = await change_policy(alice, stage.policy_id, capped)
    assert (changed.version, changed.most_cost_wei, changed.most_cost_a_day_wei) == (2, "10000000000000000", most)
    assert (await change_policy(alice, stage.policy_id, capped)).version == 2, "nothing was changed"
    action = await propose(stage.cast.oscar.actor, mint(stage))
    assert (
        await change_policy(alice, stage.policy_id, PolicyInput(name="Two people", approvals_required=2))
    ).version == 3

    bound = (await get_action(alice.organization_id, action.id)).policy
    assert (bound.most_cost_wei, bound.most_cost_a_day_wei) == ("10000000000000000", most)
    assert bound.execute_within_seconds == 3600
    told = (await list_entries(alice.organization_id, subject_id=str(stage.policy_id))).items
    assert [entry.detail.get("most_cost_wei") for entry in told] == [None, "10000000000000000", None]


async def test_a_change_that_changes_nothing_makes_no_version(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    same = PolicyInput(name="Two people", approvals_required=2)
    assert (await change_policy(alice, stage.policy_id, same)).version == 1
    assert (await get_policy(alice.organization_id, stage.policy_id)).version == 1


async def test_of_two_who_change_the_policy_that_both_have_read_one_is_told(stage: Stage) -> None:
    alice, seen = stage.cast.alice.actor, await get_policy(stage.cast.organization_id, stage.policy_id)
    given = [PolicyInput(name="Two people", approvals_required=count) for count in (3, 4)]
    changes = (change_policy(alice, stage.policy_id, each, expected=seen.version_id) for each in given)
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["PolicyView", "PreconditionFailed"]
    assert (await get_policy(alice.organization_id, stage.policy_id)).version == 2


def deployment(stage: Stage, **more: Any) -> DeploymentInput:
    given = {
        "name": "Loyalty",
        "template": "points",
        "chain_id": CHAIN,
        "signer_id": stage.signer_id,
        "policy_id": stage.policy_id,
        "arguments": {"name": "Loyalty", "symbol": "LOY"},
        **more,
    }
    return DeploymentInput(**given)


async def test_a_deployment_is_an_action_like_any_other(stage: Stage) -> None:
    action = await propose_deployment(stage.cast.alice.actor, deployment(stage))

    assert (action.summary, action.to_address) == ("Deploy Loyalty (LOY)", None)
    assert action.function == "constructor(string,string)"
    contract = await get_contract(stage.cast.organization_id, action.contract_id)
    assert (contract.status, contract.address, contract.symbol, contract.decimals) == ("deploying", None, "LOY", 18)
    allowed = {function.signature for function in contract.functions if function.allowed}
    # The latter two, so that its signers can be changed.
    assert allowed == {MINT, "set_minter(address,bool)", "transfer_ownership(address)"}
    await simulate([action.id])
    simulated = (await get_action(stage.cast.organization_id, action.id)).simulation
    assert simulated is not None
    assert simulated.ok
    assert simulated.gas is not None
    assert simulated.gas > 500_000


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"arguments": {"name": "Loyalty"}}, "/arguments/symbol"),
        ({"arguments": {"name": "Loyalty", "symbol": "TOOLONG"}}, "/arguments/symbol"),
        ({"name": "\n"}, "/name"),
    ],
)
async def test_a_wrong_deployment_is_refused_and_leaves_no_contract(
    stage: Stage, more: dict[str, Any], path: str
) -> None:
    with pytest.raises(InputInvalid) as refused:
        await propose_deployment(stage.cast.alice.actor, deployment(stage, **more))
    assert refused.value.fields[0].path == path
    assert await Contract.count() == 1


async def test_a_deployment_needs_a_template_a_chain_a_signer_and_a_policy_that_exist(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    pending = await create_signer(alice, "Fresh")
    for more in ({"template": "casino"}, {"chain_id": 5}, {"signer_id": uuid4()}, {"policy_id": uuid4()}):
        with pytest.raises(NotFound):
            await propose_deployment(alice, deployment(stage, **more))
    with pytest.raises(SignerNotReady, match="still being made"):
        await propose_deployment(alice, deployment(stage, signer_id=pending.id))
    with pytest.raises(Forbidden):
        await propose_deployment(stage.cast.oscar.actor, deployment(stage))
    assert await Contract.count() == 1


async def test_a_key_that_holds_what_an_end_user_owns_sends_nothing(stage: Stage) -> None:
    await run_sql("UPDATE signer SET purpose = 'holds', end_user = {} WHERE id = {}", stage.ada_id, stage.signer_id)
    with pytest.raises(NotFound, match="signer"):
        await propose_deployment(stage.cast.alice.actor, deployment(stage))


async def test_a_new_signer_waits_for_its_key_and_is_audited(stage: Stage) -> None:
    signer = await create_signer(stage.cast.alice.actor, " Payroll ")
    assert (signer.name, signer.status, signer.address) == ("Payroll", "pending", None)
    entries = await list_entries(stage.cast.organization_id, subject_kind="signer", subject_id=str(signer.id))
    assert [entry.kind for entry in entries.items] == ["signer.created"]
    with pytest.raises(Forbidden):
        await create_signer(stage.cast.oscar.actor, "Mine")


async def test_two_signers_of_an_organisation_have_two_names(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    tried = await asyncio.gather(
        *(create_signer(alice, name) for name in ("Payroll", " Payroll")), return_exceptions=True
    )
    refused = [error for error in tried if isinstance(error, BaseException)]
    assert [type(error) for error in refused] == [NameTaken]
    with pytest.raises(NameTaken, match="There is a signer called Treasury already"):
        await create_signer(alice, "Treasury")
    assert (await create_signer(stage.cast.dave.actor, "Treasury")).status == "pending"
    # What a key that holds for an end user is called is nobody's choice.
    await run_sql("UPDATE signer SET purpose = 'holds', end_user = {} WHERE id = {}", stage.ada_id, stage.signer_id)
    assert (await create_signer(alice, "Treasury")).status == "pending"


async def points_abi() -> Abi:
    return (await compile_template("points")).abi


async def registration(stage: Stage, **more: Any) -> ContractInput:
    given = {
        "name": "Registered",
        "chain_id": CHAIN,
        "address": NOBODY,
        "abi": await points_abi(),
        "allowed_functions": [MINT],
        "signer_id": stage.signer_id,
        **more,
    }
    return ContractInput(**given)


async def test_only_a_contract_that_exists_can_be_registered_and_only_once(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    with pytest.raises(InputInvalid, match="no contract at") as refused:
        await register_contract(alice, await registration(stage))
    assert refused.value.fields[0].path == "/address"
    existing = (await get_contract(alice.organization_id, stage.contract_id)).address
    assert existing
    with pytest.raises(Conflict, match="already registered"):
        await register_contract(alice, await registration(stage, address=existing.lower()))


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"address": "0x12"}, "/address"),
        ({"allowed_functions": ["mint(address)"]}, "/allowed_functions/0"),
        ({"allowed_functions": [MINT, "balanceOf(address)"]}, "/allowed_functions/1"),
        ({"allowed_functions": []}, "/allowed_functions"),
        ({"abi": [{"type": "function", "name": "a\0b", "inputs": []}]}, "/abi/0"),
        ({"abi": [{"type": "event", "name": "a\0b", "inputs": []}]}, "/abi"),
        ({"abi": [{"type": "function"}]}, "/abi/0"),
        ({"symbol": "P\u202eTS"}, "/symbol"),
        ({"decimals": 78}, "/decimals"),
    ],
)
async def test_a_wrong_registration_is_refused_naming_what_is_wrong(
    stage: Stage, more: dict[str, Any], path: str
) -> None:
    with pytest.raises(InputInvalid) as refused:
        await register_contract(stage.cast.alice.actor, await registration(stage, **more))
    assert refused.value.fields[0].path == path


async def test_who_may_register(stage: Stage) -> None:
    with pytest.raises(Forbidden, match="contracts:write"):
        await register_contract(stage.cast.oscar.actor, await registration(stage))
    with pytest.raises(NotFound, match="signer"):
        await register_contract(stage.cast.dave.actor, await registration(stage))


async def make_signal_and_rule(stage: Stage) -> tuple[UUID, UUID, UUID]:
    organization_id, now = stage.cast.organization_id, clock.now()
    sender = await make_sender(stage.cast.alice)
    signal_id, rule_id, version_id = (await sender.deliver({})).signal_id, new_id(), new_id()
    await Rule.insert(
        Rule(
            id=rule_id,
            organization=organization_id,
            source=sender.source_id,
            name="Reward",
            status="published",
            created_at=now,
            updated_at=now,
        )
    )
    await RuleVersion.insert(
        RuleVersion(
            id=version_id,
            rule=rule_id,
            number=1,
            condition="true",
            contract=stage.contract_id,
            function=MINT,
            arguments={},
            policy=stage.policy_id,
            created_at=now,
        )
    )
    return signal_id, rule_id, version_id
