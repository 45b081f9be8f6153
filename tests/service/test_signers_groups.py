"""Who of several signers sends: shared fairly, only by those who may, and what becomes of what others were to send."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio

from portal.actions.errors import GateRefused, NameTaken, SignerNotReady
from portal.actions.proposals import prepare_many
from portal.actions.queries import get_action, list_actions, list_warnings
from portal.actions.rights import NotPermittedOnChain, list_rights
from portal.actions.schemas import DeploymentInput, ProposedCall, SigningOrder
from portal.actions.service import (
    approve,
    change_group,
    change_senders,
    create_group,
    create_signer,
    disable_signer,
    enable_signer,
    propose_deployment,
    propose_handover,
    propose_right,
    remove_group,
    remove_signer,
    simulate,
    verify_for_signing,
)
from portal.actions.tables import Action
from portal.audit.queries import list_entries
from portal.chain.queries import get_contract, get_signer, get_signer_group, list_signer_groups, list_signers
from portal.chain.service import activate_contract
from portal.chain.tables import Signer
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict, Forbidden, InputInvalid, NotFound
from portal.transactions.controls.pauses import pause
from portal.transactions.tables import PauseScope
from tests.actions import ADA, CHAIN, MINT, Stage, deploy, make_signer, make_stage, settings_chain
from tests.people import Cast


@pytest_asyncio.fixture
async def stage(cast: Cast) -> AsyncIterator[Stage]:
    async with settings_chain() as node:
        yield await make_stage(cast, node)


async def make_group(stage: Stage, number: int, name: str = "Minters") -> tuple[UUID, list[UUID]]:
    """A group of so many signers that have keys."""
    alice = stage.cast.alice.actor
    signers = [(await make_signer(stage.cast, f"{name} {place}"))[0] for place in range(number)]
    group = await create_group(alice, name)
    await change_group(alice, group.id, name, signers)
    return group.id, signers


async def grouped(stage: Stage, number: int) -> tuple[UUID, list[UUID]]:
    """The same, sharing the calls of the stage's contract, which is known by its address only."""
    group_id, signers = await make_group(stage, number)
    await change_senders(stage.cast.alice.actor, stage.contract_id, stage.signer_id, group_id)
    return group_id, signers


async def proposed_by_signer(stage: Stage) -> Counter[UUID]:
    page = await list_actions(stage.cast.organization_id, limit=200)
    return Counter(action.signer_id for action in page.items if action.status == "proposed")


async def cancelled_because(stage: Stage) -> dict[UUID, str]:
    entries = (await list_entries(stage.cast.organization_id, limit=200)).items
    return {UUID(each.subject_id): each.detail["reason"] for each in entries if each.kind == "action.cancelled"}


async def verify(action_id: UUID) -> SigningOrder:
    async with transaction():
        verdict = (await verify_for_signing([action_id]))[action_id]
    if isinstance(verdict, GateRefused):
        raise verdict
    return verdict


# The choice


async def test_a_batch_is_spread_evenly(stage: Stage) -> None:
    _, signers = await grouped(stage, 3)
    call = ProposedCall(
        contract_id=stage.contract_id, function=MINT, arguments={"to": ADA, "amount": "1"}, policy_id=stage.policy_id
    )
    prepared = await prepare_many([(stage.cast.oscar.actor, call)] * 40)
    chosen = Counter(each.target.signer_id for each in prepared if not isinstance(each, Exception))
    assert chosen == dict.fromkeys([stage.signer_id, *signers], 10)


async def test_one_after_the_other_takes_the_one_with_the_least_to_do(stage: Stage) -> None:
    for _ in range(2):
        await stage.propose_unsimulated()
    _, signers = await grouped(stage, 2)
    for _ in range(5):
        await stage.propose_unsimulated()
    counts = await proposed_by_signer(stage)
    assert counts[stage.signer_id] == 3
    assert sorted(counts[signer] for signer in signers) == [2, 2]


