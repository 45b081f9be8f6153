"""The way of one transaction, from approved to final, on a real chain."""

from collections.abc import AsyncIterator

import pytest_asyncio

from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.tables import Outcome, TransactionStatus
from tests.actions import ADA, settings_chain
from tests.anvil import Anvil
from tests.people import Cast
from tests.transactions import Play, make_play


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node() -> AsyncIterator[Anvil]:
    async with settings_chain() as running:
        yield running


@pytest_asyncio.fixture
async def play(cast: Cast, node: Anvil) -> Play:
    return await make_play(cast, node)


async def test_an_approved_action_becomes_final_and_the_chain_shows_it(play: Play) -> None:
    action_id = await play.approved_mint(7)

    await run_lanes()
    await watch_chains()
    mined = await play.view(action_id)
    assert mined.status is TransactionStatus.MINED, mined
    play.node.mine(70)
    await watch_chains()

    final = await play.view(action_id)
    assert (final.status, final.outcome) == (TransactionStatus.FINALIZED, Outcome.OK)
    assert await play.minted() == 7
