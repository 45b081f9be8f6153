"""The outbox: what is recorded is there exactly if the change is, and comes out in an order that readers can trust."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import time_machine
from prometheus_client import REGISTRY

from portal import clock
from portal.db.engine import get_engine, run_sql, transaction
from portal.notify import metrics
from portal.notify.outbox import Happening, record, record_many
from portal.notify.pruning import prune
from portal.notify.publishing import publish
from portal.notify.service import disable_webhook
from tests.people import Cast
from tests.pulls import egress_allowed
from tests.webhooks import subscribe


async def events(organization_id: UUID) -> list[dict[str, Any]]:
    return await run_sql("SELECT * FROM event WHERE organization = {} ORDER BY position", organization_id)


async def happen(organization_id: UUID, *subjects: str) -> None:
    async with transaction():
        for subject in subjects:
            await record(organization_id, "action.approved", "action", subject, {"summary": subject})


@asynccontextmanager
async def elsewhere() -> AsyncIterator[asyncpg.Connection]:
    """Another process's connection."""
    connection = await get_engine().get_new_connection()
    try:
        yield connection
    finally:
        await connection.close()


async def test_an_event_is_there_exactly_if_its_change_is(cast: Cast) -> None:
    async def fail() -> None:
        async with transaction():
            await record(cast.organization_id, "action.approved", "action", "undone", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    await happen(cast.organization_id, "done")
    assert await publish() == 1
    [event] = await events(cast.organization_id)
    assert (event["subject_id"], event["position"], event["payload"]) == ("done", 1, '{"summary": "done"}')
    assert await publish() == 0
    assert len(await events(cast.organization_id)) == 1


async def test_recording_outside_a_db_transaction_is_a_mistake(cast: Cast) -> None:
    with pytest.raises(AssertionError):
        await record(cast.organization_id, "action.approved", "action", "alone", {})


async def test_positions_are_without_a_gap_within_each_organisation(cast: Cast) -> None:
    other = cast.dave.actor.organization_id
    await happen(cast.organization_id, "a", "b")
    await happen(other, "c")
    await happen(cast.organization_id, "d")
    assert await publish(limit=2) == 2
    assert await publish(limit=2) == 2
    assert [(row["position"], row["subject_id"]) for row in await events(cast.organization_id)] == [
        (1, "a"),
        (2, "b"),
        (3, "d"),
    ]
    assert [(row["position"], row["subject_id"]) for row in await events(other)] == [(1, "c")]


async def test_many_are_recorded_in_the_order_given(cast: Cast) -> None:
    names = [f"{number:03}" for number in range(300)]
    async with transaction():
        await record_many(
            [
                Happening(
                    organization_id=cast.organization_id,
                    kind="action.proposed",
                    subject_kind="action",
                    subject_id=name,
                    correlation_id=name,
                )
                for name in names
            ]
        )
    await publish()
    found = await events(cast.organization_id)
    assert [row["subject_id"] for row in found] == names
    assert [row["correlation_id"] for row in found] == names


async def test_nothing_appears_below_what_a_reader_has_seen(cast: Cast) -> None:
    """The earlier event commits later: it comes after the other, although its number and its id are lower."""
    async with elsewhere() as slow:
        held = slow.transaction()
        await held.start()
        await slow.execute(
            """INSERT INTO outbox (event_id, organization, kind, subject_kind, subject_id, payload, correlation_id,
                                   occurred_at)
               VALUES ('018f0000-0000-7000-8000-000000000000', $1, 'action.approved', 'action', 'slow', '{}', 'x',
                       now())""",
            cast.organization_id,
        )
        await happen(cast.organization_id, "quick")
        assert await publish() == 1
        seen = await events(cast.organization_id)
        await held.commit()
    await happen(cast.organization_id, "last")
    assert await publish() == 2
    found = await events(cast.organization_id)
    assert found[: len(seen)] == seen
    assert [row["subject_id"] for row in found] == ["quick", "slow", "last"]


async def test_publishers_wait_for_each_other(cast: Cast) -> None:
    """Two at once could make the higher position visible before the lower one."""
    await happen(cast.organization_id, "first")
    async with elsewhere() as other:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('publish_events', 0))")
            publishing = asyncio.create_task(publish())
            done, _ = await asyncio.wait([publishing], timeout=0.3)
            assert not done
        assert await publishing == 1


