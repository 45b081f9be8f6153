"""Keys that fail, rights that end, settings and clocks that are wrong, and workers that are told to stop."""

import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
import pytest_asyncio
from coincurve import PrivateKey
from structlog.testing import capture_logs

from portal.accounts.permissions import Role
from portal.accounts.service import change_role, disable_member
from portal.actions.errors import SignerNotReady
from portal.actions.policies import change_policy
from portal.actions.queries import get_policy
from portal.actions.schemas import ActionView, PolicyInput
from portal.actions.service import approve, create_policy, create_signer, disable_signer, enable_signer, simulate
from portal.chain.chain_settings import get_chain_settings, update_chain
from portal.chain.signers import (
    SignedTransaction,
    TransactionFields,
    check_signers,
    keepers,
    make_pending_keys,
    sign,
    web3signer,
)
from portal.chain.signers import service as signing
from portal.chain.tables import Signer, SignerKind
from portal.db.engine import run_sql
from portal.errors import InputInvalid
from portal.settings import get_settings
from portal.transactions.controls.pauses import pause, resume
from portal.transactions.lanes import signing as lanes_signing
from portal.transactions.service import queue_approved
from portal.transactions.tables import PauseScope
from tests.actions import CHAIN, NOBODY, register_points
from tests.faults.killer import Killer, process
from tests.faults.node_proxy import SEND, Alter, Late, refuse
from tests.faults.world import World
from tests.keepers import SigningService, given_settings, public_key_of

FAULTS = ["fails", "hangs up", "nonsense", "redirects"]
WRONG = ["another key", "another payload"]


@dataclass
class Remote:
    """A contract whose calls are signed by a key behind a signing service."""

    world: World
    service: SigningService
    signer_id: UUID
    address: str
    contract_id: UUID

    async def mint(self, amount: int = 1) -> UUID:
        return await self.world.play.approved_mint(amount, contract_id=self.contract_id)


@pytest_asyncio.fixture
async def remote(geth: World) -> AsyncIterator[Remote]:
    key = PrivateKey()
    service = SigningService(key)
    cast = geth.play.stage.cast
    async with service.running() as running:
        with given_settings(web3signer_urls=running.url):
            made = await create_signer(
                cast.alice.actor,
                "Elsewhere",
                kind=SignerKind.WEB3SIGNER,
                service_url=running.url,
                public_key=public_key_of(key),
            )
            assert await make_pending_keys() == 1
            address = (await Signer.select(Signer.address).where(Signer.id == made.id))[0]["address"]
            geth.node.rpc("evm_setAutomine", True)
            contract_id = await register_points(cast, geth.node, made.id, owner_address=address)
            geth.no_automine()
            yield Remote(geth, running, made.id, address, contract_id)
    signing._checked.clear()
    signing._failed.clear()


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keepers.SIGN_SECONDS <= 5
    monkeypatch.setattr(web3signer, "SIGN_SECONDS", 0.3)


# Signers


async def test_tx_79_a_signer_that_fails_at_first_keeps_the_nonce_for_the_next_try(
    remote: Remote, short_deadline: None
) -> None:
    world, action_id, nonces = remote.world, await remote.mint(), set()
    for fault in [*FAULTS, "hangs"]:
        remote.service.fault = fault
        await world.work()
        view = await world.view(action_id)
        assert view.status in ("queued", "nonced"), fault
        assert (view.held, view.attempts) == (True, []), fault
        nonces.add(view.nonce)
        world.later(31)
    remote.service.fault = None
    await check_signers()
    following = await remote.mint(2)
    views = await world.finish_ok(action_id, following)
    assert [view.nonce for view in views] == [1, 2]
    assert nonces <= {None, 1}
    assert len(world.proxy.payloads()) == 2


async def test_tx_79_a_nonce_that_a_signer_elsewhere_may_have_signed_is_kept_through_a_pause(
    remote: Remote, short_deadline: None
) -> None:
    world, action_id = remote.world, await remote.mint()
    alice = world.play.stage.cast.alice.actor
    remote.service.fault = "hangs"
    await world.work()
    assert (await world.view(action_id)).status == "nonced"
    begun = await pause(alice, PauseScope.CONTRACT, str(remote.contract_id), "To look into it.")
    remote.service.fault = None
    await world.work(2)
    view = await world.view(action_id)
    assert (view.status, view.nonce) == ("nonced", 1)
    assert "The contract Acme Points is paused" in str(view.waiting_for)
    for player in (world.play.stage.cast.alice, world.play.stage.cast.bob):
        await resume(player.actor, begun.id)
    (view,) = await world.finish_ok(action_id)
    assert view.nonce == 1


