"""Stopping by one person, going on by as many as an approval takes."""

import asyncio
from contextvars import Context
from uuid import UUID

import pytest

from portal import clock
from portal.accounts.permissions import Role
from portal.accounts.schemas import system_actor
from portal.actions.errors import OnlyMembersDecide
from portal.actions.policies import change_policy
from portal.actions.schemas import PolicyInput
from portal.audit.queries import list_entries
from portal.audit.service import verify
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Forbidden, InputInvalid, NotFound
from portal.transactions.controls.pauses import (
    AlreadyPaused,
    AlreadyVoted,
    PauseEnded,
    find_pauses,
    get_pause,
    list_pauses,
    pause,
    resume,
)
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.service import queue_approved
from portal.transactions.tables import PauseScope
from tests.actions import CHAIN, register_points
from tests.people import Cast, make_member
from tests.transactions import Play

EVERYTHING = PauseScope.ORGANIZATION
BECAUSE = "The amounts look wrong."


async def waiting(play: Play) -> UUID:
    """The id of a transaction that waits for a worker."""
    action_id = await play.approved_mint()
    await queue_approved()
    return (await play.view(action_id)).id


async def test_one_operator_stops_everything_and_the_sentence_says_who_when_and_why(play: Play) -> None:
    transaction_id = await waiting(play)
    assert await find_pauses([transaction_id]) == {}
    begun = await pause(play.stage.cast.oscar.actor, EVERYTHING, None, BECAUSE)
    since = f"{begun.begun_at:%Y-%m-%d %H:%M} UTC"
    assert await find_pauses([transaction_id]) == {
        transaction_id: f"Everything is paused by oscar@example.org since {since}: {BECAUSE}"
    }
    assert (begun.votes_given, begun.ended_at) == (0, None)


@pytest.mark.parametrize("scope", list(PauseScope))
async def test_a_pause_concerns_its_own_subject_only(play: Play, scope: PauseScope) -> None:
    transaction_id = await waiting(play)
    stage, alice = play.stage, play.stage.cast.alice.actor
    subjects = {
        PauseScope.ORGANIZATION: (None, "Everything"),
        PauseScope.CHAIN: (str(CHAIN), "Local chain"),
        PauseScope.CONTRACT: (str(stage.contract_id), "The contract Acme Points"),
        PauseScope.SIGNER: (str(stage.signer_id), "The signer Treasury"),
    }
    subject, name = subjects[scope]
    await pause(stage.cast.dave.actor, EVERYTHING, None, "Another organisation's business.")
    assert await find_pauses([transaction_id]) == {}
    await pause(alice, scope, subject, BECAUSE)
    assert (await find_pauses([transaction_id]))[transaction_id].startswith(f"{name} is paused by alice@example.org")


async def test_a_chain_that_is_paused_for_the_installation_counts_too(play: Play) -> None:
    transaction_id = await waiting(play)
    await run_sql("UPDATE chain SET paused_at = {}", clock.now())
    assert (await find_pauses([transaction_id]))[transaction_id].startswith("Whoever runs this portal paused Local")


async def test_to_go_on_takes_as_many_as_the_strictest_policy_asks_for(play: Play) -> None:
    cast = play.stage.cast  # its policies ask for two, and for none
    begun = await pause(cast.alice.actor, EVERYTHING, None, BECAUSE)
    first = await resume(cast.alice.actor, begun.id)
    assert (first.votes_given, first.votes_required, first.ended_at) == (1, 2, None)
    with pytest.raises(AlreadyVoted) as refused:
        await resume(cast.alice.actor, begun.id)
    assert "1 of 2" in refused.value.detail
    ended = await resume(cast.bob.actor, begun.id)
    assert ended.ended_at
    assert await find_pauses([await waiting(play)]) == {}
    with pytest.raises(PauseEnded):
        await resume(cast.bob.actor, begun.id)
    entries = await list_entries(cast.organization_id, subject_kind="pause", subject_id=str(begun.id))
    kinds = [entry.kind for entry in reversed(entries.items)]
    assert kinds == ["pause.begun", "pause.vote_given", "pause.vote_given", "pause.ended"]
    assert await verify(cast.organization_id) is None


