"""Deploying a contract that the organisation compiled itself: by an action, with what it says it is made of."""

from typing import Any

import pytest

from portal.actions.queries import get_action
from portal.actions.schemas import ActionInput, DeploymentInput
from portal.actions.service import inspect_artifact, propose, propose_deployment, simulate
from portal.audit.queries import list_entries
from portal.chain.queries import get_contract
from portal.chain.tables import Contract
from portal.errors import InputInvalid
from portal.transactions.jobs import run_lanes, watch_chains
from tests.actions import CHAIN, Stage
from tests.till import NOTE, PAY, compiled


async def artifact() -> dict[str, Any]:
    abi, bytecode = await compiled()
    return {"abi": abi, "bytecode": "0x" + bytecode.hex()}


async def deployment(stage: Stage, **more: Any) -> DeploymentInput:
    given = {
        "name": "Till",
        "artifact": await artifact(),
        "chain_id": CHAIN,
        "signer_id": stage.signer_id,
        "policy_id": await stage.policy(0),
        "arguments": {"owner": stage.signer_address},
        "allowed_functions": [NOTE],
        "symbol": "EUR",
        "decimals": 2,
    }
    return DeploymentInput(**{**given, **more})


async def test_an_artifact_is_deployed_by_an_action_and_only_what_was_allowed_is_called(stage: Stage) -> None:
    organization, alice = stage.cast.organization_id, stage.cast.alice.actor
    action = await propose_deployment(alice, await deployment(stage))
    assert (action.summary, action.to_address) == ("Deploy Till (EUR)", None)
    assert action.arguments == [{"name": "owner", "type": "address", "value": stage.signer_address}]
    assert action.calldata.startswith((await artifact())["bytecode"])

    stage.node.fund(stage.signer_address)
    await simulate([action.id])
    for _ in range(3):
        await run_lanes()
        stage.node.mine(3)
        await watch_chains()

    contract = await get_contract(organization, action.contract_id)
    assert (contract.status, contract.template, contract.decimals) == ("active", None, 2)
    assert [function.signature for function in contract.functions if function.allowed] == [NOTE]
    given = {"contract_id": contract.id, "policy_id": stage.policy_id}
    note = await propose(
        alice, ActionInput(function=NOTE, arguments={"key": "0x" + "07" * 32, "content": "x"}, **given)
    )
    await simulate([note.id])
    simulation = (await get_action(organization, note.id)).simulation
    assert simulation is not None
    assert simulation.ok, "it is on the chain and answers"
    with pytest.raises(InputInvalid, match="no allowed function"):
        await propose(alice, ActionInput(function=PAY, arguments={}, **given))
    told = (await list_entries(organization, kind="contract.registered", subject_id=str(contract.id))).items
    assert told[0].detail["functions"] == [NOTE]


async def test_what_an_artifact_asks_for_is_known_before_it_is_proposed() -> None:
    found = inspect_artifact(await artifact())
    assert [(each.name, each.type) for each in found.inputs] == [("owner", "address")]
    assert {NOTE, PAY} <= {each.signature for each in found.functions}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"arguments": {}}, "/arguments/owner"),
        ({"allowed_functions": []}, "/allowed_functions"),
        ({"allowed_functions": ["owner()"]}, "/allowed_functions/0"),
        ({"artifact": {"abi": [{"type": "fallback"}], "bytecode": "0x"}}, "/artifact"),
        ({"artifact": {"abi": [{"type": "fallback"}], "bytecode": "0x" + "60" * 50_000}, "allowed_functions": []}, ""),
        ({"template": "points"}, "/template"),
        ({"artifact": None}, "/template"),
        ({"artifact": None, "template": "points"}, "/template"),
        ({"symbol": "x" * 21}, "/symbol"),
        ({"decimals": 78}, "/decimals"),
    ],
)
async def test_a_wrong_deployment_is_refused_and_leaves_nothing(stage: Stage, more: dict[str, Any], path: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        await propose_deployment(stage.cast.alice.actor, await deployment(stage, **more))
    assert refused.value.fields[0].path.startswith(path or "/a")
    assert await Contract.count() == 1
