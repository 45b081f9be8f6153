"""A running portal to break, and senders that behave as GitHub's users do."""

import asyncio
import hashlib
import hmac
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from portal.db.engine import UNREACHABLE
from tests.browser.stack import Stack

SENDERS = 6
RECOVERS_SECONDS = 60


def process_of(stack: Stack, part: str) -> str:
    return (stack.data / "run" / f"{part}.pid").read_text()


def kill(stack: Stack, part: str, how: signal.Signals = signal.SIGKILL) -> str:
    """End a part, by default without a warning; which process it was."""
    process = process_of(stack, part)
    os.kill(int(process), how)
    return process


async def until(look: Callable[[], Any]) -> Any:
    """What `look` gives, or what that gives when it is awaited, as soon as it is true: in other processes, mostly."""
    async with asyncio.timeout(RECOVERS_SECONDS):
        while True:
            seen = look()
            if isawaitable(seen):
                seen = await seen
            if seen:
                return seen
            await asyncio.sleep(0.02)


def more_than(things: dict[str, str], count: int) -> Callable[[], bool]:
    """Whether `count` have been added to `things` since now."""
    begun = len(things)
    return lambda: len(things) >= begun + count


@asynccontextmanager
async def database(stack: Stack) -> AsyncIterator[asyncpg.Connection]:
    """The portal's database, past the portal, as soon as it answers."""
    url = stack.settings()["PORTAL_DATABASE_URL"]
    deadline = time.monotonic() + RECOVERS_SECONDS
    while True:
        try:
            connection = await asyncpg.connect(url)
            break
        except (*UNREACHABLE, OSError):
            assert time.monotonic() < deadline, "the database did not come back"
            await asyncio.sleep(0.2)
    try:
        yield connection
    finally:
        await connection.close()


async def ask(stack: Stack, sql: str, *arguments: Any) -> list[Any]:
    """Rows of the portal's database."""
    async with database(stack) as connection:
        return [tuple(row) for row in await connection.fetch(sql, *arguments)]


def signed(secret: str, body: bytes, delivery: str, event: str = "ping") -> dict[str, str]:
    """The headers that GitHub would send with `body`."""
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }


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
        async with asyncio.TaskGroup() as group:
            senders = [group.create_task(self._send()) for _ in range(SENDERS)]
            # What breaks before anybody sends, or before what broke last is back, is noticed by nobody.
            await until(more_than(self.acknowledged, SENDERS))
            await chaos()
            self.stopping = True
            async with asyncio.timeout(RECOVERS_SECONDS):
                await asyncio.wait(senders)

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
        try:
            answer = await http.post(
                source["url"], content=body, headers=signed(source["secret"], body, delivery, self.event)
            )
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
