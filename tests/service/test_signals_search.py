"""The search of payloads: what it finds, and that going back block by block finds the same as reading everything."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.db.engine import run_sql, transaction
from portal.rules.assessment import assess
from portal.signals import search
from portal.signals.json_schemas.service import set_schema
from portal.signals.queries import list_signals
from portal.signals.schemas import SignalFilter
from portal.signals.search import find_ids
from portal.signals.tables import SignalStatus
from portal.signals.words import terms_of, words_of
from tests.signals import make_sender

PAYLOAD = (
    b'{"id": "evt_1N7abc", "customer": {"email": "Ada.King@mail.example.org", "name": "Ren\\u00e9e K\\u00f6nig"},'
    b'"amount": 129900, "rate": 0.075, "url": "https:\\/\\/shop.example.org\\/orders\\/7", "paid": true,'
    b'"order": "INV-00417", "payer": "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B", "note": "100% of it\'s"}'
)


async def found(organization_id, text, **filter):
    page = await list_signals(organization_id, SignalFilter(text=text, **filter))
    return [item.external_id for item in page.items]


async def test_a_payload_is_found_by_what_is_in_it(cast):
    sender = await make_sender(cast.alice)
    await sender.deliver(PAYLOAD, id="d-1")
    await sender.deliver({"customer": "Grace"}, id="d-2")
    await assess()
    for text in (
        *("ada.king@mail.example.org", "ADA", "king", "mail.example.org", "ada.k"),
        *("Renée König", "könig renée", "Ren", "evt_1N7abc", "evt_1N7", "129900", "0.075", "00417", "inv-004"),
        *("0xab5801a7d398351b8be11c439e05c5b3259aec9b", "shop.example.org orders", "100%", "it's", "d-1"),
    ):
        assert await found(cast.organization_id, text) == ["d-1"], text
    for text in ("ada grace", "nothing", "true", "customer", "ing", "%", "' | '", "evt_1N8", "d-", " "):
        assert await found(cast.organization_id, text) == [], text


async def test_nothing_is_found_that_belongs_to_somebody_else(cast):
    await (await make_sender(cast.dave)).deliver(PAYLOAD, id="d-1")
    await assess()
    for text in ("ada", "d-1"):
        assert await found(cast.organization_id, text) == []
        assert await found(cast.dave.actor.organization_id, text) == ["d-1"]


async def test_what_is_not_assessed_is_found_by_its_id_only(cast):
    await (await make_sender(cast.alice)).deliver(PAYLOAD, id="d-1")
    assert await found(cast.organization_id, "ada") == []
    assert await found(cast.organization_id, "d-1") == ["d-1"]


async def test_what_fails_its_schema_is_found_although_it_is_not_assessed(cast):
    sender = await make_sender(cast.alice)
    await set_schema(cast.alice.actor, sender.source_id, "sponsorship", {"type": "object", "required": ["sponsor"]})
    await sender.deliver({"person": "Katherine"}, id="d-1")
    await sender.deliver(b'{"person": "Katherine"', id="d-2")
    assert await found(cast.organization_id, "katherine", status=SignalStatus.QUARANTINED) == ["d-1"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
async def test_no_text_is_a_syntax_error(cast, text):
    if "\0" not in text:
        await found(cast.organization_id, text)


NAMES = ("ada", "adam", "grace", "zuse")


@pytest.fixture
async def years(cast, monkeypatch):
    """Two hundred signals over two years, many of them in one minute, as rows; and a search that takes small steps."""
    monkeypatch.setattr(search, "WALKED", 5)
    monkeypatch.setattr(search, "MOST", 4)
    sources = [(await make_sender(cast.alice)).source_id for _ in range(2)]
    chance, now, rows = random.Random(7), datetime.now(UTC), []
    for number in range(200):
        busy = number % 3 == 0
        back = timedelta(days=40, seconds=chance.random() * 50) if busy else timedelta(days=730 * chance.random() ** 3)
        payload = {"name": chance.choice(NAMES), "number": f"INV-{number % 20:04d}", "all": "everywhere"}
        at = now - back
        rows.append(
            {
                "id": UUID(int=(int(at.timestamp() * 1000) << 80) | number),
                "source": chance.choice(sources),
                "type": chance.choice(["invoice.paid", "it's \\ odd"]),
                "status": chance.choice(["ignored", "ignored", "failed"]),
                "words": words_of(payload),
                "received_at": at,
            }
        )
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")
        for row in rows:
            await run_sql(
                """INSERT INTO signal (id, organization, source, external_id, type, status, reasons, content_type,
                                       body_bytes, body_digest, words, correlation_id, received_at)
                   VALUES ({}, {}, {}, {}, {}, {}, '[]', '', 0, '', {}, '', {})""",
                *(row["id"], cast.organization_id, row["source"], row["id"].hex, row["type"], row["status"]),
                *(row["words"], row["received_at"]),
            )
    return sorted(rows, key=lambda row: row["id"], reverse=True)


def matches(row, text):
    return all(
        word in row["words"] or (star and any(each.startswith(word) for each in row["words"]))
        for word, star in terms_of(text)
    )


async def test_going_back_block_by_block_finds_what_reading_everything_finds(cast, years):
    middle = years[90]
    for text in ("everywhere", "ada", "ada everywhere", "zuse inv-0003", "INV-00", "INV-0007", "nobody", "every"):
        for filter in (
            {},
            {"source_id": years[0]["source"]},
            {"type": "it's \\ odd"},
            {"status": SignalStatus.FAILED, "type": "invoice.paid"},
            {"since": middle["received_at"]},
            {"until": middle["received_at"]},
        ):
            for before in (None, years[20]["id"], middle["id"]):
                expected = [
                    row["id"]
                    for row in years
                    if matches(row, text)
                    and (before is None or row["id"] < before)
                    and row["source"] == filter.get("source_id", row["source"])
                    and row["type"] == filter.get("type", row["type"])
                    and row["status"] == filter.get("status", row["status"])
                    and filter.get("since", row["received_at"]) <= row["received_at"]
                    and (row["received_at"] < filter["until"] if "until" in filter else True)
                ]
                for limit in (3, 1000):
                    got = await find_ids(
                        cast.organization_id, SignalFilter(text=text, **filter), before=before, limit=limit
                    )
                    assert got == expected[:limit], (text, filter, before, limit)
