"""Lists, the inbox and what it warns of."""

from datetime import timedelta

import pytest
import time_machine

from portal import clock
from portal.accounts.tables import EndUser
from portal.actions.queries import (
    count_by_status,
    count_inbox,
    get_action,
    list_action_ids_of_signal,
    list_actions,
    list_actions_of_end_user,
    list_inbox,
)
from portal.actions.schemas import ActionView
from portal.actions.service import approve, reject
from portal.actions.tables import ActionStatus
from portal.db.columns import new_id
from portal.errors import InputInvalid, NotFound
from tests.actions import NOBODY, Stage, make_signer, register_points
from tests.people import Player


async def inbox(player: Player) -> list[ActionView]:
    return [item.action for item in await list_inbox(player.actor)]


async def test_a_list_is_paged_newest_first_and_stays_in_its_organisation(stage: Stage) -> None:
    organization_id = stage.cast.organization_id
    actions = [await stage.propose_unsimulated() for _ in range(5)]

    first = await list_actions(organization_id, limit=3)
    second = await list_actions(organization_id, limit=3, cursor=first.next_cursor)

    assert [a.id for a in [*first.items, *second.items]] == [a.id for a in reversed(actions)]
    assert second.next_cursor is None
    assert (await list_actions(stage.cast.dave.actor.organization_id)).items == []
    with pytest.raises(NotFound):
        await get_action(stage.cast.dave.actor.organization_id, actions[0].id)
    for wrong in (0, 201):
        with pytest.raises(InputInvalid):
            await list_actions(organization_id, limit=wrong)


async def test_filters_narrow_the_list_together(stage: Stage) -> None:
    organization_id = stage.cast.organization_id
    for_ada = await stage.propose_mint()
    for_nobody = await stage.propose_mint(end_user_id=None)
    await reject(stage.cast.bob.actor, for_nobody.id, "Not wanted")

    async def ids(**filters: object) -> list[object]:
        return [a.id for a in (await list_actions(organization_id, **filters)).items]  # type: ignore[arg-type]

    assert await ids(status=ActionStatus.REJECTED) == [for_nobody.id]
    assert await ids(end_user_id=stage.ada_id) == [for_ada.id]
    assert await ids(contract_id=stage.contract_id) == [for_nobody.id, for_ada.id]
    assert await ids(status=ActionStatus.REJECTED, end_user_id=stage.ada_id) == []
    assert await ids(signal_id=new_id()) == []
    assert [a.id for a in (await list_actions_of_end_user(organization_id, stage.ada_id)).items] == [for_ada.id]
    assert await list_action_ids_of_signal(organization_id, new_id()) == []


async def test_statuses_are_counted(stage: Stage) -> None:
    await stage.propose_mint()
    await reject(stage.cast.bob.actor, (await stage.propose_mint()).id, "Not wanted")
    counts = await count_by_status(stage.cast.organization_id)
    assert counts == {
        ActionStatus.PROPOSED: 1,
        ActionStatus.APPROVED: 0,
        ActionStatus.REJECTED: 1,
        ActionStatus.EXPIRED: 0,
        ActionStatus.CANCELLED: 0,
    }


async def test_the_inbox_holds_what_waits_for_me_oldest_deadline_first(stage: Stage) -> None:
    cast = stage.cast
    later = await stage.propose_mint()
    sooner = await stage.propose_mint(policy_id=await stage.policy(2, expires_after_seconds=600))
    mine = await stage.propose_mint(cast.alice)
    await approve(cast.bob.actor, later.id, later.digest, cast.bob.code())

    assert [a.id for a in await inbox(cast.alice)] == [sooner.id, later.id]
    assert [a.id for a in await inbox(cast.bob)] == [sooner.id, mine.id]
    assert (await count_inbox(cast.alice.actor), await count_inbox(cast.bob.actor)) == (2, 2)
    with time_machine.travel(clock.now() + timedelta(seconds=601)):
        assert [a.id for a in await inbox(cast.alice)] == [later.id]


async def test_nothing_waits_for_those_who_may_not_approve_or_belong_elsewhere(stage: Stage) -> None:
    await stage.propose_mint()
    for player in (stage.cast.carol, stage.cast.oscar, stage.cast.dave):
        assert await list_inbox(player.actor) == []
        assert await count_inbox(player.actor) == 0


async def warnings(stage: Stage, action: ActionView) -> list[str]:
    found = {item.action.id: item.warnings for item in await list_inbox(stage.cast.alice.actor)}
    return found[action.id]


async def test_what_never_happened_before_is_pointed_out_until_it_has(stage: Stage) -> None:
    cast, policy_id = stage.cast, await stage.policy(1)
    first = await stage.propose_mint(policy_id=policy_id)
    assert await warnings(stage, first) == [
        "The first call of mint of Acme Points.",
        "The first action for Ada Park.",
    ]

    await approve(cast.bob.actor, first.id, first.digest, cast.bob.code())
    assert await warnings(stage, await stage.propose_mint()) == []


async def test_an_unknown_recipient_and_a_call_that_would_fail_are_pointed_out(stage: Stage) -> None:
    stranger, _ = await make_signer(stage.cast, "Not the owner")
    contract_id = await register_points(stage.cast, stage.node, stranger, owner_address=stage.signer_address)
    action = await stage.propose_mint(contract_id=contract_id, to=NOBODY, end_user_id=None)
    assert await warnings(stage, action) == [
        "The call would fail: erc20: access is denied",
        "The first call of mint of Acme Points.",
        "0x8617…070D is not an end user, a signer or a contract of yours.",
    ]


async def test_an_action_for_one_person_that_pays_another_is_pointed_out(stage: Stage) -> None:
    await EndUser.insert(
        EndUser(
            id=new_id(),
            organization=stage.cast.organization_id,
            subject="github:eve",
            name="Eve",
            address=NOBODY,
            created_at=clock.now(),
        )
    )
    action = await stage.propose_mint(to=NOBODY)
    assert "It is for Ada Park, but names Eve." in await warnings(stage, action)
