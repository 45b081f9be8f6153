"""Deploying contracts by an action: one of our templates, or one that an organisation compiled itself."""

from typing import Any

import msgspec

from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.actions import queries
from portal.actions.checks import checked, checked_text
from portal.actions.contracts import check_allowed, check_sends, check_storable
from portal.actions.proposals import PreparedCall, get_target, get_terms, propose_prepared
from portal.actions.schemas import ActionView, ArtifactView, DeploymentInput, ProposedCall
from portal.audit import service as audit
from portal.chain import queries as chain_queries
from portal.chain.abi import Abi, EncodedCall, encode_constructor, function_inputs, functions, signature
from portal.chain.artifacts import check_size, read_artifact
from portal.chain.compiler import compile_template, get_template
from portal.chain.service import NewContract, insert_contract
from portal.db.engine import transaction
from portal.errors import InputInvalid
from portal.jobs.queue import ring


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would be deployed, wherever it came from."""

    abi: Abi
    encoded: EncodedCall
    allowed_functions: list[str]
    template: str | None
    symbol: str | None
    decimals: int | None


async def propose_deployment(actor: Actor, given: DeploymentInput) -> ActionView:
    """Propose to deploy a contract; its row is `deploying` until the action is carried out.

    Raises `InputInvalid`, `NotFound` (template, chain, signer, policy) and `SignerNotReady`.
    """
    actor.require(Permission.CONTRACTS_WRITE)
    actor.require(Permission.ACTIONS_PROPOSE)
    if (given.template is None) == (given.artifact is None):
        raise InputInvalid.at("/template", "Name a template, or give an artifact of your own; not both.")
    name = checked_text(given.name, "/name")
    chain = await chain_queries.get_chain(given.chain_id)
    await check_sends(actor, given.signer_id)
    plan = await _of_template(given.template, given) if given.template is not None else _of_artifact(given)
    new = NewContract(
        organization_id=actor.organization_id,
        chain_id=chain.id,
        name=name,
        abi=plan.abi,
        allowed_functions=plan.allowed_functions,
        signer_id=given.signer_id,
        template=plan.template,
        symbol=plan.symbol,
        decimals=plan.decimals,
    )
    return await _propose(actor, given, new, plan.encoded)


def inspect_artifact(artifact: dict[str, Any]) -> ArtifactView:
    """What a compiled contract needs to be deployed and could be allowed to be called. Raises `InputInvalid`."""
    abi = read_artifact(artifact).abi
    constructor = next((signature(each) for each in abi if each["type"] == "constructor"), "constructor()")
    return ArtifactView(inputs=function_inputs(abi, constructor), functions=functions(abi, []))


async def _of_template(name: str, given: DeploymentInput) -> Plan:
    template = get_template(name)
    if given.allowed_functions or given.symbol is not None or given.decimals is not None:
        raise InputInvalid.at("/template", "Functions, symbol and decimals of a template are known; leave them out.")
    compiled = await compile_template(template.name)
    encoded = encode_constructor(compiled.abi, compiled.bytecode, given.arguments)
    return Plan(
        abi=compiled.abi,
        encoded=encoded,
        allowed_functions=template.allowed_functions,
        template=template.name,
        symbol=next((each["value"] for each in encoded.arguments if each["name"] == "symbol"), None),
        decimals=template.decimals,
    )


def _of_artifact(given: DeploymentInput) -> Plan:
    given = checked(given)
    assert given.artifact is not None
    compiled = read_artifact(given.artifact)
    check_storable(compiled.abi, "/artifact")
    if not given.allowed_functions and functions(compiled.abi, []):
        raise InputInvalid.at("/allowed_functions", "Say which of its functions actions may call; at least one.")
    check_allowed(compiled.abi, given.allowed_functions)
    encoded = encode_constructor(compiled.abi, compiled.bytecode, given.arguments)
    check_size(encoded.calldata)
    return Plan(
        abi=compiled.abi,
        encoded=encoded,
        allowed_functions=given.allowed_functions,
        template=None,
        symbol=None if given.symbol is None else checked_text(given.symbol, "/symbol"),
        decimals=given.decimals,
    )


async def _propose(actor: Actor, given: DeploymentInput, new: NewContract, encoded: EncodedCall) -> ActionView:
    async with transaction():
        contract_id = await insert_contract(new)
        detail = {"name": new.name, "template": new.template, "functions": new.allowed_functions}
        await audit.append(actor, "contract.registered", "contract", contract_id, detail)
        call = ProposedCall(
            contract_id=contract_id, function=encoded.function, arguments=given.arguments, policy_id=given.policy_id
        )
        action_id = await propose_prepared(
            PreparedCall(
                actor=actor,
                call=call,
                target=await get_target(actor.organization_id, contract_id),
                terms=await get_terms(actor.organization_id, given.policy_id),
                encoded=encoded,
                to=None,
            )
        )
    assert action_id, "only a rule's proposal can exist already"
    ring("simulate_actions")
    return await queries.get_action(actor.organization_id, action_id)
