"""One endpoint that lies makes nothing final: receipts, `finalized` and heads are put to all endpoints first."""

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
from structlog.testing import capture_logs

from portal.chain import survey
from portal.db.engine import run_sql
from portal.transactions.tables import Outcome
from portal.transactions.tables import TransactionStatus as Status
from tests.actions import CHAIN
from tests.faults.node_proxy import BLOCK, RECEIPT, Alter, Break, NodeProxy, Say
from tests.faults.test_tx_watching import HIDDEN, sent, suspect_reads, told
from tests.faults.world import World, nodes_at

REVERTED = Alter(lambda receipt: receipt and {**receipt, "status": "0x0"})
LESS_GAS = Alter(lambda receipt: receipt and {**receipt, "gasUsed": "0x5208"})
FAR = 10**6


@pytest.fixture
def third_proxy(world: World) -> Iterator[NodeProxy]:
    running = NodeProxy(world.node).start()
    yield running
    running.stop()


async def lied_to(world: World, lie: Alter = REVERTED) -> Any:
    """The id of an action that succeeded, in a block that is final, with a first endpoint that says something else."""
    action_id = await sent(world)
    world.proxy.always(RECEIPT, lie)
    world.pass_blocks(80)
    await world.work()
    return action_id


def reports(logs: list[Any]) -> list[Any]:
    return [each for each in logs if each["event"] == "node.disagreement" and each["about"] == "receipt"]


@pytest.mark.parametrize("lie", [REVERTED, LESS_GAS], ids=["status", "gas"])
async def test_tx_74_a_receipt_that_the_first_endpoint_lies_about_is_held_and_put_right_without_it(
    world: World, other_proxy: NodeProxy, lie: Alter
) -> None:
    with nodes_at(world.proxy.url, other_proxy.url), capture_logs() as logs:
        action_id = await lied_to(world, lie)
        await world.work(3)
        held = await world.view(action_id)
        assert (held.status, held.held) == (Status.CONFIRMED, True)
        assert "endpoint 1 says that it" in str(held.waiting_for)
        assert "endpoint 2 says that it succeeded in block" in str(held.waiting_for)
        [report] = reports(logs)
        assert report["endpoint 1"] != report["endpoint 2"]
    with nodes_at(other_proxy.url):
        await world.work(2)
        assert (await world.view(action_id)).status is Status.CONFIRMED, "a minute is left for second thoughts"
        world.later(61)
        await world.work(2)
        view = await world.view(action_id)
        assert (view.status, view.outcome, view.failure) == (Status.FINALIZED, Outcome.OK, None)
        assert view.gas_used == int(world.node.rpc(RECEIPT, view.hash)["gasUsed"], 16)
        again = ["mined", "confirmed"]
        assert await told(view) == ["broadcast", *again, "reorganised", *again, "finalized"]
        await world.finish_ok(action_id)
    assert await world.play.minted() == 1


async def test_tx_74_an_endpoint_that_alternates_is_corrected_once(world: World, other_proxy: NodeProxy) -> None:
    with nodes_at(world.proxy.url, other_proxy.url):
        action_id = await lied_to(world)
        world.proxy.clear()
        world.later(61)
        await world.work(2)
        assert (await world.view(action_id)).outcome is Outcome.OK
        world.proxy.always(RECEIPT, REVERTED)
        world.later(61)
        await world.work(4)
        view = await world.view(action_id)
        assert (view.status, view.outcome) == (Status.CONFIRMED, Outcome.OK)
        await world.finish_ok(action_id)
    assert (await told(view)).count("reorganised") == 1


async def test_tx_74_one_endpoint_that_changes_its_mind_once_is_not_followed(world: World) -> None:
    action_id = await sent(world)
    world.pass_blocks(1)
    await world.work()
    world.pass_blocks(80)
    world.later(61)
    world.proxy.plan(RECEIPT, REVERTED)
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.outcome) == (Status.CONFIRMED, Outcome.OK)
    assert "endpoint 1 says that it reverted" in str(view.waiting_for)
    await world.finish_ok(action_id)
    assert "reorganised" not in await told(view)


