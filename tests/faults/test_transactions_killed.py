"""Killed at every single point where the engine waits for the database or the node, it still executes once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from portal.audit.service import verify
from portal.chain.endpoint import Endpoint
from portal.db.engine import Engine, ReservedConnection, run_sql
from portal.transactions.controls.service import cancel, speed_up
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.service import queue_approved
from portal.transactions.tables import Outcome
from portal.transactions.tables import TransactionStatus as Status
from tests.transactions import Killed, Play

Job = Callable[[], Awaitable[int]]


class Killer:
    """Raises `Killed` at the n-th wait, before or after what is waited for was done, and at every one after it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left, self.after, self.dead = 0, False, False
        for owner, name in ((Engine, "run_querystring"), (ReservedConnection, "fetch"), (Endpoint, "ask")):
            patch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, real: Any) -> Any:
        async def call(*given: Any, **more: Any) -> Any:
            self.left -= 1
            self.dead = self.dead or (self.left == 0 and not self.after)
            if self.dead:
                raise Killed
            answer = await real(*given, **more)
            if self.left == 0:
                self.dead = True
                raise Killed
            return answer

        return call

    async def strikes(self, point: int, *jobs: Job, after: bool = False) -> bool:
        """Run the jobs once; whether they lived long enough to be killed at `point`."""
        self.left, self.after = point, after
        try:
            for job in jobs:
                await job()
        except (Killed, asyncio.CancelledError):
            assert self.dead
        finally:
            struck, self.left, self.dead = self.left <= 0, 0, False
        # As if its lease had run out: the process of this test lives on.
        await run_sql("UPDATE lane SET held_until = now() - interval '1 s' WHERE held_until IS NOT NULL")
        return struck


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_anywhere_each_action_is_executed_once(
    play: Play, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    killer = Killer(monkeypatch)
    first_nonce, actions = play.nonce_on_chain(), []
    for point in range(1, 200):
        actions.append(await play.approved_mint())
        if not await killer.strikes(point, run_lanes, watch_chains, after=after):
            break
        await run_lanes()
        await watch_chains()
    else:
        raise AssertionError("the jobs never end")
    play.node.mine(70)
    await watch_chains()

    assert len(actions) > 40, "too few points were struck to mean anything"
    views = [await play.view(action) for action in actions]
    assert {view.outcome for view in views} == {Outcome.OK}
    assert {len(view.attempts) for view in views} == {1}
    assert sorted(view.nonce or 0 for view in views) == list(range(first_nonce, first_nonce + len(actions)))
    assert await play.minted() == len(actions) == play.nonce_on_chain() - first_nonce
    expected = ["queued", "nonced", "signed", "broadcast", "mined", "confirmed", "finalized"]
    assert [[kind for kind in await play.audit(view.id) if kind != "held"] for view in views] == [expected] * len(views)
    assert await verify(play.organization_id) is None
    assert (await run_sql("SELECT count(*) AS n FROM attempt"))[0]["n"] == len(actions)


async def ask(play: Play, action_id: UUID, control: Callable[..., Awaitable[None]]) -> None:
    await control(play.stage.cast.alice.actor, (await play.view(action_id)).id)


async def called_off_in_the_queue(play: Play) -> UUID:
    action_id = await play.approved_mint()
    await queue_approved()
    await ask(play, action_id, cancel)
    return action_id


async def called_off_when_out(play: Play) -> UUID:
    action_id = await play.approved_mint()
    await run_lanes()
    await ask(play, action_id, cancel)
    return action_id


async def expired_when_out(play: Play) -> UUID:
    action_id = await play.approved_mint()
    await run_lanes()
    await run_sql("UPDATE transaction SET execute_before = queued_at - interval '1 day' WHERE action = {}", action_id)
    return action_id


async def sped_up(play: Play) -> UUID:
    action_id = await play.approved_mint()
    await run_lanes()
    await ask(play, action_id, speed_up)
    return action_id


# To be killed after one wait and before the next is the same: nothing happens in between.
@pytest.mark.parametrize(
    ("begun", "end"),
    [
        (called_off_in_the_queue, (Status.CANCELLED, None, 0)),
        (called_off_when_out, (Status.FINALIZED, Outcome.CANCELLED, 2)),
        (expired_when_out, (Status.FINALIZED, Outcome.CANCELLED, 2)),
        (sped_up, (Status.FINALIZED, Outcome.OK, 2)),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
async def test_killed_anywhere_what_was_asked_for_is_done_once(
    play: Play,
    monkeypatch: pytest.MonkeyPatch,
    begun: Callable[[Play], Awaitable[UUID]],
    end: tuple[Status, Outcome | None, int],
) -> None:
    killer, actions, first_nonce = Killer(monkeypatch), [], play.nonce_on_chain()
    play.node.rpc("evm_setAutomine", False)
    for point in range(1, 200):
        actions.append(await begun(play))
        struck = await killer.strikes(point, run_lanes)
        await run_lanes()
        play.node.mine()
        await watch_chains()
        if not struck:
            break
    else:
        raise AssertionError("the job never ends")
    play.node.mine(70)
    await watch_chains()

    assert len(actions) > 8, "too few points were struck to mean anything"
    views = [await play.view(action) for action in actions]
    assert {(view.status, view.outcome, len(view.attempts)) for view in views} == {end}
    nonces = [] if end[2] == 0 else list(range(first_nonce, first_nonce + len(actions)))
    assert sorted(view.nonce for view in views if view.nonce is not None) == nonces
    assert play.nonce_on_chain() == first_nonce + len(nonces)
    assert await play.minted() == (len(actions) if end[1] is Outcome.OK else 0)
    assert await verify(play.organization_id) is None
