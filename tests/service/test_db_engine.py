"""Connections: none is lost however a db transaction ends, and nobody waits for one for ever."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from prometheus_client import Gauge

from portal.db import engine
from portal.db.engine import (
    ReservedConnection,
    get_engine,
    in_transaction,
    is_unreachable,
    numbered,
    run_sql,
    transaction,
)
from portal.settings import get_settings


async def begin_and_end_for_ever() -> None:
    while True:
        async with transaction():
            await run_sql("SELECT 1")


@asynccontextmanager
async def all_connections() -> AsyncIterator[None]:
    """Hold every connection of the pool; one that is lost makes this a `TimeoutError`."""
    pool = get_engine().pool
    assert pool is not None
    taken = [await pool.acquire(timeout=20) for _ in range(pool.get_max_size())]
    try:
        yield
    finally:
        for connection in taken:
            await pool.release(connection)


async def test_a_transaction_that_is_cancelled_anywhere_gives_its_connection_back(database: None) -> None:
    for _ in range(60):
        tasks = [asyncio.create_task(begin_and_end_for_ever()) for _ in range(4)]
        await asyncio.sleep(random.random() * 0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with all_connections():
        pass


async def test_a_connection_that_is_not_given_back_keeps_no_process_from_ending(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = engine.Engine(config={"dsn": get_settings().database_url})
    monkeypatch.setattr(engine, "get_engine", lambda: own)
    monkeypatch.setattr(engine, "POOL_CONNECTIONS", Gauge("connections", "Of this test", ["state"], registry=None))
    monkeypatch.setattr(engine, "CLOSE_SECONDS", 0.1)
    async with asyncio.timeout(10):
        async with engine.open_pool():
            assert own.pool
            await own.pool.acquire()
    assert own.pool is None


async def test_a_commit_that_fails_ends_the_transaction(database: None) -> None:
    async def break_at_commit() -> None:
        async with transaction():
            await run_sql("CREATE TEMP TABLE late (id int PRIMARY KEY, before int REFERENCES late DEFERRABLE)")
            await run_sql("SET CONSTRAINTS ALL DEFERRED")
            await run_sql("INSERT INTO late VALUES (1, 2)")

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await break_at_commit()
    assert not in_transaction()
    async with all_connections():
        pass


async def test_whoever_finds_no_free_connection_is_told_so(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WAIT_SECONDS", 0.2)
    async with all_connections():
        with pytest.raises(TimeoutError) as alone:
            await run_sql("SELECT 1")
        with pytest.raises(TimeoutError):
            await transaction().__aenter__()
    assert is_unreachable(alone.value)
    assert await run_sql("SELECT 1 AS one") == [{"one": 1}]


@pytest.fixture
async def reserved(database: None) -> AsyncIterator[ReservedConnection]:
    connection = ReservedConnection()
    yield connection
    connection.release()
    ReservedConnection.made.remove(connection)


async def test_a_reserved_connection_is_there_when_all_others_are_taken(
    reserved: ReservedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = (await reserved.fetch("SELECT pg_backend_pid() AS id"))[0]["id"]
    pool = get_engine().pool
    assert pool is not None
    monkeypatch.setattr(engine, "WAIT_SECONDS", 0.1)
    async with all_connections():
        with pytest.raises(TimeoutError):
            await run_sql("SELECT 1")
        assert (await reserved.fetch("SELECT pg_backend_pid() AS id"))[0]["id"] == process
        reserved.release()
        assert (await reserved.fetch("SELECT pg_backend_pid() AS id"))[0]["id"] != process


async def test_a_reserved_connection_that_breaks_is_replaced_and_none_is_lost(reserved: ReservedConnection) -> None:
    process = (await reserved.fetch("SELECT pg_backend_pid() AS id"))[0]["id"]
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await reserved.fetch("nonsense")
    assert (await reserved.fetch("SELECT pg_backend_pid() AS id"))[0]["id"] == process
    await run_sql("SELECT pg_terminate_backend({}::int)", process)
    await asyncio.sleep(0.05)
    assert (await reserved.fetch("SELECT pg_backend_pid() AS id"))[0]["id"] != process
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reserved.fetch("SELECT pg_sleep(10)")
    assert (await reserved.fetch("SELECT $1::int AS number", 7))[0]["number"] == 7
    async with all_connections():
        pass


def test_arguments_are_numbered_in_their_order() -> None:
    assert numbered("SELECT {}, {}::text") == "SELECT $1, $2::text"
