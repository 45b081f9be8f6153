"""Webhooks: where events are sent, their secrets, and what became of each delivery."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, put
from litestar.params import FromPath, JSONBody, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit, choice, choices
from portal.api.operations import ETAG, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.notify import queries, service
from portal.notify.schemas import DeliveryItem, DeliveryView, SecretInput, WebhookInput, WebhookView

READ = {"permission": Permission.WEBHOOKS_READ}
WRITE = {"permission": Permission.WEBHOOKS_WRITE}
StatusFilter = Annotated[str | None, QueryParameter(schema_extra={"enum": choices(DeliveryItem, "status")})]


class NewWebhook(WebhookView, frozen=True, kw_only=True):
    """A webhook as it is shown when a secret was made for it."""

    secret: str
    """What deliveries are signed with. It is shown only this once."""


class WebhookStatusInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Literal["active", "disabled"]


WebhookInputBody = Annotated[
    WebhookInput,
    example(
        {"name": "ERP", "url": "https://erp.example.org/hooks/portal", "types": ["transaction.*", "action.rejected"]}
    ),
]
SecretInputBody = Annotated[SecretInput, example({"overlap_seconds": 86400})]


@get("/webhooks", summary="List webhooks", opt=READ, responses=problems())
async def list_webhooks(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[WebhookView]:
    return await queries.list_webhooks(actor.organization_id, cursor=cursor, limit=limit)


@post(
    "/webhooks",
    summary="Create a webhook",
    description=(
        "Events of the given types are posted to the address from now on, signed by Standard Webhooks. The answer "
        "holds the secret, only this once."
    ),
    opt=WRITE,
    responses=problems(409, 422),
)
async def create_webhook(actor: Acting, data: WebhookInputBody) -> Response[NewWebhook]:
    view, secret = await service.create_webhook(actor, data)
    return created(_with_secret(view, secret), f"webhooks/{view.id}", version=view.updated_at)


@get("/webhooks/{webhook_id:uuid}", summary="Get a webhook", opt=READ, response_headers=ETAG, responses=problems(404))
async def get_webhook(actor: Acting, webhook_id: FromPath[UUID]) -> Response[WebhookView]:
    view = await queries.get_webhook(actor.organization_id, webhook_id)
    return with_etag(view, view.updated_at)


@put(
    "/webhooks/{webhook_id:uuid}",
    summary="Change a webhook",
    description="What waits goes to the new address. Needs If-Match.",
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 412, 428),
)
async def change_webhook(
    actor: Acting, webhook_id: FromPath[UUID], data: WebhookInputBody, *, if_match: IfMatch = None
) -> Response[WebhookView]:
    seen = await queries.get_webhook(actor.organization_id, webhook_id)
    require_match(if_match, seen.updated_at)
    view = await service.change_webhook(actor, webhook_id, data, expected=seen.updated_at)
    return with_etag(view, view.updated_at)


@delete(
    "/webhooks/{webhook_id:uuid}",
    summary="Delete a webhook",
    description="Nothing more is sent to it. Needs If-Match.",
    opt=WRITE,
    responses=problems(404, 412, 428),
)
async def delete_webhook(actor: Acting, webhook_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    seen = await queries.get_webhook(actor.organization_id, webhook_id)
    require_match(if_match, seen.updated_at)
    await service.delete_webhook(actor, webhook_id)


@put(
    "/webhooks/{webhook_id:uuid}/status",
    summary="Disable or enable a webhook",
    description=(
        "A disabled one is sent nothing, and what happens meanwhile is not kept for it; what waited before goes on "
        "when it is enabled. Needs If-Match with the ETag of the webhook."
    ),
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def set_webhook_status(
    actor: Acting, webhook_id: FromPath[UUID], data: JSONBody[WebhookStatusInput], *, if_match: IfMatch = None
) -> Response[WebhookView]:
    seen = await queries.get_webhook(actor.organization_id, webhook_id)
    require_match(if_match, seen.updated_at)
    turn = service.enable_webhook if data.status == "active" else service.disable_webhook
    view = await turn(actor, webhook_id)
    return with_etag(view, view.updated_at)


@post(
    "/webhooks/{webhook_id:uuid}/secrets",
    summary="Add a secret to a webhook",
    description=(
        "One more secret, shown only this once. Until `overlap_seconds` are over each delivery is signed with the "
        "others, too, so that a receiver can change over without refusing one."
    ),
    opt=WRITE,
    responses=problems(404, 409, 422),
)
async def add_secret(actor: Acting, webhook_id: FromPath[UUID], data: SecretInputBody) -> Response[NewWebhook]:
    view, secret = await service.add_secret(actor, webhook_id, data)
    return created(_with_secret(view, secret), f"webhooks/{view.id}", version=view.updated_at)


@delete(
    "/webhooks/{webhook_id:uuid}/secrets/{webhook_secret_id:uuid}",
    summary="End a secret of a webhook",
    description="Nothing is signed with it from the next attempt on. Needs If-Match with the ETag of the webhook.",
    opt=WRITE,
    responses=problems(404, 409, 412, 428),
)
async def end_secret(
    actor: Acting, webhook_id: FromPath[UUID], webhook_secret_id: FromPath[UUID], *, if_match: IfMatch = None
) -> None:
    seen = await queries.get_webhook(actor.organization_id, webhook_id)
    require_match(if_match, seen.updated_at)
    await service.end_secret(actor, webhook_id, webhook_secret_id)


@post(
    "/webhooks/{webhook_id:uuid}/test",
    summary="Test a webhook",
    description="Sends it an event `webhook.test`, whatever it subscribes to; its deliveries say what came of it.",
    opt=WRITE,
    status_code=202,
    responses=problems(404, 409, 422),
)
async def send_test(actor: Acting, webhook_id: FromPath[UUID]) -> WebhookView:
    await service.send_test(actor, webhook_id)
    return await queries.get_webhook(actor.organization_id, webhook_id)


@get(
    "/webhooks/{webhook_id:uuid}/deliveries",
    summary="List the deliveries of a webhook",
    description="Each event that it was or will be sent, the newest first. They are kept for 90 days.",
    opt=READ,
    responses=problems(404),
)
async def list_deliveries(
    actor: Acting,
    webhook_id: FromPath[UUID],
    *,
    status: StatusFilter = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[DeliveryItem]:
    return await queries.list_deliveries(
        actor.organization_id,
        webhook_id,
        status=choice(DeliveryItem, "status", status),
        cursor=cursor,
        limit=limit,
    )


@get(
    "/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}",
    summary="Get a delivery",
    description="With the event, and what came of each attempt.",
    opt=READ,
    responses=problems(404),
)
async def get_delivery(actor: Acting, webhook_id: FromPath[UUID], delivery_id: FromPath[UUID]) -> DeliveryView:
    return await queries.get_delivery(actor.organization_id, webhook_id, delivery_id)


@post(
    "/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}/redeliveries",
    summary="Deliver once more",
    description="With the same `webhook-id`, and all ten attempts, whatever became of it before.",
    opt=WRITE,
    status_code=202,
    responses=problems(404, 409, 422),
)
async def redeliver(actor: Acting, webhook_id: FromPath[UUID], delivery_id: FromPath[UUID]) -> DeliveryView:
    return await service.redeliver(actor, webhook_id, delivery_id)


def _with_secret(view: WebhookView, secret: str) -> NewWebhook:
    return NewWebhook(**msgspec.structs.asdict(view), secret=secret)


webhooks_router = Router(
    "/",
    route_handlers=[
        list_webhooks,
        create_webhook,
        get_webhook,
        change_webhook,
        delete_webhook,
        set_webhook_status,
        add_secret,
        end_secret,
        send_test,
        list_deliveries,
        get_delivery,
        redeliver,
    ],
    tags=["Webhooks"],
)
