"""Confirmations, reorganisations and foreign transactions: what the chain undoes is undone here, too, and no more."""

from collections.abc import Iterator
from typing import Any

import pytest
from eth_abi.abi import encode
from structlog.testing import capture_logs

from portal.actions.queries import get_action
from portal.actions.schemas import DeploymentInput
from portal.actions.service import propose_deployment, simulate
from portal.chain.queries import get_contract
from portal.db.engine import run_sql
from portal.transactions.controls.service import cancel
from portal.transactions.schemas import TransactionView
from portal.transactions.tables import Outcome
from portal.transactions.tables import TransactionStatus as Status
from tests.actions import CHAIN
from tests.faults.node_proxy import BLOCK, COUNT, RECEIPT, SEND, Alter, Break, Fault, NodeProxy, Say, refuse
from tests.faults.world import World, nodes_at

HIDDEN = Say(None)
"""A receipt that the node does not have."""


async def sent(world: World) -> Any:
    """The id of an action whose transaction waits in the pool."""
    action_id = await world.play.approved_mint()
    await world.work()
    assert (await world.view(action_id)).status is Status.BROADCAST
    return action_id


async def mined(world: World) -> Any:
    action_id = await sent(world)
    world.pass_blocks(1)
    await world.work()
    assert (await world.view(action_id)).status is Status.MINED
    return action_id


async def suspect_reads(view: TransactionView) -> int:
    rows = await run_sql("SELECT suspect_reads FROM transaction WHERE id = {}", view.id)
    return int(rows[0]["suspect_reads"])


async def told(view: TransactionView) -> list[str]:
    """The events for subscribers from the first sending on, in the order in which they were recorded."""
    rows = await run_sql("SELECT kind FROM outbox WHERE subject_id = {} ORDER BY event_id", str(view.id))
    kinds = [row["kind"].removeprefix("transaction.") for row in rows]
    return [kind for kind in kinds[kinds.index("broadcast") :] if kind != "held"]


def times_sent(world: World, raw: bytes) -> int:
    return sum(each.raw == raw for each in world.proxy.sent)


# Answers that say the nonce is used


async def test_tx_25_nonce_too_low_because_an_older_attempt_is_mined(geth: World) -> None:
    action_id = await sent(geth)
    await geth.get_stuck()
    geth.proxy.plan(SEND, refuse("nonce too low: next nonce 2, tx nonce 1"))
    await geth.work()
    first, second = await geth.attempts(action_id)
    assert geth.pool.find(first.hash)
    geth.pool.holds_back = False
    geth.pass_blocks(1)
    await geth.work()
    view = await geth.view(action_id)
    assert (view.status, view.hash, view.held) == (Status.MINED, first.hash, False)
    assert second.nonce == first.nonce
    await geth.finish_ok(action_id)


async def test_tx_26_nonce_too_low_and_a_receipt_that_comes_a_minute_later(world: World) -> None:
    await run_sql("UPDATE chain SET final_depth = confirmations WHERE id = {}", CHAIN)  # what is in is final at once
    action_id = await sent(world)
    world.proxy.always(RECEIPT, HIDDEN)
    for _ in range(6):
        world.pass_blocks(1, seconds=10)
        await world.work()
        view = await world.view(action_id)
        assert (view.status, view.failure, len(view.attempts)) == (Status.SUSPECT, None, 1)
    world.proxy.clear()
    await world.work()
    assert (await world.view(action_id)).outcome is Outcome.OK
    await world.finish_ok(action_id)
    assert await world.play.minted() == 1


async def test_tx_27_nonce_too_low_before_anything_was_sent(world: World) -> None:
    await world.finish_ok(await world.play.approved_mint())
    world.spend_nonce()
    action_id = await world.play.approved_mint(5)
    await world.work()
    suspected = await world.view(action_id)
    assert suspected.status is Status.SUSPECT
    assert "shows no receipt of ours" in str(suspected.waiting_for)
    (view,) = await world.finish(action_id)
    assert (view.status, view.nonce, len(view.attempts)) == (Status.DISPLACED, suspected.nonce, 1)
    assert await world.play.minted() == 1


async def test_tx_28_nonce_too_low_again_and_again_after_it_is_mined(world: World) -> None:
    await run_sql("UPDATE chain SET confirmations = 4 WHERE id = {}", CHAIN)
    action_id = await mined(world)
    world.proxy.always(SEND, refuse("nonce too low"))
    for _ in range(5):
        await world.work()
        assert (await world.view(action_id)).status is Status.MINED
    world.pass_blocks(3)
    await world.work()
    assert (await world.view(action_id)).status is Status.CONFIRMED
    await world.finish_ok(action_id)


