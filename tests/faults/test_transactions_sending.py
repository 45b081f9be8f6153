"""Faults between approval and the node: whatever breaks, an action is executed at most once, and in the end it is."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from portal import clock
from portal.actions.queries import get_action
from portal.chain import signers
from portal.chain.pool import Pool
from portal.chain.rpc import Node
from portal.chain.send_answers import SendAnswer, SendKind
from portal.db.engine import run_sql
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes import signing
from portal.transactions.tables import TransactionStatus
from tests.actions import NOBODY
from tests.transactions import FUNDS, Killed, Play

QUEUED, NONCED, SIGNED, BROADCAST = (
    TransactionStatus.QUEUED,
    TransactionStatus.NONCED,
    TransactionStatus.SIGNED,
    TransactionStatus.BROADCAST,
)
Patch = pytest.MonkeyPatch


class Wire:
    """Stands between us and the node: notes the bytes that leave, and answers as it is told."""

    def __init__(self, patch: Patch) -> None:
        self.sent: list[bytes] = []
        self._send_many = Node.send_many
        self._patch = patch

    def answer(self, *answers: SendAnswer | BaseException | None, after: bool = False) -> None:
        """Answer the next sends so (None: as the node does, also once `answers` are used up).

        With `after`, the node gets the bytes before we answer in its place.
        """
        script, wire = list(answers), self

        async def send(node: Node, raw: bytes) -> SendAnswer:
            wire.sent.append(raw)
            planned = script.pop(0) if script else None
            if planned is None or after:
                [real] = await wire._send_many(node, [raw])
            if isinstance(planned, BaseException):
                raise planned
            return planned or real

        async def send_many(node: Node, raws: Sequence[bytes]) -> list[SendAnswer]:
            return [await send(node, raw) for raw in raws]

        self._patch.setattr(Node, "send_many", send_many)


@pytest.fixture
def wire(monkeypatch: Patch) -> Wire:
    wire = Wire(monkeypatch)
    wire.answer()
    return wire


async def must_be_executed_once(play: Play, action_id: Any, amount: int = 1) -> None:
    """However often the jobs run from here, the chain has exactly one execution of the action."""
    for _ in range(3):
        await run_lanes()
        play.node.mine()
        await watch_chains()
    assert (await play.view(action_id)).status in (TransactionStatus.MINED, TransactionStatus.CONFIRMED)
    assert await play.minted() == amount


async def run_until_killed() -> None:
    """A pass that ends by `Killed`, which what it shares with other lanes shows as a cancellation."""
    with pytest.raises((Killed, asyncio.CancelledError)):
        await run_lanes()


# Crashes


async def test_killed_between_storing_and_sending_the_same_bytes_go_out_once(play: Play, wire: Wire) -> None:
    action_id = await play.approved_mint()
    wire.answer(Killed())
    await run_until_killed()
    signed = await play.view(action_id)
    assert (signed.status, signed.attempts[0].first_sent_at) == (SIGNED, None)
    assert signed.waiting_for == "Signed; it is sent next."
    assert not wire_reached(play, signed.hash)

    await run_lanes()
    assert wire.sent[0] == wire.sent[1]
    assert (await play.view(action_id)).nonce == signed.nonce
    await must_be_executed_once(play, action_id)
    assert await play.attempts(action_id) == [wire.sent[0]]


def wire_reached(play: Play, hash: str | None) -> bool:
    return play.node.rpc("eth_getTransactionByHash", hash) is not None


async def test_killed_after_the_node_took_it_the_same_bytes_are_known(play: Play, wire: Wire) -> None:
    play.node.rpc("evm_setAutomine", False)
    action_id = await play.approved_mint()
    wire.answer(Killed(), after=True)
    await run_until_killed()
    assert (await play.view(action_id)).status is SIGNED

    await run_lanes()
    sent = await play.view(action_id)
    assert (sent.status, sent.held, len(sent.attempts)) == (BROADCAST, False, 1)
    assert len(set(wire.sent)) == 1
    await must_be_executed_once(play, action_id)


async def test_killed_after_the_node_took_it_and_mined_meanwhile_the_receipt_decides(play: Play, wire: Wire) -> None:
    action_id = await play.approved_mint()
    wire.answer(Killed(), after=True)
    await run_until_killed()
    assert await play.minted() == 1

    await run_lanes()
    assert (await play.view(action_id)).status is BROADCAST
    await watch_chains()
    mined = await play.view(action_id)
    assert (mined.status, mined.held) == (TransactionStatus.MINED, False)
    await must_be_executed_once(play, action_id)
    assert len(set(wire.sent)) == 1


async def test_killed_before_the_signature_is_stored_leaves_nothing_behind(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.approved_mint()
    with monkeypatch.context() as broken:

        async def killed(*_: Any) -> None:
            raise Killed

        broken.setattr(signing, "sign", killed)
        await run_until_killed()
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.attempts) == (NONCED, 1, [])
    await must_be_executed_once(play, action_id)
    assert (await play.view(action_id)).nonce == 1


async def test_a_nonce_that_was_claimed_without_a_signature_is_used_by_its_own_transaction(play: Play) -> None:
    action_id = await play.approved_mint()
    later = await play.approved_mint()
    from portal.transactions.service import queue_approved

    await queue_approved()
    await run_sql("UPDATE transaction SET status = 'nonced', nonce = 1 WHERE action = {}", action_id)
    await run_sql("UPDATE lane SET next_nonce = 2")
    await run_lanes()
    assert [(await play.view(each)).nonce for each in (action_id, later)] == [1, 2]
    await must_be_executed_once(play, action_id, amount=2)


async def test_the_bytes_are_committed_before_they_leave(play: Play, monkeypatch: Patch) -> None:
    stored: list[bool] = []
    send_many = Node.send_many

    async def look(node: Node, raws: Sequence[bytes]) -> list[SendAnswer]:
        rows = await run_sql("SELECT t.status FROM attempt a JOIN transaction t ON t.id = a.transaction "
                             "WHERE a.raw_bytes = {}", raws[0])  # fmt: skip
        stored.append([row["status"] for row in rows] == ["signed"])
        return await send_many(node, raws)

    monkeypatch.setattr(Node, "send_many", look)
    await play.approved_mint()
    await run_lanes()
    assert stored == [True]


# Answers


async def test_an_answer_that_is_lost_counts_as_sent(play: Play, wire: Wire) -> None:
    play.node.rpc("evm_setAutomine", False)
    action_id = await play.approved_mint()
    wire.answer(SendAnswer(SendKind.UNAVAILABLE, "timeout"), after=True)
    await run_lanes()
    sent = await play.view(action_id)
    assert (sent.status, sent.attempts[0].last_answer) == (BROADCAST, "timeout")
    await must_be_executed_once(play, action_id)


@pytest.mark.parametrize("kind", [SendKind.UNAVAILABLE, SendKind.UNKNOWN, SendKind.FEE_CAP])
async def test_without_an_answer_and_without_a_trace_it_stays_signed_and_goes_out_again(
    play: Play, wire: Wire, kind: SendKind
) -> None:
    action_id = await play.approved_mint()
    wire.answer(SendAnswer(kind, "what the node said"))
    await run_lanes()
    held = await play.view(action_id)
    assert (held.status, held.held, held.nonce) == (SIGNED, True, 1)
    assert held.attempts[0].first_sent_at, "somebody may have it"
    await must_be_executed_once(play, action_id)
    assert not (await play.view(action_id)).held
    assert len(set(wire.sent)) == 1


async def test_nothing_overtakes_a_transaction_that_is_not_out(play: Play, wire: Wire) -> None:
    first, second = await play.approved_mint(), await play.approved_mint()
    wire.answer(SendAnswer(SendKind.NONCE_TOO_HIGH, "nonce too high"))
    await run_lanes()
    assert [(await play.view(each)).status for each in (first, second)] == [SIGNED, QUEUED]
    assert "nonce 1" in str((await play.view(first)).waiting_for)
    await run_lanes()
    assert [(await play.view(each)).nonce for each in (first, second)] == [1, 2]


async def test_a_signer_without_funds_is_named_and_goes_on_when_topped_up(play: Play) -> None:
    actions = [await play.approved_mint() for _ in range(3)]
    play.node.rpc("anvil_setBalance", play.stage.signer_address, "0x1")
    await run_lanes()
    await run_lanes()
    held = await play.view(actions[0])
    assert (held.status, held.held) == (SIGNED, True)
    assert held.waiting_for == (
        f"The signer {play.stage.signer_address} has too little ETH for gas; top it up and it goes on."
    )
    assert (await play.audit(held.id)).count("held") == 1

    play.node.rpc("anvil_setBalance", play.stage.signer_address, hex(FUNDS))
    await run_lanes()
    assert {(await play.view(each)).status for each in actions} == {BROADCAST}
    assert not (await play.view(actions[0])).held
    await must_be_executed_once(play, actions[0], amount=3)
    assert len((await play.view(actions[0])).attempts) == 1


async def test_bytes_that_no_node_takes_are_rejected_and_their_nonce_is_used_by_the_next(
    play: Play, wire: Wire
) -> None:
    first, second = await play.approved_mint(), await play.approved_mint(2)
    wire.answer(SendAnswer(SendKind.FATAL, "exceeds block gas limit"))
    await run_lanes()

    rejected, sent = await play.view(first), await play.view(second)
    assert (rejected.status, rejected.nonce) == (TransactionStatus.REJECTED, None)
    assert rejected.failure == "The node refused it for good: exceeds block gas limit."
    assert rejected.waiting_for is None
    assert (sent.status, sent.nonce) == (BROADCAST, 1)
    assert (await play.audit(rejected.id))[-1] == "rejected"
    assert await play.minted() == 2
    await run_lanes()
    assert len(wire.sent) == 2, "what was rejected is not sent again"


async def test_a_fatal_answer_after_one_that_was_lost_does_not_free_the_nonce(play: Play, wire: Wire) -> None:
    play.node.rpc("evm_setAutomine", False)
    action_id = await play.approved_mint()
    wire.answer(SendAnswer(SendKind.UNAVAILABLE), SendAnswer(SendKind.FATAL, "invalid sender"))
    await run_lanes()
    await run_lanes()
    held = await play.view(action_id)
    assert (held.status, held.held, held.nonce) == (SIGNED, True, 1)
    await must_be_executed_once(play, action_id)


async def test_a_fatal_answer_to_a_second_attempt_does_not_free_the_nonce_while_the_first_may_be_out(
    play: Play, wire: Wire
) -> None:
    action_id = await play.approved_mint()
    wire.answer(SendAnswer(SendKind.UNAVAILABLE))
    await run_lanes()
    wire.answer(SendAnswer(SendKind.UNDERPRICED, "transaction underpriced"), Killed())
    await run_until_killed()
    assert len(await play.attempts(action_id)) == 2
    await run_sql("UPDATE lane SET held_until = now() - interval '1 s'")
    wire.answer(SendAnswer(SendKind.FATAL, "exceeds block gas limit"))
    await run_lanes()
    held = await play.view(action_id)
    assert (held.status, held.held, held.nonce) == (SIGNED, True, 1)


async def test_a_fatal_answer_does_not_free_a_nonce_that_the_pool_has(play: Play, wire: Wire) -> None:
    play.node.rpc("evm_setAutomine", False)
    action_id = await play.approved_mint()
    wire.answer(SendAnswer(SendKind.FATAL, "invalid sender"), after=True)
    await run_lanes()
    assert (await play.view(action_id)).status is SIGNED
    await must_be_executed_once(play, action_id)


async def test_what_is_too_cheap_is_offered_again_for_more_at_the_same_nonce(play: Play, wire: Wire) -> None:
    action_id = await play.approved_mint()
    cheap = SendAnswer(SendKind.UNDERPRICED, "transaction underpriced")
    wire.answer(cheap, cheap)
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.nonce, len(view.attempts)) == (BROADCAST, 1, 3)
    fees = [int(attempt.max_fee_wei) for attempt in view.attempts]
    assert all(later * 10 >= earlier * 11 for earlier, later in pairwise(fees))
    assert [bool(attempt.first_sent_at) for attempt in view.attempts] == [False, False, True]
    assert (await play.audit(view.id)).count("repriced") == 2
    await must_be_executed_once(play, action_id)
    assert wire.sent == await play.attempts(action_id)


async def test_no_attempt_ever_offers_more_than_five_times_the_first(play: Play, wire: Wire) -> None:
    action_id = await play.approved_mint()
    wire.answer(*[SendAnswer(SendKind.UNDERPRICED, "transaction underpriced")] * 60)
    for _ in range(10):
        await run_lanes()
    view = await play.view(action_id)
    fees = [int(attempt.max_fee_wei) for attempt in view.attempts]
    assert (view.status, view.held) == (SIGNED, True)
    assert "higher fees than the most that we offer" in str(view.waiting_for)
    assert 4.5 < fees[-1] / fees[0] <= 5
    assert wire.sent[-1] == wire.sent[-2], "at the cap the last attempt is sent as it is"
    wire.answer()
    await must_be_executed_once(play, action_id)


async def test_a_nonce_that_the_pool_gives_to_another_is_left_to_the_chain(play: Play, wire: Wire) -> None:
    action_id = await play.approved_mint()
    wire.answer(SendAnswer(SendKind.REPLACEMENT_UNDERPRICED, "replacement transaction underpriced"))
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.held, view.nonce) == (BROADCAST, True, 1)


async def test_a_node_that_is_down_holds_and_loses_nothing(play: Play, monkeypatch: Patch) -> None:
    action_id = await play.approved_mint()
    with monkeypatch.context() as broken:
        broken.setattr(Pool, "in_order", lambda _: [])
        await run_lanes()
        await watch_chains()
        held = await play.view(action_id)
        assert (held.status, held.held) == (QUEUED, True)
        assert held.waiting_for == "The node of chain 31337 does not answer."
    await must_be_executed_once(play, action_id)


# The gate


async def must_be_refused(play: Play, action_id: Any, wire: Wire) -> None:
    await run_lanes()
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.attempts) == (TransactionStatus.REFUSED, None, [])
    assert view.failure
    assert await play.audit(view.id) == ["queued", "nonced", "refused"]
    assert wire.sent == []
    following = await play.approved_mint(2)
    await run_lanes()
    assert (await play.view(following)).nonce == 1
    assert await play.minted() == 2


async def test_calldata_that_was_edited_after_the_approval_is_never_signed(play: Play, wire: Wire) -> None:
    action_id = await play.approved_mint()
    calldata = (await get_action(play.organization_id, action_id)).calldata
    # Ten million times as much, to somebody else.
    other = calldata[:10] + NOBODY[2:].lower().rjust(64, "0") + f"{10**7:064x}"
    await run_sql("UPDATE action SET calldata = {} WHERE id = {}", bytes.fromhex(other[2:]), action_id)
    await must_be_refused(play, action_id, wire)


async def test_calldata_that_was_edited_between_queueing_and_signing_is_never_signed(play: Play, wire: Wire) -> None:
    from portal.transactions.service import queue_approved

    action_id = await play.approved_mint()
    await queue_approved()
    await run_sql("UPDATE action SET value_wei = 1 WHERE id = {}", action_id)
    await must_be_refused(play, action_id, wire)


async def test_an_approver_who_was_disabled_meanwhile_no_longer_counts(play: Play, wire: Wire) -> None:
    from portal.actions.service import approve

    cast = play.stage.cast
    action = await play.stage.propose_mint()
    for player in (cast.alice, cast.bob):
        await approve(player.actor, action.id, action.digest, player.code())
    await run_sql("UPDATE member SET disabled_at = {} WHERE id = {}", clock.now(), cast.bob.actor.id)
    await must_be_refused(play, action.id, wire)


async def test_an_edit_during_the_estimate_is_found_at_the_signature(
    play: Play, wire: Wire, monkeypatch: Patch
) -> None:
    action_id = await play.approved_mint()
    await run_sql("UPDATE action SET simulated_at = simulated_at - interval '6 minutes'")
    simulate_many = Node.simulate_many

    async def meanwhile(node: Node, *given: Any, **more: Any) -> Any:
        await run_sql("UPDATE action SET value_wei = 1 WHERE id = {}", action_id)
        return await simulate_many(node, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "simulate_many", meanwhile)
        await run_lanes()
    await must_be_refused(play, action_id, wire)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda fields: {"data": fields.data + b"\x00"},
        lambda fields: {"value_wei": fields.value_wei + 1},
        lambda fields: {"to_address": NOBODY},
        lambda fields: {"chain_id": 1},
    ],
    ids=["data", "value", "to", "chain"],
)
async def test_a_signature_over_anything_else_is_neither_stored_nor_sent(
    play: Play, wire: Wire, monkeypatch: Patch, wrong: Callable[[signers.TransactionFields], dict[str, Any]]
) -> None:
    import msgspec

    action_id = await play.approved_mint()
    sign = signers.sign

    async def lying(signer: Any, fields: signers.TransactionFields) -> signers.SignedTransaction:
        return await sign(signer, msgspec.structs.replace(fields, **wrong(fields)))

    with monkeypatch.context() as patch:
        patch.setattr(signing, "sign", lying)
        await run_lanes()
    held = await play.view(action_id)
    assert (held.status, held.nonce, held.attempts, held.held) == (NONCED, 1, [], True)
    assert wire.sent == []
    await must_be_executed_once(play, action_id)


async def test_a_key_that_cannot_be_opened_holds_and_keeps_the_nonce(play: Play, wire: Wire) -> None:
    action_id = await play.approved_mint()
    sealed = (await run_sql("SELECT encrypted_key FROM signer WHERE id = {}", play.stage.signer_id))[0]["encrypted_key"]
    broken = bytes(sealed[:-1]) + bytes([sealed[-1] ^ 1])
    await run_sql("UPDATE signer SET encrypted_key = {} WHERE id = {}", broken, play.stage.signer_id)
    await run_lanes()
    held = await play.view(action_id)
    assert (held.status, held.nonce, held.held) == (NONCED, 1, True)
    assert "cannot be opened" in str(held.waiting_for)
    await run_sql("UPDATE signer SET encrypted_key = {} WHERE id = {}", bytes(sealed), play.stage.signer_id)
    await must_be_executed_once(play, action_id)
