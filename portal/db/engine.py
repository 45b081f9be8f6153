"""One PostgreSQL engine and pool a process, db transactions and advisory locks."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from typing import Any, ClassVar, Literal

import asyncpg
from piccolo.engine.postgres import PostgresEngine, PostgresTransaction
from piccolo.querystring import QueryString
from prometheus_client import Gauge, Histogram

from portal.errors import Unavailable
from portal.settings import get_settings

QUERY_SECONDS = Histogram(
    "portal_database_query_seconds", "Time of one database query, waiting for a connection included"
)
POOL_CONNECTIONS = Gauge("portal_database_pool_connections", "Connections of this process by state", ["state"])

# What asyncpg raises when the server is away, starting, stopping, full, or the pool is exhausted.
UNREACHABLE = (
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DiskFullError,
    # A query on a connection to which a stopping server has said its last word, before the end is noticed.
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
)


CONNECT_SECONDS = 5
COMMAND_SECONDS = 30
CLOSE_SECONDS = 5
WAIT_SECONDS = 10
"""How long anybody waits for a connection of the pool before the answer is that the database is unavailable."""


class Engine(PostgresEngine):
    """Piccolo's engine with query time observed and a bounded wait for a connection."""

    async def _run_in_pool(self, query: str, args: Sequence[Any] | None = None) -> Any:
        assert self.pool is not None
        async with self.pool.acquire(timeout=WAIT_SECONDS) as connection:
            return await connection.fetch(query, *(args or ()))

    async def run_querystring(self, querystring: QueryString, in_pool: bool = True) -> Any:
        started = time.perf_counter()
        try:
            return await super().run_querystring(querystring, in_pool)
        finally:
            QUERY_SECONDS.observe(time.perf_counter() - started)


class Transaction(PostgresTransaction):
    """Piccolo's db transaction, which gives its connection back however it ends.

    Piccolo's own keeps it for good where BEGIN, COMMIT or ROLLBACK fails or is cancelled, as a job is at its timeout.
    """

    def __init__(self, engine: PostgresEngine) -> None:
        super().__init__(engine, allow_nested=False)
        self.after_commit: list[Callable[[], None]] = []

    async def get_connection(self) -> Any:
        pool = self.engine.pool
        return await (pool.acquire(timeout=WAIT_SECONDS) if pool else self.engine.get_new_connection())

    async def begin(self) -> None:
        with self._closed_on_failure():
            await self.transaction.start()

    async def __aexit__(self, exception_type: Any, exception: BaseException | None, traceback: Any) -> Literal[False]:
        self.engine.current_transaction.reset(self.context)
        with self._closed_on_failure():
            await (self.transaction.rollback() if exception else self.transaction.commit())
        pool = self.engine.pool
        await (pool.release(self.connection) if pool else self.connection.close())
        if exception is None:
            for call in self.after_commit:
                call()
        return False

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with suppress(asyncpg.InterfaceError):  # the pool has taken it back already, broken as it is
                self.connection.terminate()  # nobody knows its state; the pool makes another one
            raise