async def test_tx_29_a_receipt_in_between_begins_the_suspicion_anew(world: World) -> None:
    action_id = await sent(world)
    world.pass_blocks(1)
    world.proxy.always(RECEIPT, HIDDEN)
    await world.work(2)
    assert await suspect_reads(await world.view(action_id)) == 2
    world.proxy.clear()
    await world.work()
    assert (await world.view(action_id)).status is Status.MINED

    world.node.rpc("anvil_reorg", 1, [])
    await world.work(2)
    world.pass_blocks(2)
    world.proxy.always(RECEIPT, HIDDEN)
    await world.work()
    again = await world.view(action_id)
    assert (again.status, await suspect_reads(again)) == (Status.SUSPECT, 1)
    await world.finish_ok(action_id)
    assert await world.play.minted() == 1


async def test_tx_60_a_foreign_wallet_uses_the_key(world: World) -> None:
    first = await sent(world)
    hash = world.spend_nonce()
    with capture_logs() as logs:
        (view,) = await world.finish(first)
    assert view.status is Status.DISPLACED
    assert view.evidence
    block_number = int(world.node.rpc("eth_getTransactionByHash", hash)["blockNumber"], 16)
    assert (view.evidence.foreign_hash, view.evidence.foreign_block_number) == (hash, block_number)
    assert [each["log_level"] for each in logs if each["event"] == "security.transaction_displaced"] == ["error"]
    assert "displaced" in await told(view)

    world.no_automine()
    later = await world.play.approved_mint(3)
    (after,) = await world.finish_ok(later)
    assert after.nonce == view.evidence.transaction_count
    assert await world.play.minted() == 3


# Confirmations


async def test_tx_65_confirmed_comes_with_the_last_of_the_blocks_required(world: World) -> None:
    await run_sql("UPDATE chain SET confirmations = 3 WHERE id = {}", CHAIN)
    action_id = await mined(world)
    world.pass_blocks(1)
    await world.work()
    assert ((await world.view(action_id)).status, (await world.view(action_id)).confirmations) == (Status.MINED, 2)
    world.pass_blocks(1)
    await world.work()
    assert (await world.view(action_id)).status is Status.CONFIRMED
    await world.finish_ok(action_id)


@pytest.mark.parametrize(
    "fault",
    [Break(503), Break("reset"), Break("html"), refuse("header not found")],
    ids=["503", "reset", "html", "error"],
)
async def test_tx_66_a_receipt_call_that_fails_once_costs_one_look(world: World, fault: Fault) -> None:
    action_id = await sent(world)
    world.pass_blocks(1)
    world.proxy.plan(RECEIPT, fault)
    await world.work()
    assert (await world.view(action_id)).status is Status.BROADCAST
    await world.work()
    assert (await world.view(action_id)).status is Status.MINED
    await world.finish_ok(action_id)


# Reorganisations


async def test_tx_67_what_a_reorganisation_removes_is_sent_again_as_it_was(world: World) -> None:
    action_id = await mined(world)
    (raw,) = await world.play.attempts(action_id)
    world.node.rpc("anvil_reorg", 1, [])
    await world.work()
    undone = await world.view(action_id)
    assert undone.status is Status.BROADCAST
    assert (undone.outcome, undone.block_number, undone.block_hash, undone.gas_used) == (None, None, None, None)
    assert (undone.mined_at, undone.fee_wei, undone.confirmations) == (None, None, 0)
    await world.work()
    assert times_sent(world, raw) == 2
    (view,) = await world.finish_ok(action_id)
    assert len(view.attempts) == 1
    assert await world.play.minted() == 1


async def test_tx_67_what_a_reorganisation_moves_to_another_block_is_found_there(world: World) -> None:
    action_id = await mined(world)
    (raw,) = await world.play.attempts(action_id)
    before = await world.view(action_id)
    world.node.rpc("anvil_reorg", 1, [["0x" + raw.hex(), 0]])
    await world.work()
    moved = await world.view(action_id)
    assert moved.block_hash != before.block_hash
    assert moved.hash in world.node.rpc("eth_getBlockByHash", moved.block_hash, False)["transactions"]
    await world.finish_ok(action_id)
    assert await world.play.minted() == 1