async def test_two_votes_at_the_same_moment_end_it_once(play: Play) -> None:
    cast = play.stage.cast
    begun = await pause(cast.oscar.actor, EVERYTHING, None, BECAUSE)
    await asyncio.gather(resume(cast.alice.actor, begun.id), resume(cast.bob.actor, begun.id))
    entries = await list_entries(cast.organization_id, kind="pause.ended")
    assert len(entries.items) == 1
    assert (await get_pause(cast.organization_id, begun.id)).ended_at


async def test_a_vote_waits_for_one_that_is_being_given_and_counts_it(play: Play) -> None:
    cast = play.stage.cast
    begun = await pause(cast.oscar.actor, EVERYTHING, None, BECAUSE)
    async with transaction():
        await run_sql(
            "INSERT INTO resumption (id, organization, pause, member, voted_at) VALUES ({}, {}, {}, {}, now())",
            *(new_id(), cast.organization_id, begun.id, cast.alice.actor.id),
        )
        second = asyncio.get_running_loop().create_task(resume(cast.bob.actor, begun.id), context=Context())
        await asyncio.wait([second], timeout=0.3)
    assert (await second).ended_at


async def test_without_a_policy_one_vote_is_enough(cast: Cast) -> None:
    begun = await pause(cast.bob.actor, EVERYTHING, None, BECAUSE)
    assert begun.votes_required == 1
    assert (await resume(cast.bob.actor, begun.id)).ended_at


async def test_nobody_is_asked_for_more_votes_than_there_are_people(play: Play) -> None:
    cast = play.stage.cast
    await play.stage.policy(5)
    begun = await pause(cast.oscar.actor, EVERYTHING, None, BECAUSE)
    assert begun.votes_required == 2
    await make_member(cast.organization_id, "erin", Role.ADMIN)
    assert (await get_pause(cast.organization_id, begun.id)).votes_required == 3


async def test_only_the_newest_version_of_a_policy_asks(play: Play) -> None:
    cast = play.stage.cast
    begun = await pause(cast.oscar.actor, EVERYTHING, None, BECAUSE)
    await change_policy(cast.alice.actor, play.stage.policy_id, PolicyInput(name="One person", approvals_required=1))
    assert (await resume(cast.alice.actor, begun.id)).ended_at


async def test_a_vote_of_somebody_who_lost_the_right_does_not_count(play: Play) -> None:
    cast = play.stage.cast
    erin = await make_member(cast.organization_id, "erin", Role.APPROVER)
    begun = await pause(cast.oscar.actor, EVERYTHING, None, BECAUSE)
    await resume(erin.actor, begun.id)
    await run_sql("UPDATE member SET role = 'auditor' WHERE id = {}", erin.actor.id)
    second = await resume(cast.alice.actor, begun.id)
    assert (second.votes_given, second.ended_at) == (1, None)
    assert [vote.counts for vote in second.votes] == [False, True]
    with pytest.raises(Forbidden):
        await resume(erin.actor, begun.id)  # whose rights were read before they were taken
    assert (await resume(cast.bob.actor, begun.id)).ended_at


async def test_who_voted_already_may_end_it_once_fewer_votes_are_needed(play: Play) -> None:
    cast = play.stage.cast
    begun = await pause(cast.oscar.actor, EVERYTHING, None, BECAUSE)
    await resume(cast.alice.actor, begun.id)
    await change_policy(cast.alice.actor, play.stage.policy_id, PolicyInput(name="One person", approvals_required=1))
    assert (await resume(cast.alice.actor, begun.id)).ended_at


async def test_who_may_stop_and_who_may_go_on(cast: Cast) -> None:
    with pytest.raises(Forbidden):
        await pause(cast.carol.actor, EVERYTHING, None, BECAUSE)
    begun = await pause(system_actor(cast.organization_id, "a monitor"), EVERYTHING, None, BECAUSE)
    with pytest.raises(Forbidden):
        await resume(cast.oscar.actor, begun.id)
    with pytest.raises(OnlyMembersDecide):
        await resume(system_actor(cast.organization_id, "a monitor"), begun.id)
    with pytest.raises(NotFound):
        await resume(cast.dave.actor, begun.id)


