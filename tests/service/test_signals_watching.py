"""The alarm of a source that has gone quiet: it goes off once, and ends once."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from portal import clock
from portal.audit.queries import list_entries
from portal.audit.service import verify
from portal.db.engine import run_sql
from portal.errors import NotFound
from portal.signals.health.watching import get_source_health, watch_sources
from portal.signals.queries import get_source
from portal.signals.service import pause_source, resume_source
from tests.people import Cast, Player
from tests.signals import make_sender
from tests.stored import store

HOUR = timedelta(hours=1)


async def make_source(player: Player, *, expected: int | None = 600, made: timedelta = 24 * HOUR) -> UUID:
    """A source that was made some time ago and is expected to be heard."""
    source_id = (await make_sender(player)).source_id
    at = clock.now() - made
    await run_sql(
        "UPDATE source SET expected_every_seconds = {}, created_at = {}, updated_at = {} WHERE id = {}",
        expected,
        at,
        at,
        source_id,
    )
    return source_id


async def quiet_since(source_id: UUID) -> datetime | None:
    found: datetime | None = (await run_sql("SELECT quiet_since FROM source WHERE id = {}", source_id))[0][
        "quiet_since"
    ]
    return found


async def alarms(player: Player) -> list[tuple[str, dict[str, Any]]]:
    entries = (await list_entries(player.actor.organization_id)).items
    kinds = ("source.went_quiet", "source.came_back", "source.alarm_withdrawn")
    return [(entry.kind, entry.detail) for entry in reversed(entries) if entry.kind in kinds]


async def test_the_alarm_goes_off_once_and_ends_once(cast: Cast) -> None:
    source_id = await make_source(cast.alice)
    last = clock.now() - HOUR
    await store(source_id, at=last)
    version = (await get_source(cast.organization_id, source_id)).updated_at
    assert [await watch_sources() for _ in range(3)] == [1, 0, 0]
    since = await quiet_since(source_id)
    assert since
    health = await get_source_health(cast.organization_id, source_id)
    assert (health.quiet_since, [finding.code for finding in health.findings]) == (since, ["quiet"])
    await store(source_id)
    assert [await watch_sources() for _ in range(3)] == [1, 0, 0]
    assert await quiet_since(source_id) is None
    assert [kind for kind, _ in await alarms(cast.alice)] == ["source.went_quiet", "source.came_back"]
    gone, back = [detail for _, detail in await alarms(cast.alice)]
    assert gone == {"expected_every_seconds": 600, "last_signal_at": last.isoformat()}
    assert back["quiet_since"] == since.isoformat()
    assert back["last_signal_at"] > last.isoformat()
    assert (await get_source(cast.organization_id, source_id)).updated_at == version, "deliveries are checked as before"
    assert await verify(cast.organization_id) is None


async def test_only_what_is_active_and_expected_goes_quiet(cast: Cast) -> None:
    unexpected = await make_source(cast.alice, expected=None)
    heard = await make_source(cast.alice)
    new = await make_source(cast.alice, made=timedelta(seconds=590))
    paused = await make_source(cast.alice)
    await store(heard, at=clock.now() - timedelta(seconds=590))
    await pause_source(cast.alice.actor, paused)
    await run_sql("UPDATE source SET updated_at = {} WHERE id = {}", clock.now() - HOUR, paused)
    assert await watch_sources() == 0
    never = await make_source(cast.alice, made=timedelta(seconds=610))
    assert await watch_sources() == 1
    assert [await quiet_since(id) is not None for id in (unexpected, heard, new, paused, never)] == [
        False,
        False,
        False,
        False,
        True,
    ]
    assert await alarms(cast.alice) == [("source.went_quiet", {"expected_every_seconds": 600, "last_signal_at": None})]


async def test_after_it_is_resumed_a_source_has_its_time_again(cast: Cast) -> None:
    source_id = await make_source(cast.alice)
    await pause_source(cast.alice.actor, source_id)
    await resume_source(cast.alice.actor, source_id)
    assert await watch_sources() == 0
    await run_sql("UPDATE source SET updated_at = {}", clock.now() - timedelta(seconds=601))
    assert await watch_sources() == 1


@pytest.mark.parametrize(
    "change", ["status = 'paused'", "expected_every_seconds = NULL", "expected_every_seconds = 9999"]
)
async def test_an_alarm_ends_with_its_reason(cast: Cast, change: str) -> None:
    source_id = await make_source(cast.alice)
    await store(source_id, at=clock.now() - HOUR)
    assert await watch_sources() == 1
    await run_sql(f"UPDATE source SET {change}, updated_at = now()")
    assert [await watch_sources() for _ in range(2)] == [1, 0]
    assert await quiet_since(source_id) is None
    assert [kind for kind, _ in await alarms(cast.alice)] == ["source.went_quiet", "source.alarm_withdrawn"]


async def test_another_change_of_the_source_does_not_end_its_alarm(cast: Cast) -> None:
    source_id = await make_source(cast.alice)
    assert await watch_sources() == 1
    await run_sql("UPDATE source SET name = 'Shop', updated_at = now()")
    assert await watch_sources() == 0
    assert await quiet_since(source_id)


async def test_while_no_worker_ran_nothing_is_missed_and_nothing_invented(cast: Cast) -> None:
    heard, gone = await make_source(cast.alice), await make_source(cast.alice)
    for source_id in (heard, gone):
        await store(source_id, at=clock.now() - 5 * HOUR)
    # The worker comes back after hours: one was silent meanwhile and is heard again, the other is still silent.
    await store(heard, at=clock.now() - timedelta(seconds=5))
    assert await watch_sources() == 1
    assert (await quiet_since(heard), await quiet_since(gone) is not None) == (None, True)
    # It comes back while the worker is down, and goes again.
    await run_sql("UPDATE source SET quiet_since = {} WHERE id = {}", clock.now() - 4 * HOUR, gone)
    await store(gone, at=clock.now() - 2 * HOUR)
    assert [await watch_sources() for _ in range(3)] == [1, 1, 0]
    assert await quiet_since(gone)
    kinds = [kind for kind, _ in await alarms(cast.alice)]
    assert kinds == ["source.went_quiet", "source.came_back", "source.went_quiet"]


async def test_workers_at_once_set_it_off_once(cast: Cast) -> None:
    for _ in range(3):
        await make_source(cast.alice)
    await make_source(cast.dave)
    assert sum(await asyncio.gather(*(watch_sources() for _ in range(5)))) == 4
    assert len(await alarms(cast.alice)) == 3
    assert len(await alarms(cast.dave)) == 1
    await run_sql("UPDATE source SET status = 'paused'")
    assert sum(await asyncio.gather(*(watch_sources() for _ in range(5)))) == 4


async def test_what_is_pulled_is_silent_only_once_a_pull_has_found_nothing(cast: Cast) -> None:
    source_id = await make_source(cast.alice)
    last = clock.now() - HOUR
    await store(source_id, at=last)
    await run_sql(
        "INSERT INTO pull (source, position, due_at, pulled_at, failures) VALUES ({}, 'null', now(), {}, 0)",
        source_id,
        last,
    )
    assert await watch_sources() == 0, "no worker has pulled since"
    await run_sql("UPDATE pull SET failures = 3")
    assert await watch_sources() == 1, "what cannot be pulled is not heard either"
    await run_sql("UPDATE source SET quiet_since = NULL")
    await run_sql("UPDATE pull SET failures = 0, pulled_at = now()")
    assert await watch_sources() == 1


async def test_health_is_of_one_source_and_one_organisation(cast: Cast) -> None:
    source_id, other = await make_source(cast.alice), await make_source(cast.alice)
    now = clock.now()
    for minutes in range(30):
        await store(source_id, at=now - timedelta(minutes=minutes), skew_ms=120_000)
    await store(other)
    health = await get_source_health(cast.organization_id, source_id)
    assert health.last_signal_at == now
    assert (health.usual_gap_seconds, health.signals_24h, health.clock_skew_ms) == (60, 30, 120_000)
    assert health.expected_every_seconds == 600
    assert [finding.code for finding in health.findings] == ["clock_skewed"]
    with pytest.raises(NotFound):
        await get_source_health(cast.dave.actor.organization_id, source_id)
