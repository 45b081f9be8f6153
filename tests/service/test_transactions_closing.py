"""Cancelled, expired, sped up: what has a nonce ends by what is mined at it."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from portal import clock
from portal.actions.schemas import PolicyInput
from portal.actions.service import change_policy
from portal.audit.service import verify
from portal.chain.rpc import Node
from portal.chain.send_answers import SendAnswer, SendKind
from portal.chain.signers import SignerUnavailable
from portal.db.engine import run_sql
from portal.jobs import queue
from portal.transactions.controls.service import cancel, speed_up
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes import looking, passes, pushing, signing
from portal.transactions.service import queue_approved
from portal.transactions.tables import Outcome
from portal.transactions.tables import TransactionStatus as Status
from tests.transactions import Play

Patch = pytest.MonkeyPatch


async def cancelled(play: Play, action_id: UUID) -> None:
    await cancel(play.stage.cast.alice.actor, (await play.view(action_id)).id)


async def expired(play: Play, action_id: UUID) -> None:
    """Its time is over by the chain's own clock."""
    head = int(play.node.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
    await run_sql("UPDATE transaction SET execute_before = to_timestamp({}) WHERE action = {}", head, action_id)


CALL_OFF = pytest.mark.parametrize(
    ("call_off", "end"), [(cancelled, Status.CANCELLED), (expired, Status.EXPIRED)], ids=["cancelled", "expired"]
)


async def next_takes_nonce(play: Play, nonce: int) -> None:
    following = await play.approved_mint(7)
    await run_lanes()
    assert (await play.view(following)).nonce == nonce


def in_pool(play: Play, nonce: int) -> dict[str, Any]:
    found = play.node.rpc("txpool_content")["pending"]
    mine = {address.lower(): each for address, each in found.items()}[play.stage.signer_address.lower()]
    transaction: dict[str, Any] = mine[str(nonce)]
    return transaction


def does_nothing(transaction: dict[str, Any], signer: str) -> bool:
    return (transaction["from"].lower(), transaction["to"].lower()) == (signer.lower(), signer.lower()) and (
        int(transaction["value"], 16),
        transaction["input"],
    ) == (0, "0x")


async def unavailable(*_: object) -> None:
    raise SignerUnavailable("The key's keeper does not answer.")


async def queue_and_fail_to_sign(play: Play, monkeypatch: Patch) -> UUID:
    """An action whose transaction has its nonce, and no signature."""
    action_id = await play.approved_mint()
    with monkeypatch.context() as patch:
        patch.setattr(signing, "sign", unavailable)
        await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.waiting_for) == (Status.NONCED, 1, "The key's keeper does not answer.")
    return action_id


@CALL_OFF
async def test_without_a_nonce_it_ends_at_once(play: Play, call_off: Any, end: Status) -> None:
    action_id = await play.approved_mint()
    await queue_approved()
    await call_off(play, action_id)
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.attempts) == (end, None, [])
    assert await play.audit(view.id) == [
        *(["queued", "cancel_requested"] if end is Status.CANCELLED else ["queued"]),
        end.value,
    ]
    await next_takes_nonce(play, 1)
    assert await play.minted() == 7


@CALL_OFF
async def test_a_nonce_without_signed_bytes_is_handed_back(
    play: Play, monkeypatch: Patch, call_off: Any, end: Status
) -> None:
    action_id = await queue_and_fail_to_sign(play, monkeypatch)
    await call_off(play, action_id)
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.attempts) == (end, None, [])
    await next_takes_nonce(play, 1)
    assert await play.minted() == 7


@CALL_OFF
async def test_tx_57_tx_59_with_signed_bytes_one_that_does_nothing_takes_its_place(
    play: Play, call_off: Any, end: Status
) -> None:
    action_id = await play.sent_mint()
    await call_off(play, action_id)
    await run_lanes()
    closing = await play.view(action_id)
    assert (closing.status, closing.nonce) == (Status.CLOSING, 1)
    call, noop = closing.attempts
    assert int(noop.max_fee_wei) * 10 >= int(call.max_fee_wei) * 11
    assert int(noop.max_priority_fee_wei) * 10 >= int(call.max_priority_fee_wei) * 11
    sent = in_pool(play, 1)
    assert sent["hash"] == noop.hash
    assert does_nothing(sent, play.stage.signer_address)

    await play.watch_until_mined(70)
    final = await play.view(action_id)
    assert (final.status, final.outcome, final.hash) == (Status.FINALIZED, Outcome.CANCELLED, noop.hash)
    assert await play.minted() == 0
    play.node.rpc("evm_setAutomine", True)
    await next_takes_nonce(play, 2)
    assert await verify(play.organization_id) is None