SERVER_SETTINGS = {
    "application_name": "signal-portal",
    "timezone": "UTC",
    # Every query of ours is short: to start workers or a compiler for it takes ten times as long as to run it.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


@cache
def get_engine() -> Engine:
    """The engine of this process; connects on first use, pools after `open_pool()`."""
    return Engine(config={"dsn": get_settings().database_url})


@asynccontextmanager
async def open_pool() -> AsyncIterator[None]:
    """Hold the connection pool of this process open."""
    settings = get_settings()
    engine = get_engine()
    await engine.start_connection_pool(
        min_size=2,
        max_size=settings.database_pool_size,
        timeout=CONNECT_SECONDS,
        reset=_leave_as_it_is,
        command_timeout=COMMAND_SECONDS,
        server_settings=SERVER_SETTINGS,
    )
    assert engine.pool is not None
    POOL_CONNECTIONS.labels("open").set_function(engine.pool.get_size)
    POOL_CONNECTIONS.labels("idle").set_function(engine.pool.get_idle_size)
    try:
        yield
    finally:
        for reserved in ReservedConnection.made:
            reserved.release()
        with suppress(TimeoutError):  # whoever still has a connection then is cut off
            async with asyncio.timeout(CLOSE_SECONDS):
                await engine.pool.close()
        engine.pool = None


async def _leave_as_it_is(_connection: object) -> None:
    """Nothing of ours outlives its db transaction on a connection; asyncpg's reset costs a round trip a query."""


def transaction() -> Transaction:
    """A db transaction. Nesting raises, so only the outermost service function opens one.

    Start no task inside it: a child task would share its connection ("another operation is in progress").
    """
    return Transaction(get_engine())


def in_transaction() -> bool:
    """Whether the caller runs inside `transaction()`."""
    return get_engine().transaction_exists()


def after_commit(call: Callable[[], None]) -> None:
    """Make `call`, which must not raise, once the current db transaction has committed; never if it does not."""
    current = get_engine().current_transaction.get()
    assert isinstance(current, Transaction), "there is no db transaction whose commit could be awaited"
    current.after_commit.append(call)


async def run_sql(sql: str, *arguments: Any) -> list[dict[str, Any]]:
    """Run raw SQL, with `{}` for each argument, in the current db transaction if there is one; rows as dicts."""
    rows = await get_engine().run_querystring(QueryString(sql, *arguments))
    return [dict(row) for row in rows]


class ReservedConnection:
    """A connection beside the pool that is kept for one kind of work; who comes while it is in use waits.

    It costs none of the taking and giving back. It is there, and comes back when it is lost, although all those of the
    pool are taken and others wait for them.
    """

    made: ClassVar[list["ReservedConnection"]] = []

    def __init__(self, *, seconds: float = COMMAND_SECONDS) -> None:
        """`seconds` is how long a statement may take."""
        self._seconds = seconds
        self._address = ""
        self._connection: asyncpg.Connection | None = None
        self._use = asyncio.Lock()
        self.made.append(self)

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run SQL with `$1` and so on for the arguments, outside any db transaction but its own.

        Whatever goes wrong, a connection in an unknown state is not used again.
        """
        async with self._use:
            return await self._fetch(sql, *arguments)

    async def _fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        started = time.perf_counter()
        try:
            connection = self._connection
            if connection is None or connection.is_closed() or self._address != get_engine().config["dsn"]:
                connection = await self._connect()
            rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
            return rows
        except BaseException as error:
            if is_unreachable(error) or not isinstance(error, asyncpg.PostgresError):
                self.release()
            raise
        finally:
            QUERY_SECONDS.observe(time.perf_counter() - started)

    def release(self) -> None:
        """End the connection; the next use makes one again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _connect(self) -> asyncpg.Connection:
        self.release()
        self._address = get_engine().config["dsn"]
        self._connection = await asyncpg.connect(
            self._address, timeout=CONNECT_SECONDS, command_timeout=self._seconds, server_settings=SERVER_SETTINGS
        )
        return self._connection


def numbered(sql: str) -> str:
    """SQL for `run_sql`, with `{}` for each argument, as PostgreSQL itself numbers them."""
    first, *others = sql.split("{}")
    return first + "".join(f"${place}{text}" for place, text in enumerate(others, start=1))


def is_unreachable(error: BaseException) -> bool:
    """Whether `error` means that the database cannot be used now, rather than that the query is wrong."""
    return isinstance(error, UNREACHABLE)


def database_unavailable() -> Unavailable:
    return Unavailable(
        "The database does not answer just now. Nothing was stored; send the same request again.", retry_after_seconds=1
    )


@asynccontextmanager
async def advisory_lock(name: str) -> AsyncIterator[None]:
    """Hold the session-level advisory lock `name` on a connection of its own; waits for it."""
    connection = await get_engine().get_new_connection()
    try:
        await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
        yield
    finally:
        await connection.close()


@asynccontextmanager
async def try_advisory_lock(name: str) -> AsyncIterator[bool]:
    """Hold the session-level advisory lock `name` if nobody else does; whether it is held. Does not wait."""
    connection = await get_engine().get_new_connection()
    try:
        yield await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name)
    finally:
        await connection.close()
