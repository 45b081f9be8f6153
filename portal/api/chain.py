"""Chains, contracts and signers: where actions run, what they may call, and who sends them."""

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
from portal.api.operations import EXAMPLE_ID, Acting, created, example, post, problems
from portal.chain import queries
from portal.chain.schemas import ChainView, ContractView, SignerView
from portal.db.paging import Page

READ_CONTRACTS = {"permission": Permission.CONTRACTS_READ}
WRITE_CONTRACTS = {"permission": Permission.CONTRACTS_WRITE}
READ_SIGNERS = {"permission": Permission.SIGNERS_READ}
WRITE_SIGNERS = {"permission": Permission.SIGNERS_WRITE}


class SignerInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


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
SignerInputBody = Annotated[SignerInput, example({"name": "Treasury"})]


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
    responses=problems(404),
)
async def get_contract(actor: Acting, contract_id: FromPath[UUID]) -> ContractView:
    return await queries.get_contract(actor.organization_id, contract_id)


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
        "Proposes to deploy one of our templates: `points` (ERC-20), `certificates` (ERC-721) or `records`. The answer "
        "is the action; its contract is active once the action was approved and its transaction confirmed."
    ),
    opt=WRITE_CONTRACTS,
    tags=["Contracts"],
    responses=problems(404, 409, 422),
)
async def deploy_contract(actor: Acting, data: DeploymentInputBody) -> Response[ActionDetail]:
    view = await service.propose_deployment(actor, data)
    return created(ActionDetail(**msgspec.structs.asdict(view), transaction=None), f"actions/{view.id}")


@get("/signers", summary="List signers", opt=READ_SIGNERS, tags=["Signers"], responses=problems())
async def list_signers(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[SignerView]:
    return await queries.list_signers(actor.organization_id, cursor=cursor, limit=limit)


@get("/signers/{signer_id:uuid}", summary="Get a signer", opt=READ_SIGNERS, tags=["Signers"], responses=problems(404))
async def get_signer(actor: Acting, signer_id: FromPath[UUID]) -> SignerView:
    return await queries.get_signer(actor.organization_id, signer_id)


@post(
    "/signers",
    summary="Create a signer",
    description="It is `pending`, without an address, until the worker has made its key, usually within a second.",
    opt=WRITE_SIGNERS,
    tags=["Signers"],
    responses=problems(422),
)
async def create_signer(actor: Acting, data: SignerInputBody) -> Response[SignerView]:
    view = await service.create_signer(actor, data.name)
    return created(view, f"signers/{view.id}")


chain_router = Router(
    "/",
    route_handlers=[
        list_chains,
        list_contracts,
        get_contract,
        register_contract,
        deploy_contract,
        list_signers,
        get_signer,
        create_signer,
    ],
)
