"""The way of one transaction, from approved to final, on a real chain."""

from uuid import UUID

import pytest
from eth_abi.abi import encode

from portal import clock
from portal.actions.queries import get_action
from portal.actions.schemas import DeploymentInput
from portal.actions.service import propose_deployment, simulate
from portal.audit.service import verify
from portal.chain.queries import get_contract
from portal.chain.rpc import Node, NodeUnavailable
from portal.chain.tables import ContractStatus
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.errors import NotFound
from portal.transactions import queries
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.queries import count_by_status, get_transaction, list_transactions
from portal.transactions.tables import Outcome, TransactionStatus
from tests.actions import ADA, CHAIN
from tests.transactions import Play


async def test_an_approved_action_becomes_final_and_the_chain_shows_it(play: Play) -> None:
    action_id = await play.sent_mint()
    sent = await play.view(action_id)
    assert sent.status is TransactionStatus.BROADCAST
    assert sent.waiting_for == "Sent; waits for a block."

    await play.watch_until_mined()
    mined = await play.view(action_id)
    assert (mined.status, mined.outcome, mined.confirmations) == (TransactionStatus.MINED, Outcome.OK, 1)
    assert mined.waiting_for == f"In block {mined.block_number}, with 1 of 2 confirmations."
    assert await play.minted() == 1

    await play.watch_until_mined()
    confirmed = await play.view(action_id)
    assert (confirmed.status, confirmed.confirmations) == (TransactionStatus.CONFIRMED, 2)

    await play.watch_until_mined(64)
    final = await play.view(action_id)
    assert (final.status, final.outcome, final.waiting_for) == (TransactionStatus.FINALIZED, Outcome.OK, None)
    assert await play.audit(final.id) == [
        *("queued", "nonced", "signed", "broadcast", "mined", "confirmed", "finalized")
    ]
    assert await verify(play.organization_id) is None


async def test_the_view_agrees_with_the_chain(play: Play) -> None:
    action_id = await play.sent_mint()
    await play.watch_until_mined()

    view = await play.view(action_id)
    receipt = play.node.rpc("eth_getTransactionReceipt", view.hash)
    on_chain = play.node.rpc("eth_getTransactionByHash", view.hash)
    assert receipt["blockHash"] == view.block_hash
    assert int(receipt["blockNumber"], 16) == view.block_number
    assert int(receipt["gasUsed"], 16) == view.gas_used
    assert str(int(receipt["effectiveGasPrice"], 16) * int(receipt["gasUsed"], 16)) == view.fee_wei
    assert on_chain["from"].lower() == str(view.signer_address).lower()
    assert int(on_chain["nonce"], 16) == view.nonce
    (attempt,) = view.attempts
    assert (attempt.hash, attempt.mined, attempt.last_answer) == (view.hash, True, None)
    assert str(int(on_chain["maxFeePerGas"], 16)) == attempt.max_fee_wei
    assert int(on_chain["gas"], 16) == attempt.gas_limit
    assert attempt.signed_at <= (attempt.first_sent_at or clock.now())


async def test_what_is_sent_is_what_was_approved(play: Play) -> None:
    action_id = await play.sent_mint()
    action = await get_action(play.organization_id, action_id)
    on_chain = play.node.rpc("eth_getTransactionByHash", (await play.view(action_id)).hash)
    assert (on_chain["input"], int(on_chain["value"], 16)) == (action.calldata, int(action.value_wei))
    assert on_chain["to"].lower() == str(action.to_address).lower()


async def test_one_correlation_id_runs_from_the_action_to_the_last_audit_entry(play: Play) -> None:
    action_id = await play.sent_mint()
    await play.watch_until_mined(70)
    view, action = await play.view(action_id), await get_action(play.organization_id, action_id)
    assert view.correlation_id == action.correlation_id
    rows = await run_sql("SELECT DISTINCT correlation_id FROM audit_entry WHERE subject_id = {}", str(view.id))
    assert [row["correlation_id"] for row in rows] == [action.correlation_id]


