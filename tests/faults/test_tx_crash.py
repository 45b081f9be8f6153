"""Worker processes killed for real (`kill -9`), at points that are named or at all of them: each action runs once."""

import signal
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

import pytest

from portal.db.engine import Transaction, run_sql
from portal.transactions.controls.service import cancel, speed_up
from portal.transactions.jobs import run_lanes
from portal.transactions.service import queue_approved
from tests.faults.killer import Killer, Point, process
from tests.faults.node_proxy import SEND, Break, refuse
from tests.faults.world import World


async def killed(world: World, killer: Killer, point: Point, *, worker: bool = False) -> None:
    """A process begins the work of a worker, or is one, and is killed at `point`; its lease has run out."""
    await process(killer, world.ahead, point, worker=worker).dies()
    await world.leases_end()


async def test_tx_01_killed_before_a_nonce_is_taken_it_is_picked_up_once(world: World, killer: Killer) -> None:
    action_id = await world.play.approved_mint()
    await killed(world, killer, Point("after", "commit", "transaction.queued"), worker=True)
    view = await world.view(action_id)
    assert (view.status, view.nonce) == ("queued", None)
    await world.finish_ok(action_id)
    assert len(world.proxy.payloads()) == 1


async def test_tx_02_killed_while_it_signs_the_same_nonce_is_used_and_none_is_left_out(
    world: World, killer: Killer
) -> None:
    first, second = [await world.play.approved_mint(amount) for amount in (1, 2)]
    await killed(world, killer, Point("before", "commit", "transaction.signed"))
    view = await world.view(first)
    assert (view.status, view.attempts) in (("queued", []), ("nonced", []))
    views = await world.finish_ok(first, second)
    assert [view.nonce for view in views] == [1, 2]
    assert len(world.proxy.payloads()) == 2


async def test_tx_03_killed_between_signing_and_sending_the_same_bytes_go_out(world: World, killer: Killer) -> None:
    action_id = await world.play.approved_mint()
    await killed(world, killer, Point("after", "commit", "transaction.signed"), worker=True)
    (signed,) = await world.attempts(action_id)
    assert world.proxy.sent == []
    await world.finish_ok(action_id)
    assert {each.transaction.hash for each in world.proxy.sent} == {signed.hash}


async def test_tx_04_killed_after_the_node_took_it_the_same_bytes_are_known(world: World, killer: Killer) -> None:
    action_id = await world.play.approved_mint()
    await killed(world, killer, Point("after", "ask", SEND), worker=True)
    assert (await world.view(action_id)).status == "signed"
    assert [each.reached for each in world.proxy.sent] == [True]
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.held, len(view.attempts)) == ("broadcast", False, 1)
    await world.finish_ok(action_id)
    assert len({each.raw for each in world.proxy.sent}) == 1


async def test_tx_05_killed_after_the_node_took_it_and_mined_meanwhile(world: World, killer: Killer) -> None:
    action_id = await world.play.approved_mint()
    await killed(world, killer, Point("after", "ask", SEND))
    world.pass_blocks(1)
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.outcome, len(view.attempts)) == ("mined", "ok", 1)
    await world.finish_ok(action_id)
    assert len({each.raw for each in world.proxy.sent}) == 1


async def test_tx_06_other_gas_settings_after_a_restart_do_not_change_what_may_be_out(
    world: World, killer: Killer
) -> None:
    action_id = await world.play.approved_mint()
    await killed(world, killer, Point("after", "commit", "transaction.signed"))
    (signed,) = await world.attempts(action_id)
    await run_sql("UPDATE chain SET least_tip_wei = 50000000000, base_fee_percent = 500")
    await world.work()
    assert [each.transaction.hash for each in world.proxy.sent] == [signed.hash]
    await world.finish_ok(action_id)


async def test_tx_07_a_node_that_is_down_after_a_restart_ends_nothing(world: World, killer: Killer) -> None:
    action_id = await world.play.approved_mint()
    await killed(world, killer, Point("after", "commit", "transaction.signed"))
    world.proxy.always("*", Break("reset"))
    await world.work(3)
    view = await world.view(action_id)
    assert (view.status, view.held, view.nonce) == ("signed", True, 1)
    world.later(60)
    await world.finish_ok(action_id)
    assert len(world.proxy.payloads()) == 1


async def test_tx_08_refused_for_good_after_a_restart_the_nonce_is_the_next_one_s(world: World, killer: Killer) -> None:
    first, second = [await world.play.approved_mint(amount) for amount in (1, 2)]
    await killed(world, killer, Point("after", "commit", "transaction.signed"))
    world.proxy.plan(SEND, refuse("exceeds block gas limit"))
    await world.work()
    rejected, sent = await world.view(first), await world.view(second)
    assert (rejected.status, rejected.nonce) == ("rejected", None)
    assert (sent.status, sent.nonce) == ("broadcast", 1)
    await world.finish_ok(second)


async def test_tx_09_killed_between_storing_a_replacement_and_sending_it(geth: World, killer: Killer) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    await geth.get_stuck()
    await killed(geth, killer, Point("after", "commit", "transaction.repriced"))
    first, second = await geth.attempts(action_id)
    assert geth.pool.find(first.hash)
    assert not geth.pool.find(second.hash)
    await geth.work()
    assert geth.pool.find(second.hash), "it is sent from the store, not made anew"
    assert len(await geth.attempts(action_id)) == 2
    (view,) = await geth.finish_ok(action_id)
    assert view.hash == second.hash


