"""Signals are counted by the hour once, exactly, whatever happens meanwhile."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import time_machine

from portal import clock
from portal.db.columns import new_id
from portal.db.engine import get_engine, run_sql
from portal.errors import InputInvalid
from portal.signals.health import tallies
from portal.signals.health.tallies import LAG, counts_by_hour, tally
from tests.people import Cast
from tests.signals import make_sender
from tests.stored import store

NOW = datetime(2026, 5, 5, 12, 30, tzinfo=UTC)


async def tallied(source_id: UUID) -> dict[datetime, int]:
    rows = await run_sql(
        "SELECT hour, number FROM source_hour WHERE source = {} AND outcome = 'stored' ORDER BY hour", source_id
    )
    return {row["hour"]: row["number"] for row in rows}


async def refuse(source_id: UUID, hour: datetime, cause: str, number: int) -> None:
    await run_sql(
        """INSERT INTO source_hour (organization, source, hour, outcome, number)
           SELECT organization, id, {}, {}, {} FROM source WHERE id = {}""",
        hour,
        cause,
        number,
        source_id,
    )


async def test_what_is_old_enough_is_counted_once(cast: Cast) -> None:
    one, two = (await make_sender(cast.alice)).source_id, (await make_sender(cast.dave)).source_id
    for seconds in (3 * 3600, 3600, 3600, 120, 61):
        await store(one, at=NOW - timedelta(seconds=seconds))
    await store(two, at=NOW - timedelta(hours=1))
    await store(one, at=NOW - LAG / 2)
    with time_machine.travel(NOW, tick=False):
        assert await tally(seconds=20) == 6
        assert sum((await tallied(one)).values()) == 5
        assert await tally(seconds=20) == 0
        assert sum((await tallied(one)).values()) == 5
    with time_machine.travel(NOW + timedelta(minutes=2), tick=False):
        assert await tally(seconds=20) == 1
    assert sum((await tallied(one)).values()) == 6
    assert sum((await tallied(two)).values()) == 1


async def test_counts_are_the_same_before_and_after_the_tally(cast: Cast) -> None:
    """Over every boundary: of an hour, of a millisecond, of the lag, of the range that is asked."""
    one, two = (await make_sender(cast.alice)).source_id, (await make_sender(cast.alice)).source_id
    alien = (await make_sender(cast.dave)).source_id
    with time_machine.travel(NOW, tick=False):
        ages = [timedelta(hours=h, minutes=30) for h in (-0.5, 0, 1, 22, 23, 24, 100)]
        moments = [NOW - age + timedelta(microseconds=us) for age in ages for us in (-1, 0, 1, 999, 1000, 1001)]
        moments = [moment for moment in moments if moment <= NOW] + [NOW - LAG, NOW - LAG - timedelta(milliseconds=1)]
        for place, moment in enumerate(moments):
            await store((one, two, alien)[place % 3], at=moment)
        await refuse(one, NOW.replace(minute=0), "signature_invalid", 5)
        await refuse(one, NOW.replace(minute=0), "body_too_large", 2)
        before = [
            await counts_by_hour(cast.organization_id, hours=hours, source_id=source_id)
            for hours in (1, 24, 168)
            for source_id in (None, one, two)
        ]
        expected: dict[datetime, int] = {}
        for place, moment in enumerate(moments):
            if place % 3 != 2:
                hour = moment.replace(minute=0, second=0, microsecond=0)
                expected[hour] = expected.get(hour, 0) + 1
        week = before[6]
        assert {count.hour: count.stored for count in week if count.stored} == expected
        assert [count.hour for count in week] == [
            NOW.replace(minute=0) - timedelta(hours=hours) for hours in range(167, -1, -1)
        ]
        assert [count.refused for count in week] == [0] * 167 + [7]
        assert await tally(seconds=20) > 0
        after = [
            await counts_by_hour(cast.organization_id, hours=hours, source_id=source_id)
            for hours in (1, 24, 168)
            for source_id in (None, one, two)
        ]
    assert after == before
    assert await counts_by_hour(cast.dave.actor.organization_id, source_id=one) == [
        tallies.HourTally(count.hour, 0, 0)
        for count in await counts_by_hour(cast.dave.actor.organization_id, source_id=one)
    ]


@pytest.mark.parametrize("hours", [0, 169, -1])
async def test_the_range_is_bounded(cast: Cast, hours: int) -> None:
    with pytest.raises(InputInvalid):
        await counts_by_hour(cast.organization_id, hours=hours)


async def test_slices_miss_and_double_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where more signals than fit a slice were made within one millisecond."""
    source_id = (await make_sender(cast.alice)).source_id
    monkeypatch.setattr(tallies, "SLICE", 7)
    now, chance = clock.now() - timedelta(hours=2), random.Random(7)
    crowded = now + timedelta(milliseconds=1234)
    for moment in [*(now + timedelta(seconds=chance.randrange(3600)) for _ in range(60)), *[crowded] * 20]:
        await store(source_id, at=moment)
    assert await tally(seconds=20) == 80
    assert sum((await tallied(source_id)).values()) == 80


