"""The moments between a delivery and its answer, each stopped on purpose; and senders that mean no good."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import psutil
import pytest

from portal.settings import Settings
from tests.browser.stack import Stack, running_stack
from tests.faults.senders import Senders, ask, database, kill, process_of, signed, until

SENDER_GIVES_UP_SECONDS = 10
"""GitHub's patience, the shortest that is documented by a sender with no retry of its own."""
POOL = Settings.model_fields["database_pool_size"].default
STORED = "SELECT id::text FROM signal WHERE external_id = $1"
WAITS_FOR_LOCK = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%INTO signal %'"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as stack:
        yield stack


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


acknowledged: dict[str, str] = {}
"""Signal ids by delivery id, of the test that runs."""


@pytest.fixture(autouse=True)
async def what_is_acknowledged_is_stored(stack: Stack) -> AsyncIterator[None]:
    """After each test every acknowledged delivery is one row, under the id that was answered."""
    acknowledged.clear()
    yield
    rows = await ask(
        stack, "SELECT external_id, id::text FROM signal WHERE external_id = ANY($1::text[])", list(acknowledged)
    )
    assert sorted(rows) == sorted(acknowledged.items())


async def deliver(http: httpx.AsyncClient, stack: Stack, delivery: str) -> httpx.Response:
    source, body = stack.example["source"], json.dumps({"action": "none of a rule's", "delivery": delivery}).encode()
    answer = await http.post(source["url"], content=body, headers=signed(source["secret"], body, delivery))
    if answer.status_code == 202:
        signal_id = answer.json()["signal_id"]
        assert acknowledged.setdefault(delivery, signal_id) == signal_id
    return answer


async def served_again(http: httpx.AsyncClient, stack: Stack) -> None:
    """Wait until the web process that was killed has a successor."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if (await http.get(f"{stack.base_url}/health/ready")).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "the web process did not come back"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def on_insert(stack: Stack, kind: str, body: str) -> AsyncIterator[None]:
    """What the database does when a signal is stored, meanwhile: `kind` is that of a trigger, `body` is PL/pgSQL."""
    await ask(stack, f"CREATE FUNCTION misbehave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    await ask(stack, f"CREATE {kind} FOR EACH ROW EXECUTE FUNCTION misbehave()")
    try:
        yield
    finally:
        await ask(stack, "DROP FUNCTION misbehave() CASCADE")


async def test_killed_between_verification_and_commit_nothing_is_stored_and_the_retry_is(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    delivery = str(uuid4())
    async with database(stack) as locker, locker.transaction():
        await locker.execute("LOCK TABLE signal IN EXCLUSIVE MODE")
        sent = asyncio.create_task(deliver(http, stack, delivery))
        await until(lambda: ask(stack, WAITS_FOR_LOCK))
        kill(stack, "web")
        with pytest.raises(httpx.HTTPError):
            await sent
        # Its connection is noticed as broken only when the insert ends; so the insert itself must go.
        await ask(stack, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    assert await ask(stack, STORED, delivery) == []
    await served_again(http, stack)
    again = await deliver(http, stack, delivery)
    assert again.status_code == 202
    assert await ask(stack, STORED, delivery) == [(again.json()["signal_id"],)]


async def test_killed_after_the_commit_the_retry_finds_the_one_row(stack: Stack, http: httpx.AsyncClient) -> None:
    """The commit is on its way when the process dies: the sender never hears of it, and tries again."""
    delivery = str(uuid4())
    slow = "CONSTRAINT TRIGGER slow AFTER INSERT ON signal DEFERRABLE INITIALLY DEFERRED"
    async with on_insert(stack, slow, "PERFORM pg_sleep(2); RETURN NULL;"):
        sent = asyncio.create_task(deliver(http, stack, delivery))
        await until(lambda: ask(stack, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        kill(stack, "web")
        with pytest.raises(httpx.HTTPError):
            await sent
        stored = await until(lambda: ask(stack, STORED, delivery))
    await served_again(http, stack)
    again = await deliver(http, stack, delivery)
    assert (again.status_code, again.json()["duplicate"]) == (202, True)
    assert await ask(stack, STORED, delivery) == stored == [(again.json()["signal_id"],)]


@asynccontextmanager
async def exhausted_pool(stack: Stack, http: httpx.AsyncClient) -> AsyncIterator[None]:
    """Every connection of the pool is taken by a request that waits, and more requests wait for one."""
    key = {"Authorization": f"Bearer {stack.example['api_key']}"}
    waiting = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%FROM rule %'
                 HAVING count(*) >= $1"""
    reads = []
    try:
        async with database(stack) as locker, locker.transaction():
            await locker.execute("LOCK TABLE rule IN ACCESS EXCLUSIVE MODE")
            reads = [asyncio.create_task(http.get(f"{stack.base_url}/api/v1/rules", headers=key)) for _ in range(60)]
            await until(lambda: ask(stack, waiting, POOL))
            yield
            refused = await http.get(f"{stack.base_url}/api/v1/policies", headers=key)
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) > 0
    finally:
        answers = await asyncio.gather(*reads)
    assert {answer.status_code for answer in answers} == {200, 503}
    assert (await http.get(f"{stack.base_url}/api/v1/rules", headers=key)).status_code == 200


@pytest.fixture
async def crowd() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        yield client


