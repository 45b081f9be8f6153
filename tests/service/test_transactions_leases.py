"""One pass at a time writes in a lane: whoever lost its lease changes nothing, whoever died keeps nobody waiting."""

import asyncio
import signal
import sys
import time
from contextvars import Context

import asyncpg
import pytest

from portal.db.engine import run_sql, transaction
from portal.transactions.jobs import run_lanes
from portal.transactions.lanes import leases, signing
from portal.transactions.lanes.leases import LaneLost, Lease
from portal.transactions.lanes.noting import Note, note_all
from portal.transactions.lanes.signing import Claim, Overtaken, claim_all
from portal.transactions.moves import list_work
from portal.transactions.service import queue_approved
from portal.transactions.tables import TransactionStatus as Status
from tests.transactions import Play


async def queued_lane(play: Play, count: int = 1) -> Lease:
    """The taken lane of the play's signer, in which transactions are queued and its first nonce is known."""
    await play.approved_mints(count)
    await queue_approved()
    await run_sql("UPDATE lane SET next_nonce = 1")
    (lane,) = await run_sql("SELECT id FROM lane")
    return (await leases.take([lane["id"]]))[lane["id"]]


async def its_time_runs_out() -> None:
    await run_sql("UPDATE lane SET held_until = now() - interval '1 s'")


async def test_a_lane_that_is_held_is_not_taken_and_one_that_is_given_back_is(play: Play) -> None:
    lease = await queued_lane(play)
    assert await leases.take([lease.lane_id]) == {}
    assert await run_lanes() == 0
    await leases.release([lease])
    again = (await leases.take([lease.lane_id]))[lease.lane_id]
    assert again.fence == lease.fence + 1


async def test_each_write_prolongs_the_lease(play: Play) -> None:
    lease = await queued_lane(play)
    await run_sql("UPDATE lane SET held_until = now() + interval '1 s'")
    async with transaction():
        assert await leases.held([lease]) == {lease.lane_id}
    (row,) = await run_sql("SELECT held_until > now() + interval '25 s' AS prolonged FROM lane")
    assert row["prolonged"]


async def test_tx_12_whoever_was_away_past_its_lease_changes_nothing(play: Play) -> None:
    sleeper = await queued_lane(play)
    (work,) = await list_work("ORDER BY t.id")
    await its_time_runs_out()
    await run_lanes()
    (after,) = await list_work("ORDER BY t.id")
    lane = await run_sql("SELECT next_nonce, fence FROM lane")
    assert after.status is Status.BROADCAST

    [claimed] = await claim_all([Claim(sleeper, work)])
    [noted] = await note_all([Note(lease=sleeper, work=after, reason="I was asleep.")])
    assert isinstance(claimed, LaneLost)
    assert isinstance(noted, LaneLost)
    async with transaction():
        with pytest.raises(LaneLost):
            await leases.hold(sleeper)
    await leases.release([sleeper])
    assert (await list_work("ORDER BY t.id"), await run_sql("SELECT next_nonce, fence FROM lane")) == ([after], lane)
    assert await play.minted() == 1


async def test_tx_15_two_claims_of_one_transaction_give_it_one_nonce(play: Play) -> None:
    lease = await queued_lane(play)
    (work,) = await list_work("ORDER BY t.id")
    [first] = await claim_all([Claim(lease, work)])
    [second] = await claim_all([Claim(lease, work)])
    assert (getattr(first, "nonce", None), type(second)) == (1, Overtaken)
    assert await run_sql("SELECT next_nonce FROM lane") == [{"next_nonce": 2}]


async def test_tx_19_a_second_unsent_transaction_of_a_lane_is_refused_by_the_database(play: Play) -> None:
    lease = await queued_lane(play, 2)
    first, second = await list_work("ORDER BY t.id")
    await claim_all([Claim(lease, first)])
    with pytest.raises(asyncpg.UniqueViolationError):
        await claim_all([Claim(lease, second)])
    rows = await run_sql("SELECT nonce FROM transaction ORDER BY id")
    assert [row["nonce"] for row in rows] == [1, None]
    assert await run_sql("SELECT next_nonce FROM lane") == [{"next_nonce": 2}]