async def test_what_is_signed_and_not_sent_is_not_sent_once_it_is_cancelled(play: Play, monkeypatch: Patch) -> None:
    play.node.rpc("evm_setAutomine", False)
    action_id = await play.approved_mint()
    with monkeypatch.context() as patch:

        async def too_high(_node: Node, raws: Sequence[bytes]) -> list[SendAnswer]:
            return [SendAnswer(SendKind.FUNDS, "insufficient funds") for _ in raws]

        patch.setattr(Node, "send_many", too_high)
        await run_lanes()
    assert (await play.view(action_id)).status is Status.SIGNED
    await cancelled(play, action_id)
    await run_lanes()
    assert (await play.view(action_id)).status is Status.CLOSING
    assert does_nothing(in_pool(play, 1), play.stage.signer_address)
    await play.watch_until_mined()
    assert (await play.view(action_id)).outcome is Outcome.CANCELLED


async def test_tx_58_the_call_that_is_mined_first_wins_over_its_cancellation(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    await cancelled(play, action_id)
    with monkeypatch.context() as lost:

        async def nowhere(_node: Node, raws: Sequence[bytes]) -> list[SendAnswer]:
            return [SendAnswer(SendKind.UNAVAILABLE, "timeout") for _ in raws]

        lost.setattr(Node, "send_many", nowhere)
        await run_lanes()
    assert (await play.view(action_id)).status is Status.CLOSING
    await play.watch_until_mined(70)
    view = await play.view(action_id)
    assert (view.status, view.outcome) == (Status.FINALIZED, Outcome.OK)
    assert await play.minted() == 1


async def test_tx_87_a_clock_that_jumps_by_an_hour_expires_nothing(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    waiting = await play.approved_mint()
    await queue_approved()
    await run_sql("UPDATE transaction SET execute_before = now() + interval '10 minutes'")
    real = clock.now
    with monkeypatch.context() as jumped:
        jumped.setattr(clock, "now", lambda: real() + timedelta(hours=1))
        for _ in range(2):
            await run_lanes()
            await watch_chains()
    views = [await play.view(each) for each in (action_id, waiting)]
    assert [(view.status, len(view.attempts)) for view in views] == [(Status.BROADCAST, 1)] * 2


async def test_however_many_are_called_off_a_worker_stops_when_it_is_told_to(play: Play, monkeypatch: Patch) -> None:
    actions = await play.approved_mints(4)
    await queue_approved()
    await run_sql("UPDATE transaction SET cancel_requested_at = now()")
    end_unsigned, stop = passes.end_unsigned, asyncio.Event()
    monkeypatch.setattr(queue, "_ending", stop)

    async def end_and_be_told(*arguments: Any) -> bool:
        stop.set()
        return await end_unsigned(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "end_unsigned", end_and_be_told)
        await run_lanes()
    ended = "SELECT count(*) FROM transaction WHERE status = 'cancelled'"
    assert (await run_sql(ended))[0]["count"] == 1

    stop.clear()
    await run_sql("UPDATE chain SET in_flight_limit = 1")
    few = looking.LOOK.replace(f"LIMIT {looking.ENDED_AT_ONCE}", "LIMIT 1")
    monkeypatch.setattr(looking, "LOOK", few)
    (lane,) = await run_sql("SELECT id FROM lane")
    ((*tasks,),) = await looking.look_all([lane["id"]], [], [])
    assert len(tasks) == 1, "what is out is looked at in between"
    await run_lanes()
    assert (await run_sql(ended))[0]["count"] == len(actions)


@pytest.mark.parametrize("nonced", [False, True], ids=["queued", "nonced"])
async def test_less_time_in_a_newer_version_of_its_policy_ends_what_is_not_signed_yet(
    play: Play, monkeypatch: Patch, nonced: bool
) -> None:
    action_id = await play.approved_mint()
    await queue_approved()
    if nonced:
        await run_sql("UPDATE transaction SET status = 'nonced', nonce = 2")
        await run_sql("UPDATE lane SET next_nonce = 3")
    before = (await play.view(action_id)).execute_before
    policy = PolicyInput(name="In a minute", approvals_required=0, execute_within_seconds=60)
    await change_policy(play.stage.cast.alice.actor, play.automatic, policy)
    after = (await play.view(action_id)).execute_before
    assert before is not None
    assert after is not None
    assert before - after == timedelta(days=1) - timedelta(minutes=1)
    play.node.rpc("evm_increaseTime", 120)
    play.node.mine()
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + timedelta(minutes=2))
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.attempts) == (Status.EXPIRED, None, [])
    assert await play.minted() == 0


async def test_tx_87_what_was_written_by_a_clock_that_was_fast_is_taken_for_old(play: Play, monkeypatch: Patch) -> None:
    real = clock.now
    with monkeypatch.context() as fast:
        fast.setattr(clock, "now", lambda: real() + timedelta(hours=5))
        sent = await play.sent_mint()
        simulated = await play.approved_mint(2)
    play.node.rpc("anvil_dropTransaction", (await play.view(sent)).hash)
    rows = await run_sql("SELECT address FROM contract WHERE id = {}", play.stage.contract_id)
    play.node.rpc("anvil_setCode", rows[0]["address"], "0xfe")
    await run_lanes()
    assert play.node.rpc("eth_getTransactionByHash", (await play.view(sent)).hash), "it is sent again"
    assert str((await play.view(simulated)).waiting_for).startswith("It would fail now")


