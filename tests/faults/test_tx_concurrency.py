"""Many at once: approvals, passes of workers, signers and chains; one nonce and one payload for each action."""

import asyncio
from itertools import cycle
from uuid import UUID

import pytest
from asyncpg.exceptions import UniqueViolationError

from portal.actions.service import approve
from portal.chain.service import register_chains
from portal.db.engine import run_sql, transaction
from portal.errors import PortalError
from portal.transactions.controls.service import cancel
from portal.transactions.jobs import run_lanes
from portal.transactions.service import queue_approved
from tests.actions import make_signer, register_points
from tests.anvil import running_anvil
from tests.faults.node_proxy import COUNT, SEND, Alter, Break, Late, NodeProxy, refuse
from tests.faults.world import World, nodes_at


async def test_tx_14_fifty_approvals_at_once_take_fifty_nonces_in_a_row(world: World) -> None:
    await run_sql("UPDATE chain SET in_flight_limit = 16")
    actions: list[UUID] = []

    async def approver() -> None:
        for _ in range(10):
            actions.append(await world.play.approved_mint())
            await run_lanes()

    await asyncio.gather(*(approver() for _ in range(5)))
    views = await world.finish_ok(*actions)
    assert sorted(view.nonce or 0 for view in views) == list(range(1, 51))
    assert await world.play.minted() == 50
    assert len(world.proxy.payloads()) == 50