async def test_tx_79_a_key_that_cannot_be_opened_keeps_the_nonce_for_the_next_try(world: World) -> None:
    action_id = await world.play.approved_mint()
    spoil = "UPDATE signer SET encrypted_key = set_byte(encrypted_key, 40, get_byte(encrypted_key, 40) # 1)"
    await run_sql(spoil)
    await world.work()
    view = await world.view(action_id)
    assert (view.status, view.nonce, view.held, view.attempts) == ("nonced", 1, True, [])
    assert "cannot be opened" in str(view.waiting_for)
    await run_sql(spoil)  # which mends it
    (view,) = await world.finish_ok(action_id)
    assert view.nonce == 1


async def test_tx_80_a_signer_that_fails_at_a_replacement_leaves_the_first_one_alive(remote: Remote) -> None:
    world, action_id = remote.world, await remote.mint()
    await world.work()
    remote.service.fault = "fails"
    await world.get_stuck()
    await world.work(2)
    (first,) = await world.attempts(action_id)
    assert world.pool.find(first.hash)
    assert (await world.view(action_id)).status == "broadcast"
    (view,) = await world.finish_ok(action_id)
    assert view.hash == first.hash


@pytest.mark.parametrize("wrong", WRONG)
async def test_tx_81_a_signature_of_another_key_or_over_another_payload_is_refused_and_reported(
    remote: Remote, wrong: str
) -> None:
    world, action_id = remote.world, await remote.mint()
    remote.service.fault = wrong
    with capture_logs() as logs:
        await world.work(2)
    view = await world.view(action_id)
    assert view.status in ("queued", "nonced")
    assert (view.held, view.attempts) == (True, [])
    assert world.proxy.sent == []
    assert "security.signature_refused" in {each["event"] for each in logs}
    remote.service.fault = None
    world.later(31)
    await world.finish_ok(action_id)


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
async def test_tx_81_our_own_signature_over_anything_else_is_neither_stored_nor_sent(
    world: World, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[TransactionFields], dict[str, Any]]
) -> None:
    """As if what signs with a key of ours had a bug, or somebody had changed it."""
    action_id = await world.play.approved_mint()

    async def lying(signer: dict[str, Any], fields: TransactionFields) -> SignedTransaction:
        return await sign(signer, msgspec.structs.replace(fields, **wrong(fields)))

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(lanes_signing, "sign", lying)
        await world.work()
    view = await world.view(action_id)
    assert (view.status, view.nonce, view.held, view.attempts) == ("nonced", 1, True, [])
    assert world.proxy.sent == []
    assert "security.signature_refused" in {each["event"] for each in logs}
    await world.finish_ok(action_id)


async def test_tx_82_a_key_that_is_disabled_signs_nothing_new_and_what_is_out_is_followed(geth: World) -> None:
    stage = geth.play.stage
    out, waiting = await geth.play.approved_mints(2)
    await run_sql("UPDATE chain SET in_flight_limit = 1")
    await geth.work()
    later = geth.proxy.sent[-1].transaction.nonce
    await disable_signer(stage.cast.alice.actor, stage.signer_id)
    geth.pool.drop()
    geth.later(31)
    await geth.work()
    (first,) = await geth.attempts(out)
    assert geth.pool.find(first.hash), "the same bytes go out again"
    await geth.get_stuck()
    await geth.work()
    assert await geth.attempts(out) == [first], "nothing is signed with it"
    with pytest.raises(SignerNotReady):
        await geth.play.approved_mint()
    geth.pool.holds_back = False
    with capture_logs() as logs:
        for _ in range(3):
            geth.pass_blocks(70)
            await geth.work()
    view = await geth.view(out)
    assert (view.status, view.outcome) == ("finalized", "ok")
    held = await geth.view(waiting)
    assert (held.status, held.nonce, held.attempts) == ("queued", None, [])
    assert held.waiting_for == (
        "The signer Treasury is disabled. It goes on once the signer is enabled again; cancel it if it should not be "
        "carried out."
    )
    assert "security.transaction_refused" not in {each["event"] for each in logs}, "nobody did anything wrong"
    assert later == first.nonce
    await enable_signer(stage.cast.alice.actor, stage.signer_id)
    await geth.finish_ok(out, waiting)


