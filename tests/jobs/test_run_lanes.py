"""The jobs of transactions: run twice, at once, or late, each approved action is executed exactly once, in order."""

import asyncio
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import REGISTRY

from portal.chain.rpc import Node, NodeUnavailable
from portal.db.engine import run_sql, try_advisory_lock
from portal.transactions import metrics, service
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.tables import TransactionStatus
from tests.actions import make_signer, register_points
from tests.transactions import Play


async def nonces(play: Play) -> list[int | None]:
    rows = await run_sql("SELECT nonce FROM transaction WHERE organization = {} ORDER BY nonce", play.organization_id)
    return [row["nonce"] for row in rows]


async def drain(play: Play, passes: int = 40) -> None:
    """Run both jobs and mine until nothing is left to do."""
    for _ in range(passes):
        await run_lanes()
        play.node.mine()
        await watch_chains()
        open_ones = await run_sql(
            "SELECT count(*) AS n FROM transaction WHERE status IN ('queued', 'nonced', 'signed', 'broadcast')"
        )
        if not open_ones[0]["n"]:
            return
    raise AssertionError("transactions are left over")


async def test_a_job_that_runs_twice_at_once_sends_one_transaction(play: Play) -> None:
    action_id = await play.approved_mint(3)
    await asyncio.gather(*(run_lanes() for _ in range(5)))
    await run_lanes()

    assert await play.minted() == 3
    assert play.nonce_on_chain() == (await play.view(action_id)).nonce + 1  # type: ignore[operator]
    assert len(await play.attempts(action_id)) == 1


async def test_an_action_is_queued_once_by_however_many(play: Play) -> None:
    actions = await play.approved_mints(10)
    queued = await asyncio.gather(*(service.queue_approved() for _ in range(5)))
    assert sum(queued) == 10
    assert await service.queue_approved() == 0
    rows = await run_sql("SELECT action, count(*) AS n FROM transaction GROUP BY action")
    assert {row["action"]: row["n"] for row in rows} == dict.fromkeys(actions, 1)
    assert await play.audit((await play.view(actions[0])).id) == ["queued"]


async def test_an_action_that_is_not_approved_is_not_queued(play: Play) -> None:
    await play.stage.propose_mint()
    assert await service.queue_approved() == 0


async def test_fifty_approved_at_once_get_contiguous_nonces_and_one_execution_each(play: Play) -> None:
    start = play.nonce_on_chain()
    actions = await play.approved_mints(50)
    await asyncio.gather(*(run_lanes() for _ in range(4)))
    await drain(play)

    assert await nonces(play) == list(range(start, start + 50))
    assert play.nonce_on_chain() == start + 50
    assert await play.minted() == 50
    views = [await play.view(action) for action in actions]
    assert all(len(view.attempts) == 1 for view in views)
    # One worker alone keeps the order of approval; here four raced, so only the oldest is known to be first.
    assert min(views, key=lambda view: view.nonce or 0).queued_at == min(view.queued_at for view in views)


async def test_at_most_sixteen_of_a_lane_wait_for_a_block(play: Play) -> None:
    play.node.rpc("evm_setAutomine", False)
    await play.approved_mints(20)
    await asyncio.gather(run_lanes(), run_lanes())
    assert int(play.node.rpc("txpool_status")["pending"], 16) == 16

    play.node.mine()
    await watch_chains()
    await run_lanes()
    assert int(play.node.rpc("txpool_status")["pending"], 16) == 4
    play.node.mine()
    assert await play.minted() == 20


async def test_a_signer_without_funds_does_not_stop_another(play: Play) -> None:
    cast = play.stage.cast
    poor_id, poor = await make_signer(cast, "Poor")
    contract_id = await register_points(cast, play.node, poor_id, owner_address=poor)
    play.node.rpc("anvil_setBalance", poor, "0x0")
    held = await play.approved_mint(contract_id=contract_id)
    moving = await play.approved_mint(9)
    await run_lanes()
    assert (await play.view(held)).held
    assert (await play.view(moving)).status is TransactionStatus.BROADCAST
    assert await play.minted() == 9