async def test_tx_68_a_reorganisation_that_includes_it_with_another_status(world: World) -> None:
    action_id = await sent(world)
    contract = (await get_action(world.play.organization_id, action_id)).to_address
    code = world.node.rpc("eth_getCode", contract, "latest")
    world.node.rpc("anvil_setCode", contract, "0x60006000fd")
    world.pass_blocks(1)
    await world.work()
    reverted = await world.view(action_id)
    assert (reverted.status, reverted.outcome) == (Status.MINED, Outcome.REVERTED)

    (raw,) = await world.play.attempts(action_id)
    world.node.rpc("anvil_reorg", 1, [])
    world.node.rpc("anvil_setCode", contract, code)
    world.node.rpc("eth_sendRawTransaction", "0x" + raw.hex())
    world.pass_blocks(1)
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.outcome, view.failure) == (Status.MINED, Outcome.OK, None)
    await world.finish_ok(action_id)


async def test_tx_69_a_reorganisation_that_puts_another_one_at_its_nonce(world: World) -> None:
    action_id = await mined(world)
    world.node.rpc("anvil_reorg", 1, [])
    world.spend_nonce()
    await world.work()
    assert (await world.view(action_id)).status is Status.SUSPECT
    (view,) = await world.finish(action_id)
    assert (view.status, view.outcome, view.mined_at) == (Status.DISPLACED, None, None)
    assert await told(view) == ["broadcast", "mined", "reorganised", "suspected", "displaced"]
    assert await world.play.minted() == 0


async def test_tx_70_a_reorganisation_after_it_was_confirmed_is_an_event_of_its_own(world: World) -> None:
    action_id = await mined(world)
    world.pass_blocks(4)
    await world.work()
    assert (await world.view(action_id)).status is Status.CONFIRMED
    world.node.rpc("anvil_reorg", 5, [])
    await world.work()
    undone = await world.view(action_id)
    assert (undone.status, undone.confirmed_at) == (Status.BROADCAST, None)
    (view,) = await world.finish_ok(action_id)
    assert await told(view) == [*("broadcast", "mined", "confirmed", "reorganised", "mined", "confirmed", "finalized")]
    assert await world.play.minted() == 1


async def cancelled(world: World) -> Any:
    """The id of an action whose nonce is being used up by an empty transaction."""
    action_id = await sent(world)
    await cancel(world.play.stage.cast.alice.actor, (await world.view(action_id)).id)
    await world.work()
    closing = await world.view(action_id)
    assert (closing.status, [attempt.kind for attempt in closing.attempts]) == (Status.CLOSING, ["call", "noop"])
    return action_id


async def test_tx_71_a_cancelled_one_that_is_reorganised_is_closing_again(world: World) -> None:
    action_id = await cancelled(world)
    world.pass_blocks(1)
    await world.work()
    mined = await world.view(action_id)
    assert (mined.status, mined.outcome, mined.failure) == (Status.MINED, Outcome.CANCELLED, None)
    world.node.rpc("anvil_reorg", 1, [])
    await world.work()
    undone = await world.view(action_id)
    assert (undone.status, undone.outcome, undone.closing_reason) == (Status.CLOSING, None, "cancelled")
    await world.work()
    _, noop = await world.play.attempts(action_id)
    assert times_sent(world, noop) == 2
    (view,) = await world.finish(action_id)
    assert (view.status, view.outcome) == (Status.FINALIZED, Outcome.CANCELLED)
    assert "so the action was not carried out" in str(view.remark)
    assert await told(view) == [*("broadcast", "closing", "mined", "reorganised", "mined", "confirmed", "finalized")]
    assert await world.play.minted() == 0


async def test_tx_71_a_nonce_that_a_foreign_one_held_for_a_while_is_closing_again(world: World) -> None:
    action_id = await cancelled(world)
    world.spend_nonce()
    await world.work()
    assert (await world.view(action_id)).status is Status.SUSPECT
    world.node.rpc("anvil_reorg", 1, [])
    world.pass_blocks(2)
    await world.work()
    assert (await world.view(action_id)).status is Status.CLOSING
    (view,) = await world.finish(action_id)
    assert (view.status, view.outcome) == (Status.FINALIZED, Outcome.CANCELLED)


# Finality