async def test_confirmed_comes_exactly_with_the_last_of_the_blocks_required(play: Play) -> None:
    await run_sql("UPDATE chain SET confirmations = 4 WHERE id = {}", CHAIN)
    action_id = await play.sent_mint()
    await play.watch_until_mined(3)
    assert (await play.view(action_id)).status is TransactionStatus.MINED
    await play.watch_until_mined()
    assert (await play.view(action_id)).status is TransactionStatus.CONFIRMED


async def deployment(play: Play) -> tuple[UUID, UUID]:
    """An approved deployment: its action's and its contract's id."""
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
    return action.id, action.contract_id


async def test_a_deployment_makes_its_contract_active_once_confirmed(play: Play) -> None:
    action_id, contract_id = await deployment(play)
    await run_lanes()
    play.node.rpc("evm_setAutomine", False)
    await watch_chains()
    waiting = await get_contract(play.organization_id, contract_id)
    assert (waiting.status, waiting.address) == (ContractStatus.DEPLOYING, None)

    await play.watch_until_mined()
    contract = await get_contract(play.organization_id, contract_id)
    assert contract.status == ContractStatus.ACTIVE
    assert contract.address == (await play.view(action_id)).contract_address
    assert play.node.rpc("eth_getCode", contract.address, "latest") != "0x"


async def test_a_deployment_that_reverts_makes_its_contract_failed(play: Play) -> None:
    action_id, contract_id = await deployment(play)
    play.node.rpc("evm_setAutomine", False)
    await run_lanes()
    # Creating fails where something lives already: at the address that signer and nonce give.
    simulated = play.node.rpc("eth_getTransactionByHash", (await play.view(action_id)).hash)
    play.node.rpc("anvil_setCode", created_address(simulated["from"], int(simulated["nonce"], 16)), "0x00")
    await play.watch_until_mined(3)

    view = await play.view(action_id)
    assert (view.status, view.outcome) == (TransactionStatus.CONFIRMED, Outcome.REVERTED)
    assert view.failure
    assert (await get_contract(play.organization_id, contract_id)).status == ContractStatus.FAILED


def created_address(sender: str, nonce: int) -> str:
    import rlp
    from eth_utils.crypto import keccak

    return "0x" + keccak(rlp.encode([bytes.fromhex(sender[2:]), nonce]))[12:].hex()


def refusing_code(reason: str) -> str:
    """EVM code that reverts with `Error(reason)` whatever it is called with."""
    data = bytes.fromhex("08c379a0") + encode(["string"], [reason])
    code = bytes([0x60, len(data), 0x60, 0x0A, 0x5F, 0x39, 0x60, len(data), 0x5F, 0xFD])
    return "0x" + (code + data).hex()


async def test_a_revert_is_final_with_its_reason_and_is_not_tried_again(play: Play) -> None:
    action_id = await play.sent_mint()
    view = await get_action(play.organization_id, action_id)
    play.node.rpc("anvil_setCode", view.to_address, refusing_code("minting is over"))
    await play.watch_until_mined(70)
    await run_lanes()

    failed = await play.view(action_id)
    assert (failed.status, failed.outcome) == (TransactionStatus.FINALIZED, Outcome.REVERTED)
    assert "minting is over" in str(failed.failure)
    assert len(failed.attempts) == 1
    assert play.nonce_on_chain() == failed.nonce + 1


async def test_what_would_fail_now_is_not_sent_and_goes_on_once_it_would_not(play: Play) -> None:
    first, second = await play.approved_mint(), await play.approved_mint(5)
    contract = (await get_action(play.organization_id, first)).to_address
    code = play.node.rpc("eth_getCode", contract, "latest")
    play.node.rpc("anvil_setCode", contract, refusing_code("minting pauses"))
    await run_sql("UPDATE action SET simulated_at = simulated_at - interval '6 minutes'")
    await run_lanes()

    held = await play.view(first)
    assert (held.status, held.nonce, held.held) == (TransactionStatus.QUEUED, None, True)
    assert "minting pauses" in str(held.waiting_for)

    play.node.rpc("anvil_setCode", contract, code)
    await run_lanes()
    await watch_chains()
    assert {(await play.view(each)).outcome for each in (first, second)} == {Outcome.OK}
    assert await play.minted() == 6