async def test_concurrent_writers_and_publishers_lose_and_double_nothing(cast: Cast) -> None:
    async def write(writer: int) -> None:
        for number in range(20):
            await happen(cast.organization_id, f"{writer}:{number:02}")

    async def read() -> None:
        while len(seen) < 100:
            after = seen[-1]["position"] if seen else 0
            seen.extend(
                await run_sql(
                    "SELECT position, subject_id FROM event WHERE organization = {} AND position > {} ORDER BY 1",
                    cast.organization_id,
                    after,
                )
            )
            await asyncio.sleep(0)

    async def publish_on() -> None:
        while len(seen) < 100:
            await publish(limit=7)

    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        await asyncio.gather(*(write(writer) for writer in range(5)), publish_on(), publish_on(), read())
    assert [row["position"] for row in seen] == list(range(1, 101)), "a reader that goes on from a position has a gap"
    for writer in range(5):
        own = [row["subject_id"] for row in seen if row["subject_id"].startswith(f"{writer}:")]
        assert own == sorted(own), "what happened later came sooner"
        assert len(own) == 20


async def test_events_do_not_change(cast: Cast) -> None:
    await happen(cast.organization_id, "once")
    await publish()
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await run_sql("UPDATE event SET kind = 'action.rejected'")


async def test_gauges_say_what_waits_for_how_long_and_which_webhooks_fail(cast: Cast) -> None:
    def read(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    await metrics.refresh()
    assert (read("portal_outbox_oldest_seconds"), read("portal_deliveries_waiting")) == (0, 0)
    with egress_allowed("127.0.0.0/8"):
        failing, fine = [await subscribe(cast.alice, "http://127.0.0.1:59999/hook") for _ in range(2)]
    with time_machine.travel(clock.now() - timedelta(minutes=5)):
        async with transaction():
            await record(cast.organization_id, "action.approved", "action", "waits", {})
    await metrics.refresh()
    assert 299 < (read("portal_outbox_oldest_seconds") or 0) < 330
    await publish()
    await run_sql("UPDATE webhook SET failing_since = now() WHERE id = {}", failing.id)
    await metrics.refresh()
    assert (read("portal_outbox_oldest_seconds"), read("portal_deliveries_waiting")) == (0, 2)
    assert (read("portal_webhooks", state="failing"), read("portal_webhooks", state="active")) == (1, 1)
    await disable_webhook(cast.alice.actor, fine.id)
    await metrics.refresh()
    assert (read("portal_webhooks", state="disabled"), read("portal_deliveries_waiting")) == (1, 1)


async def test_what_is_old_is_pruned_and_positions_go_on(cast: Cast) -> None:
    await happen(cast.organization_id, "a", "b")
    await publish()
    assert await prune() == 0
    with time_machine.travel(clock.now() + timedelta(days=91)):
        assert await prune() == 1, "the newest stays, so that the next position is known"
    await happen(cast.organization_id, "c")
    await publish()
    assert [row["position"] for row in await events(cast.organization_id)] == [2, 3]


async def test_what_still_waits_for_a_receiver_is_not_pruned(cast: Cast) -> None:
    with egress_allowed("127.0.0.0/8"):
        await subscribe(cast.alice, "http://127.0.0.1:59999/hook")
    await happen(cast.organization_id, "waits", "newest")
    await publish()
    with time_machine.travel(clock.now() + timedelta(days=91)):
        assert await prune() == 0
        await run_sql("UPDATE delivery SET status = 'failed'")
        assert await prune() == 1