async def test_tx_72_a_finalized_head_that_goes_back_changes_nothing_and_is_said(world: World) -> None:
    (final,) = await world.finish_ok(await world.play.approved_mint())
    world.no_automine()
    action_id = await mined(world)
    world.proxy.always(BLOCK, Alter(lambda block: {**block, "number": "0x1"}), tag="finalized")
    with capture_logs() as logs:
        await world.work()
    assert "chain.finalized_went_back" in [each["event"] for each in logs]
    assert (await world.view(final.action_id)).status is Status.FINALIZED
    world.pass_blocks(80)
    await world.work()
    assert (await world.view(action_id)).status is Status.CONFIRMED
    await world.finish_ok(action_id)


async def test_tx_72_a_finalized_tag_that_is_missing_for_a_while_makes_nothing_final(world: World) -> None:
    action_id = await mined(world)
    world.proxy.always(BLOCK, refuse("finalized block not found", -39001), tag="finalized")
    world.pass_blocks(100)
    with capture_logs() as logs:
        await world.work()
    assert "chain.finalized_missing" in [each["event"] for each in logs]
    assert (await world.view(action_id)).status is Status.CONFIRMED
    await world.finish_ok(action_id)


async def test_tx_72_where_the_tag_is_not_supported_depth_decides(world: World) -> None:
    await run_sql("UPDATE chain SET final_number = NULL WHERE id = {}", CHAIN)
    world.proxy.always(BLOCK, refuse("invalid block tag: finalized", -32602), tag="finalized")
    action_id = await mined(world)
    world.pass_blocks(63)
    await world.work()
    assert (await world.view(action_id)).status is Status.CONFIRMED
    world.pass_blocks(1)
    await world.work()
    assert (await world.view(action_id)).status is Status.FINALIZED


async def test_tx_73_a_block_that_is_not_the_canonical_one_is_never_final(world: World) -> None:
    action_id = await mined(world)
    world.pass_blocks(1)
    await world.work()
    confirmed = await world.view(action_id)
    assert confirmed.status is Status.CONFIRMED
    await run_sql("UPDATE transaction SET block_hash = {} WHERE id = {}", "0x" + "ab" * 32, confirmed.id)
    world.proxy.plan(RECEIPT, HIDDEN, HIDDEN)
    world.pass_blocks(80)
    await world.work()
    undone = await world.view(action_id)
    assert (undone.finalized_at, undone.block_hash) == (None, None)
    (view,) = await world.finish_ok(action_id)
    assert view.block_hash == confirmed.block_hash
    assert "reorganised" in await told(view)


@pytest.mark.parametrize(
    "change",
    [
        {"transactionHash": "0x" + "ab" * 32},
        {"blockNumber": None, "blockHash": None},
        {"blockHash": None},
        {"status": None},
        {"status": "success"},
        {"blockHash": "0x" + "cd" * 32},
        {"gasUsed": None},
    ],
    ids=["other hash", "pending", "no block hash", "no status", "odd status", "other block", "no gas"],
)
async def test_tx_74_a_bad_receipt_is_not_believed(world: World, change: dict[str, Any]) -> None:
    action_id = await sent(world)
    world.pass_blocks(1)
    world.proxy.always(RECEIPT, Alter(lambda receipt: receipt and {**receipt, **change}))
    await world.work(2)
    view = await world.view(action_id)
    assert view.status in (Status.BROADCAST, Status.SUSPECT)
    assert (view.outcome, view.block_hash, view.mined_at) == (None, None, None)
    await world.finish_ok(action_id)


async def test_tx_74_where_a_contract_was_made_is_not_taken_from_a_receipt(world: World) -> None:
    stage = world.play.stage
    given = DeploymentInput(
        name="Diplomas",
        template="records",
        chain_id=CHAIN,
        signer_id=stage.signer_id,
        policy_id=world.play.automatic,
        arguments={"name": "Diplomas"},
    )
    action = await propose_deployment(stage.cast.alice.actor, given)
    await simulate([action.id])
    await world.work()
    world.pass_blocks(1)
    honest = world.node.rpc(RECEIPT, (await world.view(action.id)).hash)["contractAddress"]
    lie = Alter(lambda receipt: receipt and {**receipt, "contractAddress": "0x" + "ab" * 20})
    world.proxy.always(RECEIPT, lie)
    with capture_logs() as logs:
        await world.work()
    world.pass_blocks(20)
    await world.work(2)
    contract = await get_contract(world.play.organization_id, action.contract_id)
    assert (contract.status, str(contract.address).lower()) == ("active", honest)
    assert [each["event"] for each in logs if each["log_level"] == "error"] == ["security.receipt_differs"]


