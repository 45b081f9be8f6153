"""What an approver sees of an action, and proposing one by hand: pages as people use them, without JavaScript."""

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio

from portal import clock
from portal.actions.queries import get_action
from portal.actions.schemas import ActionInput, BatchedCall
from portal.actions.service import propose
from portal.db.engine import run_sql
from tests.actions import ADA, CHAIN, Stage, make_signer, make_stage, register_points, settings_chain
from tests.http.test_web_pages import Reader, text_of
from tests.http.test_web_rooms import HOME, Visitor
from tests.people import Cast
from tests.till import NOTE, PAY, make_till


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


@pytest_asyncio.fixture
async def stage(cast: Cast) -> AsyncIterator[Stage]:
    async with settings_chain() as node:
        yield await make_stage(cast, node)


# What a simulation shows


async def test_an_approver_sees_who_gains_before_anything_happens(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await reader.sign_in(stage.cast.bob)
    card = text_of(await reader.get(f"{HOME}/actions/{action.id}"))
    assert "Simulated: it would succeed" in card
    assert "Ada Park gets 50 PTS 0" in card
    assert "1 event Transfer of Acme Points" in card
    assert "Ada Park gets 50 PTS" in text_of(await reader.get(f"{HOME}/inbox"))


async def test_an_old_simulation_says_so_and_is_run_again(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await run_sql("UPDATE chain SET head_number = 1000 WHERE id = {}", CHAIN)
    await reader.sign_in(stage.cast.bob)
    path, stale = f"{HOME}/actions/{action.id}", "The chain has moved on since"
    assert stale not in text_of(await reader.get(path))
    await run_sql("UPDATE action SET simulated_at = {} WHERE id = {}", clock.now() - timedelta(minutes=6), action.id)
    assert stale in text_of(await reader.get(path))
    again = await reader.post(f"{path}/simulate")
    assert again.status_code == 303
    assert stale not in text_of(await reader.get(path))

    await reader.sign_in(stage.cast.carol)
    assert f"{path}/simulate" not in (await reader.get(path)).text
    assert (await reader.post(f"{path}/simulate")).status_code == 403


async def test_a_call_that_would_fail_says_why_and_can_be_tried_again(reader: Reader, stage: Stage) -> None:
    stranger, _ = await make_signer(stage.cast, "Not the owner")
    contract_id = await register_points(stage.cast, stage.node, stranger, owner_address=stage.signer_address)
    action = await stage.propose_mint(contract_id=contract_id)
    await reader.sign_in(stage.cast.bob)
    card = text_of(await reader.get(f"{HOME}/actions/{action.id}"))
    simulation = (await get_action(stage.cast.organization_id, action.id)).simulation
    assert simulation is not None
    assert f"The contract says: {simulation.revert_reason}. It cannot be approved as it is." in card
    assert "Simulate again" in card


async def test_without_a_trace_the_page_says_that_only_success_and_gas_are_known(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await run_sql("""UPDATE action SET simulation = jsonb_set(simulation, '{{effects}}', 'null')""")
    await reader.sign_in(stage.cast.bob)
    card = text_of(await reader.get(f"{HOME}/actions/{action.id}"))
    assert "only its success and its gas are known" in card
    assert (await reader.get(f"{HOME}/inbox")).status_code == 200


async def test_a_batch_is_shown_call_by_call(reader: Reader, stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[PAY, NOTE], wei=10**18)
    calls = [
        BatchedCall(function=PAY, arguments={"to": ADA, "amount": "5"}),
        BatchedCall(function=NOTE, arguments={"key": "0x" + "07" * 32, "content": "Paid <b>"}),
    ]
    given = ActionInput(contract_id=till, policy_id=stage.policy_id, calls=calls)
    action = await propose(stage.cast.oscar.actor, given)
    await reader.sign_in(stage.cast.bob)
    shown = await reader.get(f"{HOME}/actions/{action.id}")
    card = text_of(shown)
    assert "It would make 2 calls in one transaction" in card
    assert "1. pay of Till to 0x5290…9EE7 Ada Park amount 5" in card
    assert "2. note of Till" in card
    assert "Paid <b>" not in shown.text
