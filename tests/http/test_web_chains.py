"""The page of the chains: how each is used and how its nodes are, for reading only and without any address."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from portal.chain import rpc
from portal.chain.chain_settings import update_chain
from portal.chain.rpc import close_nodes
from portal.chain.service import register_chains
from portal.db.engine import run_sql
from portal.settings import get_settings
from portal.transactions.watching.watcher import watch_chains
from tests.actions import settings_chain
from tests.anvil import Anvil
from tests.http.api import key_of
from tests.http.test_web_pages import Reader, text_of
from tests.http.test_web_rooms import HOME, Visitor
from tests.people import Cast

GWEI = 10**9


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


@asynccontextmanager
async def two_endpoints(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Anvil]:
    """A chain of which one endpoint is up, and one is not that has a secret in its address."""
    async with settings_chain() as node:
        urls = f"{get_settings().chain_rpc_urls},31337=http://127.0.0.1:1/v3/secret-key"
        settings = get_settings().model_copy(update={"chain_rpc_urls": urls})
        monkeypatch.setattr(rpc, "get_settings", lambda: settings)
        await close_nodes()
        assert await register_chains() == []
        yield node


def said_on(page: httpx.Response) -> str:
    return re.sub(r"\s+", " ", text_of(page))


async def test_the_page_says_how_chains_are_used_and_how_a_worker_saw_their_nodes(
    reader: Reader, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_endpoints(monkeypatch) as node:
        await update_chain(31337, {"most_fee_wei": "7gwei", "final_depth": "9"}, by="test")
        await watch_chains()
    await reader.sign_in(cast.oscar)  # from here on both nodes are away, and nobody is to notice
    page = await reader.get(f"{HOME}/chains")
    shown = said_on(page)
    for said in (
        "Local chain Chain 31337",
        "never above 7 gwei",
        "Final After 9 blocks",
        "Confirmed after 2 blocks",
        "Set by hand",
        f"127.0.0.1:{node.port} Well",
        "Endpoint 2",
        "cannot be reached",
        "A node last answered just now",
    ):
        assert said in shown, said
    assert "secret-key" not in page.text
    assert "<form" not in page.text.split('id="chains"')[1].split("</main>")[0], "nothing can be changed here"


async def test_a_chain_that_no_worker_hears_of_says_for_how_long(
    reader: Reader, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with settings_chain():
        assert await register_chains() == []
        await reader.sign_in(cast.carol)
        assert "No block has been seen yet. A worker looks as soon as one runs." in said_on(
            await reader.get(f"{HOME}/chains")
        )
        await watch_chains()
        await run_sql("UPDATE chain SET watched_at = now() - interval '7 minutes'")
        shown = said_on(await reader.get(f"{HOME}/chains"))
        assert "No worker has had an answer from its nodes for 7 minutes. What follows is as a worker last" in shown
        assert "A node last answered 7 minutes ago" in shown


async def test_who_wants_to_know_it_has_the_nodes_asked(
    reader: Reader, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reader.sign_in(cast.oscar)
    async with two_endpoints(monkeypatch) as node:
        listed = await reader.get(f"{HOME}/chains")
        check = f"{HOME}/chains/check?chain_id=31337"
        assert check in listed.text
        page = await reader.get(check)
        shown = said_on(page)
        assert re.search(r"Fee now, per unit of gas At most [\d.]+ gwei, of which the tip is 1 gwei", shown)
        assert f"127.0.0.1:{node.port} Well" in shown
        assert "cannot be reached" in shown
        assert "secret-key" not in page.text
        assert (await reader.get(f"{HOME}/chains/check?chain_id=9")).status_code == 404


async def test_nodes_that_are_away_are_not_waited_for(reader: Reader, cast: Cast) -> None:
    async with settings_chain():
        assert await register_chains() == []
        await close_nodes()
    await reader.sign_in(cast.carol)
    shown = said_on(await reader.get(f"{HOME}/chains/check?chain_id=31337"))
    await close_nodes()
    assert "The node of chain 31337 cannot be reached." in shown
    assert "What is approved waits and is not lost" in shown


async def test_the_api_shows_the_settings_as_they_are(http: httpx.AsyncClient, cast: Cast) -> None:
    async with settings_chain():
        assert await register_chains() == []
        await close_nodes()
    await update_chain(31337, {"least_tip_wei": "2gwei"}, by="test")
    answer = await http.get("/api/v1/chains", headers=await key_of(cast.alice, "chains:read"))
    [chain] = answer.json()["items"]
    assert (chain["least_tip_wei"], chain["most_fee_wei"], chain["final_depth"]) == (str(2 * GWEI), None, None)
    assert (chain["fee_style"], chain["stuck_blocks"], chain["in_flight_limit"]) == ("eip1559", 5, 16)
    assert chain["updated_at"]
