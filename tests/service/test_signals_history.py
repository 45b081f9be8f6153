"""The history of signals: found by what one knows of them, counted by status and hour."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from portal import clock
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound
from portal.logging import bind_correlation_id
from portal.rules.assessment import assess
from portal.signals import queries
from portal.signals.queries import (
    count_signals_by_status,
    get_signal,
    list_signal_types,
    list_signals,
    signals_by_hour,
)
from portal.signals.schemas import SignalFilter
from portal.signals.tables import SignalStatus
from tests.rules import make_rule_stage
from tests.signals import make_sender, sponsorship


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
    await assess()
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
    assert await found(cast, since=clock.now() + timedelta(minutes=1)) == []
    assert await found(cast, until=clock.now() + timedelta(minutes=1)) == ["evt-2", "evt-1", "d-1"]
    assert await found(cast, type="none'; --") == []


async def test_filters_narrow_each_other_down(cast, history):
    shop, github = history["shop"].source_id, history["github"].source_id
    assert await found(cast, source_id=shop, status=SignalStatus.IGNORED) == ["evt-1"]
    assert await found(cast, source_id=github, type="invoice.paid") == []
    assert await found(cast, type="sponsorship", status=SignalStatus.IGNORED, source_id=github, text="ada") == ["d-1"]
    assert await found(cast, type="sponsorship", text="grace") == []
    assert await found(cast, external_id="evt-1", text="ada") == []
    assert await found(cast, correlation_id="story-2", source_id=shop, status=SignalStatus.IGNORED) == ["evt-1"]


async def test_a_period_is_exact_to_the_microsecond(cast, history):
    received_at = (await get_signal(cast.organization_id, history["paid"].signal_id)).received_at
    later = received_at + timedelta(microseconds=1)
    assert (await found(cast, since=received_at))[-1] == "evt-1"
    assert "evt-1" not in await found(cast, since=later)
    assert (await found(cast, until=later))[0] == "evt-1"
    assert "evt-1" not in await found(cast, until=received_at)
    assert await found(cast, since=datetime.min.replace(tzinfo=UTC)) == ["evt-2", "evt-1", "d-1"]
    assert await found(cast, until=datetime.max.replace(tzinfo=UTC)) == ["evt-2", "evt-1", "d-1"]
    assert await found(cast, until=datetime.min.replace(tzinfo=UTC)) == []


async def test_a_signal_is_found_by_the_person_it_is_about(cast):
    stage = await make_rule_stage(cast)
    await stage.publish()
    await stage.publish(name="Thank them twice")
    about = await stage.sender.deliver(sponsorship())
    await stage.sender.deliver({"zen": "nobody's business"}, event="ping")
    await assess()
    subject = f"github:{sponsorship()['sponsorship']['sponsor']['login']}"
    page = await list_signals(cast.organization_id, SignalFilter(subject=subject, type="sponsorship"))
    assert [item.id for item in page.items] == [about.signal_id]
    assert (await count_signals_by_status(cast.organization_id, SignalFilter(subject=subject)))["assessed"] == 1
    assert await found(cast, subject="github:nobody") == []
    assert (await list_signals(cast.dave.actor.organization_id, SignalFilter(subject=subject))).items == []


async def test_a_filter_that_no_column_can_hold_is_refused(cast, history):
    for filter in ({"type": "a\0"}, {"text": "a\0"}, {"subject": "a\0"}, {"external_id": "a\0"}):
        with pytest.raises(InputInvalid):
            await found(cast, **filter)


async def test_statuses_are_counted_for_the_chips(cast, history):
    await history["github"].deliver({"sponsor": "ada"}, id="d-2")
    counts = await count_signals_by_status(cast.organization_id)
    assert set(counts) == set(SignalStatus)
    expected = {SignalStatus.RECEIVED: 1, SignalStatus.IGNORED: 2, SignalStatus.QUARANTINED: 1}
    assert {status: count for status, count in counts.items() if count} == expected
    for filter in (
        SignalFilter(text="ada", status=SignalStatus.RECEIVED),
        SignalFilter(source_id=history["github"].source_id, until=clock.now() - timedelta(minutes=5)),
        SignalFilter(external_id="d-1", status=SignalStatus.RECEIVED),
    ):
        page = await list_signals(cast.organization_id, msgspec.structs.replace(filter, status=None))
        counted = await count_signals_by_status(cast.organization_id, filter)
        assert {status: count for status, count in counted.items() if count} == Counter(i.status for i in page.items)
    assert sum((await count_signals_by_status(cast.dave.actor.organization_id)).values()) == 0


async def test_counting_stops_where_it_is_not_worth_the_time(cast, history, monkeypatch):
    monkeypatch.setattr(queries, "MOST_COUNTED", 2)
    monkeypatch.setattr(queries, "MOST_FOUND", 1)
    for number in range(4):
        await history["shop"].deliver({"type": "invoice.paid", "customer": "heidi"}, id=f"more-{number}")
    counts = await count_signals_by_status(cast.organization_id)
    assert [f"{counts[status]:,}" for status in (SignalStatus.RECEIVED, SignalStatus.IGNORED)] == ["2+", "2"]
    assert f"{sum(counts.values()):,}" == "5+"
    await assess()
    assert (await count_signals_by_status(cast.organization_id, SignalFilter(text="heidi")))["ignored"].capped


async def test_types_are_listed_for_the_filter(cast, history):
    assert await list_signal_types(cast.organization_id) == ["invoice.paid", "sponsorship", "unknown"]


async def test_a_list_is_paged_without_a_gap_while_signals_arrive(cast, history):
    shop = history["shop"]
    sent = ["evt-1", "evt-2"] + [f"evt-{number}" for number in range(3, 12)]
    for name in sent[2:]:
        await shop.deliver({"type": "invoice.paid"}, id=name)
    for filter in (SignalFilter(), SignalFilter(source_id=shop.source_id), SignalFilter(until=clock.now())):
        seen, cursor = [], None
        while True:
            page = await list_signals(cast.organization_id, filter, cursor=cursor, limit=3)
            seen += [item.external_id for item in page.items]
            await shop.deliver({"type": "invoice.paid"}, id=f"late-{new_id()}")
            if (cursor := page.next_cursor) is None:
                break
        assert [name for name in seen if name.startswith("evt-")] == sent[::-1]


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
