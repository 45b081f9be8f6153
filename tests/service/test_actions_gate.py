"""The gate at signing finds every difference from what was approved, whoever made it and wherever."""

import asyncio
from contextlib import nullcontext
from contextvars import Context
from dataclasses import replace
from importlib import import_module
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from portal.accounts.permissions import Role
from portal.actions.errors import GateRefused
from portal.actions.queries import get_action
from portal.actions.schemas import ActionInput, ActionView, DeploymentInput, SigningOrder
from portal.actions.service import approve, propose, propose_deployment, simulate, verify_for_signing
from portal.actions.tables import ActionStatus
from portal.chain.tables import Chain
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from tests.actions import ADA, CHAIN, NOBODY, Stage, acting_key, make_signer
from tests.people import make_member
from tests.till import make_till


@pytest_asyncio.fixture
async def approved(stage: Stage) -> ActionView:
    """A mint that alice and bob approved."""
    action = await stage.propose_mint()
    for player in (stage.cast.alice, stage.cast.bob):
        action = await approve(player.actor, action.id, action.digest, player.code())
    assert action.status == ActionStatus.APPROVED
    return action


async def verify(action: ActionView) -> SigningOrder:
    async with transaction():
        verdict = (await verify_for_signing([action.id]))[action.id]
    if isinstance(verdict, GateRefused):
        raise verdict
    return verdict


async def test_what_was_approved_may_be_signed(stage: Stage, approved: ActionView) -> None:
    order = await verify(approved)

    assert (order.chain_id, order.to, order.value_wei) == (CHAIN, approved.to_address, 0)
    assert order.signer_id == stage.signer_id
    assert "0x" + order.data.hex() == approved.calldata


async def test_a_deployment_whose_contract_has_failed_is_not_carried_out(stage: Stage) -> None:
    action = await propose_deployment(
        stage.cast.alice.actor,
        DeploymentInput(
            name="Log",
            template="records",
            chain_id=CHAIN,
            signer_id=stage.signer_id,
            policy_id=await stage.policy(1),
            arguments={"name": "Log"},
        ),
    )
    await approve(stage.cast.bob.actor, action.id, action.digest, stage.cast.bob.code())
    order = await verify(action)
    assert order.to is None
    await run_sql("UPDATE contract SET status = 'failed' WHERE id = {}", action.contract_id)
    with pytest.raises(GateRefused, match="not deployed again"):
        await verify(action)


TAMPERING = {
    "amount in the bytes": "UPDATE action SET calldata = set_byte(calldata, 67, 1) WHERE id = {action}",
    "amount in the arguments": """UPDATE action SET arguments = jsonb_set(arguments, '{{1,value}}', '"51"')
                                  WHERE id = {action}""",
    "recipient in the arguments": """UPDATE action SET arguments = jsonb_set(arguments, '{{0,value}}', '"0x00"')
                                     WHERE id = {action}""",
    "function": "UPDATE action SET function = 'mint(address,uint256) ' WHERE id = {action}",
    "value": "UPDATE action SET value_wei = 1 WHERE id = {action}",
    "target": "UPDATE action SET to_address = '" + NOBODY + "' WHERE id = {action}",
    "target of both": "UPDATE contract SET address = '" + NOBODY + "' WHERE id = {contract}",
    "digest": "UPDATE action SET digest = sha256('x') WHERE id = {action}",
    "policy version": "UPDATE action SET policy_version = {other_version} WHERE id = {action}",
    "number of the policy version": "UPDATE policy_version SET number = 7 WHERE id = {version}",
    "signer of the contract": "UPDATE contract SET signer = {other_signer} WHERE id = {contract}",
    "status of the action": "UPDATE action SET status = 'cancelled' WHERE id = {action}",
    "status of the contract": "UPDATE contract SET status = 'failed' WHERE id = {contract}",
    "chain of the contract": "UPDATE contract SET chain = 1 WHERE id = {contract}",
    "organisation of the action": "UPDATE action SET organization = {other_organization} WHERE id = {action}",
    "organisation of the policy": "UPDATE policy SET organization = {other_organization} WHERE id = {policy}",
    "organisation of the signer": "UPDATE signer SET organization = {other_organization} WHERE id = {signer}",
    "allowed functions": "UPDATE contract SET allowed_functions = '[]' WHERE id = {contract}",
    "an approval gone": "DELETE FROM decision WHERE member = {member}",
    "an approval of another call": "UPDATE decision SET digest = sha256('x') WHERE member = {member}",
    "a rejection": "UPDATE decision SET verdict = 'rejection' WHERE member = {member}",
    "approver disabled": "UPDATE member SET disabled_at = now() WHERE id = {member}",
    "approver's account disabled": "UPDATE person SET disabled_at = now() WHERE id = {person}",
    "approver's role taken": "UPDATE member SET role = 'operator' WHERE id = {member}",
    "approver made the proposer": "UPDATE action SET proposed_by = {member} WHERE id = {action}",
    "more approvals required": "UPDATE policy_version SET approvals_required = 3 WHERE id = {version}",
}


