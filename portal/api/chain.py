"""Chains and contracts: where actions run, and what they may call."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from litestar.params import FromPath, JSONBody

from portal.accounts.permissions import Permission
from portal.actions import service
from portal.actions.schemas import ContractInput, DeploymentInput
from portal.api.actions import ActionDetail
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, EXAMPLE_ID, Acting, created, example, post, problems
from portal.api.versions import with_etag
from portal.chain import queries
from portal.chain.schemas import ChainView, ContractView
from portal.db.paging import Page

READ_CONTRACTS = {"permission": Permission.CONTRACTS_READ}
WRITE_CONTRACTS = {"permission": Permission.CONTRACTS_WRITE}


DeploymentInputBody = Annotated[
    DeploymentInput,
    example(
        {
            "name": "Acme Points",
            "template": "points",
            "chain_id": 31337,
            "signer_id": EXAMPLE_ID,
            "policy_id": EXAMPLE_ID,
            "arguments": {"name": "Acme Points", "symbol": "PTS"},
        }
    ),
]


@get(
    "/chains",
    summary="List chains",
    description="The chains this installation has a node for, with the newest block seen of each.",
    opt={"permission": Permission.CHAINS_READ},
    tags=["Chains"],
    responses=problems(),
)
async def list_chains() -> Page[ChainView]:
    return Page(await queries.list_chains())


@get("/contracts", summary="List contracts", opt=READ_CONTRACTS, tags=["Contracts"], responses=problems())
async def list_contracts(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[ContractView]:
    return await queries.list_contracts(actor.organization_id, cursor=cursor, limit=limit)


@get(
    "/contracts/{contract_id:uuid}",
    summary="Get a contract",
    description="With the functions that change state, and which of them actions may call.",
    opt=READ_CONTRACTS,
    tags=["Contracts"],
    response_headers=ETAG,
    responses=problems(404),
)
async def get_contract(actor: Acting, contract_id: FromPath[UUID]) -> Response[ContractView]:
    view = await queries.get_contract(actor.organization_id, contract_id)
    return with_etag(view, view)


@post(
    "/contracts",
    summary="Register a contract",
    description="One that exists on a chain already. Only its allowed functions can ever be called.",
    opt=WRITE_CONTRACTS,
    tags=["Contracts"],
    responses=problems(404, 409, 422),
)
async def register_contract(actor: Acting, data: JSONBody[ContractInput]) -> Response[ContractView]:
    view = await service.register_contract(actor, data)
    return created(view, f"contracts/{view.id}")


@post(
    "/deployments",
    summary="Deploy a contract",
    description=(
        "Proposes to deploy one of our templates, `points` (ERC-20), `certificates` (ERC-721) or `records`, or an "
        "`artifact` that you compiled. The answer is the action; its contract is active once the action was approved "
        "and its transaction confirmed."
    ),
    opt=WRITE_CONTRACTS,
    tags=["Contracts"],
    responses=problems(404, 409, 422),
)
async def deploy_contract(actor: Acting, data: DeploymentInputBody) -> Response[ActionDetail]:
    view = await service.propose_deployment(actor, data)
    return created(ActionDetail(**msgspec.structs.asdict(view), transaction=None), f"actions/{view.id}")


chain_router = Router(
    "/",
    route_handlers=[
        list_chains,
        list_contracts,
        get_contract,
        register_contract,
        deploy_contract,
    ],
)
