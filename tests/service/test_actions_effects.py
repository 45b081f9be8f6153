"""What a simulation shows of a call's effects: who gains and loses what, by name, and which events are emitted."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
import time_machine

from portal import clock
from portal.actions.queries import get_action, list_actions
from portal.actions.schemas import ActionInput, SimulatedEffects, Simulation
from portal.actions.service import propose, resimulate, simulate
from portal.chain import traces
from portal.chain.abi import encode_constructor
from portal.chain.compiler import compile_template
from portal.chain.rpc import close_nodes
from portal.db.engine import run_sql
from portal.settings import get_settings
from tests.actions import ADA, CHAIN, MINT, NOBODY, Stage, deploy, make_stage
from tests.anvil import running_anvil
from tests.faults.node_proxy import NodeProxy, Say, refuse
from tests.people import Cast
from tests.till import HAND_OUT, NOTE, PAY, make_till

ETHER = 10**18


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxy() -> AsyncIterator[NodeProxy]:
    """A chain of the module behind the address that the settings name."""
    with running_anvil() as node:
        running = NodeProxy(node, int(get_settings().rpc_urls[CHAIN][0].rpartition(":")[2])).start()
        try:
            yield running
        finally:
            await close_nodes()
            running.stop()


@pytest_asyncio.fixture
async def stage(cast: Cast, proxy: NodeProxy, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(traces, "FORGET_SECONDS", 0)  # each test says anew what the node lacks
    proxy.clear()
    return await make_stage(cast, proxy.node)


async def simulated(stage: Stage, action_id: UUID) -> Simulation:
    view = await get_action(stage.cast.organization_id, action_id)
    assert view.simulation is not None
    return view.simulation


async def effects_of(
    stage: Stage, contract_id: UUID, function: str, arguments: dict[str, Any], **more: Any
) -> SimulatedEffects:
    given = {"contract_id": contract_id, "policy_id": stage.policy_id, **more}
    action = await propose(stage.cast.oscar.actor, ActionInput(function=function, arguments=arguments, **given))
    await simulate([action.id])
    simulation = await simulated(stage, action.id)
    assert simulation.effects is not None, simulation
    return simulation.effects


def told(effects: SimulatedEffects) -> list[str]:
    return [change.text for change in effects.changes]


async def test_a_mint_says_who_gets_how_much_and_what_they_had(stage: Stage) -> None:
    action = await stage.propose_mint()

    simulation = await simulated(stage, action.id)
    assert simulation.effects is not None
    assert simulation.effects.source == "debug_traceCall"
    [change] = simulation.effects.changes
    assert (change.text, change.what) == ("Ada Park gets 50 PTS", "50 PTS")
    assert (change.holder, change.holder_name, change.change) == (ADA, "Ada Park", str(50 * ETHER))
    assert (change.before, change.is_registered) == ("0", True)
    [event] = simulation.effects.events
    assert (event.event, event.contract_name) == ("Transfer(address,address,uint256)", "Acme Points")
    assert [argument["value"] for argument in event.arguments][1:] == [ADA, str(50 * ETHER)]
    [listed] = (await list_actions(stage.cast.organization_id)).items
    assert listed.simulation == simulation


async def test_money_that_leaves_a_contract_is_shown_at_both_ends(stage: Stage) -> None:
    till, address = await make_till(stage, allowed=[PAY], wei=3 * ETHER)

    effects = await effects_of(stage, till, PAY, {"to": ADA, "amount": str(ETHER // 2)})

    assert told(effects) == ["Till loses 0.5 ETH", "Ada Park gets 0.5 ETH"]
    assert [(each.before, each.holder) for each in effects.changes] == [(str(3 * ETHER), address), ("0", ADA)]
    assert effects.events == []


async def test_value_that_is_sent_along_leaves_the_signer(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=["deposit()"])

    effects = await effects_of(stage, till, "deposit()", {}, value_wei=str(ETHER // 4))

    assert told(effects) == ["Treasury loses 0.25 ETH", "Till gets 0.25 ETH"]


async def test_a_token_that_nobody_registered_is_named_by_its_address_and_what_it_calls_itself(stage: Stage) -> None:
    points = await compile_template("points")
    creation = encode_constructor(points.abi, points.bytecode, {"name": "Fake", "symbol": "USDC"}).calldata
    token = deploy(stage.node, stage.signer_address, creation)
    till, address = await make_till(stage, allowed=[HAND_OUT])
    data = "0x40c10f19" + address[2:].rjust(64, "0") + hex(7 * ETHER)[2:].rjust(64, "0")
    stage.node.rpc("eth_sendTransaction", {"from": stage.signer_address, "to": token, "data": data})

    effects = await effects_of(stage, till, HAND_OUT, {"token": token, "to": NOBODY, "amount": str(2 * ETHER)})

    named = f"2 “USDC” ({token[:6]}…{token[-4:]})"
    assert told(effects) == [f"Till loses {named}", f"{NOBODY[:6]}…{NOBODY[-4:]} gets {named}"]
    assert [change.is_registered for change in effects.changes] == [False, False]
    assert effects.changes[0].before == str(7 * ETHER)
    assert effects.events[0].event == "Transfer(address,address,uint256)", "by the standard, without an ABI"
    assert effects.events[0].contract_name is None


async def test_an_event_of_the_contracts_own_is_decoded_by_its_abi(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[NOTE])
    key = "0x" + "07" * 32

    effects = await effects_of(stage, till, NOTE, {"key": key, "content": "Batch 7 left"})

    assert effects.changes == []
    [event] = effects.events
    assert (event.event, event.contract_name) == ("Noted(bytes32,string)", "Till")
    assert [argument["value"] for argument in event.arguments] == [key, "Batch 7 left"]


async def test_a_node_that_does_not_trace_is_asked_to_simulate_and_says_the_same(
    stage: Stage, proxy: NodeProxy
) -> None:
    till, address = await make_till(stage, allowed=[PAY, HAND_OUT], wei=ETHER)
    await stage.propose_mint(to=address)
    arguments = {"to": ADA, "amount": "1000"}
    traced = await effects_of(stage, till, PAY, arguments)

    proxy.always("debug_traceCall", refuse("the method debug_traceCall does not exist/is not available", -32601))
    simulated = await effects_of(stage, till, PAY, arguments)

    assert (traced.source, simulated.source) == ("debug_traceCall", "eth_simulateV1")
    assert simulated.changes == traced.changes
    assert told(await effects_of(stage, stage.contract_id, MINT, {"to": ADA, "amount": str(ETHER)})) == [
        "Ada Park gets 1 PTS"
    ]


async def test_without_any_trace_only_success_and_gas_are_known_and_that_is_what_is_said(
    stage: Stage, proxy: NodeProxy
) -> None:
    proxy.always("debug_traceCall", refuse("debug_traceCall is not available on your plan", -32000))
    proxy.always("eth_simulateV1", refuse("Method not found", -32601))

    action = await stage.propose_mint()

    simulation = await simulated(stage, action.id)
    assert (simulation.ok, simulation.effects) == (True, None)
    assert simulation.gas


async def test_a_node_that_lacks_it_is_not_asked_for_every_action(
    stage: Stage, proxy: NodeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "FORGET_SECONDS", 600)
    monkeypatch.setattr(traces, "_lacking", {})
    proxy.always("debug_traceCall", refuse("Method not found", -32601))
    before = proxy.asked["debug_traceCall"]
    await stage.propose_mint()
    await stage.propose_mint()
    assert proxy.asked["debug_traceCall"] == before + 1


async def test_a_trace_that_makes_no_sense_hides_nothing_and_invents_nothing(stage: Stage, proxy: NodeProxy) -> None:
    for nonsense in ({}, {"type": "CALL"}, {"type": "CALL", "to": 7, "value": "0x1"}, [], "0x", {"logs": [{}]}):
        proxy.clear()
        proxy.always("debug_traceCall", Say(nonsense))
        action = await stage.propose_mint()
        simulation = await simulated(stage, action.id)
        assert simulation.ok, nonsense
        assert simulation.effects is None or simulation.effects.changes == [], nonsense


async def test_a_simulation_of_before_effects_is_still_read(stage: Stage) -> None:
    action = await stage.propose_mint()
    await run_sql("""UPDATE action SET simulation = simulation - 'effects' WHERE id = {}""", action.id)
    simulation = await simulated(stage, action.id)
    assert (simulation.ok, simulation.effects) == (True, None)


async def test_a_simulation_is_stale_once_the_chain_has_moved_on_for_five_minutes(stage: Stage) -> None:
    action = await stage.propose_mint()
    block = (await simulated(stage, action.id)).block_number
    await run_sql("UPDATE chain SET head_number = {} WHERE id = {}", block + 1, CHAIN)
    assert not (await simulated(stage, action.id)).is_stale
    with time_machine.travel(clock.now() - timedelta(hours=1)):
        assert (await simulated(stage, action.id)).is_stale, "it was made by a clock that was fast"
    with time_machine.travel(clock.now() + timedelta(minutes=6)):
        assert (await simulated(stage, action.id)).is_stale
        await run_sql("UPDATE chain SET head_number = {} WHERE id = {}", block, CHAIN)
        assert not (await simulated(stage, action.id)).is_stale, "without a new block nothing has changed"
        await run_sql("UPDATE chain SET head_number = {} WHERE id = {}", block + 1, CHAIN)
        again = await resimulate(stage.cast.bob.actor, action.id)
        assert again.simulation is not None
        assert not again.simulation.is_stale
