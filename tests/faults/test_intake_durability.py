"""Answered 2xx means stored: web, worker and database are killed while signed deliveries come in; nothing is lost."""

import asyncio
import hashlib
import hmac
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from portal.db.engine import UNREACHABLE, is_unreachable
from tests.browser.stack import Stack
from tests.conftest import free_port

SENDERS = 6
RECOVERS_SECONDS = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="portal-durability-") as folder:
        stack = Stack(Path(folder) / "var", free_port())
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


def process_of(stack: Stack, part: str) -> str:
    return (stack.data / "run" / f"{part}.pid").read_text()


def kill(stack: Stack, part: str) -> str:
    """`kill -9`; which process it was."""
    process = process_of(stack, part)
    os.kill(int(process), signal.SIGKILL)
    return process


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(RECOVERS_SECONDS):
        while not holds():  # noqa: ASYNC110  what it waits for happens in other processes
            await asyncio.sleep(0.02)


def more_than(things: dict[str, str], count: int) -> Callable[[], bool]:
    """Whether `count` have been added to `things` since now."""
    begun = len(things)
    return lambda: len(things) >= begun + count


async def ask(stack: Stack, sql: str, *arguments: Any) -> list[Any]:
    """Rows of the portal's database, read past the portal, as soon as it answers."""
    lines = (stack.data / "run" / "environment").read_text().splitlines()
    url = next(line.partition("=")[2] for line in lines if line.startswith("PORTAL_DATABASE_URL="))
    deadline = time.monotonic() + RECOVERS_SECONDS
    while True:
        try:
            connection = await asyncpg.connect(url)
            break
        except (*UNREACHABLE, OSError):
            assert time.monotonic() < deadline, "the database did not come back"
            await asyncio.sleep(0.2)
    try:
        return [tuple(row) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


@dataclass
class Senders:
    """Senders that behave as GitHub's users do: what was not acknowledged is delivered again, under the same id."""

    stack: Stack
    event: str = "ping"
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Signal ids by delivery id."""
    answers: Counter[int | str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stopping: bool = False

    async def run(self, chaos: Callable[[], Awaitable[None]]) -> None:
        """Deliver, many at once, while `chaos` goes on, and then until everything begun is acknowledged."""
        senders = [asyncio.create_task(self._send()) for _ in range(SENDERS)]
        await chaos()
        self.stopping = True
        async with asyncio.timeout(RECOVERS_SECONDS):
            await asyncio.gather(*senders)

    async def _send(self) -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            delivery, stored = "", True
            while not (self.stopping and stored):
                delivery = str(uuid4()) if stored else delivery
                stored = await self._deliver(http, delivery)
                if not stored:
                    await asyncio.sleep(0.05)

    async def _deliver(self, http: httpx.AsyncClient, delivery: str) -> bool:
        source = self.stack.example["source"]
        body = json.dumps({"action": "none of a rule's", "delivery": delivery}).encode()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": self.event,
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": "sha256=" + hmac.new(source["secret"].encode(), body, hashlib.sha256).hexdigest(),
        }
        try:
            answer = await http.post(source["url"], content=body, headers=headers)
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1
            return False
        self.answers[answer.status_code] += 1
        if answer.status_code == 202:
            self.acknowledged[delivery] = answer.json()["signal_id"]
        elif answer.status_code != 503 or not int(answer.headers.get("retry-after", "0")):
            self.wrong.append(f"{answer.status_code}: {answer.text}")
        return answer.status_code == 202

    async def check_stored(self) -> None:
        """Every acknowledged delivery is one row under the id that was answered; nothing but 202 and 503 was."""
        assert self.wrong == []
        assert len(self.acknowledged) > 20
        rows = await ask(
            self.stack,
            "SELECT external_id, id::text FROM signal WHERE external_id = ANY($1::text[])",
            list(self.acknowledged),
        )
        assert len(rows) == len(self.acknowledged)
        assert dict(rows) == self.acknowledged

    async def check_assessed(self) -> None:
        """None of them waits for ever."""
        waiting = "SELECT count(*) FROM signal WHERE status = 'received'"
        deadline = time.monotonic() + RECOVERS_SECONDS
        while (await ask(self.stack, waiting))[0][0]:
            assert time.monotonic() < deadline, "signals wait and nobody assesses them"
            await asyncio.sleep(0.2)


async def test_a_killed_web_process_loses_nothing_it_acknowledged(stack: Stack) -> None:
    senders = Senders(stack)

    async def chaos() -> None:
        for _ in range(2):
            await until(more_than(senders.acknowledged, 40))
            kill(stack, "web")

    await senders.run(chaos)
    assert set(senders.answers) - {202}, "nobody noticed the kill, so it proves nothing"
    await senders.check_stored()
    await senders.check_assessed()


async def test_a_killed_database_is_a_pause_for_senders(stack: Stack) -> None:
    """Only 503 with Retry-After while it is away, nothing lost, and it goes on by itself."""
    senders = Senders(stack)

    async def chaos() -> None:
        for _ in range(2):
            refused = senders.answers[503]
            kill(stack, "postgres")
            await until(lambda refused=refused: senders.answers[503] > refused)
            await until(more_than(senders.acknowledged, 40))

    await senders.run(chaos)
    await senders.check_stored()
    await senders.check_assessed()


async def test_a_worker_killed_again_and_again_leaves_nothing_unassessed(stack: Stack) -> None:
    senders = Senders(stack)

    async def chaos() -> None:
        for _ in range(3):
            await asyncio.sleep(0.7)
            killed = kill(stack, "worker")
            await until(lambda killed=killed: process_of(stack, "worker") != killed)

    await senders.run(chaos)
    assert set(senders.answers) == {202}, "whether a worker runs is nothing that a sender notices"
    await senders.check_stored()
    await senders.check_assessed()


async def test_without_the_queues_tables_signals_come_in_and_the_worker_makes_them_again(stack: Stack) -> None:
    senders = Senders(stack)

    async def chaos() -> None:
        tables = await ask(stack, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'saq%'")
        assert tables
        await ask(stack, "DROP TABLE " + ", ".join(name for (name,) in tables))
        await asyncio.sleep(0.5)

    await senders.run(chaos)
    assert set(senders.answers) == {202}
    await senders.check_stored()
    await senders.check_assessed()


def test_a_connection_on_which_a_stopping_database_said_its_last_word_is_a_database_away() -> None:
    """Seen under load: asyncpg calls it an internal error, and one delivery in thousands was answered 500."""
    said = "cannot switch to state 12; another operation (2) is in progress"
    assert is_unreachable(asyncpg.InternalClientError(said))
    assert not is_unreachable(asyncpg.UndefinedTableError('relation "signal" does not exist'))
