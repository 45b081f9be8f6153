"""A web server of the test's own, on a port, and readers of its streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from portal.accounts.sessions import COOKIE
from portal.db import notices
from portal.server import Server, listen


async def until(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until something holds; raises `AssertionError` if it does not in time."""
    for _ in range(round(seconds / 0.01)):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to hold")


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[Server, str]]:
    """The application on a real socket, in this event loop, with an ear for changes; the server and its address."""
    listener = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=10))
    async with notices.open_listener():
        before = notices.current_position()
        await until(lambda: notices.current_position() != before)
        running = asyncio.create_task(server._serve([listener]))
        await until(lambda: server.started)
        try:
            yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@dataclass
class Stream:
    """What a reader has got so far: events in order, and the id to come back with."""

    response: httpx.Response
    events: list[str] = field(default_factory=list)
    last_id: str = ""
    text: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        try:
            async for line in self.response.aiter_lines():
                self.text += line + "\n"
                name, _, value = line.partition(": ")
                if name == "event":
                    self.events.append(value)
                elif name == "id":
                    self.last_id = value
        except httpx.ReadError:
            pass
        self.ended.set()

    async def until(self, event: str, count: int = 1, seconds: float = 5) -> None:
        await until(lambda: self.events.count(event) >= count, seconds)


@asynccontextmanager
async def reading(url: str, token: str, topics: str, **more: str) -> AsyncIterator[Stream]:
    """An open stream of `/orgs/acme/live`, read along; with `last_event_id`, `since` and `background` where given."""
    headers = {"cookie": f"{COOKIE}={token}"}
    if more.pop("background", None):
        headers["x-background"] = "true"
    if last := more.pop("last_event_id", None):
        headers["last-event-id"] = last
    async with (
        httpx.AsyncClient(base_url=url, timeout=30) as client,
        client.stream("GET", "/orgs/acme/live", params={"topics": topics, **more}, headers=headers) as response,
    ):
        stream = Stream(response)
        reader = asyncio.create_task(stream.read())
        try:
            yield stream
        finally:
            reader.cancel()
            await asyncio.wait([reader])
