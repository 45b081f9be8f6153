"""The database of the history's bench: a large organisation and a small one, filled as if 90 days had gone by."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from portal.accounts.api_keys import create_api_key
from portal.accounts.permissions import Role
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.signals.health.tallies import tally
from portal.signals.schemas import SourceInput
from portal.signals.service import create_source
from tests.bench.many_signals import Order, Origin
from tests.browser.stack import ROOT
from tests.people import make_member, make_organization

PROCESSES = 2
SUBJECTS, ACTIONS = 100, 20_000
STRIPE = ["invoice.paid", "payment_intent.succeeded", "charge.refunded", "customer.created", "payout.paid"]
GITHUB = ["push", "pull_request", "issues", "sponsorship", "release", "star"]
SHOP = ["orders/create", "orders/paid", "refunds/create"]
"""Each type is four times as frequent as the next one."""


class Place(msgspec.Struct):
    """An organisation that is asked for, with what a client needs."""

    organization_id: UUID
    key: str
    sources: dict[str, UUID]
    samples: list[dict[str, Any]] = []


def falling(types: list[str]) -> list[tuple[str, float]]:
    return [(type, 4.0**-place) for place, type in enumerate(types)]


async def make_places(big_id: UUID) -> tuple[Place, Place]:
    """The quickstart's organisation, which gets nearly all signals, and a small one beside it."""
    places = []
    for id, names in (
        (big_id, ("stripe", "github", "shop", "erp")),
        (await make_organization("small"), ("git", "form")),
    ):
        actor = (await make_member(id, f"bench-{id.hex[-4:]}", Role.OWNER)).actor
        sources = {name: (await create_source(actor, SourceInput(name=name, scheme="github")))[0].id for name in names}
        _, key = await create_api_key(actor, "bench", ["signals:read", "sources:read"])
        places.append(Place(id, key, sources))
    return places[0], places[1]


def origins_of(big: Place, small: Place) -> list[Origin]:
    return [
        Origin(big.organization_id, big.sources["stripe"], 0.6, falling(STRIPE)),
        Origin(big.organization_id, big.sources["github"], 0.3, falling(GITHUB)),
        Origin(big.organization_id, big.sources["shop"], 0.09, falling(SHOP)),
        Origin(big.organization_id, big.sources["erp"], 0.009, falling(["record.changed"])),
        Origin(small.organization_id, small.sources["git"], 0.0008, falling(GITHUB)),
        Origin(small.organization_id, small.sources["form"], 0.0002, falling(["form.sent"])),
    ]


async def load(database_url: str, origins: list[Origin], number: int) -> None:
    """All signals, without indexes but with the same ones afterwards: that is many times as fast."""
    connection = await asyncpg.connect(database_url, command_timeout=7200)
    indexes = await connection.fetch(
        """SELECT c.relname AS name, pg_get_indexdef(c.oid) AS definition FROM pg_index i JOIN pg_class c
           ON c.oid = i.indexrelid WHERE i.indrelid = 'signal'::regclass AND NOT i.indisunique"""
    )
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    with timed("rows"):
        until = datetime.now(UTC)
        orders = [Order(database_url, origins, number, until, first, PROCESSES) for first in range(PROCESSES)]
        await asyncio.gather(*(asyncio.to_thread(copy, order) for order in orders))
    await connection.execute("SET maintenance_work_mem = '1GB'")
    for index in indexes:
        with timed(index["name"]):
            await connection.execute(index["definition"])
    # The mark of the tallies may have gone past these signals.
    await connection.execute("DELETE FROM source_hour; DELETE FROM tally_mark")
    await connection.close()


def copy(order: Order) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.bench.many_signals"], cwd=ROOT, input=msgspec.json.encode(order), check=True
    )


async def make_actions(organization_id: UUID) -> None:
    """Actions for end users: copies of the quickstart's, each of another signal."""
    ids = [row["id"] for row in await run_sql("SELECT id FROM action WHERE organization = {} LIMIT 1", organization_id)]
    people = [new_id() for _ in range(SUBJECTS)]
    await run_sql(
        """INSERT INTO end_user (id, organization, subject, name, created_at)
           SELECT id, {}, 'bench:' || place, 'Bench ' || place, now()
           FROM unnest({}::uuid[]) WITH ORDINALITY AS made (id, place)""",
        organization_id,
        people,
    )
    columns = [
        row["column_name"]
        for row in await run_sql(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'action' ORDER BY ordinal_position"
        )
    ]
    changed = {"id": "gen_random_uuid()", "signal": "g.id", "end_user": f"({{}}::uuid[])[1 + g.place % {SUBJECTS}]"}
    listed = ", ".join(columns)
    await run_sql(
        f"""INSERT INTO action ({listed})
            SELECT {", ".join(changed.get(column, f"a.{column}") for column in columns)}
            FROM action a, (SELECT id, row_number() OVER () AS place FROM (
                SELECT id FROM signal TABLESAMPLE SYSTEM (10) WHERE organization = {{}}
                ORDER BY random() LIMIT {ACTIONS}) chosen) g
            WHERE a.id = {{}}""",
        people,
        organization_id,
        ids[0],
    )


async def settle(database_url: str) -> None:
    """What a database that has grown over 90 days has behind it: vacuum, statistics, tallies."""
    connection = await asyncpg.connect(database_url, command_timeout=7200)
    with timed("vacuum"):
        await connection.execute("VACUUM ANALYZE")
    with timed("tallies"):
        while await tally(seconds=60):
            pass
    sizes = await connection.fetch(
        """SELECT relname AS name, pg_relation_size(oid) AS bytes FROM pg_class
           WHERE oid = 'signal'::regclass
              OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'signal'::regclass)
           ORDER BY 2 DESC"""
    )
    for row in sizes:
        print(f"  {row['name']}: {row['bytes'] / 2**20:,.0f} MB", flush=True)
    await connection.close()


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"  {what}: {time.perf_counter() - started:.0f} s", flush=True)
