"""Costs on the real engine: what was approved is the most that is spent, and what would exceed it says so."""

import secrets
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from portal import clock
from portal.actions.schemas import PolicyInput
from portal.actions.service import create_policy, simulate
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes import looking
from portal.transactions.tables import Outcome, TransactionStatus
from tests.actions import make_signer, register_points
from tests.anvil import Anvil
from tests.people import Cast
from tests.transactions import Play, make_play


@pytest_asyncio.fixture
async def play(cast: Cast, node: Anvil) -> Play:
    """With points that exist already: the very first ones need more gas."""
    play = await make_play(cast, node)
    await play.approved_mint()
    await run_lanes()
    return play


async def mint_under(play: Play, **limits: str) -> UUID:
    """An approved mint under a policy of its own with these limits."""
    policy = await create_policy(
        play.stage.cast.alice.actor, PolicyInput(name=f"Limits {new_id()}", approvals_required=0, **limits)
    )
    action = await play.stage.propose_unsimulated(amount="1", to=somebody(), policy_id=policy.id)
    await simulate([action.id])
    return action.id


def somebody() -> str:
    """Who has nothing yet, and no zero byte in the address, so that each mint needs the same gas."""
    return "0x" + secrets.token_hex(20).replace("0", "1")


async def the_cost(play: Play, action_id: UUID) -> int:
    """The most that its only attempt can cost."""
    (attempt,) = (await play.view(action_id)).attempts
    return attempt.gas_limit * int(attempt.max_fee_wei)


async def test_over_the_policys_cost_it_is_held_without_a_nonce_and_delays_nobody(play: Play) -> None:
    dear, cheap = await mint_under(play, most_cost_wei="1000"), await play.approved_mint(to=somebody())
    await run_lanes()
    held = await play.view(dear)
    assert (held.status, held.nonce, held.held) == (TransactionStatus.QUEUED, None, True)
    assert held.waiting_for == (
        "It is not signed now. Its policy allows at most 0.000000000000001 ETH for it, gas included. "
        "It goes on by itself once that is enough; cancel it, or wait."
    )
    assert await play.audit(held.id) == ["queued", "held"], "it took no nonce for a while either"
    assert (await play.view(cheap)).status is TransactionStatus.BROADCAST


async def test_at_the_policys_cost_exactly_it_is_sent(play: Play) -> None:
    play.node.rpc("evm_setAutomine", False)
    first = await play.approved_mint(to=somebody())
    await run_lanes()
    exactly = await the_cost(play, first)
    second = await mint_under(play, most_cost_wei=str(exactly))
    third = await mint_under(play, most_cost_wei=str(exactly - 1))
    await run_lanes()
    assert (await play.view(second)).status is TransactionStatus.BROADCAST
    assert (await play.view(third)).status is TransactionStatus.QUEUED