async def test_an_exhausted_pool_stops_reads_but_no_delivery(stack: Stack, crowd: httpx.AsyncClient) -> None:
    """Nor the first ones after a change of their source, or after the connections kept for them were lost meanwhile."""
    kept = "FROM pg_stat_activity WHERE query ILIKE ANY('{%INTO signal %,%UPDATE source_allowance%}')"
    change = "UPDATE source SET rate_limit_per_minute = $1, updated_at = now()"
    deliveries = [str(uuid4()) for _ in range(20)]
    assert (await deliver(crowd, stack, str(uuid4()))).status_code == 202
    async with exhausted_pool(stack, crowd):
        started = time.monotonic()
        await ask(stack, change, 10_000)
        await ask(stack, "UPDATE source_secret SET last_used_at = now() - interval '1 hour'")
        answers = [await deliver(crowd, stack, delivery) for delivery in deliveries[:10]]
        assert {answer.status_code for answer in answers} == {202}
        assert await ask(stack, f"SELECT pg_terminate_backend(pid) {kept} AND pid <> pg_backend_pid()") == [(True,)] * 2
        while len(answers) < len(deliveries):
            answer = await deliver(crowd, stack, deliveries[len(answers)])
            if answer.status_code == 202:
                answers.append(answer)
            else:
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert int(answer.headers["retry-after"]) > 0
            assert time.monotonic() - started < SENDER_GIVES_UP_SECONDS
    await ask(stack, change, None)


async def test_a_hundred_identical_deliveries_at_once_are_one_signal(stack: Stack) -> None:
    delivery = str(uuid4())
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=100)) as http:
        answers = await asyncio.gather(*(deliver(http, stack, delivery) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["signal_id"] for answer in answers}) == 1
    assert [answer.json()["duplicate"] for answer in answers].count(False) == 1


async def test_a_database_that_hangs_is_answered_503_before_the_sender_gives_up(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    deliveries = [str(uuid4()) for _ in range(40)]
    async with database(stack) as locker, locker.transaction():
        await locker.execute("LOCK TABLE signal IN EXCLUSIVE MODE")
        started = time.monotonic()
        answers = await asyncio.gather(*(deliver(http, stack, delivery) for delivery in deliveries))
        assert time.monotonic() - started < SENDER_GIVES_UP_SECONDS
    assert {answer.status_code for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    again = await asyncio.gather(*(deliver(http, stack, delivery) for delivery in deliveries))
    assert {answer.status_code for answer in again} == {202}


async def test_a_full_disk_is_answered_503_and_nothing_is_acknowledged(stack: Stack, http: httpx.AsyncClient) -> None:
    """What PostgreSQL says when it cannot extend a file (SQLSTATE 53100), said by it for every insert."""
    full = "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';"
    delivery = str(uuid4())
    async with on_insert(stack, "TRIGGER full_disk BEFORE INSERT ON signal", full):
        refused = await deliver(http, stack, delivery)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    assert await ask(stack, STORED, delivery) == []
    assert (await deliver(http, stack, delivery)).status_code == 202


async def test_a_packed_body_is_refused_unread(stack: Stack, http: httpx.AsyncClient) -> None:
    """A gzip bomb of a gigabyte: it is never unpacked, so it costs no memory."""
    bomb = gzip.compress(bytes(2**20), compresslevel=9) * 1024
    web = psutil.Process(int(process_of(stack, "web")))
    before = web.memory_info().rss
    source = stack.example["source"]
    headers = signed(source["secret"], bomb, str(uuid4())) | {"Content-Encoding": "gzip"}
    answer = await http.post(source["url"], content=bomb[:900_000], headers=headers)
    assert answer.status_code == 415
    assert web.memory_info().rss - before < 50 * 2**20


async def test_slow_senders_keep_nobody_waiting_and_are_sent_away(stack: Stack, http: httpx.AsyncClient) -> None:
    """A hundred connections that give a byte now and then, some within the head and some within the body."""
    head = f"POST /api/v1/sources/{stack.example['source']['id']}/signals HTTP/1.1\r\nHost: x\r\n"
    bodies = [head + "Content-Length: 1000\r\nX-GitHub-Event: ping\r\n\r\n{", head + "X-Slow: "]

    async def drip(begin: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(begin.encode())
        answer = asyncio.create_task(reader.read(2000))
        while not answer.done():
            try:
                writer.write(b"x")
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.wait([answer], timeout=0.5)
        writer.close()
        try:
            return await answer
        except ConnectionError:
            return b""

    slow = [asyncio.create_task(drip(bodies[number % 2])) for number in range(100)]
    for _ in range(20):
        started = time.monotonic()
        assert (await deliver(http, stack, str(uuid4()))).status_code == 202
        assert time.monotonic() - started < 5
        await asyncio.sleep(0.1)
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*slow)
    assert {answer[9:12] for answer in answers[::2]} == {b"408"}
    assert {answer[9:12] for answer in answers[1::2]} <= {b"", b"408"}


async def test_a_source_that_was_paused_takes_nothing_from_that_moment_on(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    """The web process remembers sources; what it remembers is never believed over the database."""
    assert (await deliver(http, stack, str(uuid4()))).status_code == 202
    change = "UPDATE source SET status = $1, updated_at = now() WHERE id = $2::text::uuid"
    source_id = stack.example["source"]["id"]
    await ask(stack, change, "paused", source_id)
    refused = await deliver(http, stack, str(uuid4()))
    await ask(stack, change, "active", source_id)
    assert (refused.status_code, refused.json()["code"]) == (403, "source_paused")
    assert (await deliver(http, stack, str(uuid4()))).status_code == 202


async def test_what_came_in_while_no_worker_ran_is_assessed_when_one_does(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    worker = psutil.Process(int(process_of(stack, "worker")))
    worker.suspend()
    try:
        answers = [await deliver(http, stack, str(uuid4())) for _ in range(50)]
    finally:
        worker.resume()
    assert {answer.status_code for answer in answers} == {202}
    await Senders(stack).check_assessed()
