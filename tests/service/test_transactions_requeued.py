"""What is stopped after it got its nonce and before it is signed gives the nonce back: nobody else waits for it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from portal.actions.service import disable_signer, enable_signer
from portal.audit.service import verify
from portal.db.engine import run_sql, transaction
from portal.transactions.controls.pauses import pause, resume
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes import leases, writer
from portal.transactions.lanes.closing import requeue
from portal.transactions.lanes.leases import LaneLost, Lease
from portal.transactions.lanes.signing import Claim
from portal.transactions.moves import list_work
from portal.transactions.service import queue_approved
from portal.transactions.tables import PauseScope
from portal.transactions.tables import TransactionStatus as Status
from tests.actions import register_points
from tests.transactions import Play

Patch = pytest.MonkeyPatch


async def pause_contract(play: Play) -> None:
    await pause(play.stage.cast.oscar.actor, PauseScope.CONTRACT, str(play.stage.contract_id), "To look into it.")


async def end_pauses(play: Play) -> None:
    for row in await run_sql("SELECT id FROM pause WHERE ended_at IS NULL"):
        for player in (play.stage.cast.alice, play.stage.cast.bob):
            await resume(player.actor, row["id"])


async def limit_the_day(play: Play, wei: int | None = 1) -> None:
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")  # no version is ever changed
        await run_sql("UPDATE policy_version SET most_cost_a_day_wei = {} WHERE policy = {}", wei, play.automatic)


async def end_limit(play: Play) -> None:
    await limit_the_day(play, None)


async def disable(play: Play) -> None:
    await disable_signer(play.stage.cast.alice.actor, play.stage.signer_id)


async def enable(play: Play) -> None:
    await enable_signer(play.stage.cast.alice.actor, play.stage.signer_id)


def after_the_claim(patch: Patch, strike: Callable[[], Awaitable[None]]) -> None:
    """Let something happen in the moment after nonces were claimed, once."""
    claim_all, struck = writer.claim_all, []

    async def claim_and_strike(claims: Sequence[Claim]) -> Any:
        claimed = await claim_all(claims)
        if not struck:
            struck.append(True)
            await strike()
        return claimed

    patch.setattr(writer, "claim_all", claim_and_strike)


async def mint_of_another_contract(play: Play) -> UUID:
    """Approved after all others, of a contract that the same signer sends for; its policy has no limits."""
    stage = play.stage
    contract_id = await register_points(stage.cast, play.node, stage.signer_id, owner_address=stage.signer_address)
    action = await stage.propose_mint(contract_id=contract_id, policy_id=await stage.policy(0))
    return action.id


@pytest.mark.parametrize(
    ("strike", "end", "why"),
    [
        (pause_contract, end_pauses, "The contract Acme Points is paused by oscar@example.org"),
        (limit_the_day, end_limit, "It is not signed now. Of what its policy allows in 24 hours on this chain"),
    ],
    ids=["pause", "limit of a day"],
)
async def test_what_strikes_after_the_claim_stops_its_own_transaction_and_no_other(
    play: Play, monkeypatch: Patch, strike: Any, end: Any, why: str
) -> None:
    struck = await play.approved_mint()
    other = await mint_of_another_contract(play)
    with monkeypatch.context() as patch:
        after_the_claim(patch, lambda: strike(play))
        await run_lanes()

    view, sent = await play.view(struck), await play.view(other)
    assert (view.status, view.nonce, view.held, view.attempts) == (Status.QUEUED, None, True, [])
    assert str(view.waiting_for).startswith(why)
    assert (sent.status, sent.nonce) == (Status.BROADCAST, 2)
    assert await play.audit(view.id) == ["queued", "nonced", "requeued"]
    told = await run_sql("SELECT kind, payload FROM outbox WHERE subject_id = {} ORDER BY number", str(view.id))
    assert [row["kind"].partition(".")[2] for row in told][-2:] == ["nonced", "requeued"]

    await run_lanes()
    assert await play.audit(view.id) == ["queued", "nonced", "requeued"], "it waits without taking nonces"
    await end(play)
    await run_lanes()
    assert (await play.view(struck)).nonce == 3
    await play.watch_until_mined()
    assert await play.minted() == 1
    assert await verify(play.organization_id) is None


async def left_with_a_nonce(play: Play) -> UUID:
    """An action whose transaction got its nonce from a worker that died before it signed."""
    action_id = await play.approved_mint()
    await queue_approved()
    await run_sql("UPDATE transaction SET status = 'nonced', nonce = 2 WHERE action = {}", action_id)
    await run_sql("UPDATE lane SET next_nonce = 3")
    return action_id


async def test_a_nonce_that_a_dead_worker_left_is_given_back_by_what_is_paused(play: Play) -> None:
    struck = await left_with_a_nonce(play)
    other = await mint_of_another_contract(play)
    await pause_contract(play)
    await run_lanes()
    assert (await play.view(struck)).nonce is None
    assert (await play.view(other)).nonce == 2


async def test_a_nonce_that_a_dead_worker_left_is_given_back_by_a_call_that_would_fail_now(play: Play) -> None:
    struck = await left_with_a_nonce(play)
    other = await mint_of_another_contract(play)
    await run_sql("UPDATE action SET simulated_at = now() - interval '1 hour' WHERE id = {}", struck)
    rows = await run_sql("SELECT address FROM contract WHERE id = {}", play.stage.contract_id)
    play.node.rpc("anvil_setCode", rows[0]["address"], "0xfe")
    await run_lanes()
    view = await play.view(struck)
    assert (view.status, view.nonce) == (Status.QUEUED, None)
    assert str(view.waiting_for).startswith("It would fail now, so it is not sent but tried again")
    assert (await play.view(other)).nonce == 2


async def test_what_was_paused_goes_on_although_there_is_never_room_for_all(play: Play) -> None:
    await run_sql("UPDATE chain SET in_flight_limit = 1")
    paused = [await play.approved_mint(), await play.approved_mint(2)]
    await pause_contract(play)
    await run_lanes()
    await end_pauses(play)
    play.node.rpc("evm_setAutomine", False)
    for amount in (3, 4):
        await play.approved_mint(amount)
        await run_lanes()
        await play.watch_until_mined()
    assert await play.minted() == 3, [(await play.view(each)).status for each in paused]


async def test_a_nonce_that_is_not_the_newest_any_more_is_kept(play: Play) -> None:
    action_id = await left_with_a_nonce(play)
    await run_sql("UPDATE lane SET next_nonce = 4")
    await pause_contract(play)
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.held) == (Status.NONCED, 2, True)


async def test_a_nonce_with_stored_bytes_is_kept(play: Play) -> None:
    other = await play.sent_mint()
    action_id = await play.approved_mint()
    await queue_approved()
    await run_sql("UPDATE transaction SET status = 'nonced', nonce = 2 WHERE action = {}", action_id)
    await run_sql("UPDATE lane SET next_nonce = 3")
    # As no path of the engine could leave it: signed bytes, and the state from before them.
    await run_sql(
        """INSERT INTO attempt SELECT (jsonb_populate_record(x, jsonb_build_object(
               'id', gen_random_uuid(), 'transaction', {}::uuid, 'hash', '0x01', 'raw_bytes', '\\x01'))).*
           FROM attempt x WHERE x.transaction = {}""",
        (await play.view(action_id)).id,
        (await play.view(other)).id,
    )
    await pause_contract(play)
    await run_lanes()
    assert ((await play.view(action_id)).status, (await play.view(action_id)).nonce) == (Status.NONCED, 2)


async def test_what_is_not_any_more_as_it_was_read_keeps_its_nonce(play: Play) -> None:
    await left_with_a_nonce(play)
    (work,) = await list_work("")
    await run_sql("UPDATE transaction SET status = 'signed'")
    lease = (await leases.take([work.lane_id]))[work.lane_id]
    assert not await requeue(lease, work, "It waits.")
    assert await run_sql("SELECT next_nonce, nonce FROM lane, transaction") == [{"next_nonce": 3, "nonce": 2}]


async def test_whoever_lost_the_lane_gives_nothing_back(play: Play) -> None:
    await left_with_a_nonce(play)
    (work,) = await list_work("")
    lease = (await leases.take([work.lane_id]))[work.lane_id]
    with pytest.raises(LaneLost):
        await requeue(Lease(lease.lane_id, lease.fence - 1), work, "I was asleep.")
    assert await list_work("") == [work]


async def test_what_a_disabled_signer_should_send_waits_and_goes_on_when_it_is_enabled_again(
    play: Play, monkeypatch: Patch
) -> None:
    struck, later = await play.approved_mint(), await play.approved_mint(2)
    with monkeypatch.context() as patch:
        after_the_claim(patch, lambda: disable(play))
        await run_lanes()
    await run_lanes()
    said = (
        "The signer Treasury is disabled. It goes on once the signer is enabled again; cancel it if it should not be "
        "carried out."
    )
    for action_id in (struck, later):
        view = await play.view(action_id)
        assert (view.status, view.nonce, view.attempts, view.waiting_for) == (Status.QUEUED, None, [], said)
    assert await play.minted() == 0
    await enable(play)
    await run_lanes()
    await watch_chains()
    assert {(await play.view(each)).nonce for each in (struck, later)} == {1, 2}
    assert await play.minted() == 3