async def policy_of_a_day(play: Play, quarters: int) -> UUID:
    """One that allows in a day what so many quarters of a mint cost; mining is off from here on."""
    probe = await play.approved_mint(to=somebody())
    await run_lanes()
    one = await the_cost(play, probe)
    play.node.rpc("evm_setAutomine", False)
    most = str(one * quarters // 4)
    terms = PolicyInput(name="A day", approvals_required=0, most_cost_a_day_wei=most)
    return (await create_policy(play.stage.cast.alice.actor, terms)).id


async def test_what_a_day_allows_is_counted_over_the_actions_of_the_policy_and_ends_with_the_day(play: Play) -> None:
    policy_id = await policy_of_a_day(play, 10)
    actions = [await play.stage.propose_unsimulated(amount="1", to=somebody(), policy_id=policy_id) for _ in range(3)]
    await simulate([action.id for action in actions])
    await run_lanes()
    states = [(await play.view(action.id)).status for action in actions]
    assert states == [TransactionStatus.BROADCAST, TransactionStatus.BROADCAST, TransactionStatus.QUEUED]
    assert "24 hours" in str((await play.view(actions[2].id)).waiting_for)

    # Mined for less than it might have cost, there is room again.
    play.node.mine()
    await watch_chains()
    await run_lanes()
    assert (await play.view(actions[2].id)).status is TransactionStatus.BROADCAST


async def test_what_is_out_for_longer_than_a_day_counts_until_it_is_final(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy_id = await policy_of_a_day(play, 5)
    mints = [await play.stage.propose_unsimulated(amount="1", to=somebody(), policy_id=policy_id) for _ in range(2)]
    first, second = [mint.id for mint in mints]
    await simulate([first])
    await run_lanes()
    await simulate([second])
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + timedelta(hours=25))
    await run_lanes()
    assert (await play.view(first)).status is TransactionStatus.BROADCAST
    assert "24 hours" in str((await play.view(second)).waiting_for)

    play.node.mine(70)  # so that it is final
    for _ in range(3):
        await watch_chains()
        await run_lanes()
    assert (await play.view(first)).status is TransactionStatus.FINALIZED
    assert (await play.view(second)).status is not TransactionStatus.QUEUED


async def test_at_the_cap_the_same_bytes_are_sent_on_and_the_page_says_so(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play.node.rpc("evm_setAutomine", False)
    probe = await play.approved_mint(to=somebody())
    await run_lanes()
    action_id = await mint_under(play, most_cost_wei=str(await the_cost(play, probe)))
    play.node.mine()  # whose base fee is an eighth lower
    await watch_chains()
    await run_lanes()
    before = await play.attempts(action_id)
    play.node.rpc("anvil_dropTransaction", (await play.view(action_id)).hash)
    play.node.rpc("anvil_mine", hex(10), "0x3c")
    monkeypatch.setattr(looking, "SEND_AGAIN_AFTER", timedelta(0))
    for _ in range(2):
        await watch_chains()
        await run_lanes()
    capped = await play.view(action_id)
    assert capped.status is TransactionStatus.BROADCAST
    assert "Its fees are at their limit, and the same bytes are sent on. Its policy allows" in str(capped.waiting_for)
    assert await play.attempts(action_id) == before, "no attempt above the cap"
    assert (await play.audit(capped.id)).count("held") == 1
    assert play.node.rpc("eth_getTransactionByHash", capped.hash), "it was sent again"
    play.node.mine()
    await watch_chains()
    assert (await play.view(action_id)).outcome is Outcome.OK


@pytest.mark.parametrize(
    "nonsense",
    [
        "confirmations = 0",
        "base_fee_percent = 99",
        "fee_percentile = 0",
        "least_tip_wei = 0",
        "most_fee_wei = 0",
        "in_flight_limit = 17",
        "in_flight_limit = 0",
        "stuck_blocks = 0",
        "final_depth = 1",
    ],
)
async def test_tx_86_the_database_refuses_settings_that_make_no_sense(play: Play, nonsense: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await run_sql(f"UPDATE chain SET {nonsense}")


async def test_what_a_day_allows_is_for_two_signers_together_and_stops_neither(play: Play) -> None:
    cast, node = play.stage.cast, play.node
    signer_id, address = await make_signer(cast, "Second")
    other = await register_points(cast, node, signer_id, owner_address=address)
    first = [await play.approved_mint(to=somebody()), await play.approved_mint(to=somebody(), contract_id=other)]
    await run_lanes()
    one = max([await the_cost(play, action_id) for action_id in first])
    node.rpc("evm_setAutomine", False)
    policy = await create_policy(
        cast.alice.actor, PolicyInput(name="One a day", approvals_required=0, most_cost_a_day_wei=str(one))
    )
    limited = [
        await play.stage.propose_unsimulated(amount="1", to=somebody(), policy_id=policy.id, contract_id=contract)
        for contract in (play.stage.contract_id, other)
    ]
    await simulate([action.id for action in limited])
    free = [await play.approved_mint(to=somebody()), await play.approved_mint(to=somebody(), contract_id=other)]
    await run_lanes()
    assert sorted([(await play.view(action.id)).status.value for action in limited]) == ["broadcast", "queued"]
    assert [(await play.view(action_id)).status.value for action_id in free] == ["broadcast", "broadcast"]
