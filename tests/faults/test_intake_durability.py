"""Answered 2xx means stored: web, worker and database are killed while signed deliveries come in; nothing is lost."""

import asyncio
import signal
from collections.abc import Iterator

import asyncpg
import pytest

from portal.db.engine import is_unreachable
from tests.browser.stack import Stack, running_stack
from tests.faults.senders import Senders, ask, kill, more_than, process_of, until


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as stack:
        yield stack


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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
async def test_a_database_that_goes_away_is_a_pause_for_senders(stack: Stack, how: signal.Signals) -> None:
    """Only 503 with Retry-After while it is away, nothing lost, and it goes on by itself. SIGINT is a fast shutdown."""
    senders = Senders(stack)

    async def chaos() -> None:
        for _ in range(2):
            refused = senders.answers[503]
            kill(stack, "postgres", how)
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
