"""The worker's part in actions: what waits is simulated, what is due expires, however often it is run at once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import time_machine

from portal.actions import jobs
from portal.actions.jobs import expire_actions, simulate_actions
from portal.actions.queries import count_by_status, list_actions
from portal.actions.tables import ActionStatus
from portal.audit.queries import list_entries
from portal.audit.service import verify
from tests.actions import Stage


async def test_workers_at_once_simulate_everything_and_approve_each_once(stage: Stage) -> None:
    policy_id = await stage.policy(0)
    for _ in range(30):
        await stage.propose_unsimulated(policy_id=policy_id)

    await asyncio.gather(*(simulate_actions() for _ in range(4)))

    organization_id = stage.cast.organization_id
    assert (await count_by_status(organization_id))[ActionStatus.APPROVED] == 30
    assert all(action.simulation for action in (await list_actions(organization_id)).items)
    approvals = await list_entries(organization_id, kind="action.approved")
    assert len(approvals.items) == 30
    assert await verify(organization_id) is None
    assert await simulate_actions() == 0


async def test_the_job_rings_itself_until_nothing_waits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[Any] = []
    monkeypatch.setattr(jobs, "ring", rung.append)
    await stage.propose_unsimulated()
    assert await simulate_actions() == 1
    assert await simulate_actions() == 0
    assert rung == ["simulate_actions"]


async def test_workers_at_once_expire_each_due_action_once(stage: Stage) -> None:
    short = await stage.policy(2, expires_after_seconds=60)
    due = [await stage.propose_unsimulated(policy_id=short) for _ in range(20)]
    await stage.propose_unsimulated()

    with time_machine.travel(max(action.expires_at for action in due) + timedelta(seconds=1)):
        expired = await asyncio.gather(*(expire_actions() for _ in range(4)))

    organization_id = stage.cast.organization_id
    assert sum(expired) == 20
    counts = await count_by_status(organization_id)
    assert (counts[ActionStatus.EXPIRED], counts[ActionStatus.PROPOSED]) == (20, 1)
    entries = await list_entries(organization_id, kind="action.expired")
    assert {entry.subject_id for entry in entries.items} == {str(action.id) for action in due}
    assert {entry.correlation_id for entry in entries.items} == {action.correlation_id for action in due}
