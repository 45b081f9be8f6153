"""Faults between the node's pool and finality: dropped, stuck, undone, hidden; nothing runs twice or is lost."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from portal.chain.rpc import Node, NodeUnavailable
from portal.chain.send_answers import SendAnswer, SendKind
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes import looking, pushing
from portal.transactions.tables import Outcome, TransactionStatus
from tests.actions import settings_chain
from tests.anvil import Anvil
from tests.transactions import Play

BROADCAST, MINED, CONFIRMED, FINALIZED = (
    TransactionStatus.BROADCAST,
    TransactionStatus.MINED,
    TransactionStatus.CONFIRMED,
    TransactionStatus.FINALIZED,
)
Patch = pytest.MonkeyPatch


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Anvil]:
    """A chain of its own for each test, since some move its clock."""
    async with settings_chain() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: Patch) -> None:
    """What is not seen is sent again at once."""
    monkeypatch.setattr(looking, "SEND_AGAIN_AFTER", timedelta(0))


@pytest.fixture
def stuck_at_once(monkeypatch: Patch) -> None:
    """Whatever is sent was passed over already: neither a block nor a second more is waited for."""
    monkeypatch.setattr(pushing, "STUCK_SECONDS", 0)
    for name in ("LANES", "LOOK"):
        monkeypatch.setattr(looking, name, getattr(looking, name).replace("c.stuck_blocks", "0"))


async def push() -> None:
    """What the watcher's next look and the lanes' next pass do about it."""
    await watch_chains()
    await run_lanes()


def in_pool(play: Play) -> dict[int, list[str]]:
    """Hashes in the node's pool by nonce, of the signer."""
    content = play.node.rpc("txpool_content")
    mine = {k.lower(): v for k, v in content["pending"].items()}.get(play.stage.signer_address.lower(), {})
    return {int(nonce): [each["hash"]] for nonce, each in mine.items()}


# Undone


async def test_what_a_reorganisation_takes_out_is_sent_again_and_mined_again(play: Play) -> None:
    action_id = await play.sent_mint()
    play.node.mine(3)
    await run_lanes()
    before = await play.view(action_id)
    await play.watch_until_mined()
    mined = await play.view(action_id)
    assert mined.outcome is Outcome.OK
    bytes_before = await play.attempts(action_id)

    play.node.rpc("anvil_reorg", 4, [])
    assert await play.minted() == 0, "the chain has forgotten it"
    await watch_chains()

    undone = await play.view(action_id)
    assert undone.status is BROADCAST
    assert (undone.outcome, undone.block_number, undone.block_hash, undone.gas_used) == (None, None, None, None)
    assert (undone.mined_at, undone.confirmed_at, undone.confirmations) == (None, None, 0)
    assert not any(attempt.mined for attempt in undone.attempts)
    assert "reorganised" in await play.audit(undone.id)
    assert (await play.attempts(action_id), undone.nonce) == (bytes_before, before.nonce)
    assert in_pool(play) == {}, "the watcher only watches"
    await run_lanes()
    assert in_pool(play) == {undone.nonce: [undone.hash]}

    await play.watch_until_mined(70)
    again = await play.view(action_id)
    assert (again.status, again.outcome) == (FINALIZED, Outcome.OK)
    assert again.block_hash != mined.block_hash
    assert await play.minted() == 1
    assert (await play.audit(again.id))[-3:] == ["mined", "confirmed", "finalized"]


async def test_a_reorganisation_after_confirmed_is_noticed_too(play: Play) -> None:
    action_id = await play.sent_mint()
    await play.watch_until_mined(5)
    assert (await play.view(action_id)).status is CONFIRMED
    play.node.rpc("anvil_reorg", 5, [])
    await watch_chains()
    undone = await play.view(action_id)
    assert (undone.status, undone.confirmed_at) == (BROADCAST, None)
    await run_lanes()
    await play.watch_until_mined(2)
    assert (await play.view(action_id)).status is CONFIRMED
    assert await play.minted() == 1


async def test_a_reorganisation_that_keeps_the_transaction_moves_it_to_its_new_block(play: Play) -> None:
    action_id = await play.sent_mint()
    await play.watch_until_mined()
    mined = await play.view(action_id)
    (raw,) = await play.attempts(action_id)
    play.node.rpc("anvil_reorg", 1, [["0x" + raw.hex(), 0]])
    await watch_chains()
    moved = await play.view(action_id)
    assert moved.block_hash != mined.block_hash
    block = play.node.rpc("eth_getBlockByHash", moved.block_hash, False)
    assert moved.hash in block["transactions"]
    assert await play.minted() == 1


