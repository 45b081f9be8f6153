"""`make bench BENCH=history`: lists, filters, search and pages over 10 million signals, asked of a real web process.

`BENCH_SIGNALS` is how many are loaded (10 million need 25 GB and half an hour), `BENCH_REPEATS` how often each request
is made. The plans of what is asked of the database go to var/bench-history-plans.txt.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from portal.db.engine import open_pool, run_sql
from portal.db.paging import encode_cursor
from portal.signals import queries, search
from portal.signals.schemas import SignalFilter
from tests.bench.history_database import SUBJECTS, Place, load, make_actions, make_places, origins_of, settle
from tests.browser.stack import ROOT, Stack, codes_of, running_stack

COUNT = int(os.environ.get("BENCH_SIGNALS", "10_000_000"))
REPEATS = int(os.environ.get("BENCH_REPEATS", "200"))
PAGE = 50
BAR_MS = 50
RESULT = ROOT / "var" / "bench-history.json"
PLANS = ROOT / "var" / "bench-history-plans.txt"

# Asking


async def sample(place: Place) -> None:
    """Signals to ask for, from all 90 days."""
    place.samples = await run_sql(
        """SELECT g.id, g.external_id, g.correlation_id, g.received_at,
                  (SELECT word FROM unnest(g.words) AS word WHERE word LIKE 'inv-%') AS number
           FROM generate_series(1, 200) AS n CROSS JOIN LATERAL (
               SELECT * FROM signal WHERE organization = {} AND id >= (
                   SELECT lpad(to_hex((extract(epoch FROM now() - n * interval '10 hours') * 1000)::bigint), 12, '0')
                       || '00000000000000000000')::uuid ORDER BY id LIMIT 1) g""",
        place.organization_id,
    )


def requests_of(big: Place, deep: UUID, chance: random.Random) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is asked of the API, by its name."""

    def one_of(field: str) -> Callable[[], Any]:
        return lambda: chance.choice(big.samples)[field]

    def asking(**given: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {name: value() if callable(value) else value for name, value in given.items()}

    day = lambda: chance.choice(big.samples)["received_at"]  # noqa: E731
    stripe, github, erp = (str(big.sources[name]) for name in ("stripe", "github", "erp"))
    return {
        "page 1": asking(),
        "page 10,000": asking(cursor=encode_cursor(deep)),
        "state, 69 %": asking(status="ignored"),
        "state, 0.01 %": asking(status="dead"),
        "state, none": asking(status="received"),
        "source, 60 %": asking(source_id=stripe),
        "source, 0.9 %": asking(source_id=erp),
        "type, 45 %": asking(type="invoice.paid"),
        "type, 0.02 %": asking(type="star"),
        "type, none": asking(type="nothing.happened"),
        "source + type + state": asking(source_id=github, type="push", status="failed"),
        "type + state, rare": asking(type="star", status="dead"),
        "source + type of another": asking(source_id=stripe, type="push"),
        "a day": lambda: {"since": (at := day()).isoformat(), "until": (at + timedelta(days=1)).isoformat()},
        "a day + type + state": lambda: {"until": day().isoformat(), "type": "push", "status": "failed"},
        "external id": asking(external_id=one_of("external_id")),
        "correlation id": asking(correlation_id=one_of("correlation_id")),
        "subject": lambda: {"subject": f"bench:{chance.randrange(1, SUBJECTS)}"},
        "word, 50 %": asking(text="eur"),
        "word, 1 %": asking(text="ada"),
        "word, 0.1 %": asking(text="zuse"),
        "word, 0.01 %": asking(text="ramanujan"),
        "word, once": asking(text=one_of("number")),
        "word, once frequent": lambda: {"text": f"{day():%Y-%m-%d}"},
        "word, never": lambda: {"text": f"nobody{chance.random()}"},
        "id": asking(text=one_of("external_id")),
        "beginning of an id": lambda: {"text": chance.choice(big.samples)["external_id"][:10]},
        "beginning of a word": asking(text="ramanu"),
        "two words": lambda: {"text": f"zuse city{chance.randrange(500)}"},
        "word 1 % + source 0.9 %": asking(text="ada", source_id=erp),
        "word 0.1 % + type + state": asking(text="zuse", type="push", status="failed"),
        "word 1 % + type of another": asking(text="ada", source_id=stripe, type="push"),
        "word 0.1 % before a day": lambda: {"text": "zuse", "until": day().isoformat()},
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Asker:
    """One client, one request at a time, and how long each took."""

    def __init__(self, base_url: str) -> None:
        self.http = httpx.AsyncClient(base_url=base_url, timeout=60)
        self.measured: dict[str, dict[str, float]] = {}

    async def measure(
        self, name: str, request: Callable[[], tuple[str, dict[str, Any]]], headers: dict[str, str]
    ) -> None:
        times = []
        for _ in range(REPEATS):
            path, parameters = request()
            started = time.perf_counter()
            answer = await self.http.get(path, params=parameters, headers=headers)
            times.append((time.perf_counter() - started) * 1000)
            assert answer.status_code == 200, f"{name}: {answer.status_code} {answer.text[:500]}"
        self.measured[name] = {
            "first": times[0],
            **{f"p{int(share * 100)}": percentile(times, share) for share in (0.5, 0.95, 0.99)},
        }


async def ask(stack: Stack, big: Place, small: Place, deep: UUID) -> dict[str, dict[str, float]]:
    from portal.accounts.sessions import COOKIE, sign_in

    asker, chance = Asker(stack.base_url), random.Random(5)
    requests = requests_of(big, deep, chance)
    for name, request in requests.items():
        await asker.measure(
            name, lambda request=request: ("/api/v1/signals", request()), {"authorization": f"Bearer {big.key}"}
        )
    few = ("page 1", "state, 0.01 %", "type, 45 %", "word, 1 %", "word, 0.01 %", "word, never")
    for name in few:
        await asker.measure(
            f"small organisation: {name}",
            lambda request=requests[name]: ("/api/v1/signals", request()),
            {"authorization": f"Bearer {small.key}"},
        )
    await asker.measure(
        "detail",
        lambda: (f"/api/v1/signals/{chance.choice(big.samples)['id']}", {}),
        {"authorization": f"Bearer {big.key}"},
    )
    member = stack.example["members"][0]
    signed_in = await sign_in(
        member["email"], member["password"], codes_of(member["totp_secret"]).next(), ip="127.0.0.1", user_agent="bench"
    )
    cookie, home = {"cookie": f"{COOKIE}={signed_in.token}"}, f"/orgs/{stack.example['organization']['slug']}"
    pages: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
        "list": lambda: (f"{home}/signals", {}),
        "list, state": lambda: (f"{home}/signals", {"status": "failed"}),
        "list, 7 days": lambda: (f"{home}/signals", {"period": "7d"}),
        "list, word 0.1 %": lambda: (f"{home}/signals", {"text": "zuse"}),
        "list, word 1 %": lambda: (f"{home}/signals", {"text": "ada"}),
        "list, word once": lambda: (f"{home}/signals", {"text": chance.choice(big.samples)["number"]}),
        "volume": lambda: (f"{home}/signals/volume", {}),
        "detail": lambda: (f"{home}/signals/{chance.choice(big.samples)['id']}", {}),
        "sources": lambda: (f"{home}/sources", {}),
        "overview": lambda: (f"{home}/overview", {}),
    }
    for name, page in pages.items():
        await asker.measure(f"page: {name}", page, cookie)
    await asker.http.aclose()
    return asker.measured


# Plans


async def write_plans(big: Place, deep: UUID, chance: random.Random) -> None:
    """The plans of every query behind what was asked, as this process has them made and run once more."""
    lines: list[str] = []

    async def explained(sql: str, *arguments: Any) -> list[dict[str, Any]]:
        plan = await run_sql(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", *arguments)
        lines.append(" ".join(sql.split()))
        lines.extend(f"    {row['QUERY PLAN']}" for row in plan)
        return await run_sql(sql, *arguments)

    def listing(request: Callable[[], dict[str, Any]]) -> Callable[[], Awaitable[Any]]:
        given = request()
        cursor = given.pop("cursor", None)
        filter = msgspec.convert(given, SignalFilter)
        return lambda: queries.list_signals(big.organization_id, filter, cursor=cursor)

    asked = {name: listing(request) for name, request in requests_of(big, deep, chance).items()}
    asked["counts"] = lambda: queries.count_signals_by_status(big.organization_id)
    asked["counts, 7 days"] = lambda: queries.count_signals_by_status(
        big.organization_id, SignalFilter(since=datetime.now(UTC) - timedelta(days=7))
    )
    asked["counts, word 1 %"] = lambda: queries.count_signals_by_status(big.organization_id, SignalFilter(text="ada"))
    asked["types"] = lambda: queries.list_signal_types(big.organization_id)
    asked["hours"] = lambda: queries.signals_by_hour(big.organization_id)
    asked["sources"] = lambda: queries.list_sources(big.organization_id)
    with patch.object(queries, "run_sql", explained), patch.object(search, "run_sql", explained):
        for name, request in asked.items():
            lines.append(f"\n== {name}")
            await request()
    PLANS.parent.mkdir(exist_ok=True)
    PLANS.write_text("\n".join(lines))


def show(measured: dict[str, dict[str, float]]) -> None:
    console, table = (
        Console(width=110),
        Table(title=f"{COUNT:,} signals; milliseconds of one request over HTTP, {REPEATS} each"),
    )
    table.add_column("asked for")
    for heading in ("first", "p50", "p95", "p99"):
        table.add_column(heading, justify="right")
    for name, times in measured.items():
        mark = "" if times["p95"] <= BAR_MS else "  above the bar"
        table.add_row(name + mark, *(f"{value:.1f}" for value in times.values()))
    console.print(table)
    ratio = measured["page 10,000"]["p50"] / measured["page 1"]["p50"]
    console.print(
        f"page 10,000 ÷ page 1: {ratio:.2f}; p95 over all kinds of requests: at most "
        f"{max(times['p95'] for times in measured.values()):.1f} ms"
    )


async def run(stack: Stack) -> dict[str, dict[str, float]]:
    async with open_pool():
        big, small = await make_places(UUID(stack.example["organization"]["id"]))
        database_url = os.environ["PORTAL_DATABASE_URL"]
        await load(database_url, origins_of(big, small), COUNT)
        await make_actions(big.organization_id)
        await settle(database_url)
        await sample(big)
        rows = await run_sql(
            "SELECT id FROM signal WHERE organization = {} ORDER BY id DESC OFFSET {} LIMIT 1",
            big.organization_id,
            min(10_000 * PAGE, COUNT // 2),
        )
        measured = await ask(stack, big, small, rows[0]["id"])
        await write_plans(big, rows[0]["id"], random.Random(6))
    return measured


def main() -> None:
    with running_stack() as stack:
        os.environ |= stack.settings()
        measured = asyncio.run(run(stack))
    show(measured)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"signals": COUNT, "milliseconds": measured}, indent=2))


if __name__ == "__main__":
    main()
