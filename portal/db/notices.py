"""Says at once what has changed to whoever shows it, in every process, by PostgreSQL's LISTEN and NOTIFY.

A notice is a hint, a topic of an organisation, never data: who hears one reads the rows again, within its own rights.
Topics are the kinds of subjects of the audit (`action`, `source`) and what changes too often for it (`signals`).

Nothing may depend on a notice: one is lost where a process is killed between its commit and the saying, so whoever
shows something reads it again once in a while all the same.

A listener numbers the notices it hears. A position (`<listener>.<number>`) says up to where somebody has heard; with
it, whoever was away is told what changed meanwhile. Of a position that is another process's, or from before the
listener itself was away, nobody knows what came after it: then every topic counts as changed.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import Context
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
from prometheus_client import Counter, Gauge

from portal.db.engine import after_commit, run_sql
from portal.errors import Unavailable
from portal.logging import get_logger
from portal.settings import get_settings

log = get_logger(__name__)
CHANNEL = "portal_notices"
APPLICATION_NAME = "signal-portal-listener"
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 1.0
SETTLE_SECONDS = 2.0
CHECK_SECONDS = 15.0
"""How often an idle listener asks whether the server is still there: a lost network tells nobody."""
FIRST_DELAY_SECONDS = 0.1
MOST_DELAY_SECONDS = 5.0
REMEMBERED = 20_000
"""Of topics of organisations, when each changed last; beyond it the listener forgets and counts all as changed."""
NOTICES = Counter("portal_notices_total", "Notices of changes by what became of them", ["result"])
SUBSCRIPTIONS = Gauge("portal_notice_subscriptions", "Open pages that are told of changes by this process")

Subject = tuple[UUID, str]


class Announcer:
    """Says what changed at most every 100 ms in one statement; what comes meanwhile is said together after that."""

    def __init__(self) -> None:
        self._due: set[Subject] = set()
        self._saying: asyncio.Task[None] | None = None

    def add(self, subject: Subject) -> None:
        self._due.add(subject)
        if self._saying is None or self._saying.done():
            # In a context of its own: the caller may be in a db transaction, whose connection is not for others.
            self._saying = asyncio.get_running_loop().create_task(self._say_all(), context=Context())

    async def _say_all(self) -> None:
        while self._due:
            due, self._due = self._due, set()
            try:
                await _notify(due)
            except Exception as error:
                self._due |= due
                log.warning("notices.delayed", count=len(due), error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                NOTICES.labels("said").inc(len(due))
                await asyncio.sleep(PAUSE_SECONDS)

    async def settle(self) -> None:
        if self._saying is not None:
            await asyncio.wait([self._saying], timeout=SETTLE_SECONDS)


async def _notify(subjects: set[Subject]) -> None:
    await run_sql(
        "SELECT pg_notify({}, notice) FROM unnest({}::text[]) AS notice",
        CHANNEL,
        [f"{topic} {organization_id}" for organization_id, topic in subjects],
    )


_announcer = Announcer()


def announce(topic: str, organization_id: UUID) -> None:
    """Say that `topic` of the organisation changed. Call it after the commit; returns at once and never raises.

    However often it is called, each topic of an organisation is said at most once in 100 ms, the last time included.
    """
    _announcer.add((organization_id, topic))


def announce_in_transaction(topic: str, organization_id: UUID) -> None:
    """Like `announce`, from within the db transaction that changes it: said once it has committed, else never.

    Not by NOTIFY in that transaction: it would hold one lock of the whole server until the commit is on the disk.
    """
    after_commit(partial(announce, topic, organization_id))


async def settle() -> None:
    """Wait until what was announced is said; for a process that is about to end. Gives up after two seconds."""
    await _announcer.settle()


class Subscription:
    """Somebody who is told what changes. What they have not asked for yet is kept once for each topic."""

    def __init__(self, listener: "Listener", organization_id: UUID, topics: frozenset[str]) -> None:
        self.organization_id = organization_id
        self.topics = topics
        self._listener = listener
        self._changed: set[str] = set()
        self._wake = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether the process is about to end: nothing more will be told."""
        return self._listener.closed

    def tell(self, topics: frozenset[str]) -> None:
        self._changed |= topics & self.topics
        if self._changed or self.over:
            self._wake.set()

    async def wait(self, seconds: float) -> tuple[list[str], str]:
        """The topics that changed since the last call, none if that takes longer than `seconds`; and the position."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        changed, self._changed = sorted(self._changed), set()
        return changed, self._listener.position


class Listener:
    """The one connection of a process that listens, and those who are told what it hears."""

    def __init__(self) -> None:
        self.closed = False
        self._name = secrets.token_hex(4)
        self._number = 0
        self._all_changed_at = 0
        self._changed_at: dict[Subject, int] = {}
        self._subscriptions: dict[UUID, set[Subscription]] = {}

    @property
    def position(self) -> str:
        return f"{self._name}.{self._number}"

    @contextmanager
    def subscribe(self, organization_id: UUID, topics: frozenset[str], since: str | None) -> Iterator[Subscription]:
        subscription = Subscription(self, organization_id, topics)
        subscription.tell(self._changed_since(since, organization_id, topics) if since else frozenset())
        subscribed = self._subscriptions.setdefault(organization_id, set())
        subscribed.add(subscription)
        SUBSCRIPTIONS.inc()
        try:
            yield subscription
        finally:
            SUBSCRIPTIONS.dec()
            subscribed.discard(subscription)
            if not subscribed:
                self._subscriptions.pop(organization_id, None)

    def _changed_since(self, position: str, organization_id: UUID, topics: frozenset[str]) -> frozenset[str]:
        name, _, digits = position.partition(".")
        if name != self._name or not digits.isdecimal() or len(digits) > 18 or int(digits) < self._all_changed_at:
            return topics
        number = int(digits)
        return frozenset(topic for topic in topics if self._changed_at.get((organization_id, topic), 0) > number)

    def close(self) -> None:
        """Tell everybody that it is over."""
        self.closed = True
        self._tell_all(frozenset())

    def _tell_all(self, topics: frozenset[str] | None = None) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.tell(subscription.topics if topics is None else topics)

    def _hear(self, _connection: Any, _pid: int, _channel: str, notice: object) -> None:
        topic, _, id = str(notice).partition(" ")
        try:
            organization_id = UUID(id)
        except ValueError:
            return  # not ours: whoever can connect to the database can notify
        NOTICES.labels("heard").inc()
        self._number += 1
        if len(self._changed_at) >= REMEMBERED:
            self._changed_at.clear()
            self._all_changed_at = self._number
        self._changed_at[organization_id, topic] = self._number
        for subscription in self._subscriptions.get(organization_id, ()):
            subscription.tell(frozenset((topic,)))

    async def listen(self) -> None:
        """Listen for ever; connects again by itself, and then tells everybody, since something may have been missed."""
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                async with _connect() as connection:
                    await connection.add_listener(CHANNEL, self._hear)
                    self._number += 1
                    self._all_changed_at = self._number
                    self._tell_all()
                    delay = FIRST_DELAY_SECONDS
                    await _watch(connection)
            except Exception as error:
                log.warning("notices.unheard", error=type(error).__name__, again_in_seconds=delay)
            await asyncio.sleep(delay * random.uniform(0.7, 1.3))  # noqa: S311  no secret
            delay = min(delay * 2, MOST_DELAY_SECONDS)


@asynccontextmanager
async def _connect() -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        get_settings().database_url,
        timeout=5,
        command_timeout=5,
        server_settings={"application_name": APPLICATION_NAME},
    )
    try:
        yield connection
    finally:
        connection.terminate()


async def _watch(connection: asyncpg.Connection) -> None:
    """Return once the connection is lost; raises where the server does not answer any more."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _connection: lost.set())
    while not (lost.is_set() or connection.is_closed()):
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await lost.wait()
        except TimeoutError:
            await connection.execute("SELECT 1")


_listeners: list[Listener] = []  # of this process; empty where nothing is shown, as in the worker


@asynccontextmanager
async def open_listener() -> AsyncIterator[None]:
    """Listen while the process serves; a database that is away does not keep it from serving."""
    listener = Listener()
    listening = asyncio.create_task(listener.listen())
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        listener.close()
        listening.cancel()
        await asyncio.wait([listening])


def close_listeners() -> None:
    """End every subscription, now and from now on: the process is about to end and waits for nobody."""
    for listener in _listeners:
        listener.close()


def current_position() -> str | None:
    """Up to where this process has heard. Ask before reading what is shown; None in a process that does not listen."""
    return _listeners[0].position if _listeners else None


def require_listener() -> Listener:
    """The listener of this process. Raises `Unavailable` where the process does not listen, or no longer."""
    if not _listeners or _listeners[0].closed:
        raise Unavailable("This process does not tell of changes just now.", retry_after_seconds=1)
    return _listeners[0]


def subscribe(
    organization_id: UUID, topics: frozenset[str], *, since: str | None = None
) -> AbstractContextManager[Subscription]:
    """Be told of changes of `topics`, beginning with those after the position `since`. Raises `Unavailable`."""
    return require_listener().subscribe(organization_id, topics, since)
