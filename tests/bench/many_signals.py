"""Signals by the million, as real senders would have sent them over 90 days: made and copied in processes of their own.

Frequencies are what matters. Words: `eur` is in every second signal, `ada` in one of a hundred, `zuse` in one of a
thousand, `ramanujan` in one of ten thousand, ids in one or a few. Types and states go from two thirds to a handful.
"""

import asyncio
import hashlib
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from portal.signals.words import words_of

DAYS = 90
COLUMNS = (
    *("id", "organization", "source", "external_id", "type", "status", "reasons", "content_type", "body"),
    *("body_bytes", "body_digest", "words", "skew_ms", "correlation_id", "received_at", "assessed_at"),
)
NAMES = [
    ("ada", 10),
    ("grace", 10),
    ("zuse", 1),
    ("ramanujan", 0.1),
    *((f"person{number}", 1) for number in range(980)),
]
STATES = [("ignored", 690), ("assessed", 300), ("quarantined", 5), ("failed", 4.9), ("dead", 0.1)]
CURRENCIES = [("eur", 5), ("usd", 3), ("gbp", 1), ("chf", 1)]
REASONS = '[{"rule_id": null, "path": "/amount", "message": "-5 is less than the minimum of 0"}]'


class Origin(msgspec.Struct):
    """A source, what share of all signals it sends, and of which types."""

    organization_id: UUID
    source_id: UUID
    share: float
    types: list[tuple[str, float]]


class Order(msgspec.Struct):
    """Which rows a process makes: every `step`-th of `count` from `first` on, so that several fill all 90 days."""

    database_url: str
    origins: list[Origin]
    count: int
    until: datetime
    first: int
    step: int


def make_rows(order: Order) -> Iterator[tuple[Any, ...]]:
    """Rows in the order of `COLUMNS`, the oldest first."""
    chance = random.Random(order.first)
    begin, apart = order.until - timedelta(days=DAYS), timedelta(days=DAYS) / order.count
    origins = _draws(chance, [(origin, origin.share) for origin in order.origins])
    types = {origin.source_id: _draws(chance, origin.types) for origin in order.origins}
    states = _draws(chance, STATES)
    payloads = make_payloads(chance)
    for number in range(order.first, order.count, order.step):
        origin, at, state = next(origins), begin + apart * number, next(states)
        kind = next(types[origin.source_id])
        payload = {"type": kind, "created": at.isoformat(timespec="seconds"), "number": f"INV-{number:08d}"}
        payload |= next(payloads)
        body = msgspec.json.encode(payload)
        yield (
            UUID(int=(int(at.timestamp() * 1000) << 80) | 7 << 76 | 2 << 62 | number),
            origin.organization_id,
            origin.source_id,
            payload["id"],
            kind,
            state,
            REASONS if state in ("quarantined", "failed") else "[]",
            "application/json",
            body,
            len(body),
            hashlib.sha256(body).digest(),
            words_of(payload),
            number % 1000,
            f"{number:032x}",
            at,
            at + timedelta(seconds=1),
        )


def make_payloads(chance: random.Random) -> Iterator[dict[str, Any]]:
    names, currencies = _draws(chance, NAMES), _draws(chance, CURRENCIES)
    while True:
        customer, name = chance.randrange(200_000), next(names)
        yield {
            "id": f"evt_{chance.getrandbits(64):016x}",
            "amount": chance.randrange(100, 1_000_000),
            "currency": next(currencies),
            "paid": True,
            "customer": {
                "id": f"cus_{customer:06d}",
                "name": f"{name.capitalize()} Example",
                "email": f"{name}.{customer}@example.org",
                "city": f"city{customer % 500}",
            },
            "lines": [{"sku": f"SKU-{chance.randrange(5000):04d}", "text": "Yearly plan, renewed", "quantity": 1}],
            "note": None,
        }


def _draws(chance: random.Random, weighted: Sequence[tuple[Any, float]]) -> Iterator[Any]:
    """Draws for ever; thousands at once, which is much faster than one by one."""
    values, weights = zip(*weighted, strict=True)
    while True:
        yield from chance.choices(values, weights, k=10_000)


async def copy(order: Order) -> None:
    connection = await asyncpg.connect(order.database_url)
    try:
        await connection.execute("SET session_replication_role = replica")  # foreign keys are as they must be
        await connection.copy_records_to_table("signal", records=make_rows(order), columns=COLUMNS)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(copy(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)))
