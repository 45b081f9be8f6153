"""What signers have left, how long that lasts, and top-ups proposed as ordinary actions."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from portal.actions.decisions import reject
from portal.actions.queries import list_actions
from portal.actions.schemas import ActionView, PolicyInput
from portal.actions.service import create_policy, disable_signer, simulate
from portal.audit.queries import list_entries
from portal.audit.service import verify
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound, PreconditionFailed
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.signers.runway import (
    TopUpInput,
    forecast,
    get_top_up,
    list_runways,
    set_top_up,
    version_of,
)
from portal.transactions.signers.top_ups import read_signers
from tests.actions import make_signer, register_points
from tests.transactions import Play

ETHER = 10**18
DAY = timedelta(days=1)


async def poor_signer(play: Play, wei: int = ETHER // 10) -> tuple[UUID, str]:
    """A signer with a contract and little money."""
    signer_id, address = await make_signer(play.stage.cast, "Main")
    await register_points(play.stage.cast, play.node, signer_id, owner_address=address)
    play.node.fund(address, wei)
    return signer_id, address


def settings(play: Play, *, policy: UUID | None = None, low: int = ETHER, top_up: int = ETHER // 2) -> TopUpInput:
    """Below `low` the stage's own signer sends `top_up`."""
    return TopUpInput(
        low_balance_wei=str(low),
        top_up_wei=str(top_up),
        treasury_id=play.stage.signer_id,
        policy_id=policy or play.stage.policy_id,
    )


async def proposed(play: Play) -> list[ActionView]:
    found = (await list_actions(play.organization_id)).items
    return [action for action in found if action.function == "receive()"]


async def reckon_again() -> None:
    """As ten minutes later."""
    await run_sql("UPDATE signer_reading SET spent_at = spent_at - interval '11 minutes'")
    await read_signers()


@pytest.mark.parametrize(
    ("balance", "spent", "transactions", "over", "days"),
    [
        (70, 7, 3, 7 * DAY, 70.0),
        (70, 7, 3, DAY, 10.0),
        (0, 7, 3, 7 * DAY, 0.0),
        (70, 0, 3, 7 * DAY, None),
        (70, 7, 2, 7 * DAY, None),
        (70, 7, 300, DAY - timedelta(minutes=1), None),
        (70, 0, 0, timedelta(), None),
        (None, 7, 3, 7 * DAY, None),
    ],
)
def test_a_forecast_is_the_balance_over_the_pace_or_honestly_unknown(
    balance: int | None, spent: int, transactions: int, over: timedelta, days: float | None
) -> None:
    left, why_unknown = forecast(balance, spent, transactions, over)
    assert left == days
    assert (why_unknown is None) == (days is not None)


async def test_what_was_spent_is_gas_and_value_of_the_last_seven_days(play: Play) -> None:
    for _ in range(3):
        await play.approved_mint()
    await run_lanes()
    await watch_chains()
    await read_signers()
    [runway] = await list_runways(play.organization_id)
    paid = await run_sql("SELECT sum(gas_used * gas_price_wei) AS wei FROM transaction WHERE mined_at IS NOT NULL")
    assert runway.spent_wei == str(int(paid[0]["wei"])) != "0"
    assert runway.balance_wei == str(int(play.node.rpc("eth_getBalance", play.stage.signer_address, "latest"), 16))
    assert (runway.days_left, runway.why_unknown) == (None, "It sent too little so far to tell.")

    await run_sql("UPDATE transaction SET mined_at = mined_at - interval '2 days'")
    await reckon_again()
    [known] = await list_runways(play.organization_id)
    assert known.days_left == pytest.approx(int(runway.balance_wei) / int(runway.spent_wei) * 2, rel=0.01)

    await run_sql("UPDATE transaction SET mined_at = mined_at - interval '30 days'")
    await reckon_again()
    [old] = await list_runways(play.organization_id)
    assert (old.spent_wei, old.why_unknown) == ("0", "It sent nothing in the last seven days.")