async def test_tx_74_two_honest_endpoints_do_not_outvote_one_but_do_without_it(
    world: World, other_proxy: NodeProxy, third_proxy: NodeProxy
) -> None:
    with nodes_at(world.proxy.url, other_proxy.url, third_proxy.url), capture_logs() as logs:
        action_id = await lied_to(world)
        world.later(61)
        await world.work(3)
        held = await world.view(action_id)
        assert (held.status, held.outcome) == (Status.CONFIRMED, Outcome.REVERTED)
        [report] = reports(logs)
        assert "reverted" in report["endpoint 1"]
        assert report["endpoint 2"] == report["endpoint 3"]
    with nodes_at(other_proxy.url, third_proxy.url):
        await world.work(2)
        await world.finish_ok(action_id)


async def test_tx_74_a_receipt_that_is_made_up_is_not_final_and_the_call_is_sent_after_all(
    world: World, other_proxy: NodeProxy
) -> None:
    action_id = await sent(world)
    hash = (await world.view(action_id)).hash
    world.node.rpc("anvil_dropTransaction", hash)
    world.pass_blocks(1)
    block = world.node.rpc(BLOCK, "latest", False)
    where = {"blockHash": block["hash"], "blockNumber": block["number"], "transactionHash": hash, "status": "0x1"}
    receipt = {**where, "gasUsed": "0x5208", "effectiveGasPrice": "0x1", "contractAddress": None}
    world.proxy.always(RECEIPT, Say(receipt), tag=hash)
    with nodes_at(world.proxy.url, other_proxy.url):
        world.pass_blocks(80)
        await world.work(3)
        held = await world.view(action_id)
        assert (held.status, held.outcome) == (Status.CONFIRMED, Outcome.OK)
        assert f"endpoint 2 says that it is not in block {held.block_number}" in str(held.waiting_for)
    with nodes_at(other_proxy.url):
        world.later(61)
        await world.work(2)
        assert (await world.view(action_id)).status is Status.BROADCAST
        (view,) = await world.finish_ok(action_id)
    assert "reorganised" in await told(view)
    assert await world.play.minted() == 1


async def test_tx_72_a_finalized_tag_that_one_endpoint_lies_about_makes_nothing_final(
    world: World, other_proxy: NodeProxy
) -> None:
    newest = Alter(lambda _: world.node.rpc(BLOCK, "latest", False))
    with nodes_at(world.proxy.url, other_proxy.url), capture_logs() as logs:
        action_id = await sent(world)
        world.proxy.always(BLOCK, newest, tag="finalized")
        world.pass_blocks(30)
        await world.work(2)
        view = await world.view(action_id)
        assert (view.status, view.held) == (Status.CONFIRMED, False)
        world.pass_blocks(50)
        await world.work()
        assert (await world.view(action_id)).status is Status.FINALIZED
    assert not reports(logs)


async def test_tx_76_a_finalized_tag_that_one_endpoint_lies_about_gives_nothing_up(
    world: World, other_proxy: NodeProxy
) -> None:
    newest = Alter(lambda _: world.node.rpc(BLOCK, "latest", False))
    with nodes_at(world.proxy.url, other_proxy.url):
        action_id = await sent(world)
        world.spend_nonce()
        world.proxy.always(BLOCK, newest, tag="finalized")
        for _ in range(4):
            world.pass_blocks(10)
            await world.work()
        view = await world.view(action_id)
        assert (view.status, await suspect_reads(view)) == (Status.SUSPECT, 4)
        (view,) = await world.finish(action_id)
        assert view.status is Status.DISPLACED