async def test_tx_15_two_preparations_of_one_transaction_sign_it_once(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.always("*", Late(0.05))  # so that all of them are in the middle of it at once
    await asyncio.gather(*(run_lanes() for _ in range(4)))
    (attempt,) = await world.attempts(action_id)
    assert {each.transaction.hash for each in world.proxy.sent} == {attempt.hash}
    await world.finish_ok(action_id)


async def test_tx_16_a_job_that_is_delivered_twice_and_a_double_click_make_one_transaction(world: World) -> None:
    cast = world.play.stage.cast
    action = await world.play.stage.propose_mint()
    await approve(cast.alice.actor, action.id, action.digest, cast.alice.code())
    clicks = [approve(cast.bob.actor, action.id, action.digest, cast.bob.code()) for _ in range(2)]
    done = await asyncio.gather(*clicks, return_exceptions=True)
    assert all(isinstance(each, PortalError) for each in done if isinstance(each, BaseException))
    await asyncio.gather(*(queue_approved() for _ in range(3)))
    await world.work(3)
    assert (await run_sql("SELECT count(*) AS n FROM transaction"))[0]["n"] == 1
    await world.finish_ok(action.id)
    assert len(world.proxy.payloads()) == 1


async def test_tx_17_a_signer_that_is_blocked_holds_up_no_other(geth: World) -> None:
    cast = geth.play.stage.cast
    second_signer, second_address = await make_signer(cast, "Second")
    geth.node.rpc("evm_setAutomine", True)
    contract_id = await register_points(cast, geth.node, second_signer, owner_address=second_address)
    geth.no_automine()
    blocked = await geth.play.approved_mint()
    geth.node.rpc("anvil_setBalance", geth.signer, "0x1")
    free = await geth.play.approved_mint(contract_id=contract_id)
    await geth.work()
    assert [(await geth.view(each)).status for each in (blocked, free)] == ["signed", "broadcast"]
    geth.pass_blocks(70)
    await geth.work(2)
    assert (await geth.view(free)).status == "finalized"
    geth.node.fund(geth.signer)
    await geth.finish_ok(blocked)


async def test_tx_17_a_chain_whose_node_is_down_holds_up_no_other_for_the_same_signer(world: World) -> None:
    stage = world.play.stage
    with running_anvil(chain_id=31338) as second, nodes_at(world.proxy.url, other_chain=second):
        await register_chains()
        contract_id = await register_points(stage.cast, second, stage.signer_id, owner_address=world.signer)
        second.rpc("evm_setAutomine", False)
        blocked = await world.play.approved_mint()
        free = await world.play.approved_mint(contract_id=contract_id)
        world.proxy.always("*", Break(503))
        await world.work()
        assert [(await world.view(each)).status for each in (blocked, free)] == ["queued", "broadcast"]
        assert [(await world.view(each)).chain_id for each in (blocked, free)] == [31337, 31338]
        second.mine(70)
        await world.work(2)
        done = await world.view(free)
        assert (done.status, done.outcome, done.nonce) == ("finalized", "ok", 1)
        assert (await world.view(blocked)).held
        await world.finish_ok(blocked)


async def test_tx_18_what_is_beyond_the_limit_in_flight_waits_without_a_complaint(world: World) -> None:
    actions = await world.play.approved_mints(20)
    await world.work(2)
    views = [await world.view(each) for each in actions]
    assert [view.status.value for view in views] == ["broadcast"] * 16 + ["queued"] * 4
    assert not any(view.held for view in views)
    await world.finish_ok(*actions)


async def test_tx_18_the_limit_is_a_setting_of_the_chain(world: World) -> None:
    actions = await world.play.approved_mints(5)
    await run_sql("UPDATE chain SET in_flight_limit = 2")
    await world.work(2)
    assert [(await world.view(each)).status.value for each in actions] == ["broadcast"] * 2 + ["queued"] * 3
    await world.finish_ok(*actions)


async def test_tx_19_a_second_signed_and_unsent_one_of_a_signer_cannot_be_stored(world: World) -> None:
    first, second = await world.play.approved_mints(2)
    world.proxy.plan(SEND, refuse("txpool is full"))
    await world.work()
    assert [(await world.view(each)).status for each in (first, second)] == ["signed", "queued"]

    async def store() -> None:
        async with transaction():
            await run_sql("UPDATE transaction SET reason = 'rolled back' WHERE action = {}", second)
            await run_sql("UPDATE transaction SET status = 'signed', nonce = 2 WHERE action = {}", second)

    with pytest.raises(UniqueViolationError, match="transaction_unsent"):
        await store()
    assert (await world.view(second)).nonce is None
    assert (await run_sql("SELECT reason FROM transaction WHERE action = {}", second))[0]["reason"] is None
    await world.finish_ok(first, second)


async def test_tx_20_stale_and_alternating_nonces_of_nodes_change_no_allocation(world: World) -> None:
    first = await world.play.approved_mint()
    await world.work()
    lies = cycle(["0x0", "0x5", "0x1", "0x63"])
    world.proxy.always(COUNT, Alter(lambda _: next(lies)))
    actions = [first, *await world.play.approved_mints(4)]
    for _ in range(3):
        await run_lanes()
    assert [(await world.view(each)).nonce for each in actions] == [1, 2, 3, 4, 5]
    await world.finish_ok(*actions)


async def test_tx_20_the_first_nonce_is_not_taken_from_a_node_that_lags(world: World, other_proxy: NodeProxy) -> None:
    action_id = await world.play.approved_mint()
    world.pass_blocks(3)
    world.proxy.behind = 5  # as before the signer deployed its contract with the nonce 0
    with nodes_at(world.proxy.url, other_proxy.url):
        await world.work(2)
        (view,) = await world.finish_ok(action_id)
        assert view.nonce == 1


async def test_tx_20_a_first_nonce_far_beyond_the_other_nodes_is_not_taken(
    world: World, other_proxy: NodeProxy
) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.always(COUNT, Alter(lambda _: hex(10**6)))
    with nodes_at(world.proxy.url, other_proxy.url):
        await run_lanes()
        view = await world.view(action_id)
        assert (view.status, view.nonce) == ("queued", None)
        assert "The nodes disagree on the next nonce" in str(view.waiting_for)
        assert world.proxy.sent == other_proxy.sent == []
        world.proxy.clear()
        (view,) = await world.finish_ok(action_id)
        assert view.nonce == 1


async def test_tx_21_without_the_first_nonce_nothing_is_signed(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(COUNT, Break(503), refuse("header not found"))
    for _ in range(2):
        await run_lanes()
        view = await world.view(action_id)
        assert (view.status, view.nonce, view.held) == ("queued", None, True)
        world.later(31)
    assert world.proxy.sent == []
    await world.finish_ok(action_id)


async def test_tx_22_cancelled_while_its_fees_are_asked_for_it_is_not_signed(world: World) -> None:
    action_id = await world.play.approved_mint()
    await queue_approved()
    asked = world.proxy.asked["eth_feeHistory"] + 1
    world.proxy.plan("eth_feeHistory", Late(0.5))
    working = asyncio.ensure_future(run_lanes())
    await world.until_asked("eth_feeHistory", asked)
    await cancel(world.play.stage.cast.oscar.actor, (await world.view(action_id)).id)
    await working
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.nonce, view.attempts) == ("cancelled", None, [])
    assert world.proxy.sent == []
    following = await world.play.approved_mint(2)
    (sent,) = await world.finish_ok(following)
    assert sent.nonce == 1
