"""`make bench BENCH=assess`: how many signals one worker assesses a second, by what its rules make of them.

They are stored straight into the database of a fresh stack, whose one worker finds them as it finds any other. The rate
is taken from the first batch's `assessed_at` to the last one's. What is proposed is simulated by the same worker in
between, which costs it time and is in its CPU seconds.
"""

import asyncio
import copy
import hashlib
import json
import statistics
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from portal import clock
from portal.db.columns import new_id
from tests.bench.intake import cpu_seconds, process_id
from tests.browser.stack import ROOT, Stack, running_stack
from tests.signals import github_examples, sponsorship

ROUNDS = 3
RESULT = ROOT / "var" / "bench-assess.json"


class Case(msgspec.Struct, frozen=True):
    """Signals of one kind: `number` of them in each round."""

    name: str
    source: str
    type: str
    make: Callable[[int], bytes]
    number: int
    status: str


def small(number: int) -> bytes:
    return json.dumps({"id": f"evt_{number}", "note": " ".join(f"word{number + each}" for each in range(45))}).encode()


def of_github(number: int) -> bytes:
    """One of GitHub's own examples: 10 kB on average."""
    examples = github_examples()
    return examples[number % len(examples)][1]


def sponsored(login: Callable[[int], str]) -> Callable[[int], bytes]:
    def make(number: int) -> bytes:
        payload: dict[str, Any] = copy.deepcopy(sponsorship())
        payload["sponsorship"]["sponsor"]["login"] = login(number)
        return json.dumps(payload).encode()

    return make


CASES = (
    Case("no rule, 500 B", "bare", "ping", small, 20_000, "ignored"),
    Case("no rule, GitHub's examples (10 kB)", "bare", "ping", of_github, 10_000, "ignored"),
    Case("rule does not match (3 kB)", "picky", "sponsorship", sponsored(str), 15_000, "ignored"),
    Case(
        "proposes for the same end user (3 kB)",
        "matching",
        "sponsorship",
        sponsored(lambda _: "ada"),
        4_000,
        "assessed",
    ),
    Case(
        "proposes for a new end user each (3 kB)",
        "matching",
        "sponsorship",
        sponsored(lambda _: f"bench-{new_id().hex}"),
        4_000,
        "assessed",
    ),
)


async def store(connection: asyncpg.Connection, organization: UUID, source: UUID, case: Case) -> list[UUID]:
    bodies, now = [case.make(number) for number in range(case.number)], clock.now()
    rows = [
        (
            *(new_id(), organization, source, new_id().hex, case.type, "received", "[]", "application/json"),
            *(body, len(body), hashlib.sha256(body).digest(), new_id().hex, now),
        )
        for body in bodies
    ]
    columns = ["id", "organization", "source", "external_id", "type", "status", "reasons", "content_type", "body"]
    columns += ["body_bytes", "body_digest", "correlation_id", "received_at"]
    await connection.copy_records_to_table("signal", records=rows, columns=columns)
    return [row[0] for row in rows]


async def until_none(connection: asyncpg.Connection, waiting: str) -> None:
    while await connection.fetchval(f"SELECT EXISTS (SELECT FROM {waiting})"):  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)


async def measure(stack: Stack, connection: asyncpg.Connection, sources: dict[str, UUID], case: Case) -> dict[str, Any]:
    organization = UUID(stack.example["organization"]["id"])
    rates, cpu = [], {"worker": 0.0, "postgres": 0.0}
    for _ in range(ROUNDS):
        async with connection.transaction():
            stored = await store(connection, organization, sources[case.source], case)
            before = {part: cpu_seconds(process_id(stack, part)) for part in cpu}
        await until_none(connection, "signal WHERE status = 'received'")
        for part in cpu:
            cpu[part] += cpu_seconds(process_id(stack, part)) - before[part]
        batches = await connection.fetch(
            """SELECT assessed_at, count(*) AS number, bool_and(status = $2) AS as_expected
               FROM signal WHERE id = ANY($1) GROUP BY assessed_at ORDER BY assessed_at""",
            stored,
            case.status,
        )
        assert all(batch["as_expected"] for batch in batches), "the rules made something else of them"
        took = (batches[-1]["assessed_at"] - batches[0]["assessed_at"]).total_seconds()
        rates.append((case.number - batches[0]["number"]) / took)
        await until_none(connection, "action WHERE status = 'proposed' AND simulated_at IS NULL")
    micros = {part: spent / (ROUNDS * case.number) * 1e6 for part, spent in cpu.items()}
    return {"per_second": statistics.median(rates), "rates": sorted(rates), "cpu_microseconds": micros}


def post(stack: Stack, path: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(
        f"{stack.base_url}/api/v1/{path}",
        json=body,
        headers={"Authorization": f"Bearer {stack.example['api_key']}"},
        timeout=10,
    )
    made: dict[str, Any] = answer.raise_for_status().json()
    return made


def make_sources(stack: Stack) -> dict[str, UUID]:
    """The quickstart's, whose rule takes every sponsorship; one with a rule that reads the payload; one without any."""
    bare = post(stack, "sources", name="Without a rule", scheme="github")
    picky = post(stack, "sources", name="With a rule that never matches", scheme="github")
    rule = stack.api(f"rules/{stack.example['rule']['id']}")["latest"]
    copied = {name: rule[name] for name in ("subject", "contract_id", "function", "arguments", "policy_id")}
    condition = 'signal.type == "sponsorship" && payload.action == "cancelled" && payload.sponsorship.tier.is_one_time'
    made = post(stack, "rules", name="Never", source_id=picky["id"], condition=condition, **copied)
    post(stack, f"rules/{made['id']}/publications")
    ids = {"bare": bare["id"], "picky": picky["id"], "matching": stack.example["source"]["id"]}
    return {name: UUID(id) for name, id in ids.items()}


async def measure_all(stack: Stack) -> dict[str, Any]:
    sources = make_sources(stack)
    connection = await asyncpg.connect(stack.settings()["PORTAL_DATABASE_URL"])
    try:
        return {case.name: await measure(stack, connection, sources, case) for case in CASES}
    finally:
        await connection.close()


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"Signals assessed by one worker (medians of {ROUNDS} rounds)")
    for heading in ("signals", "per second", "worst and best", "worker CPU µs each", "database CPU µs each"):
        table.add_column(heading, justify="left" if heading == "signals" else "right")
    for name, measured in result.items():
        rates, cpu = measured["rates"], measured["cpu_microseconds"]
        span = f"{rates[0]:,.0f} to {rates[-1]:,.0f}"
        table.add_row(name, f"{measured['per_second']:,.0f}", span, f"{cpu['worker']:.0f}", f"{cpu['postgres']:.0f}")
    Console(width=120).print(table)


def main() -> None:
    with running_stack() as stack:
        result = asyncio.run(measure_all(stack))
    show(result)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2))