async def test_tx_74_a_bad_receipt_holds_up_no_other(world: World) -> None:
    bad, good = await world.play.approved_mints(2)
    await world.work()
    hash = (await world.view(bad)).hash
    world.proxy.always(RECEIPT, Alter(lambda receipt: receipt and {**receipt, "status": "success"}), tag=hash)
    world.pass_blocks(80)
    with capture_logs() as logs:
        await world.work(2)
    assert (await world.view(good)).status is Status.FINALIZED
    view = await world.view(bad)
    assert (view.status, view.outcome) == (Status.BROADCAST, None)
    said = [each["about"] for each in logs if each["event"] == "node.untold"]
    assert set(said) == {hash}
    await world.finish_ok(bad)


@pytest.mark.parametrize("wrong", [{"gasUsed": "much"}, {"blockHash": "0x" + "cd" * 32}], ids=["senseless", "nowhere"])
async def test_tx_74_a_bad_receipt_keeps_a_suspect_from_being_given_up(world: World, wrong: dict[str, str]) -> None:
    action_id = await sent(world)
    world.proxy.always(RECEIPT, HIDDEN)
    for _ in range(3):
        world.pass_blocks(1)
        await world.work()
    world.proxy.clear()
    world.proxy.always(RECEIPT, Alter(lambda receipt: receipt and {**receipt, **wrong}))
    world.pass_blocks(80)
    await world.work(2)
    assert (await world.view(action_id)).status is Status.SUSPECT
    await world.finish_ok(action_id)


async def test_tx_73_one_block_that_makes_no_sense_holds_up_no_other(world: World) -> None:
    first = await mined(world)
    second = await mined(world)
    height = hex((await world.view(first)).block_number or 0)
    world.proxy.always(BLOCK, Alter(lambda block: {**block, "number": None}), tag=height)
    world.pass_blocks(80)
    await world.work(2)
    assert [(await world.view(each)).status for each in (first, second)] == [Status.CONFIRMED, Status.FINALIZED]
    await world.finish_ok(first)


async def test_tx_75_a_revert_is_final_with_a_bounded_reason_and_is_not_repeated(world: World) -> None:
    action_id = await sent(world)
    contract = (await get_action(world.play.organization_id, action_id)).to_address
    code = world.node.rpc("eth_getCode", contract, "latest")
    world.node.rpc("anvil_setCode", contract, refusing_code("no \x1b[31m" + "a" * 9000))
    (view,) = await world.finish(action_id)
    world.node.rpc("anvil_setCode", contract, code)
    assert (view.status, view.outcome) == (Status.FINALIZED, Outcome.REVERTED)
    assert view.failure
    assert "aaaa" in view.failure
    assert len(view.failure) <= 4096
    assert view.failure.isprintable()
    await world.work(3)
    assert len(await world.attempts(action_id)) == 1
    assert len(world.proxy.payloads()) == 1


def refusing_code(reason: str) -> str:
    """EVM code that reverts with `Error(reason)` whatever it is called with."""
    data = bytes.fromhex("08c379a0") + encode(["string"], [reason])
    size = len(data).to_bytes(2, "big")
    # PUSH2 size PUSH1 14 PUSH0 CODECOPY PUSH2 size PUSH0 REVERT: thirteen bytes
    code = b"\x61" + size + bytes([0x60, 0x0D, 0x5F, 0x39, 0x61]) + size + bytes([0x5F, 0xFD])
    return "0x" + code.hex() + "00" * (13 - len(code)) + data.hex()


async def suspect_without_receipt(world: World) -> Any:
    """The id of an action that is carried out and final, on a node that hides its receipt."""
    action_id = await sent(world)
    world.proxy.always(RECEIPT, HIDDEN)
    for _ in range(3):
        world.pass_blocks(1)
        await world.work()
    assert (await world.view(action_id)).status is Status.SUSPECT
    world.pass_blocks(80)
    return action_id


