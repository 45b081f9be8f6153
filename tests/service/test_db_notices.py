"""Notices of changes, through a real PostgreSQL: said soon, seldom and never lost; heard again after every break."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from portal.db import notices
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Unavailable
from portal.settings import get_settings
from tests.people import Cast
from tests.signals import make_sender

SIGNALS = frozenset({"signals"})
BOTH = frozenset({"signals", "action"})


@pytest_asyncio.fixture
async def listening(database: None) -> AsyncIterator[None]:
    await notices.settle()  # what tests before have announced
    async with notices.open_listener():
        await until_connected()
        yield
    await notices.settle()


async def until_connected(*, but_not: int | None = None) -> int:
    """The PostgreSQL process that serves the listener, once it listens; another one than `but_not`."""
    for _ in range(500):
        rows = await run_sql(
            "SELECT pid FROM pg_stat_activity WHERE application_name = {} AND datname = current_database() "
            "AND state = 'idle' AND query ILIKE 'listen%'",
            notices.APPLICATION_NAME,
        )
        if rows and rows[0]["pid"] != but_not:
            return int(rows[0]["pid"])
        await asyncio.sleep(0.02)
    raise AssertionError("the listener did not connect")


class Ear:
    """A listener of the test's own: what really went over the wire, and when."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str]] = []

    async def __aenter__(self) -> "Ear":
        self.connection = await asyncpg.connect(get_settings().database_url)
        await self.connection.add_listener(notices.CHANNEL, self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    def _hear(self, _connection: object, _pid: int, _channel: str, notice: object) -> None:
        self.heard.append((time.monotonic(), str(notice)))


async def test_a_change_is_told_to_its_organisation_alone(listening: None) -> None:
    ours, theirs = new_id(), new_id()
    with notices.subscribe(ours, BOTH) as here, notices.subscribe(theirs, BOTH) as there:
        notices.announce("signals", ours)
        changed, _ = await here.wait(2)
        assert changed == ["signals"]
        assert (await there.wait(0.3))[0] == []


async def test_a_topic_that_nobody_asked_for_wakes_nobody(listening: None) -> None:
    ours = new_id()
    with notices.subscribe(ours, SIGNALS) as here:
        notices.announce("action", ours)
        assert (await here.wait(0.4))[0] == []


async def test_thousands_of_changes_are_a_few_notices_and_the_last_one_is_among_them(listening: None) -> None:
    ours = new_id()
    async with Ear() as ear:
        began = time.monotonic()
        for _ in range(50):
            for _ in range(400):
                notices.announce("signals", ours)
            await asyncio.sleep(0.02)
        last = time.monotonic()
        notices.announce("signals", ours)
        await asyncio.sleep(0.4)
    moments = [at for at, _ in ear.heard]
    assert moments[0] - began < 0.1, "the first one does not wait"
    assert len(moments) <= (last - began) / notices.PAUSE_SECONDS + 2
    assert moments[-1] >= last, "what changed last is said after it changed"


async def test_announcing_costs_the_caller_next_to_nothing(listening: None) -> None:
    ours = new_id()
    began = time.thread_time()
    for _ in range(10_000):
        notices.announce("signals", ours)
    assert (time.thread_time() - began) / 10_000 < 20e-6


async def test_many_topics_are_said_together(listening: None) -> None:
    ours = [new_id() for _ in range(50)]
    async with Ear() as ear:
        for each in ours:
            notices.announce("signals", each)
        await asyncio.sleep(0.3)
    assert {notice for _, notice in ear.heard} == {f"signals {each}" for each in ours}
    assert ear.heard[-1][0] - ear.heard[0][0] < 0.1


async def test_a_db_transaction_is_announced_at_its_commit_and_only_then(listening: None) -> None:
    ours = new_id()
    with notices.subscribe(ours, BOTH) as here:
        async with transaction():
            await run_sql("SELECT 1")
            notices.announce_in_transaction("action", ours)
            assert (await here.wait(0.3))[0] == []
        assert (await here.wait(2))[0] == ["action"]
        with pytest.raises(ZeroDivisionError):
            await _fail_after_announcing(ours)
        assert (await here.wait(0.4))[0] == []


async def _fail_after_announcing(organization_id: UUID) -> None:
    async with transaction():
        notices.announce_in_transaction("action", organization_id)
        raise ZeroDivisionError


async def test_every_audited_change_is_told(listening: None, cast: Cast) -> None:
    with notices.subscribe(cast.organization_id, frozenset({"source", "rule"})) as here:
        await make_sender(cast.alice)
        assert (await here.wait(2))[0] == ["source"]


async def test_announcing_inside_a_db_transaction_keeps_off_its_connection(listening: None) -> None:
    ours = new_id()
    with notices.subscribe(ours, SIGNALS) as here:
        async with transaction():
            notices.announce("signals", ours)
            for _ in range(50):
                await run_sql("SELECT pg_sleep(0.002)")
        assert (await here.wait(2))[0] == ["signals"]


async def test_a_slow_reader_is_told_each_topic_once(listening: None) -> None:
    ours = new_id()
    with notices.subscribe(ours, BOTH) as here, notices.subscribe(ours, BOTH) as other:
        for _ in range(5):
            notices.announce("signals", ours)
            notices.announce("action", ours)
            assert (await other.wait(2))[0] == ["action", "signals"]
            await asyncio.sleep(notices.PAUSE_SECONDS * 1.2)
        assert (await here.wait(2))[0] == ["action", "signals"]
        assert (await here.wait(0.3))[0] == [], "five changes are one hint"


async def test_the_listener_comes_back_by_itself_and_tells_everybody_once(listening: None) -> None:
    ours = new_id()
    server = await until_connected()
    with notices.subscribe(ours, BOTH) as here:
        await run_sql("SELECT pg_terminate_backend({}::int)", server)
        assert (await here.wait(5))[0] == ["action", "signals"], "something may have been missed meanwhile"
        assert await until_connected(but_not=server)
        assert (await here.wait(0.3))[0] == []
        notices.announce("signals", ours)
        assert (await here.wait(2))[0] == ["signals"]


async def test_whoever_was_away_hears_what_changed_meanwhile(listening: None) -> None:
    ours = new_id()
    with notices.subscribe(ours, BOTH) as here:
        notices.announce("signals", ours)
        _, left_at = await here.wait(2)
    with notices.subscribe(ours, BOTH, since=left_at) as here:
        assert (await here.wait(0.3))[0] == [], "nothing happened"
    with notices.subscribe(ours, BOTH) as other:
        notices.announce("action", ours)
        await other.wait(2)
    with notices.subscribe(ours, BOTH, since=left_at) as here:
        assert (await here.wait(0))[0] == ["action"]


@pytest.mark.parametrize("position", ["", "x", "00000000.7", "0.", ".", "deadbeef.99999999999999999999", "ü.²"])
async def test_of_a_strange_position_everything_counts_as_changed(listening: None, position: str) -> None:
    with notices.subscribe(new_id(), BOTH, since=position or None) as here:
        assert (await here.wait(0))[0] == (["action", "signals"] if position else [])


async def test_a_position_from_before_a_break_is_no_longer_trusted(listening: None) -> None:
    ours, server = new_id(), await until_connected()
    left_at = notices.current_position()
    await run_sql("SELECT pg_terminate_backend({}::int)", server)
    await until_connected(but_not=server)
    with notices.subscribe(ours, BOTH, since=left_at) as here:
        assert (await here.wait(2))[0] == ["action", "signals"]


async def test_what_is_forgotten_counts_as_changed(listening: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "REMEMBERED", 3)
    ours, left_at = new_id(), notices.current_position()
    with notices.subscribe(ours, SIGNALS) as here:
        for _ in range(4):
            notices.announce("signals", new_id())
        notices.announce("signals", ours)
        await here.wait(2)
    with notices.subscribe(ours, BOTH, since=left_at) as here:
        assert "signals" in (await here.wait(0))[0]


async def test_notices_of_strangers_are_passed_over(listening: None) -> None:
    ours = new_id()
    with notices.subscribe(ours, SIGNALS) as here:
        for nonsense in ("", "signals", "signals nobody", "\N{SNOWMAN}" * 100):
            await run_sql("SELECT pg_notify({}, {})", notices.CHANNEL, nonsense)
        notices.announce("signals", ours)
        assert (await here.wait(2))[0] == ["signals"]


async def test_a_database_that_is_away_delays_a_notice_and_loses_none(
    listening: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, real, failures = new_id(), notices._notify, [1, 1]

    async def fails_twice(subjects: set[notices.Subject]) -> None:
        if failures:
            failures.pop()
            raise ConnectionResetError
        await real(subjects)

    monkeypatch.setattr(notices, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(notices, "_notify", fails_twice)
    with notices.subscribe(ours, SIGNALS) as here:
        notices.announce("signals", ours)
        assert (await here.wait(3))[0] == ["signals"]


async def test_an_ending_process_waits_for_nobody(database: None) -> None:
    async with notices.open_listener():
        await until_connected()
        with notices.subscribe(new_id(), SIGNALS) as here:
            waiting = asyncio.create_task(here.wait(30))
            await asyncio.sleep(0.05)
            notices.close_listeners()
            assert (await asyncio.wait_for(waiting, 1))[0] == []
            assert here.over
        with pytest.raises(Unavailable), notices.subscribe(new_id(), SIGNALS):
            pass
    assert notices.current_position() is None
