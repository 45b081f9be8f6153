"""Pools and prices: dropped, passed over, cancelled, expired; what is paid stays within what was approved."""

import asyncio
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from portal.actions.schemas import PolicyInput
from portal.actions.service import create_policy, simulate
from portal.audit.queries import list_entries
from portal.chain.rpc import Fees
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.transactions.controls.service import NotCancellable, cancel
from portal.transactions.costs.fees import BUMP_PERCENT, replacement_fees
from portal.transactions.jobs import run_lanes, watch_chains
from tests.faults.node_proxy import SEND, Late, Pretend, refuse
from tests.faults.raw_transactions import RawTransaction
from tests.faults.world import World

NO_CAP = 2**256 - 1


async def mint_under(world: World, **policy: Any) -> UUID:
    """An approved mint under a policy of its own."""
    given = PolicyInput(name=f"Policy {new_id()}", approvals_required=0, expires_after_seconds=3600, **policy)
    made = await create_policy(world.play.stage.cast.alice.actor, given)
    action = await world.play.stage.propose_unsimulated(amount="1", policy_id=made.id)
    await simulate([action.id])
    return action.id


async def ask_to_cancel(world: World, action_id: UUID) -> None:
    await cancel(world.play.stage.cast.oscar.actor, (await world.view(action_id)).id)


async def stored(world: World, action_id: UUID) -> list[bytes]:
    return await world.play.attempts(action_id)


def mine_directly(world: World, raw: bytes) -> None:
    """A block with exactly these bytes, whatever the pool prefers."""
    world.node.rpc("eth_sendRawTransaction", "0x" + raw.hex())
    world.node.mine()


def cost(attempt: RawTransaction) -> int:
    return attempt.value_wei + attempt.gas_limit * attempt.max_fee_wei


# Prices


@given(st.integers(1, 10**30), st.integers(0, 10**30), st.integers(1, 10**30), st.integers(0, 10**30))
def test_tx_33_there_is_no_setting_by_which_a_price_would_not_rise(tip: int, more: int, market: int, base: int) -> None:
    """The rise is no setting but a constant, and what it gives is taken by geth's rule."""
    assert BUMP_PERCENT == 10
    previous = Fees(max_fee_wei=tip + more, max_priority_fee_wei=tip)
    raised = replacement_fees(previous, Fees(market + base, market), cap_wei=NO_CAP)
    assert raised
    for new, old in (
        (raised.max_fee_wei, previous.max_fee_wei),
        (raised.max_priority_fee_wei, previous.max_priority_fee_wei),
    ):
        assert new > old
        assert new * 100 >= old * 110
    assert raised.max_fee_wei >= raised.max_priority_fee_wei