async def test_what_waits_to_be_sent_and_what_is_on_its_way_counts_and_what_is_over_does_not(stage: Stage) -> None:
    _, [busy, idle] = await grouped(stage, 2)
    await disable_signer(stage.cast.alice.actor, stage.signer_id)
    for _ in range(6):
        await stage.propose_unsimulated()
    # Of the busy one's three, one waits to be queued, one is on its way, one stays proposed; the idle one's are over.
    theirs = [row["id"] for row in await Action.select(Action.id).where(Action.signer == busy).order_by(Action.id)]
    await run_sql("UPDATE action SET status = 'approved' WHERE id = ANY({}::uuid[])", theirs[:2])
    await make_transaction(stage, theirs[1], busy, "broadcast", nonce=0)
    for place, row in enumerate(await Action.select(Action.id).where(Action.signer == idle)):
        await run_sql("UPDATE action SET status = 'approved' WHERE id = {}", row["id"])
        await make_transaction(stage, row["id"], idle, ("finalized", "refused", "displaced")[place], nonce=place)
    before = Counter(await count_by_signer(stage))
    for _ in range(4):
        await stage.propose_unsimulated()
    now = Counter(await count_by_signer(stage))
    now.subtract(before)
    assert (now[idle], now[busy]) == (3, 1), "three catch up with the busy one's three, then it is one each"


async def make_transaction(stage: Stage, action: UUID, signer: UUID, status: str, *, nonce: int) -> None:
    await run_sql(
        """INSERT INTO lane (id, organization, signer, chain) VALUES (gen_random_uuid(), {}, {}, {})
           ON CONFLICT DO NOTHING""",
        *(stage.cast.organization_id, signer, CHAIN),
    )
    await run_sql("UPDATE action SET queued_at = now() WHERE id = {}", action)
    await run_sql(
        """INSERT INTO transaction (id, organization, action, lane, status, nonce, correlation_id, queued_at)
           SELECT gen_random_uuid(), {}, {}, id, {}, {}, 'test', now() FROM lane WHERE signer = {}""",
        *(stage.cast.organization_id, action, status, nonce, signer),
    )


async def count_by_signer(stage: Stage) -> dict[UUID, int]:
    rows = await run_sql("SELECT signer, count(*) FROM action GROUP BY signer")
    return {row["signer"]: row["count"] for row in rows}


async def test_who_cannot_sign_is_passed_over(stage: Stage) -> None:
    _, [disabled, troubled, paused, well] = await grouped(stage, 4)
    alice = stage.cast.alice.actor
    await disable_signer(alice, stage.signer_id)
    await disable_signer(alice, disabled)
    await run_sql("UPDATE signer SET trouble = 'It is away.' WHERE id = {}", troubled)
    await pause(alice, PauseScope.SIGNER, str(paused), "To look into it.")
    for _ in range(3):
        await stage.propose_unsimulated()
    assert await proposed_by_signer(stage) == {well: 3}
    await disable_signer(alice, well)
    await stage.propose_unsimulated()
    counts = await proposed_by_signer(stage)
    assert counts[troubled] + counts[paused] == 1, "who waits is better than nobody"
    for signer in (troubled, paused):
        await disable_signer(alice, signer)
    with pytest.raises(SignerNotReady, match="Treasury is disabled"):
        await stage.propose_unsimulated()


async def test_the_digest_names_who_was_chosen_and_the_gate_lets_only_them(stage: Stage) -> None:
    group_id, [member] = await grouped(stage, 1)
    alice = stage.cast.alice.actor
    await disable_signer(alice, stage.signer_id)
    action = await stage.propose_unsimulated(policy_id=await stage.policy(0))
    assert action.signer_id == member
    await enable_signer(alice, stage.signer_id)
    simulated = msgspec.json.encode({"ok": True, "gas": 1, "block_number": 1, "revert_reason": None}).decode()
    await run_sql(
        "UPDATE action SET status = 'approved', simulation = {}, simulated_at = now() WHERE id = {}",
        *(simulated, action.id),
    )
    assert (await verify(action.id)).signer_id == member
    await run_sql("UPDATE action SET signer = {} WHERE id = {}", stage.signer_id, action.id)
    with pytest.raises(GateRefused, match="digest"):
        await verify(action.id)
    await run_sql("UPDATE action SET signer = {} WHERE id = {}", member, action.id)
    await change_senders(alice, stage.contract_id, stage.signer_id, None)
    with pytest.raises(GateRefused, match="does not send for"):
        await verify(action.id)
    await change_senders(alice, stage.contract_id, stage.signer_id, group_id)
    assert (await verify(action.id)).signer_id == member


# Changing who sends


