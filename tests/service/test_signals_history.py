"""The history of signals: found by what one knows of them, counted by status and hour."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from portal import clock
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound
from portal.logging import bind_correlation_id
from portal.signals.queries import (
    count_signals_by_status,
    get_signal,
    list_signal_types,
    list_signals,
    signals_by_hour,
)
from portal.signals.schemas import SignalFilter
from portal.signals.tables import SignalStatus
from tests.signals import make_sender


@pytest.fixture
async def history(cast):
    """Three signals of two sources; the last is quarantined."""
    github = await make_sender(cast.alice, "github", name="GitHub")
    shop = await make_sender(cast.alice, "standard_webhooks", name="Shop")
    bind_correlation_id("story-1")
    sponsorship = await github.deliver({"sponsor": "ada", "note": "100% über\\'"}, id="d-1")
    bind_correlation_id("story-2")
    paid = await shop.deliver({"type": "invoice.paid", "customer": "grace"}, id="evt-1")
    broken = await shop.deliver(b"\xff\x00ada", id="evt-2")
    return {"github": github, "shop": shop, "sponsorship": sponsorship, "paid": paid, "broken": broken}


async def found(cast, **filter):
    page = await list_signals(cast.organization_id, SignalFilter(**filter))
    return [item.external_id for item in page.items]


async def test_signals_are_found_by_what_one_knows(cast, history):
    assert await found(cast) == ["evt-2", "evt-1", "d-1"]
    assert await found(cast, status=SignalStatus.QUARANTINED) == ["evt-2"]
    assert await found(cast, source_id=history["github"].source_id) == ["d-1"]
    assert await found(cast, type="invoice.paid") == ["evt-1"]
    assert await found(cast, external_id="evt-1") == ["evt-1"]
    assert await found(cast, correlation_id="story-1") == ["d-1"]
    assert await found(cast, text="ada") == ["evt-2", "d-1"]
    assert await found(cast, text="100%") == ["d-1"]
    assert await found(cast, text="ada", status=SignalStatus.RECEIVED) == ["d-1"]
    assert await found(cast, since=clock.now() + timedelta(minutes=1)) == []
    assert await found(cast, until=clock.now() + timedelta(minutes=1)) == ["evt-2", "evt-1", "d-1"]
    assert await found(cast, type="none'; --") == []


async def test_a_filter_that_no_column_can_hold_is_refused(cast, history):
    with pytest.raises(InputInvalid):
        await found(cast, type="a\0")


async def test_statuses_are_counted_for_the_chips(cast, history):
    counts = await count_signals_by_status(cast.organization_id)
    assert (counts[SignalStatus.RECEIVED], counts[SignalStatus.QUARANTINED], counts[SignalStatus.DEAD]) == (2, 1, 0)
    filtered = await count_signals_by_status(
        cast.organization_id, SignalFilter(text="ada", status=SignalStatus.RECEIVED)
    )
    assert (filtered[SignalStatus.RECEIVED], filtered[SignalStatus.QUARANTINED]) == (1, 1)
    assert set(filtered) == set(SignalStatus)


async def test_types_are_listed_for_the_filter(cast, history):
    assert await list_signal_types(cast.organization_id) == ["invoice.paid", "sponsorship", "unknown"]


async def test_a_signal_shows_bytes_that_are_no_text(cast, history):
    signal = await get_signal(cast.organization_id, history["broken"].signal_id)
    assert signal.body == "\ufffd\x00ada"
    assert signal.payload is None


async def test_a_signal_of_another_organisation_is_not_there(cast, history):
    for organization_id, signal_id in (
        (cast.dave.actor.organization_id, history["paid"].signal_id),
        (cast.organization_id, new_id()),
    ):
        with pytest.raises(NotFound):
            await get_signal(organization_id, signal_id)


async def test_hours_are_counted_with_empty_ones_between(cast, history):
    two_hours_ago = clock.now() - timedelta(hours=2)
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")  # else a signal cannot be changed
        await run_sql(
            "UPDATE signal SET received_at = {}, id = {} WHERE id = {}",
            two_hours_ago,
            _id_at(two_hours_ago),
            history["sponsorship"].signal_id,
        )
    hours = await signals_by_hour(cast.organization_id, hours=24)
    assert len(hours) == 24
    assert hours[-1].hour == datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    assert (hours[-1].count, hours[-1].troubled) == (2, 1)
    assert (hours[-2].count, hours[-3].count) == (0, 1)
    assert sum(each.count for each in await signals_by_hour(cast.dave.actor.organization_id)) == 0
    assert len(await signals_by_hour(cast.organization_id, hours=168)) == 168
    with pytest.raises(InputInvalid):
        await signals_by_hour(cast.organization_id, hours=169)


def _id_at(moment):
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | 1)
