"""Actions: proposed calls, the decisions about them, and what carried them out."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from litestar.params import FromPath, FromQuery, QueryParameter

from portal.accounts.permissions import Permission
from portal.actions import queries, service
from portal.actions.schemas import ActionInput, ActionView, ApprovalInput, RejectionInput
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit, choice, choices
from portal.api.operations import EXAMPLE_ID, Acting, created, example, post, problems
from portal.db.paging import Page
from portal.transactions.queries import find_transactions_of_actions
from portal.transactions.schemas import TransactionView

READ = {"permission": Permission.ACTIONS_READ}
DECIDE = {"permission": Permission.ACTIONS_APPROVE}
StatusFilter = Annotated[str | None, QueryParameter(schema_extra={"enum": choices(ActionView, "status")})]


class ActionDetail(ActionView, frozen=True, kw_only=True):
    """An action with what carries it out."""

    transaction: TransactionView | None
    """Null until it is approved and queued."""


ActionInputBody = Annotated[
    ActionInput,
    example(
        {
            "contract_id": EXAMPLE_ID,
            "function": "mint(address,uint256)",
            "arguments": {"to": "0x52908400098527886E0F7030069857D2E4169EE7", "amount": "50000000000000000000"},
            "policy_id": EXAMPLE_ID,
        }
    ),
]
ApprovalInputBody = Annotated[
    ApprovalInput,
    example(
        {
            "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "code": "123456",
            "outcome_digest": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        }
    ),
]
RejectionInputBody = Annotated[RejectionInput, example({"reason": "The amount is not what was agreed."})]


@get("/actions", summary="List actions", opt=READ, responses=problems())
async def list_actions(
    actor: Acting,
    *,
    status: StatusFilter = None,
    contract_id: FromQuery[UUID | None] = None,
    end_user_id: FromQuery[UUID | None] = None,
    signal_id: FromQuery[UUID | None] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[ActionDetail]:
    page = await queries.list_actions(
        actor.organization_id,
        status=choice(ActionView, "status", status),
        contract_id=contract_id,
        end_user_id=end_user_id,
        signal_id=signal_id,
        cursor=cursor,
        limit=limit,
    )
    return Page(await _details(actor, page.items), page.next_cursor)


@get(
    "/actions/{action_id:uuid}",
    summary="Get an action",
    description="The exact call with its digest, what it would do, the decisions about it, and its transaction.",
    opt=READ,
    responses=problems(404),
)
async def get_action(actor: Acting, action_id: FromPath[UUID]) -> ActionDetail:
    return await _detail(actor, await queries.get_action(actor.organization_id, action_id))


@post(
    "/actions",
    summary="Propose an action",
    description=(
        "A call of an allowed function of a registered contract, or several `calls` of one that has "
        "`multicall(bytes[])`: one approval, one transaction, all or nothing. Nothing is sent before it is approved."
    ),
    opt={"permission": Permission.ACTIONS_PROPOSE},
    responses=problems(404, 409, 422),
)
async def propose_action(actor: Acting, data: ActionInputBody) -> Response[ActionDetail]:
    view = await service.propose(actor, data)
    return created(await _detail(actor, view), f"actions/{view.id}")


@post(
    "/actions/{action_id:uuid}/approvals",
    summary="Approve an action",
    description=(
        "For a person with a session token, never for an API key. `digest` must be the digest that was shown, `code` a "
        "one-time code that was not used before. Enough approvals make the action run, once. `outcome_digest` says "
        "which simulation was shown. If the newest one says that something else would happen, the answer is 409 with "
        "the code `outcome_changed`, and nothing is approved. Where the simulation is stale (`is_stale`), the node is "
        "asked again first; if none answers, it is 503. Then the action has the new simulation."
    ),
    opt=DECIDE,
    responses=problems(404, 409, 422, 429),
)
async def approve_action(actor: Acting, action_id: FromPath[UUID], data: ApprovalInputBody) -> ActionDetail:
    return await _detail(actor, await service.approve(actor, action_id, data.digest, data.code, data.outcome_digest))


@post(
    "/actions/{action_id:uuid}/rejections",
    summary="Reject an action",
    description="For a person with a session token. One rejection ends the action for good.",
    opt=DECIDE,
    responses=problems(404, 409, 422),
)
async def reject_action(actor: Acting, action_id: FromPath[UUID], data: RejectionInputBody) -> ActionDetail:
    return await _detail(actor, await service.reject(actor, action_id, data.reason))


@post(
    "/actions/{action_id:uuid}/cancellations",
    summary="Cancel an action",
    description="Withdraws an action that is still open. For whoever proposed it or may cancel any.",
    opt=READ,
    responses=problems(404, 409, 422),
)
async def cancel_action(actor: Acting, action_id: FromPath[UUID], data: RejectionInputBody) -> ActionDetail:
    return await _detail(actor, await service.cancel(actor, action_id, data.reason))


@post(
    "/actions/{action_id:uuid}/simulations",
    summary="Simulate an action again",
    description="Asks the node what the call would do now. For whoever may propose or approve.",
    opt=READ,
    responses=problems(404, 409, 422),
)
async def simulate_action(actor: Acting, action_id: FromPath[UUID]) -> ActionDetail:
    return await _detail(actor, await service.resimulate(actor, action_id))


async def _detail(actor: Acting, view: ActionView) -> ActionDetail:
    return (await _details(actor, [view]))[0]


async def _details(actor: Acting, views: list[ActionView]) -> list[ActionDetail]:
    found = await find_transactions_of_actions(actor.organization_id, [view.id for view in views])
    return [ActionDetail(**msgspec.structs.asdict(view), transaction=found.get(view.id)) for view in views]


actions_router = Router(
    "/",
    route_handlers=[
        list_actions,
        get_action,
        propose_action,
        approve_action,
        reject_action,
        cancel_action,
        simulate_action,
    ],
    tags=["Actions"],
)
