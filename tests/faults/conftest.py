"""Fixtures of the tests of transactions behind the fault proxy."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from portal.chain.rpc import close_nodes
from portal.settings import get_settings
from tests.actions import CHAIN
from tests.anvil import Anvil, running_anvil
from tests.faults.killer import Killer, running_killer
from tests.faults.node_pool import GethPool
from tests.faults.node_proxy import NodeProxy
from tests.faults.world import RETIRED, World
from tests.people import Cast
from tests.transactions import make_play


@pytest.fixture(scope="module")
def anvil_behind() -> Iterator[Anvil]:
    """A chain of the module, at a port that the settings do not name."""
    with running_anvil() as node:
        yield node


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxy(anvil_behind: Anvil) -> AsyncIterator[NodeProxy]:
    """The node that the settings name."""
    port = int(get_settings().rpc_urls[CHAIN][0].rpartition(":")[2])
    running = NodeProxy(anvil_behind, port).start()
    try:
        yield running
    finally:
        await close_nodes()
        running.stop()


@pytest_asyncio.fixture
async def world(cast: Cast, proxy: NodeProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An organisation with a funded signer, no block but those that the test mines; the invariants hold at its end."""
    await close_nodes()
    proxy.clear()
    proxy.pool = None
    proxy.node.rpc("anvil_dropAllTransactions")
    world = World(await make_play(cast, proxy.node), proxy)
    world.no_automine()
    world.follow_chain(monkeypatch)
    proxy.sent.clear()
    yield world
    while RETIRED:
        await RETIRED.pop().close()
    await world.must_hold()


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    """Forks workers that end as a test tells them to."""
    with running_killer(tmp_path_factory.mktemp("killer")) as running:
        yield running


@pytest.fixture
def other_proxy(world: World) -> Iterator[NodeProxy]:
    """A second node of the same chain; name both with `nodes_at`."""
    running = NodeProxy(world.node).start()
    yield running
    running.stop()


@pytest.fixture
def geth(world: World) -> World:
    """The world with geth's pool in front of the chain."""
    world.proxy.pool = GethPool(world.node)
    return world