async def test_those_behind_say_how_many_come_first(play: Play) -> None:
    play.node.rpc("evm_setAutomine", False)
    actions = await play.approved_mints(18)
    await run_lanes()
    last = await play.view(actions[-1])
    assert last.status is TransactionStatus.QUEUED
    assert last.waiting_for == "Waits its turn: 17 earlier transactions of its signer come first."
    assert not last.held


async def test_what_is_over_is_counted_up_to_a_limit_and_what_is_under_way_for_certain(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play.node.rpc("evm_setAutomine", False)
    await play.approved_mints(9)
    await run_lanes()
    await run_sql("UPDATE transaction SET status = 'refused' WHERE nonce <= 2")
    await run_sql("UPDATE transaction SET status = 'finalized' WHERE nonce IN (3, 4, 5)")
    monkeypatch.setattr(queries, "MOST_COUNTED", 2)
    counts = await count_by_status(play.organization_id)
    said = {status.value: f"{number:,}" for status, number in counts.items() if number}
    assert said == {"broadcast": "4", "refused": "2", "finalized": "2+"}
    assert f"{sum(counts.values()):,}" == "8+"
    assert set((await count_by_status(new_id())).values()) == {0}


async def test_lists_filter_page_and_count(play: Play) -> None:
    play.node.rpc("evm_setAutomine", False)
    await play.approved_mints(18)
    await run_lanes()
    organization_id = play.organization_id

    counts = await count_by_status(organization_id)
    assert counts[TransactionStatus.BROADCAST] == 16
    assert counts[TransactionStatus.QUEUED] == 2
    assert counts[TransactionStatus.FINALIZED] == 0
    queued = await list_transactions(organization_id, status=TransactionStatus.QUEUED)
    assert [view.status for view in queued.items] == [TransactionStatus.QUEUED] * 2
    seen, cursor = [], None
    while True:
        page = await list_transactions(organization_id, cursor=cursor, limit=7)
        seen += [view.id for view in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert len(seen) == len(set(seen)) == 18
    assert seen == sorted(seen, reverse=True)
    assert (await list_transactions(organization_id, held=True)).items == []
    assert len((await list_transactions(organization_id, held=False, signer_id=play.stage.signer_id)).items) == 18
    assert (await list_transactions(organization_id, chain_id=1)).items == []


async def test_another_organisation_finds_nothing(play: Play) -> None:
    view = await play.view(await play.sent_mint())
    other = play.stage.cast.dave.actor.organization_id
    with pytest.raises(NotFound):
        await get_transaction(other, view.id)
    assert (await list_transactions(other)).items == []
    assert (await get_transaction(play.organization_id, view.id)).action_id == view.action_id


async def test_an_explorer_is_linked_where_the_chain_has_one(play: Play) -> None:
    await run_sql("UPDATE chain SET explorer_url = 'https://explorer.example' WHERE id = {}", CHAIN)
    view = await play.view(await play.sent_mint())
    assert view.explorer_url == f"https://explorer.example/tx/{view.hash}"
    assert view.attempts[0].explorer_url == view.explorer_url


async def test_points_of_two_actions_add_up(play: Play) -> None:
    await play.approved_mint(3)
    await play.approved_mint(4)
    await run_lanes()
    await watch_chains()
    assert await play.minted(ADA) == 7


async def test_a_revert_is_known_even_where_the_node_cannot_say_why(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_old_states(*_: object, **__: object) -> None:
        raise NodeUnavailable("The node of chain 31337 refuses: missing trie node.")

    monkeypatch.setattr(Node, "revert_reason", no_old_states)
    action_id = await play.sent_mint()
    contract = (await get_action(play.organization_id, action_id)).to_address
    play.node.rpc("anvil_setCode", contract, refusing_code("minting is over"))
    await play.watch_until_mined()
    view = await play.view(action_id)
    assert (view.status, view.outcome) == (TransactionStatus.MINED, Outcome.REVERTED)
    assert view.failure == "It reverted. The node of chain 31337 refuses: missing trie node."