async def test_a_receipt_in_a_block_that_is_not_canonical_does_not_count(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    play.node.mine()
    receipts = Node.receipts

    async def of_another_fork(node: Node, hashes: Any) -> Any:
        import msgspec

        found = await receipts(node, hashes)
        return [each and msgspec.structs.replace(each, block_hash="0x" + "ab" * 32) for each in found]

    with monkeypatch.context() as lying:
        lying.setattr(Node, "receipts", of_another_fork)
        await watch_chains()
        assert (await play.view(action_id)).status is BROADCAST
    await watch_chains()
    assert (await play.view(action_id)).status is MINED


async def test_a_node_that_lags_does_not_undo_anything(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    await play.watch_until_mined()

    async def no_blocks(node: Node, numbers: Any) -> Any:
        return [None for _ in numbers]

    with monkeypatch.context() as lagging:
        lagging.setattr(Node, "blocks", no_blocks)
        play.node.mine(70)
        await watch_chains()
        view = await play.view(action_id)
        assert view.status is MINED, "what cannot be compared is neither undone nor called final"
    await watch_chains()
    assert (await play.view(action_id)).status is FINALIZED


async def test_a_receipt_that_is_hidden_for_a_while_proves_nothing(
    play: Play, monkeypatch: Patch, impatient: None
) -> None:
    action_id = await play.sent_mint()
    play.node.mine()

    async def none(_node: Node, hashes: Any) -> Any:
        return [None for _ in hashes]

    with monkeypatch.context() as hidden:
        hidden.setattr(Node, "receipts", none)
        for _ in range(3):
            await push()
        view = await play.view(action_id)
        assert (view.status, view.held, len(view.attempts)) == (TransactionStatus.SUSPECT, True, 1)
        assert "shows no receipt of ours" in str(view.waiting_for)
        assert (await play.audit(view.id)).count("suspected") == 1
    await watch_chains()
    found = await play.view(action_id)
    assert (found.status, found.held) == (MINED, False)
    assert await play.minted() == 1


async def test_without_a_finalized_block_depth_decides(play: Play, monkeypatch: Patch) -> None:
    async def unsupported(_node: Node) -> None:
        return None

    monkeypatch.setattr(Node, "finalized", unsupported)
    action_id = await play.sent_mint()
    await play.watch_until_mined(64)
    assert (await play.view(action_id)).status is CONFIRMED
    await play.watch_until_mined()
    assert (await play.view(action_id)).status is FINALIZED


async def test_a_node_that_fails_once_costs_one_pass(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    play.node.mine()
    with monkeypatch.context() as broken:

        async def down(*_: Any, **__: Any) -> Any:
            raise NodeUnavailable("The node of chain 31337 answers HTTP 503.")

        broken.setattr(Node, "receipts", down)
        assert await watch_chains() == 0
    assert (await play.view(action_id)).status is BROADCAST
    await watch_chains()
    assert (await play.view(action_id)).status is MINED


# Dropped


async def test_what_the_pool_dropped_is_sent_again_as_it_was(play: Play, impatient: None) -> None:
    action_id = await play.sent_mint()
    sent = await play.view(action_id)
    play.node.rpc("anvil_dropTransaction", sent.hash)
    assert in_pool(play) == {}

    await push()
    assert in_pool(play) == {sent.nonce: [sent.hash]}
    await play.watch_until_mined()
    assert await play.minted() == 1
    assert len((await play.view(action_id)).attempts) == 1


async def test_what_was_just_sent_is_not_sent_again(play: Play) -> None:
    action_id = await play.sent_mint()
    first_sent = (await play.view(action_id)).attempts[0].last_sent_at
    await push()
    assert (await play.view(action_id)).attempts[0].last_sent_at == first_sent


# Stuck


async def test_what_is_passed_over_is_offered_for_a_tenth_more_at_the_same_nonce(
    play: Play, stuck_at_once: None
) -> None:
    action_id = await play.sent_mint()
    await push()
    view = await play.view(action_id)
    first, second = view.attempts
    for old, new in (
        (first.max_fee_wei, second.max_fee_wei),
        (first.max_priority_fee_wei, second.max_priority_fee_wei),
    ):
        assert int(new) * 10 >= int(old) * 11
    assert in_pool(play) == {view.nonce: [second.hash]}
    assert "repriced" in await play.audit(view.id)

    await play.watch_until_mined()
    mined = await play.view(action_id)
    assert (mined.status, mined.hash, mined.nonce) == (MINED, second.hash, view.nonce)
    assert await play.minted() == 1


async def test_the_original_may_be_mined_after_its_replacement_was_made(
    play: Play, stuck_at_once: None, monkeypatch: Patch
) -> None:
    action_id = await play.sent_mint()
    with monkeypatch.context() as lost:

        async def nowhere(_node: Node, raws: Any) -> list[SendAnswer]:
            return [SendAnswer(SendKind.UNAVAILABLE, "timeout") for _ in raws]

        lost.setattr(Node, "send_many", nowhere)
        await push()
    assert len((await play.view(action_id)).attempts) == 2
    await play.watch_until_mined()
    mined = await play.view(action_id)
    assert [attempt.mined for attempt in mined.attempts] == [True, False]
    assert await play.minted() == 1


async def test_only_the_first_of_a_lane_is_raised(play: Play, stuck_at_once: None) -> None:
    play.node.rpc("evm_setAutomine", False)
    actions = await play.approved_mints(3)
    await run_lanes()
    await push()
    counts = sorted((view.nonce, len(view.attempts)) for view in [await play.view(each) for each in actions])
    assert [count for _, count in counts] == [2, 1, 1]


async def test_a_replacement_that_is_too_low_for_the_pool_is_raised_again(
    play: Play, stuck_at_once: None, monkeypatch: Patch
) -> None:
    action_id = await play.sent_mint()
    send_many, refusals = Node.send_many, 1

    async def picky(node: Node, raws: Any) -> list[SendAnswer]:
        nonlocal refusals
        if refusals:
            refusals -= 1
            return [SendAnswer(SendKind.REPLACEMENT_UNDERPRICED, "replacement transaction underpriced")]
        return await send_many(node, raws)

    monkeypatch.setattr(Node, "send_many", picky)
    await push()
    view = await play.view(action_id)
    assert (len(view.attempts), view.held) == (3, False)
    assert in_pool(play) == {view.nonce: [view.attempts[-1].hash]}


async def test_raising_ends_at_the_cap_and_the_last_attempt_is_sent_on(
    play: Play, stuck_at_once: None, impatient: None
) -> None:
    action_id = await play.sent_mint()
    for _ in range(25):
        await push()
    view = await play.view(action_id)
    fees = [int(attempt.max_fee_wei) for attempt in view.attempts]
    assert fees[-1] <= 5 * fees[0]
    assert len(fees) == 17
    assert in_pool(play) == {view.nonce: [view.attempts[-1].hash]}
    await play.watch_until_mined()
    assert await play.minted() == 1


async def test_blocks_that_pass_quickly_are_no_reason_to_pay_more(play: Play) -> None:
    action_id = await play.sent_mint()
    play.node.rpc("anvil_dropTransaction", (await play.view(action_id)).hash)
    play.node.rpc("anvil_mine", hex(10), "0x1")
    await push()
    assert len((await play.view(action_id)).attempts) == 1
    play.node.rpc("anvil_mine", hex(10), "0x1")
    await push()
    assert len((await play.view(action_id)).attempts) == 2


async def test_few_blocks_are_no_reason_to_pay_more(play: Play) -> None:
    action_id = await play.sent_mint()
    play.node.rpc("anvil_dropTransaction", (await play.view(action_id)).hash)
    play.node.rpc("anvil_mine", hex(4), "0x3c")
    await push()
    assert len((await play.view(action_id)).attempts) == 1


async def test_a_pass_does_not_wait_for_a_silent_node_once_for_each_transaction(
    play: Play, impatient: None, monkeypatch: Patch
) -> None:
    play.node.rpc("evm_setAutomine", False)
    await play.approved_mints(5)
    await run_lanes()
    asked = 0

    async def silent(_node: Node, raws: Any) -> list[SendAnswer]:
        nonlocal asked
        asked += len(raws)
        return [SendAnswer(SendKind.UNAVAILABLE, "timeout") for _ in raws]

    monkeypatch.setattr(Node, "send_many", silent)
    await push()
    assert asked == 1
