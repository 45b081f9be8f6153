"""Cancelling and speeding up: what may be asked for when, and by whom."""

from uuid import UUID

import pytest

from portal.actions.schemas import PolicyInput
from portal.actions.service import change_policy
from portal.audit.service import verify
from portal.db.engine import run_sql
from portal.errors import Conflict, Forbidden, NotFound
from portal.transactions.controls.service import (
    NotCancellable,
    NotHurriable,
    cancel,
    speed_up,
)
from portal.transactions.jobs import run_lanes
from portal.transactions.queries import get_transaction
from portal.transactions.service import queue_approved
from tests.transactions import Play


async def queued(play: Play) -> UUID:
    action_id = await play.approved_mint()
    await queue_approved()
    return (await play.view(action_id)).id


async def sent(play: Play) -> UUID:
    return (await play.view(await play.sent_mint())).id


async def requested(transaction_id: UUID, column: str) -> bool:
    rows = await run_sql(f"SELECT {column} FROM transaction WHERE id = {{}}", transaction_id)
    return rows[0][column] is not None


async def test_a_cancellation_is_written_down_once_with_who_asked_for_it(play: Play) -> None:
    cast, transaction_id = play.stage.cast, await queued(play)
    assert (await cancel(cast.oscar.actor, transaction_id)).cancel_requested_at
    assert await requested(transaction_id, "cancel_requested_at")
    with pytest.raises(NotCancellable) as refused:
        await cancel(cast.alice.actor, transaction_id)
    assert "cancelled already" in refused.value.detail
    assert (await play.audit(transaction_id)).count("cancel_requested") == 1
    assert await verify(play.organization_id) is None


async def test_what_is_mined_or_final_is_not_cancelled_and_the_sentence_says_so(play: Play) -> None:
    alice, transaction_id = play.stage.cast.alice.actor, await sent(play)
    await play.watch_until_mined()
    for blocks in (0, 64):
        if blocks:
            await play.watch_until_mined(blocks)
        with pytest.raises(NotCancellable) as refused:
            await cancel(alice, transaction_id)
        assert "was included in block" in refused.value.detail
        with pytest.raises(NotHurriable):
            await speed_up(alice, transaction_id)
    assert not await requested(transaction_id, "cancel_requested_at")


async def test_what_has_ended_without_a_block_says_how(play: Play) -> None:
    transaction_id = await queued(play)
    await run_sql("UPDATE transaction SET status = 'expired' WHERE id = {}", transaction_id)
    with pytest.raises(NotCancellable) as refused:
        await cancel(play.stage.cast.alice.actor, transaction_id)
    assert refused.value.detail == "It is already expired; nothing was changed."


async def test_only_what_is_out_can_be_sped_up(play: Play) -> None:
    alice, waiting = play.stage.cast.alice.actor, await queued(play)
    with pytest.raises(NotHurriable) as refused:
        await speed_up(alice, waiting)
    assert "not sent yet" in refused.value.detail
    play.node.rpc("evm_setAutomine", False)
    await run_lanes()
    await speed_up(alice, waiting)
    assert await requested(waiting, "hurry_requested_at")
    with pytest.raises(NotHurriable):
        await speed_up(alice, waiting)


async def test_only_the_first_of_its_signer_can_be_sped_up(play: Play) -> None:
    alice, first, second = play.stage.cast.alice.actor, await sent(play), await sent(play)
    with pytest.raises(NotHurriable) as refused:
        await speed_up(alice, second)
    assert "An earlier transaction of the same signer must be mined first" in refused.value.detail
    await speed_up(alice, first)


@pytest.mark.parametrize("cap", ["the chain's", "the policy's since", "five times the first"])
async def test_at_the_cap_there_is_nothing_to_raise(play: Play, cap: str) -> None:
    transaction_id = await sent(play)
    newest = "(SELECT max(max_fee_wei) FROM attempt)"
    if cap == "the chain's":
        await run_sql(f"UPDATE chain SET most_fee_wei = {newest}")
    elif cap == "the policy's since":
        [cost] = await run_sql("SELECT max_fee_wei * gas_limit AS wei FROM attempt")
        stricter = PolicyInput(name="Cheaper", approvals_required=0, most_cost_wei=str(cost["wei"]))
        await change_policy(play.stage.cast.alice.actor, play.automatic, stricter)
    else:
        await run_sql(
            """INSERT INTO attempt (id, organization, transaction, hash, raw_bytes, gas_limit, max_fee_wei,
                                    max_priority_fee_wei, signed_at)
               SELECT gen_random_uuid(), organization, transaction, 'another', 'another', gas_limit, 5 * max_fee_wei,
                      5 * max_priority_fee_wei, signed_at FROM attempt"""
        )
    with pytest.raises(NotHurriable) as refused:
        await speed_up(play.stage.cast.alice.actor, transaction_id)
    assert "the most that its limits allow" in refused.value.detail
    assert not await requested(transaction_id, "hurry_requested_at")


async def test_who_may_ask(play: Play) -> None:
    cast, transaction_id = play.stage.cast, await queued(play)
    for player in (cast.bob, cast.carol):
        with pytest.raises(Forbidden):
            await cancel(player.actor, transaction_id)
        with pytest.raises(Forbidden):
            await speed_up(player.actor, transaction_id)
    with pytest.raises(NotFound):
        await cancel(cast.dave.actor, transaction_id)
    with pytest.raises(NotFound):
        await speed_up(cast.dave.actor, transaction_id)


async def test_what_is_closed_can_be_sped_up_and_what_lost_its_nonce_cannot_be_changed(play: Play) -> None:
    alice, transaction_id = play.stage.cast.alice.actor, await sent(play)
    await run_sql("UPDATE transaction SET status = 'closing', closing_reason = 'expired'")
    with pytest.raises(NotCancellable) as refused:
        await cancel(alice, transaction_id)
    assert "already being closed" in refused.value.detail
    await speed_up(alice, transaction_id)
    await run_sql("UPDATE transaction SET status = 'suspect', hurry_requested_at = NULL")
    for ask in (cancel, speed_up):
        with pytest.raises(Conflict) as refused:
            await ask(alice, transaction_id)
        assert "nonce was used on the chain" in refused.value.detail


async def test_a_cancelled_one_that_waits_ends_and_one_that_is_out_is_replaced_by_nothing(play: Play) -> None:
    alice, waiting = play.stage.cast.alice.actor, await queued(play)
    await cancel(alice, waiting)
    await run_lanes()
    assert (await get_transaction(play.organization_id, waiting)).status == "cancelled"
    out = await sent(play)
    await cancel(alice, out)
    await run_lanes()
    closing = await get_transaction(play.organization_id, out)
    assert (closing.status, [attempt.kind for attempt in closing.attempts]) == ("closing", ["call", "noop"])
    await play.watch_until_mined()
    assert (await get_transaction(play.organization_id, out)).outcome == "cancelled"
    assert await play.minted() == 0


async def test_a_hurried_one_is_offered_again_for_a_tenth_more_and_carried_out_once(play: Play) -> None:
    transaction_id = await sent(play)
    await speed_up(play.stage.cast.alice.actor, transaction_id)
    await run_lanes()
    hurried = await get_transaction(play.organization_id, transaction_id)
    before, after = (int(attempt.max_fee_wei) for attempt in hurried.attempts)
    assert after * 100 >= before * 110
    assert hurried.hurry_requested_at is None
    await play.watch_until_mined()
    assert await play.minted() == 1