async def test_what_is_paused_is_not_paused_again(cast: Cast) -> None:
    begun = await pause(cast.alice.actor, EVERYTHING, None, BECAUSE)
    with pytest.raises(AlreadyPaused):
        await pause(cast.bob.actor, EVERYTHING, str(cast.organization_id), BECAUSE)
    await resume(cast.alice.actor, begun.id)
    again = await pause(cast.bob.actor, EVERYTHING, None, BECAUSE)
    assert [each.id for each in (await list_pauses(cast.organization_id, lasting=True)).items] == [again.id]
    assert [each.id for each in (await list_pauses(cast.organization_id)).items] == [again.id, begun.id]


@pytest.mark.parametrize(
    ("scope", "subject", "error"),
    [
        (PauseScope.CHAIN, "99", NotFound),
        (PauseScope.CHAIN, "many", InputInvalid),
        (PauseScope.CHAIN, "9" * 40, NotFound),
        (PauseScope.CHAIN, None, InputInvalid),
        (PauseScope.CONTRACT, "many", InputInvalid),
        (PauseScope.SIGNER, "018f0000-0000-7000-8000-000000000000", NotFound),
        (PauseScope.ORGANIZATION, "018f0000-0000-7000-8000-000000000000", InputInvalid),
    ],
)
async def test_what_is_paused_has_to_be_there(
    cast: Cast, scope: PauseScope, subject: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await pause(cast.alice.actor, scope, subject, BECAUSE)


async def test_nothing_is_signed_while_paused_and_what_is_out_is_followed(play: Play) -> None:
    cast = play.stage.cast
    out = await play.sent_mint()
    begun = await pause(cast.oscar.actor, EVERYTHING, None, BECAUSE)
    held = await play.approved_mint()
    await run_lanes()
    view = await play.view(held)
    assert (view.held, view.attempts, view.waiting_for) == (True, [], (await find_pauses([view.id]))[view.id])
    play.node.mine()
    await watch_chains()
    assert (await play.view(out)).status == "mined"
    await resume(cast.alice.actor, begun.id)
    await resume(cast.bob.actor, begun.id)
    await run_lanes()
    assert (await play.view(held)).status == "broadcast"


async def test_a_pause_waits_for_what_is_being_signed_and_nothing_is_signed_after_it(play: Play) -> None:
    transaction_id = await waiting(play)
    async with transaction():
        assert await find_pauses([transaction_id]) == {}
        stopping = asyncio.get_running_loop().create_task(
            pause(play.stage.cast.alice.actor, EVERYTHING, None, BECAUSE), context=Context()
        )
        done, _ = await asyncio.wait([stopping], timeout=0.3)
        assert not done, "the pause did not wait for the db transaction that signs"
    await stopping
    assert transaction_id in await find_pauses([transaction_id])


async def test_what_is_stopped_between_nonce_and_signature_keeps_nobody_else_waiting(play: Play) -> None:
    stage = play.stage
    other = await register_points(stage.cast, play.node, stage.signer_id, owner_address=stage.signer_address)
    await play.approved_mint()
    await run_lanes()
    stopped = await waiting(play)
    await run_sql(
        """WITH lane AS (UPDATE lane SET next_nonce = next_nonce + 1 RETURNING next_nonce - 1 AS nonce)
           UPDATE transaction SET status = 'nonced', nonce = lane.nonce FROM lane WHERE id = {}""",
        stopped,
    )  # as a worker leaves it that dies just then
    begun = await pause(stage.cast.alice.actor, PauseScope.CONTRACT, str(stage.contract_id), BECAUSE)
    free = await play.approved_mint(contract_id=other)
    await run_lanes()
    await run_lanes()
    [held] = await run_sql("SELECT status, nonce, action FROM transaction WHERE id = {}", stopped)
    assert (held["status"], held["nonce"], (await play.view(free)).status) == ("queued", None, "broadcast")
    for voter in (stage.cast.alice, stage.cast.bob):
        await resume(voter.actor, begun.id)
    await run_lanes()
    play.node.mine()
    await watch_chains()
    views = [await play.view(action_id) for action_id in (free, held["action"])]
    assert [view.outcome for view in views] == ["ok", "ok"]
    assert views[1].nonce == (views[0].nonce or 0) + 1, "no gap"