async def test_tx_22_what_was_cancelled_while_it_was_looked_at_gets_no_nonce(play: Play) -> None:
    lease = await queued_lane(play)
    (work,) = await list_work("ORDER BY t.id")
    await run_sql("UPDATE transaction SET cancel_requested_at = now()")
    [claimed] = await claim_all([Claim(lease, work)])
    assert isinstance(claimed, Overtaken)
    await leases.release([lease])
    await run_lanes()
    assert (await list_work("ORDER BY t.id"))[0].status is Status.CANCELLED


async def test_tx_22_what_has_ended_while_it_was_looked_at_gets_no_nonce(play: Play) -> None:
    lease = await queued_lane(play)
    (work,) = await list_work("ORDER BY t.id")
    await run_sql("UPDATE transaction SET status = 'expired'")
    [claimed] = await claim_all([Claim(lease, work)])
    assert isinstance(claimed, Overtaken)
    assert await run_sql("SELECT next_nonce FROM lane") == [{"next_nonce": 1}]


async def test_tx_18_the_limit_in_flight_holds_whatever_was_looked_at_before(play: Play) -> None:
    await run_sql("UPDATE chain SET in_flight_limit = 1")
    lease = await queued_lane(play, 2)
    first, second = await list_work("ORDER BY t.id")
    await claim_all([Claim(lease, first)])
    await run_sql("UPDATE transaction SET status = 'broadcast' WHERE id = {}", first.id)
    [claimed] = await claim_all([Claim(lease, second)])
    assert isinstance(claimed, Overtaken)


async def test_tx_14_passes_at_once_over_several_lanes_lose_and_repeat_nothing(play: Play) -> None:
    await play.approved_mints(20)
    await asyncio.gather(*(run_lanes() for _ in range(4)))
    for _ in range(3):
        await run_lanes()
    rows = await run_sql("SELECT nonce FROM transaction ORDER BY nonce")
    nonces = [row["nonce"] for row in rows if row["nonce"] is not None]
    assert nonces == list(range(1, len(nonces) + 1))
    assert await play.minted() == len(nonces) >= 16


async def test_what_is_approved_while_the_lane_is_held_does_not_wait_for_the_sweep(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that ends looks again: whoever rang meanwhile found the lane taken."""
    first = await play.approved_mint()
    second = None
    sign = signing.sign

    async def meanwhile(*given: object) -> object:
        nonlocal second
        if second is None:
            second = await asyncio.create_task(play.approved_mint(2), context=Context())
            await asyncio.create_task(queue_approved(), context=Context())
        return await sign(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(signing, "sign", meanwhile)
    await run_lanes()
    assert second
    assert [(await play.view(each)).status for each in (first, second)] == [Status.BROADCAST] * 2


HOLD_A_LANE = """
import asyncio, sys
from uuid import UUID
from portal.db.engine import open_pool
from portal.transactions.lanes import leases

async def main():
    async with open_pool():
        taken = await leases.take([UUID(sys.argv[1])])
        print(len(taken), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_worker_that_was_killed_keeps_its_lanes_from_nobody_and_one_that_is_stopped_does(
    play: Play,
) -> None:
    lease = await queued_lane(play)
    await leases.release([lease])
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD_A_LANE, str(lease.lane_id)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert holder.stdout
        assert (await holder.stdout.readline()).strip() == b"1"
        holder.send_signal(signal.SIGSTOP)
        assert await leases.take([lease.lane_id]) == {}, "it may go on any moment"
        holder.kill()
        await holder.wait()
        deadline = time.monotonic() + 5
        while not (taken := await leases.take([lease.lane_id])):
            assert time.monotonic() < deadline, "its lease of 30 s is waited for"
            await asyncio.sleep(0.02)
        assert taken[lease.lane_id].fence == lease.fence + 2
    finally:
        if holder.returncode is None:
            holder.kill()
