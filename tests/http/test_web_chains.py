"""The page of the chains: how each is used and how its nodes are, for reading only and without any address."""

import re

import httpx
import pytest

from portal.chain import rpc
from portal.chain.chain_settings import update_chain
from portal.chain.rpc import close_nodes
from portal.chain.service import register_chains
from portal.settings import get_settings
from tests.actions import settings_chain
from tests.http.api import key_of
from tests.http.test_web_pages import Reader, text_of
from tests.http.test_web_rooms import HOME, Visitor
from tests.people import Cast

GWEI = 10**9


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


async def test_the_page_says_how_chains_are_used_and_how_their_nodes_are(
    reader: Reader, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with settings_chain() as node:
        urls = f"{get_settings().chain_rpc_urls},31337=http://127.0.0.1:1/v3/secret-key"
        settings = get_settings().model_copy(update={"chain_rpc_urls": urls})
        monkeypatch.setattr(rpc, "get_settings", lambda: settings)
        await close_nodes()
        assert await register_chains() == []
        await update_chain(31337, {"most_fee_wei": "7gwei", "final_depth": "9"}, by="test")
        await reader.sign_in(cast.oscar)
        page = await reader.get(f"{HOME}/chains")
    shown = re.sub(r"\s+", " ", text_of(page))
    for said in (
        "Local chain Chain 31337",
        "never above 7 gwei",
        "Final After 9 blocks",
        "Confirmed after 2 blocks",
        "Set by hand",
        f"127.0.0.1:{node.port} Well",
        "Endpoint 2",
        "cannot be reached",
    ):
        assert said in shown, said
    assert re.search(r"Fee now At most [\d.]+ gwei, of which the tip is 1 gwei", shown)
    assert "secret-key" not in page.text
    assert "<form" not in page.text.split('id="chains"')[1].split("</main>")[0], "nothing can be changed here"


async def test_a_chain_whose_node_is_away_is_shown_without_waiting(reader: Reader, cast: Cast) -> None:
    async with settings_chain():
        assert await register_chains() == []
        await close_nodes()
    await reader.sign_in(cast.carol)
    shown = text_of(await reader.get(f"{HOME}/chains"))
    await close_nodes()
    assert "The node of chain 31337 cannot be reached." in shown


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
