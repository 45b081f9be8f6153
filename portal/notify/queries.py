"""Reads of webhooks and their deliveries, each within one organisation."""

from typing import Any
from uuid import UUID

from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Count, Page, check_limit, decode_cursor, page_of
from portal.errors import NotFound
from portal.notify.events import EVENT_COLUMNS, view_of
from portal.notify.schemas import AttemptView, DeliveryItem, DeliveryView, SecretView, Subject, WebhookView
from portal.notify.states import DeliveryStatus, WebhookStatus

MOST_COUNTED = 1000

WEBHOOKS = f"""
    SELECT w.id, w.name, w.url, w.types, w.status, w.disabled_because, w.failing_since, w.delivered_at, w.rest_until,
           w.created_by, w.created_at, w.updated_at,
           (SELECT count(*) FROM (SELECT 1 FROM delivery d WHERE d.webhook = w.id AND d.status = 'waiting'
                                  LIMIT {MOST_COUNTED + 1}) AS counted) AS waiting
    FROM webhook w WHERE w.organization = {{}} AND w.status <> 'deleted'"""  # noqa: S608

ITEM_COLUMNS = """
    d.id, d.event AS event_id, e.kind, e.position, e.subject_kind, e.subject_id, d.status, d.attempts, d.due_at,
    d.created_at, d.delivered_at, last.error, last.status_code"""

LAST_ATTEMPT = """
    LEFT JOIN LATERAL (SELECT a.error, a.status_code FROM delivery_attempt a WHERE a.delivery = d.id
                       ORDER BY a.id DESC LIMIT 1) AS last ON true"""


async def get_webhook(organization_id: UUID, webhook_id: UUID) -> WebhookView:
    """Raises `NotFound`."""
    found = await _webhooks("AND w.id = {}", organization_id, webhook_id)
    if not found:
        raise NotFound("There is no such webhook.")
    return _webhook(found[0])


async def list_webhooks(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[WebhookView]:
    """Webhooks, the newest first; deleted ones are left out."""
    where, arguments = ("AND w.id < {}", [decode_cursor(cursor)]) if cursor else ("", list[Any]())
    rows = await _webhooks(
        f"{where} ORDER BY w.id DESC LIMIT {{}}", organization_id, *arguments, check_limit(limit) + 1
    )
    return page_of(rows, limit, _webhook)


async def _webhooks(where: str, *arguments: Any) -> list[dict[str, Any]]:
    rows = await run_sql(f"{WEBHOOKS} {where}", *arguments)
    secrets = await run_sql(
        """SELECT webhook, id, hint, created_at, ends_at FROM webhook_secret
           WHERE webhook = ANY({}::uuid[]) ORDER BY id DESC""",
        [row["id"] for row in rows],
    )
    by_webhook: dict[UUID, list[SecretView]] = {row["id"]: [] for row in rows}
    for secret in secrets:
        by_webhook[secret.pop("webhook")].append(SecretView(**secret))
    return [{**row, "secrets": by_webhook[row["id"]]} for row in rows]


def _webhook(row: dict[str, Any]) -> WebhookView:
    waiting = Count.up_to(MOST_COUNTED, row["waiting"])
    return WebhookView(
        **{**row, "types": list(row["types"]), "status": WebhookStatus(row["status"]), "waiting": waiting}
    )


async def list_deliveries(
    organization_id: UUID,
    webhook_id: UUID,
    *,
    status: DeliveryStatus | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[DeliveryItem]:
    """The deliveries of one webhook, the newest first. Raises `NotFound`."""
    await get_webhook(organization_id, webhook_id)
    filters, arguments = "", list[Any]()
    if status is not None:
        filters, arguments = "AND d.status = {}", [status.value]
    if cursor:
        filters, arguments = f"{filters} AND d.id < {{}}", [*arguments, decode_cursor(cursor)]
    rows = await run_sql(
        f"""SELECT {ITEM_COLUMNS} FROM delivery d JOIN event e ON e.id = d.event {LAST_ATTEMPT}
            WHERE d.webhook = {{}} {filters} ORDER BY d.id DESC LIMIT {{}}""",  # noqa: S608
        webhook_id,
        *arguments,
        check_limit(limit) + 1,
    )
    return page_of(rows, limit, lambda row: DeliveryItem(**_item(row)))


async def get_delivery(organization_id: UUID, webhook_id: UUID, delivery_id: UUID) -> DeliveryView:
    """One delivery with its event and every attempt. Raises `NotFound`."""
    await get_webhook(organization_id, webhook_id)
    rows = await run_sql(
        f"""SELECT {ITEM_COLUMNS} FROM delivery d JOIN event e ON e.id = d.event {LAST_ATTEMPT}
            WHERE d.webhook = {{}} AND d.id = {{}}""",  # noqa: S608
        webhook_id,
        delivery_id,
    )
    if not rows:
        raise NotFound("There is no such delivery.")
    [event] = await run_sql(f"SELECT {EVENT_COLUMNS} FROM event e WHERE e.id = {{}}", rows[0]["event_id"])  # noqa: S608
    attempts = await run_sql(
        """SELECT id, started_at, latency_ms, status_code, error, response_body FROM delivery_attempt
           WHERE delivery = {} ORDER BY id DESC LIMIT 100""",
        delivery_id,
    )
    return DeliveryView(**_item(rows[0]), event=view_of(event), log=[AttemptView(**attempt) for attempt in attempts])


def _item(row: dict[str, Any]) -> dict[str, Any]:
    status = DeliveryStatus(row["status"])
    return {
        "id": row["id"],
        "event_id": row["event_id"],
        "type": row["kind"],
        "position": row["position"],
        "subject": Subject(row["subject_kind"], row["subject_id"]),
        "status": status,
        "attempts": row["attempts"],
        "due_at": row["due_at"] if status == DeliveryStatus.WAITING else None,
        "error": row["error"],
        "status_code": row["status_code"],
        "created_at": row["created_at"],
        "delivered_at": row["delivered_at"],
    }