async def test_the_first_nonce_comes_from_the_chain_and_only_the_first(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_chain = play.nonce_on_chain()
    assert on_chain == 1  # it has deployed the contract
    first = await play.approved_mint()
    await run_lanes()
    assert (await play.view(first)).nonce == on_chain

    async def stale(*_: object, **__: object) -> int:
        return 0

    monkeypatch.setattr(Node, "transaction_count", stale)
    second = await play.approved_mint()
    await run_lanes()
    assert (await play.view(second)).nonce == on_chain + 1


async def test_nothing_is_sent_before_the_first_nonce_is_known(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    action_id = await play.approved_mint()
    with monkeypatch.context() as broken:

        async def down(*_: object, **__: object) -> int:
            raise NodeUnavailable("The node of chain 31337 cannot be reached.")

        broken.setattr(Node, "transaction_count", down)
        await run_lanes()
    held = await play.view(action_id)
    assert (held.status, held.nonce) == (TransactionStatus.QUEUED, None)
    assert held.waiting_for == "The node of chain 31337 cannot be reached."
    await run_lanes()
    sent = await play.view(action_id)
    assert (sent.status, sent.held) == (TransactionStatus.BROADCAST, False)


async def test_a_paused_chain_is_left_alone(play: Play) -> None:
    action_id = await play.approved_mint()
    await run_sql("UPDATE chain SET paused_at = now()")
    await run_lanes()
    assert (await play.view(action_id)).status is TransactionStatus.QUEUED
    await run_sql("UPDATE chain SET paused_at = NULL")
    await run_lanes()
    assert (await play.view(action_id)).status is TransactionStatus.BROADCAST


async def test_a_chain_has_one_watcher_at_a_time(play: Play) -> None:
    action_id = await play.approved_mint()
    await run_lanes()
    async with try_advisory_lock("watch-chain:31337") as ours:
        assert ours
        assert await watch_chains() == 0
    assert (await play.view(action_id)).status is TransactionStatus.BROADCAST
    assert await watch_chains() == 1


async def test_two_watchers_at_once_move_each_transaction_once(play: Play) -> None:
    actions = await play.approved_mints(5)
    await run_lanes()
    play.node.mine(70)
    await asyncio.gather(*(watch_chains() for _ in range(3)))
    await watch_chains()
    for action in actions:
        view = await play.view(action)
        assert await play.audit(view.id) == [
            *("queued", "nonced", "signed", "broadcast", "mined", "confirmed", "finalized")
        ]


async def test_the_head_of_the_chain_and_the_gauges_follow(play: Play) -> None:
    play.node.mine()
    await play.approved_mint()
    await run_lanes()
    await watch_chains()
    await metrics.refresh()
    head = (await run_sql("SELECT head_number, head_hash, head_at FROM chain"))[0]
    block = play.node.rpc("eth_getBlockByNumber", "latest", False)
    assert (head["head_number"], head["head_hash"]) == (int(block["number"], 16), block["hash"])
    assert REGISTRY.get_sample_value("portal_transactions", {"status": "mined"}) == 1
    assert REGISTRY.get_sample_value("portal_transactions", {"status": "queued"}) == 0
    age = REGISTRY.get_sample_value("portal_chain_head_age_seconds", {"chain": "31337"})
    assert age is not None
    assert 0 <= age < 5


async def test_the_time_from_approval_to_broadcast_is_observed(play: Play) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("portal_transaction_broadcast_seconds_count") or 0

    before = count()
    await play.approved_mint()
    await run_lanes()
    await run_lanes()
    assert count() == before + 1


async def test_the_lane_of_a_signer_is_one_for_all_its_contracts(play: Play) -> None:
    cast = play.stage.cast
    second: UUID = await register_points(cast, play.node, play.stage.signer_id, owner_address=play.stage.signer_address)
    await play.approved_mint()
    await play.approved_mint(contract_id=second)
    await run_lanes()
    assert (await run_sql("SELECT count(*) AS n FROM lane"))[0]["n"] == 1
    assert await nonces(play) == [2, 3]


async def test_of_what_is_held_only_one_goes_before_what_is_not(play: Play) -> None:
    to_nobody = [await play.approved_mint(to="0x" + "00" * 19 + "01") for _ in range(25)]
    await service.queue_approved()
    await run_sql("UPDATE transaction SET reason = 'It would fail now.'")
    fresh = await play.approved_mint(5)
    await run_lanes()
    waited = [(await play.view(action)).nonce for action in to_nobody]
    assert ((await play.view(fresh)).nonce, waited.count(1)) == (2, 1)


async def test_the_database_itself_lets_one_transaction_of_a_lane_be_unsent(play: Play) -> None:
    await play.approved_mints(2)
    await service.queue_approved()
    with pytest.raises(asyncpg.UniqueViolationError):
        await run_sql("UPDATE transaction SET status = 'nonced'")
