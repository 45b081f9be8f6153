"""Several calls of one contract in one transaction: only what may be called alone, each shown, all or nothing."""

from typing import Any
from uuid import UUID

import pytest

from portal.actions.digest import CanonicalCall, digest_of
from portal.actions.errors import GateRefused
from portal.actions.queries import get_action, list_inbox
from portal.actions.schemas import ActionInput, ActionView, BatchedCall, SigningOrder
from portal.actions.service import propose, simulate, verify_for_signing
from portal.actions.tables import Action
from portal.chain.abi import encode_call
from portal.chain.tables import Contract
from portal.db.engine import transaction
from portal.errors import InputInvalid
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.queries import find_transaction_of_action
from tests.actions import ADA, MINT, NOBODY, Stage
from tests.till import MULTICALL, NOTE, PAY, compiled, make_till

ETHER = 10**18
KEY = "0x" + "07" * 32


def pay(to: str, wei: int) -> BatchedCall:
    return BatchedCall(function=PAY, arguments={"to": to, "amount": str(wei)})


def note(content: str) -> BatchedCall:
    return BatchedCall(function=NOTE, arguments={"key": KEY, "content": content})


async def propose_batch(stage: Stage, till: UUID, calls: list[BatchedCall], **more: Any) -> ActionView:
    given = {"contract_id": till, "policy_id": stage.policy_id, **more}
    action = await propose(stage.cast.oscar.actor, ActionInput(calls=calls, **given))
    await simulate([action.id])
    return await get_action(stage.cast.organization_id, action.id)


