"""What an approver sees of an action, and proposing one by hand: pages as people use them, without JavaScript."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from portal import clock
from portal.actions.queries import get_action
from portal.actions.schemas import ActionInput, BatchedCall
from portal.actions.service import propose, resimulate, simulate
from portal.db.engine import run_sql
from tests.actions import ADA, CHAIN, MINT, Stage, acting_key, make_signer, make_stage, register_points, settings_chain
from tests.http.test_web_pages import Reader, approval, live_address, text_of
from tests.http.test_web_rooms import HOME, Visitor
from tests.people import Cast
from tests.till import NOTE, PAY, SHARE, compiled, make_till


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


@pytest_asyncio.fixture
async def stage(cast: Cast) -> AsyncIterator[Stage]:
    async with settings_chain() as node:
        yield await make_stage(cast, node)


def made_id(answer: httpx.Response) -> UUID:
    """Of the action whose page a form leads to."""
    assert answer.status_code == 303, text_of(answer)
    return UUID(answer.headers["location"].rpartition("/")[2].partition("?")[0])


# What a simulation shows


async def test_an_approver_sees_who_gains_before_anything_happens(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await reader.sign_in(stage.cast.bob)
    card = text_of(await reader.get(f"{HOME}/actions/{action.id}"))
    assert "Simulated: it would succeed" in card
    assert "Ada Park gets 50 PTS 0" in card
    assert "1 event Transfer of Acme Points" in card
    assert "Ada Park gets 50 PTS" in text_of(await reader.get(f"{HOME}/inbox"))


async def test_an_open_page_asks_soon_for_a_simulation_that_is_awaited(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_unsimulated()
    await reader.sign_in(stage.cast.bob)
    page = await reader.get(f"{HOME}/actions/{action.id}")
    assert "Not simulated yet" in text_of(page)
    assert "every 2s" in page.text
    await simulate([action.id])
    moved = await reader.get(live_address(page), **{"HX-Request": "true"})
    assert moved.headers["hx-retarget"] == "#action"
    assert "Simulated: it would succeed" in text_of(moved)
    assert "every 2s" not in moved.text


async def test_a_chain_without_a_new_block_is_said_on_the_overview(reader: Reader, stage: Stage) -> None:
    await reader.sign_in(stage.cast.alice)
    await run_sql("UPDATE chain SET head_at = {} WHERE id = {}", clock.now() - timedelta(minutes=1), CHAIN)
    assert "No block of" not in text_of(await reader.get(f"{HOME}/overview"))
    await run_sql("UPDATE chain SET head_at = {} WHERE id = {}", clock.now() - timedelta(minutes=5), CHAIN)
    assert "No block of Local chain has come for 5 minutes" in text_of(await reader.get(f"{HOME}/overview"))


async def test_an_action_that_too_few_can_approve_says_so(reader: Reader, stage: Stage) -> None:
    by_operator, by_approver = await stage.propose_mint(), await stage.propose_mint(stage.cast.alice)
    await reader.sign_in(stage.cast.bob)
    enough = text_of(await reader.get(f"{HOME}/actions/{by_operator.id}"))
    short = text_of(await reader.get(f"{HOME}/actions/{by_approver.id}"))
    assert "It cannot be approved as it is" not in enough
    assert "It needs 2 more approvals, and only 1 member may give one." in short


async def test_who_made_the_key_that_proposed_it_is_told_why_others_decide(reader: Reader, stage: Stage) -> None:
    alice = stage.cast.alice
    action = await stage.propose_mint(replace(alice, actor=await acting_key(alice.actor)))
    await reader.sign_in(alice)
    own = text_of(await reader.get(f"{HOME}/actions/{action.id}"))
    assert "The API key “ERP” proposed it" in own
    assert "alice@example.org made this key, so alice@example.org cannot approve what it proposes." in own
    assert "You made the API key “ERP”, which proposed it, so somebody else has to approve it." in own
    assert "Code from your authenticator" not in own
    assert "It needs 2 more approvals, and only 1 member may give one." in own
    assert "by alice@example.org" in text_of(await reader.get(f"{HOME}/api-keys"))


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


async def test_what_would_do_something_else_by_now_is_shown_before_it_is_approved(reader: Reader, stage: Stage) -> None:
    action, bob = await stage.propose_mint(), stage.cast.bob
    await run_sql("UPDATE chain SET head_number = 1000 WHERE id = {}", CHAIN)
    await run_sql("UPDATE action SET simulated_at = {} WHERE id = {}", clock.now() - timedelta(minutes=6), action.id)
    await reader.sign_in(bob)
    path, code = f"{HOME}/actions/{action.id}", bob.code(1)
    page = await reader.get(path)
    before = text_of(page)
    assert "Ada Park gets 50 PTS" in before
    assert "Before you approve, it is tried again; if it would do something else, you are shown that first." in before
    assert action.to_address
    stage.node.rpc("anvil_setCode", action.to_address, "0x00")
    changed = await reader.post(f"{path}/approve", **approval(page), code=code)
    shown = text_of(changed)
    assert changed.status_code == 409
    assert "It would do something else now" in shown
    assert "Look at the new result, and approve it if that is what you want." in shown
    assert "Nobody gains or loses anything that leaves a trace" in shown
    assert "Ada Park gets 50 PTS" not in shown
    approved = await reader.post(f"{path}/approve", **approval(changed), code=code)
    assert approved.headers["location"].endswith("done=approved")


async def test_an_older_page_approves_nothing_that_it_did_not_show(reader: Reader, stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    await reader.sign_in(cast.bob)
    path, code = f"{HOME}/actions/{action.id}", cast.bob.code(1)
    old = await reader.get(path)
    assert "Ada Park gets 50 PTS" in text_of(old)
    assert action.to_address
    stage.node.rpc("anvil_setCode", action.to_address, "0x00")
    await resimulate(cast.oscar.actor, action.id)

    refused = await reader.post(f"{path}/approve", **approval(old), code=code)
    shown = text_of(refused)
    assert refused.status_code == 409
    assert "It would do something else now" in shown
    assert "Nobody gains or loses anything that leaves a trace" in shown
    assert "Ada Park gets 50 PTS" not in shown
    assert "0 of 2 approvals so far" in shown
    assert (await get_action(cast.organization_id, action.id)).approvals == []

    unsaid = await reader.post(f"{path}/approve", digest=action.digest, code=code)
    assert (unsaid.status_code, "Look at the result first" in text_of(unsaid)) == (409, True)

    stage.node.mine()
    again = await resimulate(cast.oscar.actor, action.id)
    assert again.simulation
    assert f"Tried at block {again.simulation.block_number:,}" not in shown
    approved = await reader.post(f"{path}/approve", **approval(refused), code=code)
    assert approved.headers["location"].endswith("done=approved"), "the newest simulation says what this page showed"


async def test_what_changes_on_an_open_page_is_not_approved_by_who_was_typing(reader: Reader, stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_unsimulated()
    await reader.sign_in(cast.bob)
    path, code = f"{HOME}/actions/{action.id}", cast.bob.code(1)
    page = await reader.get(path)
    early = await reader.post(f"{path}/approve", **approval(page), code=code)
    assert early.status_code == 409
    assert "Look at the result first" in text_of(early)
    assert "Ada Park gets 50 PTS" in text_of(early)
    first = await reader.get(live_address(page), **{"HX-Request": "true"})
    assert approval(first) == approval(early), "what came while it was awaited is what is shown"

    assert action.to_address
    stage.node.rpc("anvil_setCode", action.to_address, "0x00")
    await resimulate(cast.oscar.actor, action.id)
    second = await reader.get(live_address(first), **{"HX-Request": "true"})
    assert "Nobody gains or loses anything that leaves a trace" in text_of(second)
    for page in (second, await reader.get(live_address(second), **{"HX-Request": "true"})):
        assert live_address(page).partition("shown=")[2] == approval(first)["outcome_digest"]
    assert (await reader.post(f"{path}/approve", **approval(second), code=code)).status_code == 409


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


async def test_what_cannot_be_seen_in_a_text_is_shown_to_who_approves_it(reader: Reader, stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[NOTE])
    hidden = {"key": "0x" + "07" * 32, "content": "Pay \u202e001 to\u200b Ada"}
    given = ActionInput(contract_id=till, policy_id=stage.policy_id, function=NOTE, arguments=hidden)
    action = await propose(stage.cast.oscar.actor, given)
    await reader.sign_in(stage.cast.bob)
    shown = await reader.get(f"{HOME}/actions/{action.id}")
    assert "Pay ⟨U+202E⟩001 to⟨U+200B⟩ Ada" in text_of(shown)
    assert "\u202e" not in shown.text


# Proposing by hand


async def test_an_amount_is_typed_in_the_tokens_units_and_proposed_in_the_smallest(
    reader: Reader, stage: Stage
) -> None:
    await reader.sign_in(stage.cast.oscar)
    form = await reader.get(f"{HOME}/actions/new?contract_id={stage.contract_id}&function={MINT}")
    assert f'<option value="{ADA}">Ada Park</option>' in form.text, "known addresses are offered by name"
    assert '<option value="18" selected>PTS</option>' in form.text
    given = {"contract_id": str(stage.contract_id), "policy_id": str(stage.policy_id), "calls/0/function": MINT}
    typed = {"calls/0/arguments/to": ADA, "calls/0/arguments/amount": "1.5", "calls/0/unit/amount": "18"}

    for name, value, said in (
        ("calls/0/arguments/amount", "1,5", "amount: Give an amount in digits, with a point"),
        ("calls/0/arguments/amount", "", "amount: this is missing. uint256"),
        ("calls/0/arguments/to", "Ada", "to must be an address: 0x and 40 hex digits."),
        ("policy_id", "", "Choose the policy"),
    ):
        wrong = await reader.post(f"{HOME}/actions/new", **{**given, **typed, name: value})
        assert wrong.status_code == 400, name
        assert f'id="error-{name}"' in wrong.text
        assert said in text_of(wrong)

    made = await reader.post(f"{HOME}/actions/new", **given, **typed, end_user_id=str(stage.ada_id))
    action = await get_action(stage.cast.organization_id, made_id(made))
    assert action.summary == "Mint 1.5 PTS to Ada Park"
    assert action.arguments[1]["value"] == "1500000000000000000"
    assert (action.proposed_by_member_id, action.end_user_id) == (stage.cast.oscar.actor.id, stage.ada_id)
    raw = await reader.post(f"{HOME}/actions/new", **given, **{**typed, "calls/0/unit/amount": "0"})
    assert 'id="error-calls/0/arguments/amount"' in raw.text, "1.5 of the smallest units is no number of them"
    assert 'value="1.5"' in raw.text, "what was typed stays"


async def test_lists_and_structs_are_json_with_an_example_and_money_has_units(reader: Reader, stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[SHARE, "deposit()"])
    await reader.sign_in(stage.cast.oscar)
    given = {"contract_id": str(till), "policy_id": str(stage.policy_id), "calls/0/function": SHARE}
    form = await reader.get(f"{HOME}/actions/new?contract_id={till}&function={SHARE}")
    assert f'(address,uint256)[], as JSON: [{{"to": "{ADA}", "amount": "1000"}}]' in text_of(form)
    token = {"calls/0/arguments/token": ADA}
    for typed, said in (
        ("[1, 2", "shares: this is not JSON. (address,uint256)[], as JSON"),
        (f'[{{"to": "{ADA}"}}]', "shares[0] must be an object with exactly: to, amount."),
        (f'[{{"to": "{ADA}", "amount": 1.5}}]', "shares[0].amount (uint256) must be a whole number"),
    ):
        wrong = await reader.post(f"{HOME}/actions/new", **given, **token, **{"calls/0/arguments/shares": typed})
        assert wrong.status_code == 400, typed
        assert said in text_of(wrong)
        assert 'id="error-calls/0/arguments/shares"' in wrong.text
    large = f'[{{"to": "{ADA}", "amount": 123456789012345678901234567890}}]'
    made = await reader.post(f"{HOME}/actions/new", **given, **token, **{"calls/0/arguments/shares": large})
    action = await get_action(stage.cast.organization_id, made_id(made))
    assert action.arguments[1]["value"] == [{"to": ADA, "amount": "123456789012345678901234567890"}]

    deposit = {**given, "calls/0/function": "deposit()", "value": "2.5", "value_unit": "9"}
    made = await reader.post(f"{HOME}/actions/new", **deposit)
    assert (await get_action(stage.cast.organization_id, made_id(made))).value_wei == "2500000000"
    wrong = await reader.post(f"{HOME}/actions/new", **{**deposit, "value_unit": "0"})
    assert "Value: Give a whole number." in text_of(wrong)


async def test_calls_are_added_to_one_transaction_and_taken_out_again(reader: Reader, stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=[PAY, NOTE], wei=10**18)
    await reader.sign_in(stage.cast.oscar)
    new, key = f"{HOME}/actions/new", "0x" + "07" * 32
    given = {"contract_id": str(till), "policy_id": str(stage.policy_id), "calls/0/function": NOTE}
    first = {**given, "calls/0/arguments/key": key, "calls/0/arguments/content": "Kept while others are added"}

    two = await reader.post(f"{new}/draft", **first, change="add")
    assert "Call 2" in text_of(two)
    assert "Kept while others are added" in two.text
    assert 'name="calls/1/function"' in two.text
    one = await reader.post(f"{new}/draft", **first, **{"calls/1/function": PAY}, change="remove 1")
    assert 'name="calls/1/function"' not in one.text

    second = {"calls/3/function": PAY, "calls/3/arguments/to": "nobody", "calls/3/arguments/amount": "5"}
    wrong = await reader.post(new, **first, **second)
    assert 'id="error-calls/3/arguments/to"' in wrong.text, "said at the call that it is about"
    made = await reader.post(new, **first, **{**second, "calls/3/arguments/to": ADA})
    action = await get_action(stage.cast.organization_id, made_id(made))
    assert [call.function for call in action.calls] == [NOTE, PAY]

    alone = text_of(await reader.get(f"{new}?contract_id={stage.contract_id}"))
    assert "This contract cannot carry out several calls in one transaction" in alone
    await reader.sign_in(stage.cast.carol)
    assert (await reader.get(new)).status_code == 403


# Deploying a contract of one's own


async def test_an_artifact_is_pasted_read_and_deployed(reader: Reader, stage: Stage) -> None:
    await reader.sign_in(stage.cast.alice)
    abi, bytecode = await compiled()
    page = f"{HOME}/contracts/deploy-own"
    assert "Read it" in text_of(await reader.get(page))
    pasted = {"artifact": json.dumps({"abi": abi, "bytecode": {"object": "0x" + bytecode.hex()}})}
    broken = await reader.post(f"{page}/draft", artifact="contract Till {")
    assert broken.status_code == 400
    assert 'id="error-artifact"' in broken.text
    found = await reader.post(f"{page}/draft", **pasted)
    assert 'name="constructor/arguments/owner"' in found.text
    assert f'value="{NOTE}"' in found.text

    form = {
        **pasted,
        "name": "Till",
        "constructor/arguments/owner": stage.signer_address,
        "allowed_functions": NOTE,
        "chain_id": str(CHAIN),
        "signer_id": str(stage.signer_id),
        "policy_id": str(stage.policy_id),
    }
    for field, value in {
        "constructor/arguments/owner": "me",
        "allowed_functions": "",
        "name": "",
        "decimals": "two",
        "signer_id": "",
        "policy_id": "",
    }.items():
        wrong = await reader.post(page, **{**form, field: value})
        assert wrong.status_code == 400, field
        assert f'id="error-{field}"' in wrong.text
        assert f'id="field-{field}"' in wrong.text
    made = await reader.post(page, **form)
    card = text_of(await reader.get(f"{HOME}/actions/{made_id(made)}"))
    assert "Deploy Till" in card
    await reader.sign_in(stage.cast.bob)
    assert (await reader.get(page)).status_code == 403