async def test_tx_76_a_node_that_hides_the_receipt_of_what_its_blocks_show(world: World) -> None:
    action_id = await suspect_without_receipt(world)
    with capture_logs() as logs:
        await world.work(3)
    held = await world.view(action_id)
    assert (held.status, held.evidence) == (Status.SUSPECT, None)
    [said] = [each for each in logs if each["event"] == "receipt.hidden"]
    assert said["hash"] == held.hash
    assert f"It was carried out: block {said['block_number']:,} has it" in str(held.waiting_for)
    world.proxy.clear()
    (view,) = await world.finish_ok(action_id)
    assert view.block_number == said["block_number"]


async def test_tx_76_no_receipt_although_everything_of_ours_is_older_than_finality(world: World) -> None:
    """On a node that keeps the states of the newest and the final block only, so that what used it cannot be found."""
    action_id = await suspect_without_receipt(world)
    final = world.node.rpc("eth_getBlockByNumber", "finalized", False)["number"]
    for kept in ("latest", final):
        world.proxy.always(COUNT, Alter(lambda count: count), tag=kept)
    world.proxy.always(COUNT, refuse("missing trie node"))
    with capture_logs() as logs:
        await world.work()
    view = await world.view(action_id)
    assert (view.status, len(view.attempts)) == (Status.DISPLACED, 1)
    assert view.evidence
    assert view.evidence.foreign_hash is None
    assert "new approvals" in str(view.failure)
    assert "security.transaction_displaced" in [each["event"] for each in logs]
    world.proxy.clear()
    await world.work(3)
    assert len(world.proxy.payloads()) == 1


# Two endpoints


@pytest.fixture
def other(world: World, other_proxy: NodeProxy) -> Iterator[NodeProxy]:
    """A second endpoint of the same chain, asked after the first."""
    with nodes_at(world.proxy.url, other_proxy.url):
        yield other_proxy


async def test_tx_77_a_receipt_that_only_one_node_has_does_not_flap(world: World, other: NodeProxy) -> None:
    other.always(RECEIPT, HIDDEN)
    other.behind = 3
    action_id = await mined(world)
    seen = set()
    for down in (True, False, True, False):
        if down:
            world.proxy.always("*", Break(503))
        else:
            world.proxy.clear()
        await world.work()
        seen.add((await world.view(action_id)).status)
    assert seen <= {Status.MINED, Status.CONFIRMED}
    other.clear()
    view = (await world.finish_ok(action_id))[0]
    assert "reorganised" not in await told(view)
    assert "suspected" not in await told(view)


async def test_tx_77_a_receipt_that_the_second_node_has_ends_the_suspicion(world: World, other: NodeProxy) -> None:
    action_id = await sent(world)
    world.proxy.always(RECEIPT, HIDDEN)
    world.pass_blocks(1)
    await world.work()
    assert (await world.view(action_id)).status is Status.SUSPECT
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.outcome) == (Status.MINED, Outcome.OK)
    assert other.asked[RECEIPT]
    await world.finish_ok(action_id)


@pytest.mark.parametrize("doubt", ["silent", "behind", "another count", "another block"])
async def test_tx_76_one_of_two_nodes_is_not_enough_to_give_it_up(world: World, other: NodeProxy, doubt: str) -> None:
    action_id = await sent(world)
    world.spend_nonce()
    if doubt == "silent":
        other.always("*", Break(503))
    elif doubt == "behind":
        other.behind = 200
    elif doubt == "another count":
        other.always(COUNT, Say("0x0"))
    else:
        other.always(BLOCK, Alter(lambda block: block and {**block, "hash": "0x" + "ab" * 32}))
    for _ in range(4):
        world.pass_blocks(30)
        await world.work()
    assert (await world.view(action_id)).status is Status.SUSPECT
    other.clear()
    (view,) = await world.finish(action_id)
    assert view.status is Status.DISPLACED
    assert view.evidence
    assert view.evidence.endpoints == 2


async def test_tx_76_two_nodes_that_name_two_foreign_ones_prove_nothing(world: World, other: NodeProxy) -> None:
    action_id = await sent(world)
    world.spend_nonce()
    block = world.node.rpc("eth_getBlockByNumber", "latest", True)
    block["transactions"][0]["hash"] = "0x" + "ab" * 32
    other.always(BLOCK, Say(block), tag=True)
    with capture_logs() as logs:
        for _ in range(4):
            world.pass_blocks(30)
            await world.work()
    assert (await world.view(action_id)).status is Status.SUSPECT
    said = [each["about"] for each in logs if each["event"] == "node.disagreement"]
    assert "use" in said
    other.clear()
    (view,) = await world.finish(action_id)
    assert view.status is Status.DISPLACED