async def test_tx_72_a_head_far_in_the_future_expires_nothing_makes_nothing_final_and_is_forgotten(
    world: World, other_proxy: NodeProxy
) -> None:
    def far(block: dict[str, Any]) -> dict[str, Any]:
        number, timestamp = int(block["number"], 16) + FAR, int(block["timestamp"], 16) + 12 * FAR
        return {**block, "number": hex(number), "timestamp": hex(timestamp)}

    with nodes_at(world.proxy.url, other_proxy.url):
        action_id = await sent(world)
        for tag in ("latest", "finalized"):
            world.proxy.always(BLOCK, Alter(far), tag=tag)
        waiting = await world.play.approved_mint(2)
        await world.work(2)
        assert {(await world.view(each)).closing_reason for each in (action_id, waiting)} == {None}
        world.pass_blocks(30)
        world.later(11)
        await world.work(2)
        view = await world.view(action_id)
        assert (view.status, view.outcome) == (Status.CONFIRMED, Outcome.OK)
    with nodes_at(other_proxy.url):
        await world.work()
        with capture_logs() as logs:
            await world.finish_ok(action_id, waiting)
    assert "chain.finalized_went_back" not in [each["event"] for each in logs]


async def test_tx_72_finality_goes_on_while_the_other_endpoint_is_away_but_not_at_its_first_lost_answer(
    world: World, other_proxy: NodeProxy
) -> None:
    with nodes_at(world.proxy.url, other_proxy.url):
        action_id = await sent(world)
        other_proxy.always("*", Break(503))
        world.pass_blocks(80)
        await world.work(2)
        assert (await world.view(action_id)).status is Status.CONFIRMED
        world.later(61)
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.outcome) == (Status.FINALIZED, Outcome.OK)


@pytest.mark.parametrize("doubt", ["is behind", "hides the receipt"])
async def test_tx_72_a_second_endpoint_that_is_not_so_far_is_waited_for(
    world: World, other_proxy: NodeProxy, third_proxy: NodeProxy, doubt: str
) -> None:
    def be_late() -> None:
        if doubt == "is behind":
            other_proxy.behind = 70
        else:
            other_proxy.always(RECEIPT, HIDDEN)

    with nodes_at(world.proxy.url, other_proxy.url):
        action_id = await sent(world)
        be_late()
        world.pass_blocks(80)
        with capture_logs() as logs:
            await world.work(2)
            world.later(61)
            await world.work(2)
        view = await world.view(action_id)
        assert (view.status, view.held, reports(logs)) == (Status.CONFIRMED, False, [])
        world.later(3600)
        await world.work(2)
        assert "endpoint 2 does not call its block final, or shows no receipt" in str(
            (await world.view(action_id)).waiting_for
        )
        other_proxy.clear()
        await world.work()
        assert (await world.view(action_id)).status is Status.FINALIZED

    with nodes_at(world.proxy.url, other_proxy.url, third_proxy.url):
        second = await sent(world)
        be_late()
        world.pass_blocks(80)
        await world.work()
        assert (await world.view(second)).status is Status.FINALIZED, "two of three are enough"


async def test_tx_72_where_depth_decides_each_endpoint_is_judged_by_its_own_head(
    world: World, other_proxy: NodeProxy
) -> None:
    await run_sql("UPDATE chain SET final_depth = 10 WHERE id = {}", CHAIN)
    with nodes_at(world.proxy.url, other_proxy.url):
        action_id = await sent(world)
        other_proxy.behind = 4
        world.pass_blocks(12)
        await world.work()
        assert (await world.view(action_id)).status is Status.CONFIRMED
        world.pass_blocks(3)
        await world.work()
        assert (await world.view(action_id)).status is Status.FINALIZED


async def test_tx_72_nothing_more_is_asked_while_nothing_is_to_be_final(
    world: World, other_proxy: NodeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "EVERY_SECONDS", inf)  # endpoints are not compared meanwhile
    with nodes_at(world.proxy.url, other_proxy.url):
        action_id = await sent(world)
        before = other_proxy.asked.copy()
        world.pass_blocks(10)
        await world.work(2)
        assert (await world.view(action_id)).status is Status.CONFIRMED
        assert other_proxy.asked == before
        await world.finish_ok(action_id)
        assert other_proxy.asked[RECEIPT] == 1
