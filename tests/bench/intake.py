"""`make bench`: intake against a bare echo, latency at half load, lost and doubled, start-up and memory.

All processes share the machine with the sender. What each of them costs a request explains the ratios, and unlike them
it hardly depends on what else the machine does.
"""

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

from tests.bench.load import SCHEMA, Load, Tally
from tests.browser.stack import ROOT, Stack
from tests.conftest import free_port

SIZES = {"500 B": 500, "5 kB": 5_000, "50 kB": 50_000}
COUNT = 6_000
CONNECTIONS = 32
ROUNDS = 3
HALF_SECONDS = 4.0
SHARES = (0.5, 0.95, 0.99)
PARTS = ("web", "postgres", "worker", "sender")
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
def running_echo() -> Iterator[tuple[str, int]]:
    """Its address and process id."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo", str(port)], cwd=ROOT)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(100):
            with suppress(httpx.HTTPError):
                httpx.post(url, timeout=1)
                break
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def process_id(stack: Stack, part: str) -> int:
    return int((stack.data / "run" / f"{part}.pid").read_text())


def cpu_seconds(process_id: int) -> float:
    """What a process and its children have used, those that have ended included."""
    process = psutil.Process(process_id)
    return sum(sum(each.cpu_times()[:4]) for each in (process, *process.children(recursive=True)))


def memory_mb(stack: Stack) -> dict[str, float]:
    return {name: psutil.Process(process_id(stack, name)).memory_info().rss / 2**20 for name in ("web", "worker")}


async def count_stored(stack: Stack, acknowledged: dict[str, str]) -> tuple[int, int]:
    """How many acknowledged signals are not stored, and how many deliveries are stored twice."""
    connection = await asyncpg.connect(stack.settings()["PORTAL_DATABASE_URL"])
    try:
        rows = await connection.fetch("SELECT id::text, external_id FROM signal")
    finally:
        await connection.close()
    stored = {row["external_id"]: row["id"] for row in rows}
    lost = sum(stored.get(delivery) != signal for delivery, signal in acknowledged.items())
    return lost, len(rows) - len(stored)


def wait_until_assessed(stack: Stack) -> None:
    while stack.api("signals?status=received&limit=1")["items"]:
        time.sleep(0.05)


@contextmanager
def assessment_waiting(stack: Stack) -> Iterator[None]:
    """The worker stands still, so that only what the bar is about takes time: verified, checked, committed."""
    worker = psutil.Process(process_id(stack, "worker"))
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


class Measured(msgspec.Struct):
    """Rounds of one kind of load."""

    rates: list[float] = []
    latencies_ms: list[float] = []
    spent: dict[str, float] = msgspec.field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """CPU seconds by process, the sender's own included."""
    answered: int = 0

    def add(self, load: Load, processes: dict[str, int], acknowledged: dict[str, str]) -> None:
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        tally = drive(load)
        assert not tally.refused, f"not all was accepted: {tally.refused}"
        for name, process in processes.items():
            self.spent[name] += cpu_seconds(process) - before[name]
        self.spent["sender"] += tally.cpu_seconds
        self.rates.append(load.count / tally.seconds)
        self.latencies_ms += tally.latencies_ms
        self.answered += load.count
        acknowledged |= tally.accepted

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.latencies_ms)
        return {
            "per_second": statistics.median(self.rates),
            "ms": {share: ordered[int(len(ordered) * share)] for share in SHARES},
            "cpu_microseconds": {name: spent / self.answered * 1e6 for name, spent in self.spent.items()},
        }


def measure_size(stack: Stack, echo: tuple[str, int], size: int, acknowledged: dict[str, str]) -> dict[str, Any]:
    """The medians over rounds that take turns, so that a busy moment of the machine hits all alike."""
    url, secret = (stack.example["source"][name] for name in ("url", "secret"))
    count = COUNT if size < 20_000 else COUNT // 4
    parts = {name: process_id(stack, name) for name in ("web", "postgres", "worker")}
    load = Load(url, secret, size, count, CONNECTIONS)
    measured = {name: Measured() for name in ("echo", "whole", "alone", "half")}
    for _ in range(ROUNDS):
        measured["echo"].add(Load(echo[0], "none", size, count, CONNECTIONS), {"web": echo[1]}, {})
        measured["whole"].add(load, parts, acknowledged)
        wait_until_assessed(stack)
        with assessment_waiting(stack):
            measured["alone"].add(load, parts, acknowledged)
        wait_until_assessed(stack)
    pace = statistics.median(measured["whole"].rates) / 2
    measured["half"].add(Load(url, secret, size, int(pace * HALF_SECONDS), CONNECTIONS, pace), parts, acknowledged)
    wait_until_assessed(stack)
    result = {name: each.summary() for name, each in measured.items()}
    for name in ("whole", "alone"):
        result[name]["ratio"] = result[name]["per_second"] / result["echo"]["per_second"]
    return result


TITLES = {
    "echo": "bare echo",
    "whole": "intake, assessed meanwhile",
    "alone": "intake, assessment waits",
    "half": "intake at half load",
}


def show(result: dict[str, Any]) -> None:
    console = Console(width=140)
    table = Table(title="Durable intake ÷ bare echo (medians of rounds that take turns)")
    for heading in ("body", "load", "per second", "ratio", *(f"p{share * 100:.0f} ms" for share in SHARES)):
        table.add_column(heading, justify="left" if heading in ("body", "load") else "right")
    for part in PARTS:
        table.add_column(f"{part} CPU µs", justify="right")
    for size, kinds in result["intake"].items():
        for kind, measured in kinds.items():
            ratio = f"{measured['ratio']:.2f}" if "ratio" in measured else ""
            spans = [f"{milliseconds:.1f}" for milliseconds in measured["ms"].values()]
            micros = measured["cpu_microseconds"]
            cpu = [f"{micros[part]:.0f}" if part in micros else "" for part in PARTS]
            table.add_row(size, TITLES[kind], f"{measured['per_second']:,.0f}", ratio, *spans, *cpu)
        table.add_section()
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
            stack.api_put(f"sources/{stack.example['source']['id']}/schema?type=order", SCHEMA)
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
