"""A nonce that the chain has used without a receipt of ours: suspicion, and what ends it, on a real chain."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from portal.actions.schemas import DeploymentInput
from portal.actions.service import propose_deployment, simulate
from portal.audit.service import verify
from portal.chain.queries import get_contract
from portal.chain.rpc import Node
from portal.chain.tables import ContractStatus
from portal.db.engine import run_sql
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.tables import Outcome, TransactionStatus
from tests.actions import CHAIN, settings_chain
from tests.anvil import Anvil
from tests.transactions import Play

BROADCAST, SUSPECT, DISPLACED, MINED, FINALIZED = (
    TransactionStatus.BROADCAST,
    TransactionStatus.SUSPECT,
    TransactionStatus.DISPLACED,
    TransactionStatus.MINED,
    TransactionStatus.FINALIZED,
)
Patch = pytest.MonkeyPatch


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Anvil]:
    """A chain of its own for each test, since they undo its blocks."""
    async with settings_chain() as running:
        yield running


def use_key_elsewhere(play: Play, times: int = 1) -> None:
    """Another program with the same key uses the next nonces of the signer, in one block."""
    play.node.rpc("anvil_dropAllTransactions")
    play.node.rpc("anvil_impersonateAccount", play.stage.signer_address)
    for _ in range(times):
        play.node.rpc(
            "eth_sendTransaction", {"from": play.stage.signer_address, "to": "0x" + "ab" * 20, "value": "0x1"}
        )
    play.node.mine()


def pass_time(play: Play, blocks: int = 80) -> None:
    play.node.rpc("anvil_mine", hex(blocks), hex(12))


async def displaced_mint(play: Play, times: int = 1) -> UUID:
    action_id = await play.sent_mint()
    use_key_elsewhere(play, times)
    for _ in range(3):
        await watch_chains()
    pass_time(play)
    await watch_chains()
    return action_id


def alarms() -> float:
    return REGISTRY.get_sample_value("portal_transactions_displaced_total", {"chain": str(CHAIN)}) or 0


async def next_nonce(play: Play) -> int:
    rows = await run_sql("SELECT next_nonce FROM lane WHERE signer = {}", play.stage.signer_id)
    return int(rows[0]["next_nonce"])


async def test_what_another_program_did_with_the_key_is_suspected_at_once(play: Play) -> None:
    action_id = await play.sent_mint()
    use_key_elsewhere(play)
    await watch_chains()
    view = await play.view(action_id)
    assert (view.status, view.held, view.evidence) == (SUSPECT, True, None)
    assert view.suspect_since
    assert "shows no receipt of ours" in str(view.waiting_for)
    assert (view.may_cancel, view.may_hurry) == (False, False)
    for _ in range(5):
        await watch_chains()
    assert (await play.view(action_id)).status is SUSPECT, "however often it is seen, it is not final"
    assert (await play.audit(view.id)).count("suspected") == 1


async def test_what_is_mined_between_two_questions_is_not_suspected(play: Play, monkeypatch: Patch) -> None:
    action_id, real = await play.sent_mint(), Node.transaction_counts

    async def counts_a_block_later(node: Node, addresses: Sequence[str]) -> Any:
        play.node.mine()
        return await real(node, addresses)

    monkeypatch.setattr(Node, "transaction_counts", counts_a_block_later)
    await watch_chains()
    assert (await play.view(action_id)).status is BROADCAST
    await watch_chains()
    view = await play.view(action_id)
    assert (view.status, "suspected" in await play.audit(view.id)) == (MINED, False)


async def test_once_that_is_final_it_is_displaced_with_evidence_and_an_alarm(play: Play) -> None:
    before = alarms()
    with capture_logs() as logs:
        action_id = await displaced_mint(play)
    view = await play.view(action_id)
    assert (view.status, view.waiting_for, view.outcome) == (DISPLACED, None, None)
    assert "new approvals" in str(view.failure)

    evidence = view.evidence
    assert evidence
    final = play.node.rpc("eth_getBlockByNumber", hex(evidence.finalized_number), False)
    assert final["hash"] == evidence.finalized_hash
    assert (evidence.transaction_count, evidence.endpoints) == ((view.nonce or 0) + 1, 1)

    assert "displaced" in await play.audit(view.id)
    told = await run_sql("SELECT payload FROM outbox WHERE kind = 'transaction.displaced'")
    assert len(told) == 1
    assert alarms() == before + 1
    said = [entry for entry in logs if entry["event"] == "security.transaction_displaced"]
    assert [(entry["log_level"], entry["nonce"]) for entry in said] == [("error", view.nonce)]
    assert await verify(play.organization_id) is None


async def test_what_somebody_else_sent_with_the_same_nonce_in_the_same_block_is_no_evidence(play: Play) -> None:
    action_id, stranger = await play.sent_mint(), "0x" + "cd" * 20
    rpc, nonce = play.node.rpc, (await play.view(action_id)).nonce
    rpc("anvil_dropAllTransactions")
    play.node.fund(stranger)
    rpc("anvil_setNonce", stranger, hex(nonce or 0))
    hashes = []
    for sender, gwei in ((stranger, 90), (play.stage.signer_address, 50)):
        rpc("anvil_impersonateAccount", sender)
        fees = {"maxFeePerGas": hex(gwei * 10**9), "maxPriorityFeePerGas": hex(gwei * 10**9)}
        hashes.append(rpc("eth_sendTransaction", {"from": sender, "to": "0x" + "ab" * 20, "value": "0x1", **fees}))
    play.node.mine()
    for _ in range(3):
        await watch_chains()
    pass_time(play)
    await watch_chains()
    view = await play.view(action_id)
    assert view.status is DISPLACED
    assert view.evidence
    assert view.evidence.foreign_hash == hashes[1]


async def test_a_displaced_action_never_gets_another_nonce_and_the_lane_goes_on_after_the_foreign_ones(
    play: Play,
) -> None:
    action_id = await displaced_mint(play, times=3)
    view = await play.view(action_id)
    assert await next_nonce(play) == (view.nonce or 0) + 3

    later = await play.approved_mint(7)
    for _ in range(3):
        await run_lanes()
        await play.watch_until_mined()
    after = await play.view(later)
    assert (after.outcome, after.nonce) == (Outcome.OK, (view.nonce or 0) + 3)
    again = await play.view(action_id)
    assert (again.status, again.nonce, len(again.attempts)) == (DISPLACED, view.nonce, 1)
    assert await play.minted() == 7


async def test_a_receipt_that_appears_after_all_ends_the_suspicion(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    play.node.mine()

    async def hidden(_node: Node, hashes: Sequence[str]) -> list[None]:
        return [None for _ in hashes]

    with monkeypatch.context() as lagging:
        lagging.setattr(Node, "receipts", hidden)
        for _ in range(4):
            await watch_chains()
        assert (await play.view(action_id)).status is SUSPECT
    await watch_chains()
    found = await play.view(action_id)
    assert (found.status, found.outcome, found.held, found.suspect_since) == (MINED, Outcome.OK, False, None)
    assert await play.minted() == 1


async def test_a_foreign_transaction_that_the_chain_undoes_lets_ours_go_on(play: Play) -> None:
    action_id = await play.sent_mint()
    use_key_elsewhere(play)
    await watch_chains()
    assert (await play.view(action_id)).status is SUSPECT

    play.node.rpc("anvil_reorg", 1, [])
    pass_time(play, 2)
    await watch_chains()
    view = await play.view(action_id)
    assert (view.status, view.held, view.suspect_since) == (BROADCAST, False, None)
    assert "suspicion_withdrawn" in await play.audit(view.id)
    play.node.rpc("anvil_dropAllTransactions")
    await run_lanes()
    await play.watch_until_mined(70)
    assert (await play.view(action_id)).status is FINALIZED
    assert await play.minted() == 1


async def test_a_node_that_lags_behind_the_suspicion_does_not_end_it(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.sent_mint()
    old = play.node.rpc("eth_getBlockByNumber", "latest", False)
    old_count = play.nonce_on_chain()
    use_key_elsewhere(play)
    await watch_chains()
    assert (await play.view(action_id)).status is SUSPECT

    async def old_head(node: Node) -> Any:
        return (await node.blocks([int(old["number"], 16)]))[0]

    async def old_counts(_node: Node, addresses: Sequence[str]) -> list[int]:
        return [old_count for _ in addresses]

    with monkeypatch.context() as lagging:
        lagging.setattr(Node, "head", old_head)
        lagging.setattr(Node, "transaction_counts", old_counts)
        await watch_chains()
        assert (await play.view(action_id)).status is SUSPECT


async def test_without_three_looks_nothing_is_given_up(play: Play) -> None:
    action_id = await play.sent_mint()
    use_key_elsewhere(play)
    await watch_chains()
    pass_time(play)
    await watch_chains()
    assert (await play.view(action_id)).status is SUSPECT
    await watch_chains()
    assert (await play.view(action_id)).status is DISPLACED


async def test_where_blocks_are_final_within_seconds_a_minute_of_the_chain_s_clock_passes_first(play: Play) -> None:
    """What nodes index of receipts may lag behind the state by more than the seconds that finality takes there."""
    await run_sql("UPDATE chain SET final_depth = 10")
    action_id = await play.sent_mint()
    use_key_elsewhere(play)
    for blocks in (4, 4, 4, 4, 4, 16):
        play.node.rpc("anvil_mine", hex(blocks), "0x2")
        await watch_chains()
        assert (await play.view(action_id)).status is SUSPECT, "the final block is not a minute after the suspicion"
    play.node.rpc("anvil_mine", hex(10), "0x2")
    await watch_chains()
    assert (await play.view(action_id)).status is DISPLACED


async def test_a_nonce_that_is_used_anew_has_to_become_final_anew(play: Play) -> None:
    action_id = await play.sent_mint()
    use_key_elsewhere(play)
    for _ in range(3):
        await watch_chains()
    play.node.rpc("anvil_reorg", 1, [])
    pass_time(play)
    use_key_elsewhere(play)
    await watch_chains()
    assert (await play.view(action_id)).status is SUSPECT, "at the final block the nonce is free"
    pass_time(play)
    await watch_chains()
    assert (await play.view(action_id)).status is DISPLACED


async def test_a_deployment_that_is_displaced_makes_its_contract_failed(play: Play) -> None:
    action = await propose_deployment(
        play.stage.cast.alice.actor,
        DeploymentInput(
            name="Diplomas",
            template="records",
            chain_id=CHAIN,
            signer_id=play.stage.signer_id,
            policy_id=play.automatic,
            arguments={"name": "Diplomas"},
        ),
    )
    await simulate([action.id])
    play.node.rpc("evm_setAutomine", False)
    await run_lanes()
    use_key_elsewhere(play)
    for _ in range(3):
        await watch_chains()
    pass_time(play)
    await watch_chains()
    assert (await play.view(action.id)).status is DISPLACED
    assert (await get_contract(play.organization_id, action.contract_id)).status == ContractStatus.FAILED