async def signed_by_what_is_disabled_now(world: World, answer: str) -> UUID:
    """The id of an action whose bytes the node answered so, and whose signer was disabled then."""
    action_id = await world.play.approved_mint()
    world.proxy.plan(SEND, refuse(answer))
    await world.work()
    assert (await world.view(action_id)).status == "signed"
    await disable_signer(world.play.stage.cast.alice.actor, world.play.stage.signer_id)
    return action_id


async def test_tx_82_what_is_signed_and_no_node_has_is_not_sent_while_its_key_is_disabled(world: World) -> None:
    action_id = await signed_by_what_is_disabled_now(world, "insufficient funds for gas * price + value")
    world.proxy.clear()
    sent = len(world.proxy.sent)
    await world.work(2)
    view = await world.view(action_id)
    assert (view.status, len(world.proxy.sent)) == ("signed", sent)
    assert "is disabled" in str(view.waiting_for)
    await enable_signer(world.play.stage.cast.alice.actor, world.play.stage.signer_id)
    await world.finish_ok(action_id)


async def test_tx_82_what_may_be_out_is_sent_again_although_its_key_is_disabled(world: World) -> None:
    action_id = await signed_by_what_is_disabled_now(world, "the moon is in the wrong house")
    await world.work()
    assert (await world.view(action_id)).status == "broadcast"
    await world.finish_ok(action_id)
    assert len({each.raw for each in world.proxy.sent}) == 1


# The gate


async def approved(world: World, **policy: Any) -> ActionView:
    """A mint that alice and bob have approved, not queued yet."""
    cast = world.play.stage.cast
    action = await world.play.stage.propose_mint(**policy)
    for player in (cast.alice, cast.bob):
        await approve(player.actor, action.id, action.digest, player.code())
    return action


async def must_be_refused(world: World, action_id: UUID) -> None:
    with capture_logs() as logs:
        await world.work(2)
    view = await world.view(action_id)
    assert (view.status, view.nonce, view.attempts) == ("refused", None, [])
    assert view.failure
    assert "security.transaction_refused" in {each["event"] for each in logs}
    assert world.proxy.sent == []
    assert "refused" in await world.play.audit(view.id)
    (following,) = await world.finish_ok(await world.play.approved_mint(2))
    assert following.nonce == 1


async def test_tx_83_an_approver_who_lost_the_role_does_not_count_any_more(world: World) -> None:
    cast = world.play.stage.cast
    action = await approved(world)
    await change_role(cast.alice.actor, cast.bob.actor.id or UUID(int=0), Role.AUDITOR)
    await must_be_refused(world, action.id)


async def test_tx_83_an_approver_who_was_disabled_after_it_was_queued_does_not_count(world: World) -> None:
    cast = world.play.stage.cast
    action = await approved(world)
    await queue_approved()
    await disable_member(cast.alice.actor, cast.bob.actor.id or UUID(int=0))
    await must_be_refused(world, action.id)


async def test_tx_83_a_function_that_is_not_allowed_any_more_is_not_signed(world: World) -> None:
    action = await approved(world)
    await run_sql("UPDATE contract SET allowed_functions = '[]' WHERE id = {}", world.play.stage.contract_id)
    with capture_logs() as logs:
        await world.work(2)
    assert (await world.view(action.id)).status == "refused"
    assert "security.transaction_refused" in {each["event"] for each in logs}
    assert world.proxy.sent == []


async def test_tx_83_a_policy_that_asks_for_more_approvals_since_stops_what_has_too_few(world: World) -> None:
    stage = world.play.stage
    one = await stage.policy(1)
    action = await stage.propose_mint(policy_id=one)
    await approve(stage.cast.bob.actor, action.id, action.digest, stage.cast.bob.code())
    before = await get_policy(world.play.organization_id, one)
    tightened = PolicyInput(name=before.name, approvals_required=2, expires_after_seconds=before.expires_after_seconds)
    await change_policy(stage.cast.alice.actor, one, tightened)
    await must_be_refused(world, action.id)


@pytest.mark.parametrize("column", ["calldata", "value_wei", "to_address", "arguments"])
async def test_tx_84_a_call_that_was_edited_after_its_approval_is_refused_as_a_security_event(
    world: World, column: str
) -> None:
    action = await approved(world)
    edits = {
        "calldata": "calldata = set_byte(calldata, 67, 99)",
        "value_wei": "value_wei = 1",
        "to_address": f"to_address = '{NOBODY}'",
        "arguments": "arguments = '[]'",
    }
    await run_sql(f"UPDATE action SET {edits[column]} WHERE id = {{}}", action.id)
    await must_be_refused(world, action.id)


