"""What subscribers are told of actions: each change of state once, and nothing that did not happen."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import time_machine

from portal import clock
from portal.actions.errors import ActionNotProposed
from portal.actions.jobs import expire_actions
from portal.actions.schemas import ActionView
from portal.actions.service import approve, cancel, reject
from portal.notify.event_types import EVENT_TYPES
from portal.notify.events import list_events
from portal.notify.jobs import publish_events
from tests.actions import Stage


async def told(organization_id: UUID, action: ActionView) -> list[tuple[str, dict[str, Any]]]:
    """Types and data, in order, of all that was told of an action."""
    await publish_events()
    events = (await list_events(organization_id, subject_id=str(action.id))).items
    assert {event.correlation_id for event in events} == {action.correlation_id}
    assert {event.type for event in events} <= EVENT_TYPES.keys()
    return [(event.type, event.data) for event in events]


async def test_a_proposal_and_the_approval_that_meets_the_quorum_are_told(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    await approve(cast.alice.actor, action.id, action.digest, cast.alice.code())
    assert [type for type, _ in await told(cast.organization_id, action)] == ["action.proposed"]
    await approve(cast.bob.actor, action.id, action.digest, cast.bob.code())
    proposed, approved = await told(cast.organization_id, action)
    facts = {
        "summary": action.summary,
        "digest": action.digest,
        "chain_id": 31337,
        "function": "mint(address,uint256)",
        "contract_id": str(stage.contract_id),
        "signal_id": None,
        "rule_id": None,
        "end_user_id": str(stage.ada_id),
    }
    assert proposed == ("action.proposed", {"status": "proposed", **facts})
    assert approved == ("action.approved", {"status": "approved", **facts, "approvals": 2, "required": 2})


async def test_a_policy_that_asks_nobody_tells_of_both(stage: Stage) -> None:
    action = await stage.propose_mint(policy_id=await stage.policy(0))
    types = [(type, data.get("required")) for type, data in await told(stage.cast.organization_id, action)]
    assert types == [("action.proposed", None), ("action.approved", 0)]


@pytest.mark.parametrize("how", [reject, cancel])
async def test_a_refusal_says_why(stage: Stage, how: Any) -> None:
    action = await stage.propose_mint()
    await how(stage.cast.alice.actor, action.id, "Not this month.")
    with pytest.raises(ActionNotProposed):
        await how(stage.cast.alice.actor, action.id, "Again.")
    _, (type, data) = await told(stage.cast.organization_id, action)
    assert type == ("action.rejected" if how is reject else "action.cancelled")
    assert data["reason"] == "Not this month."


async def test_what_nobody_decided_is_told(stage: Stage) -> None:
    action = await stage.propose_mint()
    with time_machine.travel(clock.now() + timedelta(days=30)):
        assert await expire_actions() == 1
        assert await expire_actions() == 0
    _, (type, data) = await told(stage.cast.organization_id, action)
    assert (type, data["status"]) == ("action.expired", "expired")