async def test_tx_34_at_the_cap_the_same_attempt_is_sent_again_and_no_new_one_is_made(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    with capture_logs() as logs:
        for _ in range(19):
            await geth.get_stuck()
            await geth.work()
    attempts = await geth.attempts(action_id)
    assert 4.5 < attempts[-1].max_fee_wei / attempts[0].max_fee_wei <= 5
    assert len(attempts) < 19
    assert geth.proxy.sent[-1].transaction == geth.proxy.sent[-2].transaction == attempts[-1]
    assert any("cap" in each["event"] for each in logs), "somebody must hear of it"
    (view,) = await geth.finish_ok(action_id)
    assert view.hash == attempts[-1].hash


def test_tx_34_a_rise_to_exactly_the_cap_is_made_and_one_wei_less_is_not() -> None:
    previous, market = Fees(1000, 100), Fees(900, 100)
    assert replacement_fees(previous, market, cap_wei=1100) == Fees(1100, 110)
    assert replacement_fees(previous, market, cap_wei=1099) is None


@pytest.mark.parametrize("limit", ["most_cost_wei", "most_cost_a_day_wei"])
async def test_tx_34_no_attempt_costs_more_than_was_approved(geth: World, limit: str) -> None:
    action_id = await mint_under(geth, **{limit: str(10**18)})
    await geth.work()
    (first,) = await geth.attempts(action_id)
    cap = cost(first) * 13 // 10
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")  # no version is ever changed
        await run_sql(f"UPDATE policy_version SET {limit} = {{}} WHERE {limit} IS NOT NULL", cap)
    for _ in range(5):
        await geth.get_stuck()
        await geth.work()
    attempts = await geth.attempts(action_id)
    assert all(cost(attempt) <= cap for attempt in attempts)
    assert cost(attempts[-1]) * 11 > cap * 10, "it is raised for as long as that is within the limit"
    await geth.finish_ok(action_id)


async def test_tx_34_what_would_cost_more_than_was_approved_from_the_start_takes_no_nonce(world: World) -> None:
    action_id = await mint_under(world, most_cost_wei="1000")
    await world.work(2)
    view = await world.view(action_id)
    assert (view.status, view.nonce, view.held) == ("queued", None, True)
    assert world.proxy.sent == []
    following = await world.play.approved_mint(2)
    await world.work()
    assert (await world.view(following)).nonce == 1


async def test_tx_51_what_the_pool_dropped_is_sent_again_as_it_was_within_a_minute(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    (sent,) = await geth.attempts(action_id)
    geth.pool.drop()
    for _ in range(6):
        geth.later(10)
        await geth.work()
    assert geth.pool.find(sent.hash)
    assert {each.transaction.hash for each in geth.proxy.sent} == {sent.hash}
    assert 2 <= len(geth.proxy.sent) <= 4, "again, but not all the time"
    await geth.finish_ok(action_id)


async def test_tx_52_what_is_passed_over_for_blocks_is_offered_for_a_tenth_more(geth: World) -> None:
    action_id, behind = await geth.play.approved_mints(2)
    await geth.work()
    geth.pool.holds_back = True
    geth.pass_blocks(3)
    await geth.work(2)
    assert len(await geth.attempts(action_id)) == 1, "three blocks are no reason"
    geth.pass_blocks(4)
    await geth.work(2)
    first, second = await geth.attempts(action_id)
    assert second.max_fee_wei >= -(-first.max_fee_wei * 110 // 100)
    assert second.max_priority_fee_wei >= -(-first.max_priority_fee_wei * 110 // 100)
    assert second.payload == first.payload
    assert geth.pool.find(second.hash)
    assert len(await geth.attempts(behind)) == 1, "what waits behind it would gain nothing"
    views = await geth.finish_ok(action_id, behind)
    assert views[0].hash == second.hash


async def test_tx_52_on_a_chain_without_base_fees_the_price_rises_in_transactions_of_the_old_kind(geth: World) -> None:
    await run_sql("UPDATE chain SET fee_style = 'legacy'")
    action_id = await geth.play.approved_mint()
    await geth.work()
    await geth.get_stuck()
    await geth.work()
    first, second = await geth.attempts(action_id)
    assert second.max_fee_wei * 10 >= first.max_fee_wei * 11
    assert [each.raw[0] >= 0xC0 for each in geth.proxy.sent] == [True] * 2, "EIP-2718: a list is of the old kind"
    await geth.finish_ok(action_id)


async def test_tx_52_blocks_that_pass_quickly_are_no_reason_to_pay_more(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    geth.pool.holds_back = True
    geth.pass_blocks(8, seconds=1)
    await geth.work(2)
    assert len(await geth.attempts(action_id)) == 1
    geth.pass_blocks(8, seconds=2)
    await geth.work(2)
    assert len(await geth.attempts(action_id)) == 2
    await geth.finish_ok(action_id)


async def test_tx_52_a_base_fee_above_the_offer_is_met_by_a_higher_one(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    (first,) = await geth.attempts(action_id)
    geth.pool.spike(first.max_fee_wei * 3)
    for _ in range(9):
        geth.pass_blocks(1)
        await geth.work()
    view = await geth.view(action_id)
    for older, newer in pairwise(await geth.attempts(action_id)):
        assert newer.max_fee_wei * 10 >= older.max_fee_wei * 11
    assert len(view.attempts) > 1
    await geth.finish_ok(action_id)


@pytest.mark.parametrize(
    ("market", "expected"),
    [
        ((90, 900), (110, 2310)),
        ((101, 2000), (110, 4110)),
        ((120, 900), (120, 2310)),
        ((120, 1100), (120, 2320)),
        ((120, 1140), (120, 2400)),
        ((120, 1200), (120, 2520)),
    ],
)
def test_tx_53_fee_vectors(market: tuple[int, int], expected: tuple[int, int]) -> None:
    """Those of Optimism's `op-service/txmgr/price_bump_test.go`: tip and base fee, after a tip of 100 and 2,100."""
    tip, base = market
    raised = replacement_fees(Fees(2100, 100), Fees(tip + 2 * base, tip), cap_wei=NO_CAP)
    assert raised == Fees(max_fee_wei=expected[1], max_priority_fee_wei=expected[0])


def test_tx_54_fees_of_one_wei_and_of_the_largest_integer() -> None:
    assert replacement_fees(Fees(1, 1), Fees(1, 1), cap_wei=NO_CAP) == Fees(2, 2)
    assert replacement_fees(Fees(NO_CAP, NO_CAP), Fees(1, 1), cap_wei=NO_CAP) is None
    assert replacement_fees(Fees(1, 1), Fees(NO_CAP, 1), cap_wei=NO_CAP) == Fees(NO_CAP, 2), "no more than the cap"


async def test_tx_55_the_original_is_mined_after_its_replacement_was_sent(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    await geth.get_stuck()
    await geth.work()
    original, replacement = await stored(geth, action_id)
    mine_directly(geth, original)
    (view,) = await geth.finish_ok(action_id)
    assert [attempt.mined for attempt in view.attempts] == [True, False]
    assert geth.node.rpc("eth_getTransactionReceipt", view.attempts[1].hash) is None
    assert replacement != original


async def test_tx_55_the_replacement_is_mined_instead(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    await geth.get_stuck()
    await geth.work()
    (view,) = await geth.finish_ok(action_id)
    assert [attempt.mined for attempt in view.attempts] == [False, True]


async def test_tx_56_the_original_is_mined_while_its_replacement_is_made(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    await geth.get_stuck()
    (original,) = await stored(geth, action_id)
    asked = geth.proxy.asked["eth_feeHistory"] + 1
    geth.proxy.plan("eth_feeHistory", Late(0.5))
    working = asyncio.ensure_future(run_lanes())
    await geth.until_asked("eth_feeHistory", asked)
    mine_directly(geth, original)
    await watch_chains()
    assert (await geth.view(action_id)).status == "mined"
    await working
    assert await stored(geth, action_id) == [original], "no replacement is signed"
    assert {each.raw for each in geth.proxy.sent} == {original}
    await geth.finish_ok(action_id)


# Called off


async def test_tx_57_cancelled_before_it_has_a_nonce(world: World) -> None:
    blocking, action_id, following = [await world.play.approved_mint(amount) for amount in (1, 2, 4)]
    world.proxy.plan(SEND, refuse("txpool is full"))
    await world.work()
    await ask_to_cancel(world, action_id)
    views = await world.finish(blocking, action_id, following)
    assert [(view.status, view.nonce) for view in views] == [("finalized", 1), ("cancelled", None), ("finalized", 2)]
    assert await world.play.minted() == 5


async def test_tx_57_cancelled_with_a_nonce_it_is_closed_by_one_that_does_nothing(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    geth.pool.holds_back = True
    await ask_to_cancel(geth, action_id)
    await geth.work()
    call, noop = await geth.attempts(action_id)
    assert (await geth.view(action_id)).status == "closing"
    assert noop.does_nothing
    assert noop.nonce == call.nonce
    assert geth.pool.find(noop.hash), "it takes the place of the call by the pool's own rule"
    (view,) = await geth.finish(action_id)
    assert (view.status, view.outcome, view.closing_reason) == ("finalized", "cancelled", "cancelled")
    assert await geth.play.minted() == 0


async def test_tx_57_what_offers_the_most_already_is_closed_for_more(world: World) -> None:
    """Five times its first offer binds the call; what does nothing in its place is the first of its kind."""
    action_id = await world.play.approved_mint()
    world.proxy.always(SEND, refuse("transaction underpriced"))
    await world.work(6)
    world.proxy.clear()
    *_, dearest = await world.attempts(action_id)
    await ask_to_cancel(world, action_id)
    await world.work()
    *calls, nothing = await world.attempts(action_id)
    assert (calls[-1], nothing.does_nothing) == (dearest, True)
    assert dearest.max_fee_wei > 4 * calls[0].max_fee_wei
    assert nothing.max_fee_wei * 10 >= dearest.max_fee_wei * 11
    (view,) = await world.finish(action_id)
    assert view.outcome == "cancelled"


async def test_tx_57_cancelled_after_it_was_mined_is_a_conflict(world: World) -> None:
    action_id = await world.play.approved_mint()
    await world.work()
    world.pass_blocks(1)
    await world.work()
    with pytest.raises(NotCancellable) as conflict:
        await ask_to_cancel(world, action_id)
    assert conflict.value.status == 409
    await world.finish_ok(action_id)


async def test_tx_58_a_cancellation_that_loses_the_race_says_so(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    (original,) = await stored(geth, action_id)
    geth.pool.holds_back = True
    await ask_to_cancel(geth, action_id)
    await geth.work()
    assert len(await geth.attempts(action_id)) == 2
    mine_directly(geth, original)
    (view,) = await geth.finish(action_id)
    assert (view.status, view.outcome) == ("finalized", "ok")
    assert view.remark, "the cancellation came too late"
    assert await geth.play.minted() == 1


async def test_tx_59_what_expires_with_a_nonce_is_closed_by_fresh_bytes_that_do_nothing(geth: World) -> None:
    action_id = await mint_under(geth, execute_within_seconds=60)
    await geth.work()
    (call,) = await stored(geth, action_id)
    geth.pool.holds_back = True
    geth.later(90)
    geth.pass_blocks(2)
    await geth.work(2)
    seen = len(geth.proxy.sent)
    for _ in range(3):
        geth.later(31)
        await geth.work()
    later_on = geth.proxy.sent[seen:]
    assert later_on
    assert all(each.transaction.does_nothing and each.raw != call for each in later_on), "never the old bytes again"
    (view,) = await geth.finish(action_id)
    assert (view.outcome, view.closing_reason) == ("cancelled", "expired")
    assert await geth.play.minted() == 0


async def test_tx_59_what_expires_before_it_has_a_nonce_just_ends(world: World) -> None:
    action_id = await mint_under(world, execute_within_seconds=60)
    world.proxy.always("eth_estimateGas", refuse("execution reverted", 3))
    world.proxy.always("eth_call", refuse("execution reverted", 3))
    world.later(400)
    world.pass_blocks(2)
    await world.work(2)
    view = await world.view(action_id)
    assert (view.status, view.nonce) == ("expired", None)
    assert world.proxy.sent == []


# Gaps


async def test_tx_61_a_nonce_that_nobody_has_is_filled_by_one_that_does_nothing(world: World) -> None:
    await world.finish_ok(await world.play.approved_mint())
    await run_sql("UPDATE lane SET next_nonce = next_nonce + 1")  # as if the row that had this nonce were lost
    action_id = await world.play.approved_mint(2)
    try:
        (view,) = await world.finish_ok(action_id)
    except AssertionError:
        await run_sql("UPDATE lane SET next_nonce = NULL")  # the gap is known: no second complaint at the end
        raise
    assert view.nonce == 3
    fillers = [each.transaction for each in world.proxy.sent if each.transaction.nonce == 2]
    assert fillers
    assert all(each.does_nothing for each in fillers)
    told = await run_sql(
        "SELECT payload FROM outbox WHERE kind = {} UNION ALL SELECT payload FROM event WHERE kind = {}",
        *["transaction.gap_filled"] * 2,
    )
    assert [set(msgspec.json.decode(row["payload"])) for row in told] == [{"action_id", "nonce", "hash"}] * len(told)
    assert told, "whoever subscribes hears of it"
    kept = await list_entries(world.play.organization_id, subject_kind="transaction", subject_id=str(view.id))
    assert [entry.detail.get("raw_bytes") for entry in kept.items if entry.kind == "transaction.gap_filled"] == [
        "0x" + next(each.raw.hex() for each in world.proxy.sent if each.transaction.nonce == 2)
    ]


async def test_tx_62_many_that_no_pool_has_are_drained_in_the_order_of_their_nonces(world: World) -> None:
    actions = await world.play.approved_mints(8)
    world.proxy.plan(SEND, *[Pretend()] * 8)
    await world.work(2)
    assert {(await world.view(each)).status.value for each in actions} == {"broadcast"}
    assert int(world.node.rpc("txpool_status")["pending"], 16) == 0
    begun = len(world.proxy.sent)
    world.later(31)
    await world.work()
    again = [each.transaction.nonce for each in world.proxy.sent[begun:]]
    assert again == sorted(again)
    assert set(again) == set(range(1, 9))
    await world.finish_ok(*actions)
    assert len({each.raw for each in world.proxy.sent}) == 8


async def test_tx_64_an_address_that_the_pool_has_reserved_waits(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, *[refuse("address already reserved")] * 2)
    for _ in range(2):
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.held, len(view.attempts)) == ("signed", True, 1)
        world.later(31)
    await world.finish_ok(action_id)
    assert len(world.proxy.payloads()) == 1