async def test_tx_84_a_call_that_was_edited_while_its_gas_is_asked_for_is_refused_at_the_signature(
    world: World,
) -> None:
    action_id = await world.play.approved_mint()
    world.later(400)  # so that what the proposal simulated is too old to go by

    def edit(gas: Any) -> Any:
        with psycopg.connect(get_settings().database_url) as connection:
            connection.execute("UPDATE action SET value_wei = 1 WHERE id = %s", [action_id])
        return gas

    world.proxy.plan("eth_estimateGas", Alter(edit))
    await must_be_refused(world, action_id)


async def test_tx_84_a_call_that_was_edited_after_its_first_signature_is_not_signed_again(geth: World) -> None:
    action_id = await geth.play.approved_mint()
    await geth.work()
    (first,) = await geth.attempts(action_id)
    await run_sql("UPDATE action SET value_wei = 1 WHERE id = {}", action_id)
    await geth.get_stuck()
    with capture_logs() as logs:
        await geth.work(2)
    assert "security.transaction_refused" in {each["event"] for each in logs}
    assert first.hash in {attempt.hash for attempt in await geth.attempts(action_id)}
    assert all(each.does_nothing or each == first for each in await geth.attempts(action_id))
    await run_sql("UPDATE action SET value_wei = 0 WHERE id = {}", action_id)
    await geth.finish(action_id)


# Shutdown, settings, clocks


async def test_tx_85_a_worker_that_is_told_to_stop_while_it_sends_ends_that_and_begins_nothing(
    world: World, killer: Killer
) -> None:
    actions = [await world.play.approved_mint(amount) for amount in (1, 2, 3)]
    world.proxy.always(SEND, Late(0.5))
    worker = process(killer, world.ahead, worker=True)
    await world.until_asked(SEND, world.proxy.asked[SEND] + 1, seconds=20)
    worker.signal(signal.SIGTERM)
    assert await worker.ends(seconds=15) == 0
    assert [each.transaction.nonce for each in world.proxy.sent] == [1], "what was under way, and no more"
    assert (await world.view(actions[0])).status in ("signed", "broadcast")
    await world.leases_end()
    await world.finish_ok(*actions)
    assert len(world.proxy.payloads()) == 3


async def test_tx_85_a_worker_that_waits_stops_at_once(world: World, killer: Killer) -> None:
    action_id = await world.play.approved_mint()
    world.proxy.always(SEND, refuse("txpool is full"))
    worker = process(killer, world.ahead, worker=True)
    await world.until_asked(SEND, world.proxy.asked[SEND] + 1, seconds=20)
    worker.signal(signal.SIGTERM)
    assert await worker.ends(seconds=8) == 0
    assert (await world.view(action_id)).status == "signed"
    await world.leases_end()
    await world.finish_ok(action_id)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"confirmations": "0"},
        {"least_tip_wei": "0"},
        {"least_tip_wei": "20", "most_fee_wei": "10"},
        {"base_fee_percent": "99"},
        {"fee_percentile": "0"},
        {"in_flight_limit": "0"},
        {"in_flight_limit": "17"},
        {"stuck_blocks": "0"},
        {"final_depth": "1", "confirmations": "2"},
    ],
    ids=str,
)
async def test_tx_86_settings_that_make_no_sense_are_refused(world: World, nonsense: dict[str, str]) -> None:
    before = await get_chain_settings(CHAIN)
    with pytest.raises(InputInvalid):
        await update_chain(CHAIN, nonsense, by="test")
    assert await get_chain_settings(CHAIN) == before


@pytest.mark.parametrize("hours", [1, -1])
async def test_tx_87_a_clock_that_jumps_by_an_hour_sends_once_too_often_at_most_and_ends_nothing(
    geth: World, hours: int
) -> None:
    stage = geth.play.stage
    minute = PolicyInput(name="A minute", approvals_required=0, expires_after_seconds=3600, execute_within_seconds=60)
    policy = await create_policy(stage.cast.alice.actor, minute)
    out = (await stage.propose_unsimulated(amount="1", policy_id=policy.id)).id
    await simulate([out])
    await geth.work()
    geth.pool.holds_back = True
    geth.jump(3600 * hours)
    waiting = await geth.play.approved_mint(2)
    for _ in range(4):
        await geth.work()
    sends = [each.transaction.hash for each in geth.proxy.sent]
    assert {sends.count(hash) for hash in sends} <= {1, 2}
    for action_id in (out, waiting):
        view = await geth.view(action_id)
        assert (view.status, len(view.attempts)) == ("broadcast", 1)
    await geth.finish_ok(out, waiting)