async def test_a_new_signer_takes_over_and_what_the_old_one_was_to_send_is_cancelled(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    new, _ = await make_signer(stage.cast, "Successor")
    open_ones = [(await stage.propose_unsimulated()).id for _ in range(2)]
    view = await change_senders(alice, stage.contract_id, new, None)
    assert (view.signer_id, view.signer_group_id) == (new, None)
    for id in open_ones:
        assert (await get_action(stage.cast.organization_id, id)).status == "cancelled"
    assert await cancelled_because(stage) == dict.fromkeys(
        open_ones, "Another signer sends the calls of Acme Points now."
    )
    assert (await stage.propose_unsimulated()).signer_id == new
    await change_senders(alice, stage.contract_id, new, None)
    entries = (await list_entries(stage.cast.organization_id, limit=200)).items
    [changed] = [each for each in entries if each.kind == "contract.signer_changed"]
    assert changed.detail == {"signer_id": str(new), "before": str(stage.signer_id), "cancelled": 2}


async def test_a_group_lets_the_old_one_finish(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    new, _ = await make_signer(stage.cast, "Successor")
    group = await create_group(alice, "Change-over")
    await change_group(alice, group.id, "Change-over", [stage.signer_id])
    action = await stage.propose_mint()
    await change_senders(alice, stage.contract_id, new, group.id)
    assert (await get_action(stage.cast.organization_id, action.id)).status == "proposed"
    for player in (stage.cast.alice, stage.cast.bob):
        await approve(player.actor, action.id, action.digest, player.code())
    assert (await verify(action.id)).signer_id == stage.signer_id


async def test_taking_a_signer_out_of_a_group_cancels_only_what_it_may_not_send_any_more(stage: Stage) -> None:
    group_id, [stays, goes] = await grouped(stage, 2)
    alice = stage.cast.alice.actor
    await disable_signer(alice, stage.signer_id)
    for _ in range(4):
        await stage.propose_unsimulated()
    view = await change_group(alice, group_id, "Minters", [stays])
    assert [member.id for member in view.signers] == [stays]
    assert await proposed_by_signer(stage) == {stays: 2}
    assert set((await cancelled_because(stage)).values()) == {"Its signer was taken out of the group Minters."}
    assert (await get_signer(stage.cast.organization_id, goes)).signer_group_id is None


async def test_a_deploying_contract_keeps_its_signer(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    action = await propose_deployment(alice, points(stage))
    new, _ = await make_signer(stage.cast, "Successor")
    with pytest.raises(Conflict, match="deploying"):
        await change_senders(alice, action.contract_id, new, None)


# Our own contracts know one owner, and points let it name minters


def points(stage: Stage, template: str = "points") -> DeploymentInput:
    arguments = {"name": "Loyalty", "symbol": "LOY"}
    return DeploymentInput(
        name="Loyalty",
        template=template,
        chain_id=CHAIN,
        signer_id=stage.signer_id,
        policy_id=stage.policy_id,
        arguments={"name": "Log"} if template == "records" else arguments,
    )


async def deployed(stage: Stage, template: str = "points") -> UUID:
    action = await propose_deployment(stage.cast.alice.actor, points(stage, template))
    address = deploy(stage.node, stage.signer_address, bytes.fromhex(action.calldata[2:]))
    async with transaction():
        await activate_contract(action.contract_id, address)
    await run_sql("UPDATE action SET status = 'approved', queued_at = now() WHERE id = {}", action.id)
    return action.contract_id


async def carry_out(stage: Stage, action_id: UUID) -> None:
    """What the engine would do, by the node's leave to send for anybody."""
    await simulate([action_id])
    action = await get_action(stage.cast.organization_id, action_id)
    assert action.simulation
    assert action.simulation.ok, action.simulation.revert_reason
    stage.node.rpc("anvil_impersonateAccount", action.signer_address)
    sent = {"from": action.signer_address, "to": action.to_address, "data": action.calldata}
    stage.node.rpc("eth_sendTransaction", sent)
    stage.node.mine()
    await run_sql("UPDATE action SET status = 'approved', queued_at = now() WHERE id = {}", action_id)


async def test_signers_share_points_once_the_owner_has_let_them(stage: Stage) -> None:
    contract_id, alice = await deployed(stage), stage.cast.alice.actor
    group_id, [first, second] = await make_group(stage, 2)
    with pytest.raises(NotPermittedOnChain, match="Minters 0 may not mint LOY yet"):
        await change_senders(alice, contract_id, stage.signer_id, group_id)
    for signer in (first, second):
        right = await propose_right(alice, contract_id, signer, stage.policy_id, may=True)
        assert right.signer_id == stage.signer_id, "only the owner can let them"
        await carry_out(stage, right.id)
    rights = await list_rights(stage.cast.organization_id, contract_id, group_id)
    assert rights
    assert [right.may_mint for right in rights] == [True, True]
    await change_senders(alice, contract_id, stage.signer_id, group_id)
    minted = [await stage.propose_unsimulated(contract_id=contract_id) for _ in range(6)]
    assert Counter(action.signer_id for action in minted) == dict.fromkeys([stage.signer_id, first, second], 2)
    for action in minted:
        stage.node.fund(str(action.signer_address))
        await carry_out(stage, action.id)
    ended = await propose_right(alice, contract_id, first, stage.policy_id, may=False)
    assert ended.signer_id == stage.signer_id, "never one of the group, whatever it has to do"
    late, _ = await make_signer(stage.cast, "Late")
    with pytest.raises(NotPermittedOnChain, match="Late may not mint LOY yet"):
        await change_group(alice, group_id, "Minters", [first, second, late])
    assert len((await get_signer_group(stage.cast.organization_id, group_id)).signers) == 2


@pytest.mark.parametrize("template", ["certificates", "records"])
async def test_what_has_one_owner_is_shared_with_nobody(stage: Stage, template: str) -> None:
    contract_id, alice = await deployed(stage, template), stage.cast.alice.actor
    group_id, _ = await make_group(stage, 1)
    with pytest.raises(Conflict, match="Only its own signer can call Loyalty"):
        await change_senders(alice, contract_id, stage.signer_id, group_id)
    assert await list_rights(stage.cast.organization_id, contract_id, group_id) is None


async def test_points_of_the_first_edition_are_not_shared(stage: Stage) -> None:
    contract_id, alice = await deployed(stage), stage.cast.alice.actor
    await run_sql(
        "UPDATE contract SET abi = (SELECT jsonb_agg(e) FROM jsonb_array_elements(abi) e "
        "WHERE e->>'name' IS DISTINCT FROM 'set_minter') WHERE id = {}",
        contract_id,
    )
    group_id, _ = await make_group(stage, 1)
    with pytest.raises(Conflict, match="Only its own signer"):
        await change_senders(alice, contract_id, stage.signer_id, group_id)


@pytest.mark.parametrize("template", ["points", "certificates", "records"])
async def test_a_contract_of_ours_is_handed_over_on_the_chain_first(stage: Stage, template: str) -> None:
    contract_id, alice = await deployed(stage, template), stage.cast.alice.actor
    new, _ = await make_signer(stage.cast, "Successor")
    with pytest.raises(NotPermittedOnChain, match="Successor is not the owner of Loyalty"):
        await change_senders(alice, contract_id, new, None)
    handover = await propose_handover(alice, contract_id, new, stage.policy_id)
    await carry_out(stage, handover.id)
    assert (await change_senders(alice, contract_id, new, None)).signer_id == new


# Groups


async def test_a_group_is_made_renamed_and_dissolved(stage: Stage) -> None:
    alice, organization = stage.cast.alice.actor, stage.cast.organization_id
    group_id, signers = await make_group(stage, 2)
    assert (await get_signer(organization, signers[0])).signer_group_name == "Minters"
    with pytest.raises(NameTaken):
        await create_group(alice, "Minters")
    other = await create_group(alice, "Others")
    with pytest.raises(NameTaken):
        await change_group(alice, other.id, "Minters", [])
    with pytest.raises(InputInvalid, match="is in the group Minters"):
        await change_group(alice, other.id, "Others", [signers[1]])
    renamed = await change_group(alice, group_id, " Two of them ", signers)
    assert (renamed.name, {each.id for each in renamed.signers}) == ("Two of them", set(signers))
    await change_senders(alice, stage.contract_id, stage.signer_id, group_id)
    with pytest.raises(Conflict, match="use the group"):
        await remove_group(alice, group_id)
    await change_senders(alice, stage.contract_id, stage.signer_id, None)
    await remove_group(alice, group_id)
    assert [group.name for group in (await list_signer_groups(organization)).items] == ["Others"]
    assert (await get_signer(organization, signers[0])).signer_group_id is None


async def test_a_group_takes_only_signers_of_its_organisation_that_send(stage: Stage, cast: Cast) -> None:
    alice, dave = cast.alice.actor, cast.dave.actor
    group = await create_group(alice, "Minters")
    theirs = await create_signer(dave, "Theirs")
    holds, _ = await make_signer(cast, "Holds")
    await run_sql("UPDATE signer SET purpose = 'holds' WHERE id = {}", holds)
    for wrong in (theirs.id, holds):
        with pytest.raises(InputInvalid) as error:
            await change_group(alice, group.id, "Minters", [stage.signer_id, wrong])
        assert [field.path for field in error.value.fields] == ["/signer_ids/1"]
    assert (await get_signer_group(cast.organization_id, group.id)).signers == []
    with pytest.raises(NotFound):
        await change_group(dave, group.id, "Mine", [theirs.id])
    with pytest.raises(NotFound):
        await change_senders(alice, stage.contract_id, theirs.id, None)
    with pytest.raises(NotFound):
        await change_senders(alice, stage.contract_id, stage.signer_id, (await create_group(dave, "Theirs")).id)


# Single signers


async def test_a_signer_is_disabled_and_enabled_in_the_audit(stage: Stage) -> None:
    alice = stage.cast.alice.actor
    assert (await disable_signer(alice, stage.signer_id)).status == "disabled"
    with pytest.raises(Conflict, match="is disabled, not active"):
        await disable_signer(alice, stage.signer_id)
    with pytest.raises(SignerNotReady):
        await stage.propose_unsimulated()
    assert (await enable_signer(alice, stage.signer_id)).status == "active"
    with pytest.raises(Conflict, match="is active, not disabled"):
        await enable_signer(alice, stage.signer_id)
    kinds = [each.kind for each in (await list_entries(stage.cast.organization_id, limit=200)).items]
    assert kinds[:2] == ["signer.enabled", "signer.disabled"]


async def test_only_a_signer_without_a_key_can_be_taken_back(stage: Stage, cast: Cast) -> None:
    alice = cast.alice.actor
    pending = await create_signer(alice, "Typo")
    with pytest.raises(Conflict, match="pending, not active"):
        await disable_signer(alice, pending.id)
    await remove_signer(alice, pending.id)
    with pytest.raises(NotFound):
        await get_signer(cast.organization_id, pending.id)
    with pytest.raises(Conflict, match="has a key"):
        await remove_signer(alice, stage.signer_id)
    assert len((await list_signers(cast.organization_id)).items) == 1


async def test_only_those_who_administer_change_who_signs(stage: Stage, cast: Cast) -> None:
    group_id, signers = await make_group(stage, 1)
    attempts: list[Any] = []
    for player in (cast.bob, cast.carol, cast.oscar):
        actor = player.actor
        attempts += [
            lambda actor=actor: disable_signer(actor, stage.signer_id),
            lambda actor=actor: enable_signer(actor, stage.signer_id),
            lambda actor=actor: remove_signer(actor, stage.signer_id),
            lambda actor=actor: create_group(actor, "Mine"),
            lambda actor=actor: change_group(actor, group_id, "Mine", []),
            lambda actor=actor: remove_group(actor, group_id),
            lambda actor=actor: change_senders(actor, stage.contract_id, signers[0], None),
        ]
    for attempt in attempts:
        with pytest.raises(Forbidden):
            await attempt()
    assert (await get_contract(cast.organization_id, stage.contract_id)).signer_id == stage.signer_id
    assert (await Signer.select(Signer.status).where(Signer.id == stage.signer_id))[0]["status"] == "active"


async def test_whoever_decides_is_told_that_the_signer_cannot(stage: Stage) -> None:
    action, organization = await stage.propose_mint(), stage.cast.organization_id
    await disable_signer(stage.cast.alice.actor, stage.signer_id)
    warnings = await list_warnings(organization, await get_action(organization, action.id))
    assert "Its signer Treasury is disabled: once it is approved, it waits until that is enabled again." in warnings
    await enable_signer(stage.cast.alice.actor, stage.signer_id)
    await run_sql("UPDATE signer SET trouble = 'It is away.' WHERE id = {}", stage.signer_id)
    warnings = await list_warnings(organization, await get_action(organization, action.id))
    assert "Its signer Treasury cannot sign just now: It is away." in warnings
    await run_sql("UPDATE signer SET trouble = NULL WHERE id = {}", stage.signer_id)
    warnings = await list_warnings(organization, await get_action(organization, action.id))
    assert not any("signer Treasury" in warning for warning in warnings)
