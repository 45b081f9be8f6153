"""`make bench`: intake against a bare echo, latency at half load, lost and doubled, start-up and memory."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.load import Load, Tally
from tests.browser.stack import ROOT, Stack
from tests.conftest import free_port

SIZES = {"500 B": 500, "5 kB": 5_000, "50 kB": 50_000}
COUNT = 6_000
CONNECTIONS = 32
ROUNDS = 3
RESULT = ROOT / "var" / "bench.json"


def drive(load: Load) -> Tally:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        cwd=ROOT,
        input=msgspec.json.encode(load),
        capture_output=True,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Tally)


@contextmanager
def running_echo() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo", str(port)], cwd=ROOT)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(100):
            with suppress(httpx.HTTPError):
                httpx.post(url, timeout=1)
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def memory_mb(stack: Stack) -> dict[str, float]:
    return {
        name: psutil.Process(int((stack.data / "run" / f"{name}.pid").read_text())).memory_info().rss / 2**20
        for name in ("web", "worker")
    }


async def count_stored(stack: Stack, acknowledged: dict[str, str]) -> tuple[int, int]:
    """How many acknowledged signals are not stored, and how many deliveries are stored twice."""
    environment = dict(line.split("=", 1) for line in (stack.data / "run" / "environment").read_text().splitlines())
    connection = await asyncpg.connect(environment["PORTAL_DATABASE_URL"])
    try:
        rows = await connection.fetch("SELECT id::text, external_id FROM signal")
    finally:
        await connection.close()
    stored = {row["external_id"]: row["id"] for row in rows}
    lost = sum(stored.get(delivery) != signal for delivery, signal in acknowledged.items())
    return lost, len(rows) - len(stored)


def wait_until_assessed(stack: Stack) -> float:
    """Seconds until no signal waits any more."""
    started = time.perf_counter()
    while stack.api("signals?status=received&limit=1")["items"]:
        time.sleep(0.05)
    return time.perf_counter() - started


def measure_size(stack: Stack, echo: str, size: int, acknowledged: dict[str, str]) -> dict[str, Any]:
    """The medians over rounds that take turns, so that a busy moment of the machine hits both."""
    source, count = stack.example["source"], COUNT if size < 20_000 else COUNT // 4
    rates: dict[str, list[float]] = {"echo": [], "intake": []}
    full: list[float] = []
    for _ in range(ROUNDS):
        yardstick = drive(Load(echo, "none", size, count, CONNECTIONS))
        rates["echo"].append(count / yardstick.seconds)
        tally = drive(Load(source["url"], source["secret"], size, count, CONNECTIONS))
        acknowledged |= tally.accepted
        rates["intake"].append(len(tally.accepted) / tally.seconds)
        full += tally.latencies_ms
        wait_until_assessed(stack)
    half = drive(
        Load(source["url"], source["secret"], size, count // 2, CONNECTIONS, statistics.median(rates["intake"]) / 2)
    )
    acknowledged |= half.accepted
    wait_until_assessed(stack)
    echo_rate, intake_rate = (statistics.median(rates[name]) for name in ("echo", "intake"))
    return {
        "echo_per_second": echo_rate,
        "intake_per_second": intake_rate,
        "ratio": intake_rate / echo_rate,
        "full_ms": {share: percentile(full, share) for share in (0.5, 0.95, 0.99)},
        "half_ms": {share: percentile(half.latencies_ms, share) for share in (0.5, 0.95, 0.99)},
        "half_refused": half.refused,
    }


def show(result: dict[str, Any]) -> None:
    console, table = Console(width=120), Table(title="Durable intake ÷ bare echo (medians of rounds that take turns)")
    for heading in ("body", "echo/s", "intake/s", "ratio", "p50/p95/p99 ms full", "p50/p95/p99 ms at half"):
        table.add_column(heading, justify="right")
    for name, measured in result["intake"].items():
        spans = [" / ".join(f"{value:.1f}" for value in measured[key].values()) for key in ("full_ms", "half_ms")]
        rates = [f"{measured['echo_per_second']:.0f}", f"{measured['intake_per_second']:.0f}"]
        table.add_row(name, *rates, f"{measured['ratio']:.2f}", *spans)
    console.print(table)
    for name in ("acknowledged", "lost", "doubled", "warm_start_seconds", "memory_before_mb", "memory_after_mb"):
        console.print(f"{name.replace('_', ' ')}: {result[name]}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="portal-bench-") as folder, running_echo() as echo:
        os.chmod(folder, 0o755)
        stack = Stack(Path(folder) / "var", free_port())
        stack.start()
        stack.stop()
        started = time.perf_counter()
        stack.start()
        warm = time.perf_counter() - started
        try:
            before, acknowledged = memory_mb(stack), dict[str, str]()
            intake = {name: measure_size(stack, echo, size, acknowledged) for name, size in SIZES.items()}
            lost, doubled = asyncio.run(count_stored(stack, acknowledged))
            result = {
                "intake": intake,
                "acknowledged": len(acknowledged),
                "lost": lost,
                "doubled": doubled,
                "warm_start_seconds": round(warm, 1),
                "memory_before_mb": {name: round(value) for name, value in before.items()},
                "memory_after_mb": {name: round(value) for name, value in memory_mb(stack).items()},
            }
        finally:
            stack.stop()
    show(result)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2))