async def test_a_run_ends_in_time_and_goes_on_later(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    source_id = (await make_sender(cast.alice)).source_id
    for seconds in range(10):
        await store(source_id, at=clock.now() - timedelta(hours=1, seconds=seconds))
    monkeypatch.setattr(tallies, "SLICE", 3)
    runs = [await tally(seconds=-1) for _ in range(6)]
    assert (runs[0], sum(runs)) == (3, 10)
    assert sum((await tallied(source_id)).values()) == 10


async def test_one_counts_at_a_time(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "SLICE", 3)
    source_id = (await make_sender(cast.alice)).source_id
    for seconds in range(40):
        await store(source_id, at=clock.now() - timedelta(hours=1, seconds=seconds))
    runs = await asyncio.gather(*(tally(seconds=20) for _ in range(6)))
    assert sum(runs) == 40
    assert sum((await tallied(source_id)).values()) == 40
    assert len(await run_sql("SELECT 1 AS one FROM tally_mark")) == 1


async def test_what_is_committed_late_is_not_missed(cast: Cast) -> None:
    """An id that is old when its transaction commits at last is behind no mark."""
    source_id = (await make_sender(cast.alice)).source_id
    now = clock.now()
    await store(source_id, at=now - timedelta(seconds=5))
    connection = await get_engine().get_new_connection()
    try:
        late = connection.transaction()
        await late.start()
        await connection.execute(
            """INSERT INTO signal (id, organization, source, external_id, type, status, reasons, content_type, body,
                                   body_bytes, body_digest, correlation_id, received_at)
               SELECT $1::uuid, organization, source, 'late', type, status, reasons, content_type, body, body_bytes,
                      body_digest, correlation_id, received_at FROM signal WHERE source = $2""",
            new_id(),
            source_id,
        )
        with time_machine.travel(now + timedelta(minutes=5), tick=False):
            assert await tally(seconds=20) == 0, "somebody still writes with ids of that time"
            shown = await counts_by_hour(cast.organization_id, hours=2)
            assert sum(count.stored for count in shown) == 1
            await late.commit()
            assert await tally(seconds=20) == 2
            assert sum((await tallied(source_id)).values()) == 2
    finally:
        await connection.close()


async def test_counts_are_exact_while_signals_arrive_and_the_mark_moves(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks sees at least what was committed before and at most what was begun before the look ended."""
    monkeypatch.setattr(tallies, "LAG", timedelta(seconds=2))
    monkeypatch.setattr(tallies, "SLICE", 5)
    source_id = (await make_sender(cast.alice)).source_id
    begun = committed = 0
    done = False

    async def arrive() -> None:
        nonlocal begun, committed
        for _ in range(60):
            begun += 1
            await store(source_id)
            committed += 1
            await asyncio.sleep(0.06)

    async def count() -> None:
        while not done:
            await tally(seconds=20)
            await asyncio.sleep(0.01)

    async def look() -> None:
        while not done:
            least = committed
            shown = sum(count.stored for count in await counts_by_hour(cast.organization_id, hours=2))
            assert least <= shown <= begun

    lookers = [asyncio.create_task(look()), asyncio.create_task(count()), asyncio.create_task(count())]
    await asyncio.gather(*(arrive() for _ in range(3)))
    done = True
    await asyncio.gather(*lookers)
    assert sum((await tallied(source_id)).values()) > 0, "the mark has moved meanwhile"
    monkeypatch.setattr(tallies, "LAG", timedelta(0))
    await tally(seconds=20)
    assert sum((await tallied(source_id)).values()) == 180
