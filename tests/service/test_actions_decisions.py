"""Approving, rejecting, cancelling and expiring: who may, what binds, and that a quorum is met exactly once."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import time_machine

from portal import clock
from portal.accounts.permissions import GRANTS, READ, SCOPES, Permission, Role
from portal.accounts.proofs import SecondFactorInvalid, SecondFactorMissing
from portal.accounts.schemas import Actor, ActorKind, command_actor, system_actor
from portal.accounts.tables import Member, Person
from portal.actions import simulations
from portal.actions.errors import (
    ActionNotProposed,
    AlreadyDecided,
    DigestChanged,
    OnlyMembersDecide,
    OutcomeChanged,
    OutcomeNotShown,
    ProposerMayNotApprove,
    SimulationReverts,
)
from portal.actions.queries import count_inbox, get_action, list_inbox
from portal.actions.schemas import ActionView, DeploymentInput
from portal.actions.service import approve, cancel, expire_due, propose_deployment, reject, resimulate
from portal.actions.tables import ActionStatus, Decision, Verdict
from portal.audit.queries import list_entries
from portal.chain.pool import Pool
from portal.chain.rpc import NodeUnavailable
from portal.chain.tables import Chain, Contract
from portal.db.engine import get_engine, run_sql, transaction
from portal.errors import Forbidden, InputInvalid, NotFound
from tests.actions import CHAIN, Stage, acting_key, make_signer, register_points
from tests.people import Player, make_member


async def kinds(action: ActionView, organization_id: Any) -> list[str]:
    """The audit entries about an action, oldest first."""
    page = await list_entries(organization_id, subject_kind="action", subject_id=str(action.id))
    return [entry.kind for entry in reversed(page.items)]


async def approve_as(player: Player, action: ActionView, **given: Any) -> ActionView:
    return await approve(
        player.actor,
        action.id,
        given.get("digest", action.digest),
        given.get("code", player.code()),
        given.get("outcome_digest"),
    )


async def test_two_people_approve_and_the_second_decides(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()

    first = await approve_as(cast.alice, action)
    second = await approve_as(cast.bob, action)

    assert (first.status, first.approvals_given, first.approvals_required) == (ActionStatus.PROPOSED, 1, 2)
    assert (second.status, second.approvals_given) == (ActionStatus.APPROVED, 2)
    assert second.decided_at is not None
    assert [(d.email, d.verdict, d.second_factor) for d in second.approvals] == [
        ("alice@example.org", Verdict.APPROVAL, "totp"),
        ("bob@example.org", Verdict.APPROVAL, "totp"),
    ]
    assert await kinds(action, cast.organization_id) == [
        "action.proposed",
        "action.approval_given",
        "action.approval_given",
        "action.approved",
    ]


async def test_twenty_people_at_once_meet_a_quorum_of_two_exactly_once(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    people = [await make_member(cast.organization_id, f"person{n}", Role.APPROVER) for n in range(20)]

    answers = await asyncio.gather(*(approve_as(person, action) for person in people), return_exceptions=True)

    given = [answer for answer in answers if isinstance(answer, ActionView)]
    refused = [answer for answer in answers if isinstance(answer, ActionNotProposed)]
    assert (len(given), len(refused)) == (2, 18), answers
    assert await Decision.count().where(Decision.action == action.id) == 2
    entries = await kinds(action, cast.organization_id)
    assert entries.count("action.approved") == 1
    assert entries.count("action.approval_given") == 2


async def test_one_person_at_once_in_ten_tabs_counts_once(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()

    answers = await asyncio.gather(*(approve_as(cast.bob, action) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(answer, ActionView) for answer in answers) == 1
    assert all(isinstance(answer, ActionView | AlreadyDecided) for answer in answers), answers
    view = await get_action(cast.organization_id, action.id)
    assert (view.status, view.approvals_given) == (ActionStatus.PROPOSED, 1)


async def test_the_same_person_cannot_approve_twice(stage: Stage) -> None:
    action = await stage.propose_mint()
    await approve_as(stage.cast.bob, action)
    with pytest.raises(AlreadyDecided, match="approval"):
        await approve_as(stage.cast.bob, action, code=stage.cast.bob.code(1))


async def test_another_digest_is_refused_recorded_and_costs_no_code(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    other = await stage.propose_mint(amount="1")

    with pytest.raises(DigestChanged):
        await approve_as(cast.bob, action, digest=other.digest)

    assert "action.digest_refused" in await kinds(action, cast.organization_id)
    assert (await approve_as(cast.bob, action)).approvals_given == 1  # with the same code


async def test_another_call_put_in_its_place_while_it_is_simulated_is_not_approved(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    action, real = await stage.propose_unsimulated(), simulations.simulate

    async def simulate_and_edit(ids: Iterable[UUID]) -> None:
        await real(ids)
        async with transaction():
            await run_sql("SET LOCAL session_replication_role = replica")
            await run_sql("UPDATE action SET digest = sha256('x') WHERE id = {}", action.id)

    monkeypatch.setattr(simulations, "simulate", simulate_and_edit)
    with pytest.raises(DigestChanged):
        await approve_as(stage.cast.bob, action)
    assert await Decision.count().where(Decision.action == action.id) == 0


async def test_a_code_works_for_one_approval_only(stage: Stage) -> None:
    bob, code = stage.cast.bob, stage.cast.bob.code()
    first, second = await stage.propose_mint(), await stage.propose_mint()
    await approve_as(bob, first, code=code)

    with pytest.raises(SecondFactorInvalid):
        await approve_as(bob, second, code=code)

    assert (await get_action(bob.actor.organization_id, second.id)).approvals == []
    assert "action.second_factor_refused" in await kinds(second, bob.actor.organization_id)


async def test_a_wrong_code_is_no_approval(stage: Stage) -> None:
    action = await stage.propose_mint()
    with pytest.raises(SecondFactorInvalid):
        await approve_as(stage.cast.bob, action, code="000000")
    assert await Decision.count().where(Decision.action == action.id) == 0


async def test_without_a_second_factor_one_is_told_to_set_it_up(stage: Stage) -> None:
    action = await stage.propose_mint()
    await Person.update({Person.totp_secret: None}).where(Person.id == stage.cast.bob.person_id)
    with pytest.raises(SecondFactorMissing, match="Set up a second factor"):
        await approve_as(stage.cast.bob, action)


async def test_the_proposer_may_not_approve(stage: Stage) -> None:
    alice, action = stage.cast.alice, await stage.propose_mint(stage.cast.alice)
    with pytest.raises(ProposerMayNotApprove):
        await approve_as(alice, action)
    other = await stage.propose_mint()
    assert (await approve_as(alice, other)).approvals_given == 1  # the code was not spent


async def test_who_made_the_key_that_proposed_it_may_not_approve_but_take_it_back(stage: Stage) -> None:
    cast = stage.cast
    key = await acting_key(cast.alice.actor)
    for program in (key, await acting_key(key)):
        action = await stage.propose_mint(replace(cast.alice, actor=program))
        with pytest.raises(ProposerMayNotApprove, match="made the API key"):
            await approve_as(cast.alice, action)
        assert [item.action.id for item in await list_inbox(cast.alice.actor)] == []
        assert await count_inbox(cast.bob.actor) == 1
        taken_back = await cancel(msgspec.structs.replace(cast.alice.actor, permissions=READ), action.id, "My mistake")
        assert taken_back.status == ActionStatus.CANCELLED


@pytest.mark.parametrize("name", ["carol", "oscar"])
async def test_roles_without_the_permission_decide_nothing(stage: Stage, name: str) -> None:
    player, action = getattr(stage.cast, name), await stage.propose_mint()
    with pytest.raises(Forbidden, match="actions:approve"):
        await approve_as(player, action)
    with pytest.raises(Forbidden, match="actions:approve"):
        await reject(player.actor, action.id, "Not wanted")


async def test_programs_never_decide_whatever_they_are_granted(stage: Stage) -> None:
    action, organization_id = await stage.propose_mint(), stage.cast.organization_id
    key = Actor(
        kind=ActorKind.API_KEY,
        organization_id=organization_id,
        label="key",
        permissions=SCOPES | {Permission.ACTIONS_APPROVE},
        id=uuid4(),
    )
    for actor in (key, system_actor(organization_id, "job"), command_actor(organization_id)):
        with pytest.raises(OnlyMembersDecide, match="not a person"):
            await approve(actor, action.id, action.digest, "123456")
        with pytest.raises(OnlyMembersDecide):
            await reject(actor, action.id, "Not wanted")


async def test_the_action_of_another_organisation_does_not_exist(stage: Stage) -> None:
    action = await stage.propose_mint()
    with pytest.raises(NotFound):
        await approve_as(stage.cast.dave, action)
    with pytest.raises(NotFound):
        await reject(stage.cast.dave.actor, action.id, "Not wanted")
    with pytest.raises(NotFound):
        await cancel(stage.cast.dave.actor, action.id, "Not wanted")


async def test_who_was_disabled_after_the_page_was_loaded_is_refused(stage: Stage) -> None:
    bob, action = stage.cast.bob, await stage.propose_mint()
    await Member.update({Member.disabled_at: clock.now()}).where(Member.id == bob.actor.id)
    with pytest.raises(Forbidden, match="any more"):
        await approve_as(bob, action)
    with pytest.raises(Forbidden, match="any more"):
        await reject(bob.actor, action.id, "Not wanted")


async def test_an_approval_of_somebody_whose_role_was_taken_does_not_count(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    await approve_as(cast.bob, action)
    await Member.update({Member.role: Role.AUDITOR}).where(Member.id == cast.bob.actor.id)

    after = await approve_as(cast.alice, action)

    assert (after.status, after.approvals_given) == (ActionStatus.PROPOSED, 1)
    assert [decision.counts for decision in after.approvals] == [False, True]
    erin = await make_member(cast.organization_id, "erin", Role.APPROVER)
    assert (await approve_as(erin, action)).status == ActionStatus.APPROVED


async def test_what_was_decided_cannot_be_decided_again(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    await reject(cast.alice.actor, action.id, "Wrong person")
    with pytest.raises(ActionNotProposed, match="rejected"):
        await approve_as(cast.bob, action)
    with pytest.raises(ActionNotProposed, match="rejected"):
        await reject(cast.bob.actor, action.id, "Me too")
    with pytest.raises(ActionNotProposed, match="rejected"):
        await cancel(cast.oscar.actor, action.id, "Me too")


async def test_one_rejection_rejects_with_its_reason(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    await approve_as(cast.bob, action)

    view = await reject(cast.alice.actor, action.id, "  Ada left in May  ")

    assert view.status == ActionStatus.REJECTED
    rejection = view.approvals[-1]
    assert (rejection.email, rejection.verdict, rejection.reason) == (
        "alice@example.org",
        Verdict.REJECTION,
        "Ada left in May",
    )


async def test_who_approved_may_still_reject(stage: Stage) -> None:
    bob, action = stage.cast.bob, await stage.propose_mint()
    await approve_as(bob, action)
    view = await reject(bob.actor, action.id, "I misread the amount")
    assert view.status == ActionStatus.REJECTED
    assert [decision.verdict for decision in view.approvals] == [Verdict.REJECTION]


async def test_a_rejection_beats_a_parallel_approval_or_comes_too_late_but_never_both(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint(policy_id=await stage.policy(1))
    await asyncio.gather(
        approve_as(cast.bob, action), reject(cast.alice.actor, action.id, "Stop"), return_exceptions=True
    )
    view = await get_action(cast.organization_id, action.id)
    verdicts = {decision.verdict for decision in view.approvals}
    expected = {ActionStatus.APPROVED: {Verdict.APPROVAL}, ActionStatus.REJECTED: {Verdict.REJECTION}}
    assert verdicts == expected[view.status]


@pytest.mark.parametrize("reason", ["", "  no  ", "x" * 501, "a\0bc"])
async def test_a_reason_has_3_to_500_characters(stage: Stage, reason: str) -> None:
    action = await stage.propose_mint()
    with pytest.raises(InputInvalid, match="3 to 500"):
        await reject(stage.cast.bob.actor, action.id, reason)
    with pytest.raises(InputInvalid, match="3 to 500"):
        await cancel(stage.cast.oscar.actor, action.id, reason)


async def test_the_proposer_and_whoever_may_cancel_can_withdraw_it(stage: Stage) -> None:
    cast = stage.cast
    by_alice = await stage.propose_mint(cast.alice)
    assert (await cancel(cast.oscar.actor, by_alice.id, "Sent twice")).status == ActionStatus.CANCELLED
    with pytest.raises(Forbidden, match="actions:cancel"):
        await cancel(cast.bob.actor, (await stage.propose_mint()).id, "Not mine")
    proposer = await make_member(cast.organization_id, "pat", Role.OPERATOR)
    own = await stage.propose_mint(proposer)
    demoted = Actor(
        **{
            **{f: getattr(proposer.actor, f) for f in proposer.actor.__struct_fields__},
            "permissions": GRANTS[Role.AUDITOR],
        }
    )
    assert (await cancel(demoted, own.id, "My mistake")).status == ActionStatus.CANCELLED
    assert "action.cancelled" in await kinds(own, cast.organization_id)


async def test_a_call_that_would_fail_is_not_approved_and_costs_no_code(stage: Stage) -> None:
    cast = stage.cast
    stranger, _ = await make_signer(cast, "Not the owner")
    contract_id = await register_points(cast, stage.node, stranger, owner_address=stage.signer_address)
    action = await stage.propose_mint(contract_id=contract_id)

    with pytest.raises(SimulationReverts, match="erc20: access is denied"):
        await approve_as(cast.bob, action)

    assert (await approve_as(cast.bob, await stage.propose_mint())).approvals_given == 1


async def test_what_nobody_simulated_yet_is_simulated_before_it_is_approved(stage: Stage) -> None:
    action = await stage.propose_unsimulated()
    assert action.simulation is None
    view = await approve_as(stage.cast.bob, action)
    assert view.simulation is not None
    assert view.simulation.ok
    assert view.approvals_given == 1


async def test_while_the_node_is_down_nothing_is_recorded_and_the_code_stays_good(stage: Stage) -> None:
    bob = stage.cast.bob
    await Chain.insert(
        Chain(id=1, name="Far away", currency="ETH", confirmations=1, is_local=False, genesis_hash="0x0")
    )
    await Contract.update({Contract.chain: 1}).where(Contract.id == stage.contract_id)
    action = await stage.propose_unsimulated()

    with pytest.raises(NodeUnavailable):
        await approve_as(bob, action)

    view = await get_action(bob.actor.organization_id, action.id)
    assert (view.status, view.approvals, view.simulation) == (ActionStatus.PROPOSED, [], None)
    await Contract.update({Contract.chain: 31337}).where(Contract.id == stage.contract_id)
    assert (await approve_as(bob, await stage.propose_mint())).approvals_given == 1


async def grow_stale(action: ActionView) -> None:
    """Its simulation is six minutes old, and the chain has moved on since."""
    await run_sql("UPDATE chain SET head_number = 1000000 WHERE id = {}", CHAIN)
    await run_sql("UPDATE action SET simulated_at = {} WHERE id = {}", clock.now() - timedelta(minutes=6), action.id)


async def change_outcome(stage: Stage) -> None:
    """A mint still succeeds, and mints nothing any more."""
    rows = await run_sql("SELECT address FROM contract WHERE id = {}", stage.contract_id)
    stage.node.rpc("anvil_setCode", rows[0]["address"], "0x00")


async def test_an_old_simulation_is_repeated_before_it_is_approved_and_only_its_gas_may_differ(stage: Stage) -> None:
    action = await stage.propose_mint()
    shown = action.simulation or (await get_action(stage.cast.organization_id, action.id)).simulation
    assert shown
    address = action.to_address
    stage.node.rpc("anvil_impersonateAccount", stage.signer_address)
    sent = {"from": stage.signer_address, "to": address, "data": action.calldata}
    stage.node.rpc("eth_sendTransaction", sent)  # Ada has some already now: it costs less gas
    stage.node.mine()
    await grow_stale(action)
    view = await approve_as(stage.cast.bob, action)
    assert view.approvals_given == 1
    found = view.simulation
    assert found
    assert not found.is_stale
    assert found.gas != shown.gas
    assert found.effects
    assert shown.effects
    assert found.effects.changes[0].before != shown.effects.changes[0].before


async def test_what_would_do_something_else_by_now_is_not_approved_but_shown_first(stage: Stage) -> None:
    bob, action = stage.cast.bob, await stage.propose_mint()
    await grow_stale(action)
    await change_outcome(stage)
    code = bob.code()
    with pytest.raises(OutcomeChanged, match="your code was not used"):
        await approve_as(bob, action, code=code)
    view = await get_action(stage.cast.organization_id, action.id)
    assert (view.status, view.approvals) == (ActionStatus.PROPOSED, [])
    assert view.simulation
    assert view.simulation.effects
    assert (view.simulation.ok, view.simulation.effects.changes, view.simulation.is_stale) == (True, [], False)
    assert "action.approval_given" not in await kinds(action, stage.cast.organization_id)
    assert (await approve_as(bob, action, code=code)).approvals_given == 1


async def test_what_would_fail_by_now_says_so(stage: Stage) -> None:
    action = await stage.propose_mint()
    await grow_stale(action)
    rows = await run_sql("SELECT address FROM contract WHERE id = {}", stage.contract_id)
    stage.node.rpc("anvil_setCode", rows[0]["address"], "0xfe")
    with pytest.raises(SimulationReverts, match="would fail"):
        await approve_as(stage.cast.bob, action)


async def test_a_simulation_that_is_not_old_is_not_repeated(stage: Stage) -> None:
    action = await stage.propose_mint()
    await change_outcome(stage)
    assert (await approve_as(stage.cast.bob, action)).approvals_given == 1


async def test_an_old_simulation_is_not_approved_while_no_node_answers_but_rejected(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, action = stage.cast.bob, await stage.propose_mint()
    await grow_stale(action)
    code = bob.code()
    with monkeypatch.context() as away:
        away.setattr(Pool, "in_order", lambda _: [])
        with pytest.raises(NodeUnavailable, match="your code was not used: approve it once it answers"):
            await approve_as(bob, action, code=code)
        other = await stage.propose_unsimulated()
        assert (await reject(bob.actor, other.id, "Not wanted")).status == ActionStatus.REJECTED
    assert (await approve_as(bob, action, code=code)).approvals_given == 1


async def outcome_of(action: ActionView, organization_id: UUID) -> str:
    """What names the outcome of its newest simulation."""
    simulation = (await get_action(organization_id, action.id)).simulation
    assert simulation
    return simulation.outcome_digest


async def test_what_another_simulation_said_is_not_approved_unseen(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    seen, code = await outcome_of(action, cast.organization_id), cast.bob.code()
    await change_outcome(stage)
    assert (await resimulate(cast.oscar.actor, action.id)).simulation is not None, "somebody else asks the node"

    with pytest.raises(OutcomeChanged, match="your code was not used"):
        await approve_as(cast.bob, action, code=code, outcome_digest=seen)

    assert (await get_action(cast.organization_id, action.id)).approvals == []
    assert await kinds(action, cast.organization_id) == ["action.proposed"]
    now = await outcome_of(action, cast.organization_id)
    assert (await approve_as(cast.bob, action, code=code, outcome_digest=now)).approvals_given == 1
    entries = await list_entries(cast.organization_id, kind="action.approval_given", subject_id=str(action.id))
    assert entries.items[0].detail["outcome_digest"] == now, "the audit says what it would have done"


async def test_a_newer_simulation_that_says_the_same_stands_in_nobodys_way(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    seen = (await get_action(cast.organization_id, action.id)).simulation
    assert seen
    stage.node.mine()
    newer = (await resimulate(cast.oscar.actor, action.id)).simulation
    assert newer
    assert newer.block_number > seen.block_number
    assert (await approve_as(cast.bob, action, outcome_digest=seen.outcome_digest)).approvals_given == 1


@pytest.mark.parametrize("simulated", [True, False])
async def test_who_was_shown_no_outcome_is_shown_it_before_approving(stage: Stage, simulated: bool) -> None:
    bob, action = stage.cast.bob, await (stage.propose_mint() if simulated else stage.propose_unsimulated())
    code = bob.code()
    with pytest.raises(OutcomeNotShown, match="your code was not used"):
        await approve_as(bob, action, code=code, outcome_digest="")
    shown = await outcome_of(action, stage.cast.organization_id)
    assert (await approve_as(bob, action, code=code, outcome_digest=shown)).approvals_given == 1


@pytest.mark.parametrize("says_what_was_shown", [True, False])
async def test_a_simulation_that_is_stored_while_somebody_approves_does_not_slip_through(
    stage: Stage, says_what_was_shown: bool
) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    seen = await outcome_of(action, cast.organization_id) if says_what_was_shown else None
    other = await get_engine().get_new_connection()
    try:
        async with other.transaction():
            await other.execute(
                """UPDATE action SET simulation = jsonb_set(simulation, '{effects,changes,0,change}', '"1"')
                   WHERE id = $1""",
                action.id,
            )
            approving = asyncio.create_task(approve_as(cast.bob, action, outcome_digest=seen))
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND {} = ANY(pg_blocking_pids(pid))"
            while not await run_sql(waiting, other.get_server_pid()):
                assert not approving.done(), "it looked at what is being replaced, and did not wait"
                await asyncio.sleep(0.01)
    finally:
        await other.close()
    with pytest.raises(OutcomeChanged):
        await approving
    assert (await get_action(cast.organization_id, action.id)).approvals == []


async def test_after_the_deadline_nobody_can_approve_even_before_the_sweeper_came(stage: Stage) -> None:
    action = await stage.propose_mint(policy_id=await stage.policy(1, expires_after_seconds=60))
    with time_machine.travel(clock.now() + timedelta(seconds=61)):
        with pytest.raises(ActionNotProposed, match="expired"):
            await approve_as(stage.cast.bob, action)
        assert await expire_due() == 1
        assert await expire_due() == 0
        view = await get_action(stage.cast.organization_id, action.id)
        assert view.status == ActionStatus.EXPIRED
        with pytest.raises(ActionNotProposed, match="expired"):
            await approve_as(stage.cast.bob, action)
    assert "action.expired" in await kinds(action, stage.cast.organization_id)


async def test_before_its_deadline_nothing_expires(stage: Stage) -> None:
    await stage.propose_mint()
    assert await expire_due() == 0


@pytest.mark.parametrize("end", ["rejected", "cancelled", "expired"])
async def test_a_deployment_that_ends_undone_leaves_a_failed_contract(stage: Stage, end: str) -> None:
    cast = stage.cast
    action = await propose_deployment(
        cast.alice.actor,
        DeploymentInput(
            name="More points",
            template="points",
            chain_id=31337,
            signer_id=stage.signer_id,
            policy_id=stage.policy_id,
            arguments={"name": "More", "symbol": "MORE"},
        ),
    )
    if end == "rejected":
        await reject(cast.bob.actor, action.id, "Not needed")
    elif end == "cancelled":
        await cancel(cast.alice.actor, action.id, "Not needed")
    else:
        with time_machine.travel(action.expires_at + timedelta(seconds=1)):
            await expire_due()

    rows = await run_sql("SELECT status FROM contract WHERE id = {}", action.contract_id)
    assert rows[0]["status"] == "failed"
    assert (await get_action(cast.organization_id, action.id)).status == end