async def test_tx_10_a_commit_that_fails_after_the_node_took_it_makes_no_second_payload(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    action_id = await world.play.approved_mint()
    leave, failures = Transaction.__aexit__, 0

    async def severed(db_transaction: Transaction, *raised: Any) -> Any:
        nonlocal failures
        if world.proxy.sent and not failures:
            failures += 1
            db_transaction.connection.terminate()
        return await leave(db_transaction, *raised)

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "__aexit__", severed)
        with suppress(Exception):  # however the job ends, the next one goes on
            await run_lanes()
    assert failures == 1
    assert (await world.view(action_id)).status == "signed"
    await world.leases_end()
    await world.work()
    assert (await world.view(action_id)).status == "broadcast"
    await world.finish_ok(action_id)
    assert len({each.raw for each in world.proxy.sent}) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_tx_12_a_worker_that_slept_through_its_lease_changes_nothing_when_it_wakes(
    world: World, killer: Killer, when: Literal["before", "after"]
) -> None:
    first, second = [await world.play.approved_mint(amount) for amount in (1, 2)]
    sleeper = process(killer, world.ahead, Point(when, "ask", SEND, act="stop"))
    await sleeper.stops()
    await world.leases_end()
    await world.work()
    peer_did = [await world.view(each) for each in (first, second)]
    assert {view.status for view in peer_did} == {"broadcast"}
    sleeper.signal(signal.SIGCONT)
    assert await sleeper.ends() == 0
    assert [await world.view(each) for each in (first, second)] == peer_did, "what it wrote when it woke hit no row"
    views = await world.finish_ok(first, second)
    assert [len(view.attempts) for view in views] == [1, 1]
    assert len({each.raw for each in world.proxy.sent}) == 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_tx_13_killed_at_every_effect_each_action_is_executed_once(
    world: World, killer: Killer, when: Literal["before", "after"]
) -> None:
    """Every await: between two effects it makes no difference where the process dies (see killer.py)."""
    actions, nth, ended = [], 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        nth += 1
        actions.append(await world.play.approved_mint())
        ended = await process(killer, world.ahead, Point(when, "effect", nth=nth)).ends()
        await world.leases_end()
        await world.work()
        world.pass_blocks(1, seconds=1)
    assert ended == 0, killer.log()
    assert len(actions) > 6, "too few points were struck to mean anything"
    views = await world.finish_ok(*actions)
    assert sorted(view.nonce or 0 for view in views) == list(range(1, len(actions) + 1))
    assert await world.play.minted() == len(actions)
    assert len(world.proxy.payloads()) == len(actions)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_tx_13_killed_at_every_effect_of_a_replacement(
    geth: World, killer: Killer, when: Literal["before", "after"]
) -> None:
    nth, ended = 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        nth += 1
        action_id = await geth.play.approved_mint()
        await geth.work()
        await geth.get_stuck()
        ended = await process(killer, geth.ahead, Point(when, "effect", nth=nth)).ends()
        await geth.leases_end()
        await geth.work()
        assert len(await geth.attempts(action_id)) == 2, "one replacement, whoever died over it"
        await geth.finish_ok(action_id)
    assert ended == 0, killer.log()
    assert nth > 4, "too few points were struck to mean anything"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_tx_13_killed_at_every_effect_of_a_cancellation(
    geth: World, killer: Killer, when: Literal["before", "after"]
) -> None:
    nth, ended = 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        nth += 1
        action_id = await geth.play.approved_mint()
        await geth.work()
        geth.pool.holds_back = True
        await cancel(geth.play.stage.cast.oscar.actor, (await geth.view(action_id)).id)
        ended = await process(killer, geth.ahead, Point(when, "effect", nth=nth)).ends()
        await geth.leases_end()
        (view,) = await geth.finish(action_id)
        assert (view.outcome, [attempt.kind.value for attempt in view.attempts]) == ("cancelled", ["call", "noop"])
    assert ended == 0, killer.log()
    assert nth > 4, "too few points were struck to mean anything"
    assert await geth.play.minted() == 0


async def test_tx_13_killed_at_every_effect_of_what_was_asked_for_it_is_done_once(geth: World, killer: Killer) -> None:
    """Killed before each: to be killed after the one before is the same, since nothing happens in between."""
    oscar = geth.play.stage.cast.oscar.actor
    hurried, expired, cancelled, ended = list[UUID](), list[UUID](), list[UUID](), -signal.SIGKILL
    while ended == -signal.SIGKILL:
        for actions in (hurried, expired):
            actions.append(await geth.play.approved_mint())
        await geth.work()
        cancelled.append(await geth.play.approved_mint())
        await queue_approved()
        await speed_up(oscar, (await geth.view(hurried[-1])).id)
        await cancel(oscar, (await geth.view(cancelled[-1])).id)
        # Long ago, so that the chain's clock says so, too.
        past = "UPDATE transaction SET execute_before = queued_at - interval '1 day' WHERE action = {}"
        await run_sql(past, expired[-1])
        ended = await process(killer, geth.ahead, Point("before", "effect", nth=len(hurried))).ends()
        await geth.leases_end()
        await geth.work()
        geth.pass_blocks(1, seconds=1)
    assert ended == 0, killer.log()
    assert len(hurried) > 8, "too few points were struck to mean anything"
    views = await geth.finish(*hurried, *expired, *cancelled)
    assert [(view.status, view.outcome, len(view.attempts)) for view in views] == [
        *[("finalized", "ok", 2)] * len(hurried),
        *[("finalized", "cancelled", 2)] * len(expired),
        *[("cancelled", None, 0)] * len(cancelled),
    ]
    assert await geth.play.minted() == len(hurried)
