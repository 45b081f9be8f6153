"""What the chain says about a proposal, and automatic approval where a policy asks nobody."""

import pytest

from portal.actions.errors import ActionNotProposed
from portal.actions.queries import get_action
from portal.actions.service import reject, resimulate, simulate, simulate_waiting
from portal.actions.tables import ActionStatus
from portal.audit.queries import list_entries
from portal.chain.rpc import NodeUnavailable
from portal.chain.tables import Chain, Contract
from portal.errors import Forbidden, NotFound
from tests.actions import Stage, make_signer, register_points


async def test_a_proposal_that_works_has_its_gas_and_block(stage: Stage) -> None:
    action = await stage.propose_unsimulated()

    assert await simulate_waiting() == 1
    assert await simulate_waiting() == 0

    simulation = (await get_action(stage.cast.organization_id, action.id)).simulation
    assert simulation is not None
    assert simulation.ok
    assert simulation.revert_reason is None
    assert 21_000 < (simulation.gas or 0) < 200_000
    assert simulation.block_number == int(stage.node.rpc("eth_blockNumber"), 16)


async def test_a_proposal_that_would_fail_says_why_in_words(stage: Stage) -> None:
    stranger, _ = await make_signer(stage.cast, "Not the owner")
    contract_id = await register_points(stage.cast, stage.node, stranger, owner_address=stage.signer_address)
    action = await stage.propose_mint(contract_id=contract_id, policy_id=await stage.policy(0))

    view = await get_action(stage.cast.organization_id, action.id)
    assert view.simulation is not None
    assert not view.simulation.ok
    assert view.simulation.gas is None
    assert view.simulation.revert_reason == "erc20: access is denied"
    assert view.status == ActionStatus.PROPOSED  # automatic, but not for what would fail


async def test_a_policy_that_asks_nobody_approves_what_works_and_says_so(stage: Stage) -> None:
    action = await stage.propose_mint(policy_id=await stage.policy(0))

    view = await get_action(stage.cast.organization_id, action.id)
    assert (view.status, view.approvals) == (ActionStatus.APPROVED, [])
    assert view.decided_at is not None
    entries = await list_entries(stage.cast.organization_id, kind="action.approved", subject_id=str(action.id))
    entry = entries.items[0]
    assert entry.actor_kind == "system"
    assert entry.actor_label.startswith("policy 0 approvals")
    assert entry.detail["version"] == 1
    assert entry.correlation_id == view.correlation_id


async def test_a_second_simulation_does_not_approve_twice_or_revive(stage: Stage) -> None:
    action = await stage.propose_mint(policy_id=await stage.policy(0))
    rejected = await stage.propose_unsimulated(policy_id=await stage.policy(0))
    await reject(stage.cast.bob.actor, rejected.id, "Not this one")

    assert await simulate([action.id, rejected.id]) == 0

    entries = await list_entries(stage.cast.organization_id, kind="action.approved")
    assert len(entries.items) == 1
    view = await get_action(stage.cast.organization_id, rejected.id)
    assert (view.status, view.simulation) == (ActionStatus.REJECTED, None)


async def test_a_chain_whose_node_is_down_keeps_no_other_waiting(stage: Stage) -> None:
    await Chain.insert(
        Chain(id=1, name="Far away", currency="ETH", confirmations=1, is_local=False, genesis_hash="0x0")
    )
    await Contract.update({Contract.chain: 1}).where(Contract.id == stage.contract_id)
    far = await stage.propose_unsimulated()
    await Contract.update({Contract.chain: 31337}).where(Contract.id == stage.contract_id)
    near = await stage.propose_unsimulated()

    assert await simulate_waiting() == 1

    organization_id = stage.cast.organization_id
    assert (await get_action(organization_id, near.id)).simulation is not None
    assert (await get_action(organization_id, far.id)).simulation is None
    with pytest.raises(NodeUnavailable, match="no node for chain 1"):
        await simulate([far.id])


async def test_simulating_again_shows_that_the_cause_is_gone(stage: Stage) -> None:
    signer_id, address = await make_signer(stage.cast, "Owner to be")
    contract_id = await register_points(stage.cast, stage.node, signer_id, owner_address=stage.signer_address)
    action = await stage.propose_mint(contract_id=contract_id)
    token = (await get_action(stage.cast.organization_id, action.id)).to_address
    stage.node.rpc(
        "eth_sendTransaction",
        {"from": stage.signer_address, "to": token, "data": "0xf0350c04" + address[2:].lower().rjust(64, "0")},
    )
    stage.node.mine()

    view = await resimulate(stage.cast.oscar.actor, action.id)

    assert view.simulation is not None
    assert view.simulation.ok


async def test_simulating_again_is_for_those_who_propose_or_approve_open_actions(stage: Stage) -> None:
    action = await stage.propose_mint()
    with pytest.raises(Forbidden):
        await resimulate(stage.cast.carol.actor, action.id)
    with pytest.raises(NotFound):
        await resimulate(stage.cast.dave.actor, action.id)
    await reject(stage.cast.bob.actor, action.id, "Not this one")
    with pytest.raises(ActionNotProposed, match="rejected"):
        await resimulate(stage.cast.bob.actor, action.id)