@pytest.mark.parametrize("change", TAMPERING)
async def test_every_change_since_the_approval_is_refused(stage: Stage, approved: ActionView, change: str) -> None:
    other_signer, _ = await make_signer(stage.cast, "Another")
    other_policy = await stage.policy(2)
    await Chain.insert(
        Chain(id=1, name="Far away", currency="ETH", confirmations=1, is_local=False, genesis_hash="0x0")
    )
    names: dict[str, Any] = {
        "action": approved.id,
        "contract": approved.contract_id,
        "signer": stage.signer_id,
        "version": approved.policy.version_id,
        "other_version": (await run_sql("SELECT id FROM policy_version WHERE policy = {}", other_policy))[0]["id"],
        "other_signer": other_signer,
        "policy": stage.policy_id,
        "other_organization": stage.cast.dave.actor.organization_id,
        "member": stage.cast.bob.actor.id,
        "person": stage.cast.bob.person_id,
    }
    await verify(approved)

    async with transaction():
        # As somebody who owns the tables could: no trigger stands in the way.
        await run_sql("SET LOCAL session_replication_role = replica")
        changed = await run_sql(
            TAMPERING[change]
            .format(**{name: f"'{value}'" for name, value in names.items()})
            .replace("{", "{{")
            .replace("}", "}}")
            + " RETURNING 1"
        )

    assert len(changed) == 1
    with pytest.raises(GateRefused):
        await verify(approved)


async def test_who_made_the_key_that_proposed_it_does_not_count_even_where_nobody_knew_it_then(stage: Stage) -> None:
    cast = stage.cast
    key = await acting_key(await acting_key(cast.alice.actor))
    action = await stage.propose_mint(replace(cast.alice, actor=key))
    # As before keys knew who made them.
    await run_sql("UPDATE api_key SET created_by = NULL")
    await run_sql("UPDATE action SET proposed_by_key = NULL")
    for player in (cast.alice, cast.bob):
        action = await approve(player.actor, action.id, action.digest, player.code())
    await verify(action)
    for statement in import_module("piccolo_migrations.portal_2026_11_23t18_57_00_000000").FILL:
        await run_sql(statement)
    with pytest.raises(GateRefused, match="1 of 2 approvals"):
        await verify(action)
    seen = await get_action(cast.organization_id, action.id)
    assert (seen.proposed_by_key_id, seen.proposer_member_id) == (key.id, cast.alice.actor.id)
    assert [(each.email, each.counts) for each in seen.approvals] == [
        ("alice@example.org", False),
        ("bob@example.org", True),
    ]


async def test_an_open_action_is_not_signed(stage: Stage) -> None:
    action = await stage.propose_mint()
    with pytest.raises(GateRefused, match="proposed, not approved"):
        await verify(action)


async def test_a_third_approval_makes_up_for_one_that_no_longer_counts(stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    erin = await make_member(cast.organization_id, "erin", Role.APPROVER)
    for player in (cast.alice, cast.bob):
        await approve(player.actor, action.id, action.digest, player.code())
    await run_sql("UPDATE member SET disabled_at = now() WHERE id = {}", cast.bob.actor.id)
    with pytest.raises(GateRefused, match="1 of 2 approvals"):
        await verify(action)
    await run_sql("UPDATE decision SET member = {} WHERE member = {}", erin.actor.id, cast.bob.actor.id)
    await verify(action)


async def test_what_sends_more_than_its_policy_allows_by_now_is_refused(stage: Stage) -> None:
    till, _ = await make_till(stage, allowed=["deposit()"])
    given = {"contract_id": till, "policy_id": await stage.policy(0), "value_wei": "500"}
    action = await propose(stage.cast.oscar.actor, ActionInput(function="deposit()", arguments={}, **given))
    await simulate([action.id])
    assert (await verify(action)).value_wei == 500
    for most, refused in ((500, False), (499, True)):
        async with transaction():
            await run_sql("SET LOCAL session_replication_role = replica")  # no version is ever changed
            await run_sql("UPDATE policy_version SET most_cost_wei = {} WHERE policy = {}", most, given["policy_id"])
        with pytest.raises(GateRefused, match="sends more than its policy allows") if refused else nullcontext():
            await verify(action)


@pytest.mark.parametrize("table", ["action", "contract", "signer"])
async def test_what_the_gate_saw_holds_until_the_signature_is_stored(
    stage: Stage, approved: ActionView, table: str
) -> None:
    ids = {"action": approved.id, "contract": approved.contract_id, "signer": stage.signer_id}

    async def edit() -> None:
        async with transaction():
            await run_sql(f"SELECT FROM {table} WHERE id = {{}} FOR NO KEY UPDATE NOWAIT", ids[table])

    async with transaction():
        await verify_for_signing([approved.id])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await asyncio.create_task(edit(), context=Context())
    await edit()


async def test_what_was_approved_automatically_needs_its_simulation(stage: Stage) -> None:
    action = await stage.propose_mint(policy_id=await stage.policy(0))
    await verify(action)
    await run_sql("UPDATE action SET simulation = NULL WHERE id = {}", action.id)
    with pytest.raises(GateRefused, match="no simulation"):
        await verify(action)


async def test_there_is_no_order_for_an_unknown_action() -> None:
    async with transaction():
        assert await verify_for_signing([new_id()]) == {}


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({}, True),
        ({"to": ADA}, False),
        ({"to": None}, False),
        ({"data": b"\x01\x03"}, False),
        ({"value_wei": 6}, False),
        ({"chain_id": 2}, False),
    ],
)
def test_signed_fields_match_only_the_exact_order(fields: dict[str, Any], same: bool) -> None:
    order = order_for(to=NOBODY)
    given = {"to": NOBODY.lower(), "data": b"\x01\x02", "value_wei": 5, "chain_id": 1, **fields}
    assert order.matches(**given) is same


def test_a_deployment_matches_only_without_a_target() -> None:
    order = order_for(to=None)
    assert order.matches(to=None, data=b"\x01\x02", value_wei=5, chain_id=1)
    assert not order.matches(to=ADA, data=b"\x01\x02", value_wei=5, chain_id=1)


def order_for(*, to: str | None) -> SigningOrder:
    return SigningOrder(
        chain_id=1,
        signer_id=new_id(),
        to=to,
        data=b"\x01\x02",
        value_wei=5,
        policy_id=new_id(),
    )
