"""What counts of a policy's day: all that its transactions on that chain have cost in 24 hours, or still may cost."""

import asyncio
from contextvars import Context
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest

from portal import clock
from portal.actions.schemas import SigningOrder
from portal.actions.service import verify_for_signing
from portal.db.engine import run_sql, transaction
from portal.transactions.controls.service import speed_up
from portal.transactions.costs.spending import open_purse, read_purse
from portal.transactions.jobs import run_lanes
from portal.transactions.moves import Work, list_work
from tests.transactions import Play

DAY = 10**18
VALUE = 10**15


async def two_of_a_policy(play: Play) -> tuple[UUID, Work]:
    """The action of one that is out, and another one of its policy that waits behind it."""
    first = await play.sent_mint()
    second = await play.approved_mint(2)
    await run_lanes()
    (work,) = await list_work("WHERE t.action = {}", second)
    return first, work


async def edit(statement: str, *given: object) -> None:
    """Facts as if they were so: no trigger stands in the way."""
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")
        await run_sql(statement, *given)


async def spent_beside(play: Play, work: Work) -> int:
    left = (await read_purse([play.automatic], [work.action_id])).left(work, play.automatic, DAY)
    assert left is not None
    return DAY - left


async def most_of(play: Play, action_id: UUID) -> int:
    """The most that its dearest attempt can cost, without what it sends along."""
    view = await play.view(action_id)
    return max(attempt.gas_limit * int(attempt.max_fee_wei) for attempt in view.attempts)


async def test_what_is_out_counts_as_its_dearest_attempt_with_what_it_sends_along(play: Play) -> None:
    first, other = await two_of_a_policy(play)
    cheapest = await most_of(play, first)
    assert await spent_beside(play, other) == cheapest
    await speed_up(play.stage.cast.alice.actor, (await play.view(first)).id)
    await run_lanes()
    assert await most_of(play, first) > cheapest
    await edit("UPDATE action SET value_wei = {} WHERE id = {}", VALUE, first)
    assert await spent_beside(play, other) == await most_of(play, first) + VALUE


@pytest.mark.parametrize(("outcome", "sent_along"), [("ok", VALUE), ("reverted", 0), ("cancelled", 0)])
async def test_what_is_mined_counts_as_what_it_has_cost(play: Play, outcome: str, sent_along: int) -> None:
    first, other = await two_of_a_policy(play)
    await play.watch_until_mined()
    await edit("UPDATE action SET value_wei = {} WHERE id = {}", VALUE, first)
    await edit("UPDATE transaction SET outcome = {} WHERE action = {}", outcome, first)
    rows = await run_sql("SELECT gas_used * gas_price_wei AS paid FROM transaction WHERE action = {}", first)
    assert await spent_beside(play, other) == int(rows[0]["paid"]) + sent_along


@pytest.mark.parametrize("end", ["rejected", "displaced"])
async def test_what_never_was_on_the_chain_and_never_will_be_counts_nothing(play: Play, end: str) -> None:
    first, other = await two_of_a_policy(play)
    await edit("UPDATE transaction SET status = {} WHERE action = {}", end, first)
    assert await spent_beside(play, other) == 0


async def test_neither_its_own_attempts_count_nor_another_chain_nor_another_policy(play: Play) -> None:
    first, other = await two_of_a_policy(play)
    (own,) = await list_work("WHERE t.action = {}", first)
    assert await spent_beside(play, own) == await most_of(play, other.action_id)
    assert await spent_beside(play, msgspec.structs.replace(other, chain_id=1)) == 0
    another = await play.stage.policy(0)
    assert (await read_purse([another], [other.action_id])).left(other, another, DAY) == DAY


async def test_what_is_final_counts_for_24_hours(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = await two_of_a_policy(play)
    await play.watch_until_mined()
    await play.watch_until_mined(70)
    fee = (await play.view(first)).fee_wei
    assert fee
    real = clock.now
    for hours, spent in ((23.9, int(fee)), (24.1, 0)):
        monkeypatch.setattr(clock, "now", lambda ahead=timedelta(hours=hours): real() + ahead)
        assert await spent_beside(play, other) == spent


async def test_two_workers_do_not_spend_the_same_rest_of_a_day(play: Play) -> None:
    first, _ = await two_of_a_policy(play)
    await edit("UPDATE policy_version SET most_cost_a_day_wei = {} WHERE policy = {}", DAY, play.automatic)

    async def reckon() -> None:
        async with transaction():
            orders = await verify_for_signing([first])
            assert isinstance(orders[first], SigningOrder)
            await open_purse(orders)

    waiting = """SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                 WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"""
    async with transaction():
        await open_purse(await verify_for_signing([first]))
        other = asyncio.get_running_loop().create_task(reckon(), context=Context())
        async with asyncio.timeout(5):
            while not await run_sql(waiting):
                assert not other.done(), "both reckon with the same rest"
                await asyncio.sleep(0.01)
    await other
