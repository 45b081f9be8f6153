"""One PostgreSQL a run, one database and one chain a test process, real commits, emptied after each test."""

import asyncio
import base64
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest
import pytest_asyncio
from xdist.scheduler import LoadScopeScheduling

SERVER = "PORTAL_TEST_POSTGRES"
"""A server to use instead of the embedded one: `postgresql://user@host:port`, without a database."""


def pytest_configure(config: pytest.Config) -> None:
    """Give this process its settings before anything of the portal is imported."""
    keep_recursion_limit()
    if SERVER not in os.environ:
        start_postgres(config)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    for name in [name for name in os.environ if name.startswith("PORTAL_") and name != SERVER]:
        del os.environ[name]
    os.environ.update(
        PORTAL_DATABASE_URL=f"{os.environ[SERVER]}/portal_test_{worker}_{os.getpid()}",
        PORTAL_SECRET_KEY=base64.b64encode(secrets.token_bytes(32)).decode(),
        PORTAL_SIGNER_KEY=base64.b64encode(secrets.token_bytes(32)).decode(),
        PORTAL_CHAIN_RPC_URLS=f"31337=http://127.0.0.1:{free_port()}",
        PORTAL_BASE_URL="http://127.0.0.1:8000",
        PORTAL_LOG_LEVEL="warning",
    )


def keep_recursion_limit() -> None:
    """Some tests ask eth-account, whose py_ecc lets Python recurse until the process dies; the portal never does."""
    limit = sys.getrecursionlimit()
    import py_ecc  # noqa: F401

    sys.setrecursionlimit(limit)


def start_postgres(config: pytest.Config) -> None:
    """Start the embedded server for this run; workers of xdist inherit its address."""
    import tempfile

    from portal.local.postgres import Postgres

    folder = tempfile.TemporaryDirectory(prefix="portal-test-")
    server = Postgres(Path(folder.name))
    os.environ[SERVER] = server.start()
    with psycopg.connect(f"{os.environ[SERVER]}/postgres", autocommit=True) as connection:
        # Tests kill servers, but nobody cuts the power: to wait for the disk at each commit proves nothing.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")

    def stop() -> None:
        server.stop()
        folder.cleanup()
        del os.environ[SERVER]

    config.add_cleanup(stop)


class ByPortal(LoadScopeScheduling):
    """Tests that share a running portal go to one test process, and first, for they take longest; all others anywhere.

    Not `xdist_group`: pytest 9.2 ignores it silently, and every portal was started twice.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if "tests/browser/" in path:
            return "browser"
        return path if "tests/faults/" in path else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByPortal | None:
    return ByPortal(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one more than there are processors, since many tests wait for blocks, timers and processes."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def run_on_server(*statements: str) -> None:
    connection = await asyncpg.connect(f"{os.environ[SERVER]}/postgres")
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def migrated() -> Iterator[None]:
    """A database of this process, built by the migrations."""
    from portal.db.migrations import migrate

    name = os.environ["PORTAL_DATABASE_URL"].rpartition("/")[2]
    asyncio.run(run_on_server(f'CREATE DATABASE "{name}"'))
    asyncio.run(migrate())
    yield
    asyncio.run(run_on_server(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest_asyncio.fixture(scope="session")
async def pool(migrated: None) -> AsyncIterator[None]:
    from portal.db.engine import open_pool

    async with open_pool():
        yield


@pytest_asyncio.fixture
async def database(pool: None) -> AsyncIterator[None]:
    """An open pool; every row a test leaves is gone after it. What was told meanwhile is what the document says."""
    yield
    from portal.db.engine import run_sql, transaction
    from portal.piccolo_app import APP_CONFIG
    from tests.events import undocumented_events

    undocumented = await undocumented_events()

    async with transaction():
        # Without triggers: neither the order of foreign keys nor the append-only audit stands in the way. TRUNCATE
        # makes new files for every index and takes fifty times as long for a few rows.
        await run_sql("SET LOCAL session_replication_role = replica")
        for table in APP_CONFIG.table_classes:
            await run_sql(f'DELETE FROM "{table._meta.tablename}"')
    assert undocumented == [], "say in docs/webhooks.md what subscribers are told"


@pytest_asyncio.fixture
async def cast(database: None) -> Any:
    """Acme with alice (owner), bob (approver), carol (auditor), oscar (operator); and dave of another one."""
    from tests.people import make_cast

    return await make_cast()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node() -> AsyncIterator[Any]:
    """The settings' chain, an anvil, for the tests of one file."""
    from tests.actions import settings_chain

    async with settings_chain() as running:
        yield running


@pytest_asyncio.fixture
async def stage(cast: Any, node: Any) -> Any:
    """A contract of Acme on the chain, with a signer, and a policy of two approvals."""
    from tests.actions import make_stage

    return await make_stage(cast, node)


@pytest_asyncio.fixture
async def play(cast: Any, node: Any) -> Any:
    """A stage with what tests of transactions do again and again."""
    from tests.transactions import make_play

    return await make_play(cast, node)


@pytest_asyncio.fixture(scope="session")
async def app(pool: None) -> AsyncIterator[Any]:
    """The real application, its lifespan running in this event loop on the test's own pool."""
    from portal.app import create_app

    yield create_app()


@pytest_asyncio.fixture
async def http(app: Any, database: None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the real application, with no cookie and no key."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client