async def test_a_no_op_that_is_stuck_is_raised_beyond_what_the_policy_allows(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    await cancelled(play, action_id)
    await run_lanes()
    _, first = (await play.view(action_id)).attempts
    monkeypatch.setattr(pushing, "STUCK_SECONDS", 0)
    for name in ("LANES", "LOOK"):
        monkeypatch.setattr(looking, name, getattr(looking, name).replace("c.stuck_blocks", "0"))
    await watch_chains()
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, len(view.attempts)) == (Status.CLOSING, 3)
    assert does_nothing(in_pool(play, 1), play.stage.signer_address)
    # But not beyond what the chain's settings allow.
    await run_sql("UPDATE chain SET most_fee_wei = {}", int(view.attempts[-1].max_fee_wei))
    await run_lanes()
    capped = await play.view(action_id)
    assert len(capped.attempts) == 3
    assert "On this chain at most" in str(capped.waiting_for)
    await play.watch_until_mined()
    assert (await play.view(action_id)).outcome is Outcome.CANCELLED
    assert int(first.max_fee_wei) < int(view.attempts[-1].max_fee_wei)


async def test_speeding_up_raises_the_fees_once(play: Play) -> None:
    action_id = await play.sent_mint()
    await speed_up(play.stage.cast.alice.actor, (await play.view(action_id)).id)
    for _ in range(2):
        await run_lanes()
    view = await play.view(action_id)
    assert len(view.attempts) == 2
    assert in_pool(play, 1)["hash"] == view.attempts[-1].hash
    rows = await run_sql("SELECT hurry_requested_at FROM transaction")
    assert rows[0]["hurry_requested_at"] is None
    await play.watch_until_mined()
    assert await play.minted() == 1


async def test_tx_80_a_signer_that_does_not_answer_leaves_the_attempt_before_alive(
    play: Play, monkeypatch: Patch
) -> None:
    action_id = await play.sent_mint()
    await speed_up(play.stage.cast.alice.actor, (await play.view(action_id)).id)
    with monkeypatch.context() as patch:
        patch.setattr(signing, "sign", unavailable)
        await run_lanes()
    view = await play.view(action_id)
    assert (view.status, len(view.attempts)) == (Status.BROADCAST, 1)
    assert "The key's keeper does not answer." in str(view.waiting_for)
    await play.watch_until_mined()
    assert await play.minted() == 1


async def test_tx_79_a_signer_that_comes_back_goes_on_with_the_same_nonce(play: Play, monkeypatch: Patch) -> None:
    action_id = await queue_and_fail_to_sign(play, monkeypatch)
    later = await play.approved_mint(5)
    await run_lanes()
    assert [(await play.view(each)).nonce for each in (action_id, later)] == [1, 2]
    assert await play.minted() == 6


async def test_tx_61_a_nonce_that_nobody_has_is_filled_and_those_behind_it_go_on(play: Play) -> None:
    first = await play.approved_mint()
    await run_lanes()
    await run_sql("UPDATE lane SET next_nonce = next_nonce + 2")  # as if two rows were lost
    action_id = await play.sent_mint()
    assert (await play.view(action_id)).nonce == 4
    play.node.rpc("anvil_mine", hex(10), "0x3c")
    await watch_chains()
    assert await play.minted() == 1, "the chain waits for the nonces before"

    await run_lanes()
    play.node.mine()
    await watch_chains()
    assert await play.minted() == 2
    assert {(await play.view(each)).outcome for each in (first, action_id)} == {Outcome.OK}
    assert (await play.audit((await play.view(action_id)).id)).count("gap_filled") == 2
    block = play.node.rpc("eth_getBlockByNumber", "latest", True)
    fillers = [each for each in block["transactions"] if int(each["nonce"], 16) in (2, 3)]
    assert len(fillers) == 2
    assert all(does_nothing(each, play.stage.signer_address) for each in fillers)


async def test_tx_61_a_gap_that_nobody_can_have_left_is_not_paid_for(play: Play) -> None:
    await play.approved_mint()
    await run_lanes()
    await run_sql("UPDATE lane SET next_nonce = 1000000")  # as if a node that lies had named it first
    action_id = await play.sent_mint()
    play.node.rpc("anvil_mine", hex(10), "0x3c")
    await watch_chains()
    await run_lanes()
    view = await play.view(action_id)
    assert "The chain's node expects nonce 2, far before it." in str(view.waiting_for)
    assert "gap_filled" not in await play.audit(view.id)


async def test_tx_82_what_is_out_is_followed_after_its_key_was_disabled_and_nothing_new_is_signed(play: Play) -> None:
    out, queued = await play.sent_mint(), await play.approved_mint()
    await run_sql("UPDATE signer SET status = 'disabled' WHERE id = {}", play.stage.signer_id)
    await cancelled(play, out)
    await run_lanes()
    view = await play.view(out)
    assert (view.status, len(view.attempts)) == (Status.BROADCAST, 1)
    (row,) = await run_sql("SELECT reason FROM transaction WHERE id = {}", view.id)
    assert "only an active signer signs" in row["reason"]
    assert (await play.view(queued)).attempts == []
    await play.watch_until_mined()
    assert (await play.view(out)).outcome is Outcome.OK