async def test_a_low_balance_is_told_once_and_again_when_it_is_over(play: Play) -> None:
    signer_id, address = await poor_signer(play)
    await set_top_up(play.stage.cast.alice.actor, signer_id, TopUpInput(low_balance_wei=str(ETHER)))
    for _ in range(2):
        await read_signers()
    [low, *_] = await list_runways(play.organization_id)
    assert (low.signer_name, low.balance_wei, low.low_balance_wei) == ("Main", str(ETHER // 10), str(ETHER))
    assert low.low_since
    play.node.fund(address, ETHER)
    for _ in range(2):
        await read_signers()
    assert all(runway.low_since is None for runway in await list_runways(play.organization_id))
    entries = await list_entries(play.organization_id, subject_kind="signer", subject_id=str(signer_id))
    kinds = [entry.kind for entry in reversed(entries.items)]
    assert kinds[-3:] == ["signer.top_up_set", "signer.low", "signer.no_longer_low"]
    assert await proposed(play) == [], "nobody asked for a top-up"


async def test_a_top_up_is_proposed_once_approved_by_its_policy_and_arrives(play: Play) -> None:
    signer_id, address = await poor_signer(play)
    await set_top_up(play.stage.cast.alice.actor, signer_id, settings(play, policy=play.automatic))
    for _ in range(2):
        await read_signers()
    [action] = await proposed(play)
    assert action.summary == "Send 0.5 ETH to Signer Main"
    assert (action.to_address, action.calldata, action.value_wei) == (address, "0x", str(ETHER // 2))
    assert (action.signer_id, action.status, action.arguments) == (play.stage.signer_id, "proposed", [])

    await simulate([action.id])
    for _ in range(2):
        await read_signers()
    await run_lanes()
    await watch_chains()
    assert int(play.node.rpc("eth_getBalance", address, "latest"), 16) == ETHER // 10 + ETHER // 2
    await read_signers()
    assert len(await proposed(play)) == 1, "the first is not final yet"
    play.node.mine(70)
    await watch_chains()
    await watch_chains()
    assert (await play.view(action.id)).status == "finalized"
    await read_signers()
    assert len(await proposed(play)) == 2, "0.6 is still below 1"
    assert await verify(play.organization_id) is None


async def test_a_top_up_waits_for_people_like_any_action_and_is_not_asked_again_the_same_day(play: Play) -> None:
    cast = play.stage.cast
    signer_id, _ = await poor_signer(play)
    await set_top_up(cast.alice.actor, signer_id, settings(play))
    await read_signers()
    [action] = await proposed(play)
    assert (action.approvals_required, action.proposed_by) == (2, None)
    await reject(cast.bob.actor, action.id, "We send it ourselves.")
    await read_signers()
    assert len(await proposed(play)) == 1
    await run_sql("UPDATE action SET decided_at = decided_at - interval '25 hours' WHERE id = {}", action.id)
    await read_signers()
    assert len(await proposed(play)) == 2


async def test_another_treasury_sends_the_next_one(play: Play) -> None:
    alice = play.stage.cast.alice.actor
    signer_id, _ = await poor_signer(play)
    await set_top_up(alice, signer_id, settings(play))
    await read_signers()
    [first] = await proposed(play)
    second_id, _ = await make_signer(play.stage.cast, "Second treasury")
    given = settings(play)
    await set_top_up(alice, signer_id, TopUpInput(**{**_fields(given), "treasury_id": second_id}))
    await reject(play.stage.cast.bob.actor, first.id, "From the other one.")
    await run_sql("UPDATE action SET decided_at = decided_at - interval '25 hours'")
    await read_signers()
    newest = (await proposed(play))[0]
    assert (newest.signer_id, newest.id != first.id) == (second_id, True)


async def test_a_signer_that_is_disabled_is_neither_read_nor_topped_up(play: Play) -> None:
    alice = play.stage.cast.alice.actor
    signer_id, _ = await poor_signer(play)
    await set_top_up(alice, signer_id, settings(play))
    await disable_signer(alice, signer_id)
    await read_signers()
    assert [runway.signer_name for runway in await list_runways(play.organization_id)] == ["Treasury"]
    assert await proposed(play) == []


async def test_a_chain_without_a_node_keeps_no_other_from_being_read(play: Play) -> None:
    await run_sql(
        "INSERT INTO chain (id, name, currency, confirmations, genesis_hash) VALUES (1, 'Elsewhere', 'ETH', 12, '0x1')"
    )
    await run_sql(
        """INSERT INTO contract (id, organization, chain, name, status, address, abi, allowed_functions, signer,
                                 created_at)
           SELECT gen_random_uuid(), organization, 1, name, status, address, abi, allowed_functions, signer, created_at
           FROM contract"""
    )
    assert await read_signers() == 1
    known = {runway.chain_name: runway for runway in await list_runways(play.organization_id)}
    assert known["Local chain"].balance_wei
    assert (known["Elsewhere"].balance_wei, known["Elsewhere"].why_unknown) == (None, "Its balance was not read yet.")


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"top_up_wei": None}, "/top_up_wei"),
        ({"treasury_id": None}, "/treasury_id"),
        ({"policy_id": None}, "/policy_id"),
        ({"low_balance_wei": None}, "/low_balance_wei"),
        ({"top_up_wei": "0"}, "/top_up_wei"),
        ({"top_up_wei": str(2**256)}, "/top_up_wei"),
        ({"low_balance_wei": "-1"}, "/low_balance_wei"),
        ({"treasury_id": "itself"}, "/treasury_id"),
        ({"treasury_id": UUID(int=1)}, "/treasury_id"),
        ({"policy_id": UUID(int=1)}, "/policy_id"),
    ],
)
async def test_settings_that_make_no_sense_are_refused_at_their_place(
    play: Play, changed: dict[str, Any], path: str
) -> None:
    signer_id, _ = await make_signer(play.stage.cast, "Main")
    given = {**_fields(settings(play)), **changed}
    if given["treasury_id"] == "itself":
        given["treasury_id"] = signer_id
    with pytest.raises(InputInvalid) as refused:
        await set_top_up(play.stage.cast.alice.actor, signer_id, TopUpInput(**given))
    assert [field.path for field in refused.value.fields] == [path]