async def test_each_call_of_a_batch_is_decoded_and_what_all_of_them_change_is_added_up(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[PAY, NOTE], wei=2 * ETHER)

    action = await propose_batch(stage, till, [pay(ADA, ETHER), pay(NOBODY, ETHER // 2), note("Paid")])

    assert action.function == MULTICALL
    assert [call.function for call in action.calls] == [PAY, PAY, NOTE]
    assert [argument["value"] for argument in action.calls[1].arguments] == [NOBODY, str(ETHER // 2)]
    assert action.calls[0].summary == "Call pay(to: Ada Park, amount: 1,000,000,000,000,000,000) of Till"
    assert action.calls[2].summary == "Call note(key: 0x0707…0707, content: Paid) of Till"
    assert action.summary == "3 calls of Till, all or nothing: pay, pay, note"
    assert action.simulation is not None
    assert action.simulation.effects is not None
    assert [change.text for change in action.simulation.effects.changes] == [
        "Till loses 1.5 ETH",
        "Ada Park gets 1 ETH",
        f"{NOBODY[:6]}…{NOBODY[-4:]} gets 0.5 ETH",
    ]
    [waiting] = await list_inbox(stage.cast.bob.actor)
    assert f"{NOBODY[:6]}…{NOBODY[-4:]} is not an end user, a signer or a contract of yours." in waiting.warnings


async def test_one_approval_of_one_digest_sends_one_transaction_that_does_it_all(stage: Stage) -> None:
    till, address = await make_till(stage, allowed=[PAY, NOTE], wei=2 * ETHER)
    stage.node.fund(stage.signer_address)
    before = int(stage.node.rpc("eth_getBalance", NOBODY, "latest"), 16)
    action = await propose_batch(stage, till, [pay(NOBODY, 1), pay(NOBODY, 2)], policy_id=await stage.policy(0))

    await run_lanes()
    stage.node.mine(2)
    await watch_chains()

    sent = await find_transaction_of_action(stage.cast.organization_id, action.id)
    assert sent is not None
    assert sent.status in ("mined", "confirmed", "finalized")
    assert int(stage.node.rpc("eth_getBalance", NOBODY, "latest"), 16) == before + 3
    assert int(stage.node.rpc("eth_getBalance", address, "latest"), 16) == 2 * ETHER - 3


async def test_one_call_that_fails_fails_the_batch(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[PAY, NOTE], wei=ETHER)
    action = await propose_batch(stage, till, [pay(ADA, 1), note("")])
    assert action.simulation is not None
    assert (action.simulation.ok, action.simulation.revert_reason) == (False, "nothing to note")


@pytest.mark.parametrize(
    ("calls", "path"),
    [
        ([pay(ADA, 1), BatchedCall(function="call_me(address,string)", arguments={})], "/calls/1/function"),
        ([BatchedCall(function=MULTICALL, arguments={"data": []})], "/calls/0/function"),
        ([pay(ADA, 1), pay("0x12", 1)], "/calls/1/arguments/to"),
        ([], "/calls"),
        ([pay(ADA, 1)] * 51, "/calls"),
    ],
)
async def test_a_batch_holds_only_what_may_be_called_alone(stage: Stage, calls: list[BatchedCall], path: str) -> None:
    till, _ = await make_till(stage, allowed=[PAY, MULTICALL])
    with pytest.raises(InputInvalid) as refused:
        await propose_batch(stage, till, calls)
    assert [field.path for field in refused.value.fields] == [path]


async def test_a_batch_that_somebody_encoded_is_held_to_the_same(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[PAY, MULTICALL])
    abi, _ = await compiled()
    forbidden = encode_call(abi, "call_me(address,string)", {"who": ADA, "name": "x"}).calldata
    nested = encode_call(abi, MULTICALL, {"data": ["0x" + forbidden.hex()]}).calldata
    allowed = encode_call(abi, PAY, {"to": ADA, "amount": "1"}).calldata
    unreadable = allowed + b"\1", allowed[:-1]
    for data in (
        [forbidden],
        [allowed, nested],
        [allowed, b""],
        [allowed, b"\1\2"],
        [],
        *([each] for each in unreadable),
    ):
        given = {"function": MULTICALL, "arguments": {"data": ["0x" + each.hex() for each in data]}}
        with pytest.raises(InputInvalid):
            await propose(stage.cast.oscar.actor, ActionInput(contract_id=till, policy_id=stage.policy_id, **given))


async def test_no_money_goes_along_with_a_batch(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=["deposit()"])
    deposits = [BatchedCall(function="deposit()", arguments={})] * 2
    with pytest.raises(InputInvalid, match="each would count it"):
        await propose_batch(stage, till, deposits, value_wei="1")


async def test_a_contract_without_multicall_is_told_apart(stage: Stage) -> None:
    mint = BatchedCall(function=MINT, arguments={"to": ADA, "amount": "1"})
    with pytest.raises(InputInvalid, match=r"Acme Points has no multicall\(bytes\[\]\).*one by one"):
        await propose_batch(stage, stage.contract_id, [mint, mint])


async def test_either_one_function_or_several_calls(stage: Stage) -> None:
    for given in ({}, {"function": MINT, "arguments": {}, "calls": [pay(ADA, 1)]}):
        with pytest.raises(InputInvalid, match="not both"):
            await propose(
                stage.cast.oscar.actor,
                ActionInput(contract_id=stage.contract_id, policy_id=stage.policy_id, **given),  # type: ignore[arg-type]
            )


async def test_the_gate_reads_the_batch_that_would_be_signed(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[PAY, NOTE], wei=ETHER)
    action = await propose_batch(stage, till, [pay(ADA, 1), note("Paid")], policy_id=await stage.policy(0))
    async with transaction():
        order = (await verify_for_signing([action.id]))[action.id]
    assert isinstance(order, SigningOrder)
    assert order.data.hex() == action.calldata[2:]

    await Contract.update({Contract.allowed_functions: [PAY, MULTICALL]}).where(Contract.id == till)
    async with transaction():
        refused = (await verify_for_signing([action.id]))[action.id]
    assert isinstance(refused, GateRefused)
    assert "Call 2 of the batch" in refused.detail
    await Contract.update({Contract.allowed_functions: [PAY, NOTE]}).where(Contract.id == till)

    row = (await Action.objects().where(Action.id == action.id))[0]
    assert bytes(row.digest) == digest_of(
        CanonicalCall(
            organization_id=row.organization,
            chain_id=action.chain_id,
            to=action.to_address,
            function=action.function,
            arguments=action.arguments,
            calldata=bytes.fromhex(action.calldata[2:]),
            value_wei=0,
            policy_version_id=action.policy.version_id,
            policy_version_number=action.policy.version,
            signer=stage.signer_address,
        )
    )
