"""A transaction is given up only where two nodes agree that others have used its nonce, for good."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from portal.chain import rpc
from portal.chain.rpc import close_nodes, get_node
from portal.settings import get_settings
from portal.transactions.jobs import watch_chains
from portal.transactions.tables import TransactionStatus
from tests.actions import CHAIN, settings_chain
from tests.anvil import Anvil, NodeError
from tests.people import Cast
from tests.service.test_chain_rpc import answering
from tests.service.test_transactions_displacement import displaced_mint
from tests.transactions import Play, make_play


class Second:
    """A second node of the same chain, which may be wrong about counts at a block, or be silent."""

    def __init__(self, node: Anvil) -> None:
        self.node = node
        self.count: str | None = None
        self.is_silent = False

    def __call__(self, batch: list[dict[str, Any]]) -> Any:
        return b"<html>" if self.is_silent else [self._answer(request) for request in batch]

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        method, parameters = request["method"], request["params"]
        try:
            result = self.node.rpc(method, *parameters)
        except NodeError as error:
            return {"id": request["id"], "error": error.args[0]}
        if method == "eth_getTransactionCount" and parameters[1].startswith("0x") and self.count:
            result = self.count
        return {"id": request["id"], "result": result}


@asynccontextmanager
async def two_nodes(second: Second, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async with answering(second) as url:
        urls = f"{get_settings().chain_rpc_urls},{CHAIN}={url}"
        settings = get_settings().model_copy(update={"chain_rpc_urls": urls})
        with patch.context() as patched:
            patched.setattr(rpc, "get_settings", lambda: settings)
            get_node.cache_clear()
            yield
            await close_nodes()


@pytest_asyncio.fixture
async def play(cast: Cast) -> AsyncIterator[Play]:
    async with settings_chain() as node:
        yield await make_play(cast, node)


async def test_two_nodes_that_agree_give_it_up(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_nodes(Second(play.node), monkeypatch):
        view = await play.view(await displaced_mint(play))
    assert view.status is TransactionStatus.DISPLACED
    assert view.evidence
    assert view.evidence.endpoints == 2


async def test_while_one_says_otherwise_nothing_is_given_up_and_the_difference_is_reported(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Second(play.node)
    second.count = "0x0"
    async with two_nodes(second, monkeypatch):
        with capture_logs() as logs:
            action_id = await displaced_mint(play)
        assert (await play.view(action_id)).status is TransactionStatus.SUSPECT
        said = [entry for entry in logs if entry["event"] == "node.disagreement"]
        assert said
        assert {(entry["about"], entry["endpoint 2"], entry["log_level"]) for entry in said} == {("count", 0, "error")}
        second.is_silent = True
        await watch_chains()
        assert (await play.view(action_id)).status is TransactionStatus.SUSPECT, "one word alone is not enough"