@pytest.mark.parametrize(
    ("limit", "said"), [("most_cost_wei", "one transaction to cost"), ("most_cost_a_day_wei", "a day to cost")]
)
async def test_a_top_up_that_its_policy_would_never_let_go_is_refused(play: Play, limit: str, said: str) -> None:
    alice, signer_id = play.stage.cast.alice.actor, (await make_signer(play.stage.cast, "Main"))[0]
    policy = await create_policy(alice, PolicyInput(name="Small", approvals_required=1, **{limit: str(ETHER // 2)}))
    for wei in (ETHER, ETHER // 2):
        with pytest.raises(InputInvalid, match=rf"policy Small allows {said} at most 0\.5, gas") as refused:
            await set_top_up(alice, signer_id, settings(play, policy=policy.id, top_up=wei))
        assert [field.path for field in refused.value.fields] == ["/top_up_wei"]
    assert (await get_top_up(play.organization_id, signer_id)).top_up_wei is None
    less = settings(play, policy=policy.id, top_up=ETHER // 2 - 1)
    assert (await set_top_up(alice, signer_id, less)).policy_name == "Small"


async def test_who_may_set_it_and_only_what_they_have_seen(play: Play) -> None:
    cast, signer_id = play.stage.cast, play.stage.signer_id
    for player in (cast.oscar, cast.bob, cast.carol):
        with pytest.raises(Forbidden):
            await set_top_up(player.actor, signer_id, TopUpInput())
    with pytest.raises(NotFound):
        await set_top_up(cast.dave.actor, signer_id, TopUpInput())
    seen = version_of(await get_top_up(play.organization_id, signer_id))
    low = TopUpInput(low_balance_wei="5")
    assert (await set_top_up(cast.alice.actor, signer_id, low, expected=seen)).low_balance_wei == "5"
    with pytest.raises(PreconditionFailed):
        await set_top_up(cast.alice.actor, signer_id, TopUpInput(), expected=seen)


def _fields(given: TopUpInput) -> dict[str, Any]:
    return {name: getattr(given, name) for name in given.__struct_fields__}
