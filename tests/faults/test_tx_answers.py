"""What nodes answer, in all their words, or fail to answer: nothing is lost, and no answer makes a second payload."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from portal.chain import endpoint
from portal.chain.chain_settings import update_chain
from portal.chain.rpc import Node
from portal.chain.send_answers import SendAnswer
from portal.db.engine import run_sql
from portal.transactions.jobs import run_lanes
from portal.transactions.schemas import TransactionView
from tests.actions import CHAIN
from tests.faults.node_proxy import COUNT, LOST, SEND, Alter, Break, Fault, Late, NodeProxy, Say, Twice, refuse
from tests.faults.node_words import Meaning, dialects
from tests.faults.world import World, nodes_at
from tests.transactions import Killed

ESTIMATE = "eth_estimateGas"
WAITING = 150
"""Through an outage; the register says 500, which takes half a minute."""


def states(views: list[TransactionView]) -> set[tuple[str, bool, int]]:
    return {(view.status.value, view.held, len(view.attempts)) for view in views}


def only_one_payload_each(world: World, count: int) -> None:
    assert len(world.proxy.payloads()) == count


# Words


async def test_tx_23_already_known_in_every_dialect_is_as_good_as_accepted(world: World) -> None:
    said = dialects(Meaning.KNOWN, after=True)
    assert len(said) >= 6
    actions = await world.play.approved_mints(len(said))
    world.proxy.plan(SEND, *said)
    await world.work()
    assert states([await world.view(each) for each in actions]) == {("broadcast", False, 1)}
    await world.finish_ok(*actions)
    only_one_payload_each(world, len(said))


async def test_tx_24_an_unknown_transaction_is_not_a_known_one(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, refuse("unknown transaction"))
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.held, view.broadcast_at) == ("signed", True, None)
    await world.finish_ok(action_id)
    assert len(await world.attempts(action_id)) == 1


async def test_tx_30_a_nonce_that_another_holds_in_the_pool_is_left_to_the_chain(world: World) -> None:
    said = dialects(Meaning.REPLACEMENT)
    actions = await world.play.approved_mints(len(said) + 1)
    world.proxy.plan(SEND, *said)
    await world.work()
    *held, last = [await world.view(each) for each in actions]
    assert states(held) == {("broadcast", True, 1)}
    assert (last.status, last.held, last.nonce) == ("broadcast", False, len(actions)), "the lane goes on"
    await world.finish_ok(*actions)


async def test_tx_31_a_replacement_that_is_still_too_low_is_raised_from_the_last_price(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    await geth.get_stuck()
    geth.proxy.plan(SEND, refuse("replacement transaction underpriced"))
    await geth.work()
    attempts = await geth.attempts(action_id)
    assert len(attempts) == 3
    for older, newer in pairwise(attempts):
        assert newer.max_fee_wei * 10 >= older.max_fee_wei * 11
        assert newer.max_priority_fee_wei * 10 >= older.max_priority_fee_wei * 11
    assert geth.pool.find(attempts[-1].hash)
    (view,) = await geth.finish_ok(action_id)
    assert view.hash == attempts[-1].hash


async def test_tx_32_underpriced_twice_then_taken(world: World) -> None:
    said = dialects(Meaning.UNDERPRICED)
    actions = await world.play.approved_mints(len(said))
    world.proxy.plan(SEND, *(each for answer in said for each in (answer, answer, None)))
    await world.work(2)
    assert len(world.proxy.sent) == 3 * len(said)
    for view in await world.finish_ok(*actions):
        assert [attempt.mined for attempt in view.attempts] == [False, False, True]
        assert [bool(attempt.first_sent_at) for attempt in view.attempts] == [False, False, True]


async def test_tx_32_underpriced_for_ever_it_is_raised_to_the_cap_and_the_last_attempt_sent_on(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.always(SEND, dialects(Meaning.UNDERPRICED)[0])
    await world.work(8)
    view = await world.view(action_id)
    assert (view.status, view.held) == ("signed", True)
    assert "higher fees than the most that we offer" in str(view.waiting_for)
    attempts = await world.attempts(action_id)
    assert 4.5 < attempts[-1].max_fee_wei / attempts[0].max_fee_wei <= 5
    assert world.proxy.sent[-1].transaction == world.proxy.sent[-2].transaction == attempts[-1]
    await world.finish_ok(action_id)


@pytest.mark.parametrize(
    ("after", "status", "held"), [(False, "signed", True), (True, "broadcast", False)], ids=["unmoved", "moved"]
)
async def test_tx_35_a_fee_above_what_the_node_lets_through(world: World, after: bool, status: str, held: bool) -> None:
    said = dialects(Meaning.FEE_CAP, after=after)
    actions = await world.play.approved_mints(len(said)) if after else [await world.play.approved_mint()]
    world.proxy.plan(SEND, *said[: len(actions)])
    await world.work()
    assert states([await world.view(each) for each in actions]) == {(status, held, 1)}
    await world.finish_ok(*actions)
    only_one_payload_each(world, len(actions))


async def test_tx_36_without_funds_it_waits_and_drains_alone_once_topped_up(geth: World) -> None:
    actions = await geth.play.approved_mints(3)
    geth.node.rpc("anvil_setBalance", geth.signer, "0x1")
    await geth.work(2)
    first = await geth.view(actions[0])
    assert (first.status, first.held, len(first.attempts)) == ("signed", True, 1)
    assert "top it up" in str(first.waiting_for)
    assert not geth.pool.slots
    geth.node.fund(geth.signer)
    await geth.finish_ok(*actions)
    only_one_payload_each(geth, 3)


async def test_tx_36_every_client_s_words_for_missing_funds_hold(world: World) -> None:
    action_id = await world.play.approved_mint()
    for said in dialects(Meaning.FUNDS):
        world.proxy.plan(SEND, said)
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.held) == ("signed", True)
        assert "top it up" in str(view.waiting_for)
        world.later(31)
    await world.finish_ok(action_id)
    assert len(await world.attempts(action_id)) == 1


async def test_tx_37_funds_that_do_not_suffice_for_a_replacement_leave_the_first_one_alive(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    (first,) = await geth.attempts(action_id)
    geth.node.rpc("anvil_setBalance", geth.signer, hex(first.gas_limit * first.max_fee_wei))
    for _ in range(3):
        await geth.get_stuck()
        await geth.work()
    assert geth.pool.find(first.hash), "what the pool had is still there"
    assert (await geth.view(action_id)).status == "broadcast"
    assert len(await geth.attempts(action_id)) <= 2, "higher prices for which there is even less money"
    geth.node.fund(geth.signer)
    await geth.finish_ok(action_id)


async def test_tx_38_nonce_too_high_three_times_takes_no_other_nonce(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, *dialects(Meaning.NONCE_TOO_HIGH)[:3])
    nonces = set()
    for _ in range(3):
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.held) == ("signed", True)
        nonces.add(view.nonce)
        world.later(31)
    assert nonces == {1}
    await world.finish_ok(action_id)
    assert len(await world.attempts(action_id)) == 1


async def test_tx_39_what_no_node_ever_takes_is_rejected_and_its_nonce_is_the_next_one_again(world: World) -> None:
    texts = ["exceeds block gas limit", "invalid sender", "oversized data: transaction size 131585, limit 131072"]
    said = [*dialects(Meaning.FATAL), *(refuse(text) for text in texts)]
    actions = [await world.play.approved_mint(number + 1) for number in range(len(said) + 1)]
    world.proxy.plan(SEND, *said)
    await world.work(2)
    assert len(world.proxy.sent) == len(actions), "what was rejected is not sent again"
    *rejected, last = [await world.view(each) for each in actions]
    assert {(view.status, view.nonce, view.waiting_for) for view in rejected} == {("rejected", None, None)}
    assert rejected[-1].failure == f"The node refused it for good: {texts[-1]}."
    assert (last.status, last.nonce) == ("broadcast", 1)
    await world.finish_ok(actions[-1])
    assert world.play.nonce_on_chain() == 2


@pytest.mark.parametrize("capped", [False, True], ids=["uncapped", "fees at the chain's limit"])
async def test_tx_39_the_same_call_is_sent_however_often_it_was_rejected_although_its_bytes_would_be_the_same(
    world: World, capped: bool
) -> None:
    if capped:  # fees that cannot rise by a wei
        await update_chain(CHAIN, {"most_fee_wei": "1000000001"}, by="test")
    actions = await world.play.approved_mints(4)
    world.proxy.plan(SEND, *[refuse("exceeds block gas limit")] * 3)
    await world.work()
    assert [(await world.view(each)).status for each in actions] == ["rejected"] * 3 + ["broadcast"]
    firsts = [(await world.attempts(each))[0] for each in actions]
    assert [firsts[0].gas_limit - each.gas_limit for each in firsts] == [0, 1, 2, 3]
    assert len({each.max_fee_wei for each in firsts}) == 1
    assert (firsts[0].max_fee_wei == 1_000_000_001) is capped
    await world.finish_ok(actions[-1])


async def test_tx_39_nothing_is_rejected_while_nobody_says_whether_the_pool_has_it(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, refuse("invalid sender", after=True))
    world.proxy.always(COUNT, Break(503), tag="pending")
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.held, view.nonce) == ("signed", True, 1)
    await world.finish_ok(action_id)
    only_one_payload_each(world, 1)


@pytest.mark.parametrize("gas", ["0x0", hex(2**63 - 1)])
async def test_tx_43_gas_that_no_transaction_needs_is_not_believed(world: World, gas: str) -> None:
    actions = await world.play.approved_mints(2)
    await run_sql("UPDATE action SET simulated_at = now() - interval '1 hour' WHERE id = {}", actions[0])
    world.proxy.always(ESTIMATE, Alter(lambda _: gas))
    await world.work()
    view = await world.view(actions[0])
    assert (view.status, view.held, view.attempts) == ("queued", True, [])
    assert "makes no sense" in str(view.waiting_for)
    await world.finish_ok(*actions)


@pytest.mark.parametrize(
    "unclear",
    [Break(503), refuse("the moon is in the wrong house", -32099), dialects(Meaning.FEE_CAP)[0]],
    ids=["nothing", "unknown", "fee_cap"],
)
async def test_tx_39_a_fatal_answer_after_one_that_rules_nothing_out_does_not_free_the_nonce(
    world: World, unclear: Fault
) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, unclear, refuse("invalid sender"))
    await world.work()
    world.later(31)
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.held, view.nonce, len(world.proxy.sent)) == ("signed", True, 1, 2)
    assert "its nonce cannot be given to another one" in str(view.waiting_for)
    await world.finish_ok(action_id)
    only_one_payload_each(world, 1)


async def test_tx_39_a_fatal_answer_to_a_second_attempt_does_not_free_the_nonce_while_the_first_may_be_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, Break(503))
    await world.work()
    world.later(31)
    world.proxy.plan(SEND, refuse("transaction underpriced"))
    sends, real = iter([True, False]), Node.send_many

    async def send_many(self: Node, raws: Sequence[bytes]) -> list[SendAnswer]:
        if not next(sends):
            raise Killed
        return await real(self, raws)

    with monkeypatch.context() as patch, suppress(Killed, asyncio.CancelledError):
        patch.setattr(Node, "send_many", send_many)
        await run_lanes()
    assert len(await world.attempts(action_id)) == 2
    await world.leases_end()
    world.proxy.plan(SEND, refuse("exceeds block gas limit"))
    await run_lanes()
    view = await world.view(action_id)
    assert (view.status, view.held, view.nonce) == ("signed", True, 1)
    await world.finish_ok(action_id)


async def test_tx_39_a_fatal_answer_does_not_free_a_nonce_that_the_pool_has(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, refuse("invalid sender", after=True))
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.nonce) == ("signed", 1)
    await world.finish_ok(action_id)
    only_one_payload_each(world, 1)


async def test_tx_40_a_fatal_answer_to_a_replacement_leaves_the_first_one_alive_and_says_so(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    (first,) = await geth.attempts(action_id)
    await geth.get_stuck()
    geth.proxy.plan(SEND, refuse("exceeds block gas limit"))
    await geth.work()
    view = await geth.view(action_id)
    assert (view.status, view.held, view.nonce) == ("broadcast", True, first.nonce)
    assert "exceeds block gas limit" in str(view.waiting_for)
    geth.pool.holds_back = False
    geth.pass_blocks(1)
    await geth.work()
    assert (await geth.view(action_id)).hash == first.hash
    await geth.finish_ok(action_id)


@pytest.mark.parametrize(
    ("after", "count", "status"),
    [(False, None, "signed"), (True, None, "broadcast"), (False, Break(503), "signed")],
    ids=["pending_is_n", "pending_is_n_plus_1", "nobody_says"],
)
async def test_tx_41_words_that_nobody_knows(world: World, after: bool, count: Fault | None, status: str) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, refuse("the moon is in the wrong house", -32099, after=after))
    if count:
        world.proxy.always(COUNT, count, tag="pending")
    await world.work()
    view = await world.view(action_id)
    assert (view.status, len(view.attempts)) == (status, 1)
    assert view.attempts[0].last_answer == "the moon is in the wrong house"
    if count:
        assert view.held
        assert "HTTP 503" in str(view.waiting_for), "what the second question ran into is kept, too"
    await world.finish_ok(action_id)
    only_one_payload_each(world, 1)


async def test_tx_49_a_full_pool_is_tried_again(world: World) -> None:
    said = dialects(Meaning.FULL)
    action_id = await world.play.approved_mint()
    for answer in said:
        world.proxy.plan(SEND, answer)
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.held, len(view.attempts)) == ("signed", True, 1)
        world.later(31)
    await world.finish_ok(action_id)


async def test_tx_50_a_delegated_account_has_one_in_flight_and_drains_one_by_one(geth: World) -> None:
    geth.pool.delegated = {geth.signer.lower()}
    actions = await geth.play.approved_mints(3)
    await geth.work(2)
    first, second, _ = [await geth.view(each) for each in actions]
    assert (first.status, second.status, second.held) == ("broadcast", "signed", True)
    assert len(geth.pool.slots) == 1
    await geth.finish_ok(*actions)
    only_one_payload_each(geth, 3)


# Silence


async def test_tx_42_a_reply_that_is_lost_counts_as_sent(world: World) -> None:
    actions = await world.play.approved_mints(2)
    world.proxy.plan(SEND, LOST, LOST)
    await world.work()
    view = await world.view(actions[0])
    assert view.attempts[0].first_sent_at, "somebody may have it"
    assert view.nonce == 1
    await world.finish_ok(*actions)
    only_one_payload_each(world, 2)


BROKEN: list[Any] = [429, 502, 503, "html", "truncated", "wrong_id", "not_json_rpc", "reset"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_tx_43_a_send_that_is_answered_by_anything_but_an_answer(world: World, after: bool) -> None:
    actions = []
    for how in BROKEN:
        actions.append(await world.play.approved_mint())
        world.proxy.plan(SEND, Break(how, after=after))
        await world.work()
        view = await world.view(actions[-1])
        assert (view.status, len(view.attempts)) in (("signed", 1), ("broadcast", 1)), how
        world.later(31)
        await world.work()
    await world.finish_ok(*actions)
    only_one_payload_each(world, len(BROKEN))


async def test_tx_43_reads_that_fail_in_any_way_cost_no_nonce(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.later(400)
    for how in BROKEN:
        world.proxy.always("*", Break(how))
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.held, view.nonce) == ("queued", True, None), how
        world.proxy.clear()
        world.later(31)
    assert world.proxy.sent == []
    await world.finish_ok(action_id)


async def test_tx_43_a_node_that_hangs_is_given_up_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint.TIMEOUT_SECONDS <= 10
    monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 0.5)
    with nodes_at(world.proxy.url):
        action_id = await world.play.approved_mint()
        world.proxy.plan(SEND, Break("hang", after=True))
        await world.work()
        assert (await world.view(action_id)).attempts[0].first_sent_at
        world.later(31)
        await world.finish_ok(action_id)
    only_one_payload_each(world, 1)


async def test_tx_43_late_doubled_and_reordered_requests_change_nothing(world: World) -> None:
    actions = await world.play.approved_mints(6)
    world.proxy.reorders = True
    world.proxy.plan(SEND, Twice(), Late(0.2), Twice(), None, Late(0.1), Twice())
    await world.work(2)
    await world.finish_ok(*actions)
    only_one_payload_each(world, 6)


async def test_tx_44_a_node_of_another_chain_gets_nothing_and_is_asked_nothing_else(
    world: World, other_proxy: NodeProxy
) -> None:
    other_proxy.always("eth_chainId", Say(hex(1)))
    with nodes_at(world.proxy.url, other_proxy.url):
        first = await world.play.approved_mint()
        world.proxy.always("*", Break(503))
        await world.work(2)
        held = await world.view(first)
        assert (held.status, held.held) == ("queued", True)
        assert other_proxy.sent == []
        assert set(other_proxy.asked) <= {"eth_chainId"}
        world.later(31)
        await world.finish_ok(first)


async def test_tx_45_a_node_that_names_another_hash_is_not_believed(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, Alter(lambda _: "0x" + "ab" * 32))
    await world.work()
    view, (sent,) = await world.view(action_id), await world.attempts(action_id)
    assert view.hash == sent.hash
    assert "another hash" in str(view.attempts[0].last_answer)
    (final,) = await world.finish_ok(action_id)
    assert final.hash == sent.hash


async def test_tx_46_a_call_that_would_revert_uses_no_nonce_and_says_why(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.later(400)  # so that what the proposal simulated is too old to go by
    reverts = refuse("execution reverted: closed for today", 3)
    world.proxy.always("eth_call", reverts)
    world.proxy.always(ESTIMATE, reverts)
    await world.work(2)
    view = await world.view(action_id)
    assert (view.status, view.nonce, view.held) == ("queued", None, True)
    assert "closed for today" in str(view.waiting_for)
    assert world.proxy.sent == []
    await world.finish_ok(action_id)


async def test_tx_46_an_estimate_that_fails_uses_no_nonce(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.later(400)
    for fault in (Break(503), refuse("method handler crashed"), Say(None), Say("gas")):
        world.proxy.always(ESTIMATE, fault)
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.nonce, view.held) == ("queued", None, True)
        world.proxy.clear()
        world.later(31)
    await world.finish_ok(action_id)


@pytest.mark.parametrize(
    "fault",
    [
        Break(503),
        refuse("the method does not exist/is not available", -32601),
        Say(None),
        Say("0x0"),
        Say("0x"),
        Say({}),
    ],
    ids=["503", "no_method", "null", "zero", "nothing", "nonsense"],
)
async def test_tx_47_whatever_the_fee_oracle_does_no_fee_is_zero(world: World, fault: Fault) -> None:
    action_id = await world.play.approved_mint()
    for method in ("eth_maxPriorityFeePerGas", "eth_feeHistory", "eth_gasPrice"):
        world.proxy.always(method, fault)
    await world.work(2)
    attempts = await world.attempts(action_id)
    assert attempts or (await world.view(action_id)).held
    await world.finish_ok(action_id)
    for attempt in await world.attempts(action_id):
        assert attempt.max_priority_fee_wei >= 1
        assert attempt.max_fee_wei > attempt.max_priority_fee_wei


async def test_tx_48_what_reaches_no_pool_is_held_for_as_long_as_it_takes(world: World) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.always(SEND, Break(503))
    for _ in range(5):
        await world.work()
        world.later(60)
    view = await world.view(action_id)
    assert (view.status, view.held, view.nonce) == ("signed", True, 1)
    assert view.waiting_for
    await world.finish_ok(action_id)
    assert len({each.raw for each in world.proxy.sent}) == 1
    assert len(world.proxy.sent) >= 5, "it was tried again and again"


async def test_tx_63_a_node_that_shows_nothing_of_its_pool_changes_no_allocation(world: World) -> None:
    world.proxy.always(COUNT, Say(hex(world.play.nonce_on_chain())), tag="pending")
    actions = await world.play.approved_mints(5)
    await world.work()
    assert [(await world.view(each)).nonce for each in actions] == [1, 2, 3, 4, 5]
    await world.finish_ok(*actions)
    only_one_payload_each(world, 5)


async def test_tx_78_a_pass_waits_for_a_silent_node_once_and_not_for_each_that_is_out(world: World) -> None:
    await world.play.approved_mints(5)
    await world.work()
    world.later(31)
    begun = len(world.proxy.sent)
    world.proxy.always(SEND, Break("reset"))
    await run_lanes()
    assert len(world.proxy.sent) - begun == 1


async def test_tx_78_what_waits_through_an_outage_of_an_hour_drains_within_its_limits(world: World) -> None:
    actions = await world.play.approved_mints(WAITING)
    world.proxy.always("*", Break("reset"))
    for _ in range(4):
        await world.work()
        world.later(900)
    assert world.proxy.sent == []
    most = 0
    world.proxy.clear()
    while len(world.proxy.payloads()) < len(actions):
        await world.work()
        most = max(most, int(world.node.rpc("txpool_status")["pending"], 16))
        world.pass_blocks(1, seconds=1)
    assert most == 16, "of one address a node's pool keeps sixteen"
    await world.finish_ok(*actions)
    assert await world.play.minted() == len(actions)
    only_one_payload_each(world, len(actions))
