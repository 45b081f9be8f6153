"""Webhooks: where events are sent, what became of each delivery and why, and what may be done about it."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.errors import InputInvalid, PortalError
from portal.notify import queries, service
from portal.notify.event_types import EVENT_TYPES, TEST
from portal.notify.schedule import MOST_ATTEMPTS
from portal.notify.schemas import SecretInput, WebhookInput, WebhookView
from portal.notify.states import DeliveryStatus, WebhookStatus
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_list, read_values, to_input, version_of
from portal.web.render import AnyRequest, see_other
from portal.web.states import state_of

READ = {"permission": Permission.WEBHOOKS_READ}
WRITE = {"permission": Permission.WEBHOOKS_WRITE}
SHOWN = 50
OVERLAPS = [
    ("86400", "Sign with the others, too, for a day"),
    ("604800", "Sign with the others, too, for a week"),
    ("3600", "Sign with the others, too, for an hour"),
    ("0", "Sign with the new one only, at once"),
]
NOUNS = {"action": "Actions", "transaction": "Transactions", "lane": "Lanes", "signer": "Signers", "pause": "Pauses"}
SUBJECTS = {
    "action": "actions/{}",
    "transaction": "transactions/{}",
    "lane": "lanes/{}",
    "signer": "signers/{}",
    "pause": "pauses",
    "webhook": "webhooks/{}",
}
"""Where what an event is about is shown."""


class Group(msgspec.Struct, frozen=True):
    """Types of one noun, to choose from."""

    form: str
    word: str
    types: list[tuple[str, str]]
    """Each with what it says."""


@get("/webhooks", opt=READ)
async def show_webhooks(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await queries.list_webhooks(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "webhooks/list.html",
        active="webhooks",
        webhooks=found.items,
        in_words=_in_words,
        may_write=desk.may("webhooks:write"),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/webhooks/new", opt=WRITE)
async def show_new_webhook(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return _form_page(request, desk, {}, ["*"])


@post("/webhooks/new", opt=WRITE)
async def create_webhook(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    """The answer shows the secret; nothing can show it again."""
    values, types = await read_values(request), await read_list(request, "types")
    try:
        webhook, secret = await service.create_webhook(desk.actor, _input(values, types))
    except PortalError as error:
        return _form_page(request, desk, values, types, error=error)
    return _made_page(request, desk, webhook, secret, new=True)


@get("/webhooks/{webhook_id:uuid}", opt=READ)
async def show_webhook(
    request: AnyRequest,
    desk: AtDesk,
    webhook_id: FromPath[UUID],
    *,
    status: FromQuery[str] = "",
    cursor: FromQuery[str | None] = None,
) -> Response[str]:
    return await _webhook_page(request, desk, webhook_id, status=status, cursor=cursor)


@get("/webhooks/{webhook_id:uuid}/edit", opt=WRITE)
async def show_webhook_editor(request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID]) -> Response[str]:
    webhook = await queries.get_webhook(desk.actor.organization_id, webhook_id)
    return _form_page(request, desk, {}, webhook.types, webhook)


@post("/webhooks/{webhook_id:uuid}/edit", opt=WRITE)
async def change_webhook(request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID]) -> Response[Any]:
    values, types = await read_values(request), await read_list(request, "types")
    webhook = await queries.get_webhook(desk.actor.organization_id, webhook_id)
    try:
        expected = version_of(values.get("version", ""))
        await service.change_webhook(desk.actor, webhook_id, _input(values, types), expected=expected)
    except PortalError as error:
        return _form_page(request, desk, values, types, webhook, error=error)
    return see_other(desk.url(f"webhooks/{webhook_id}"), done="webhook_changed")


@post("/webhooks/{webhook_id:uuid}/delete", opt=WRITE)
async def delete_webhook(request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    webhook = await queries.get_webhook(desk.actor.organization_id, webhook_id)
    try:
        if values.get("sure") != "yes":
            raise InputInvalid.at("/sure", "Tick that it is meant.")
        await service.delete_webhook(desk.actor, webhook_id)
    except PortalError as error:
        return _form_page(request, desk, {}, webhook.types, webhook, error=error)
    return see_other(desk.url("webhooks"), done="webhook_deleted")


@post("/webhooks/{webhook_id:uuid}/test", opt=WRITE)
async def send_test(request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.send_test(desk.actor, webhook_id)
    except PortalError as error:
        return await _webhook_page(request, desk, webhook_id, error=error)
    return see_other(desk.url(f"webhooks/{webhook_id}"), done="webhook_tested")


@post("/webhooks/{webhook_id:uuid}/disable", opt=WRITE)
async def disable_webhook(request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.disable_webhook(desk.actor, webhook_id)
    except PortalError as error:
        return await _webhook_page(request, desk, webhook_id, error=error)
    return see_other(desk.url(f"webhooks/{webhook_id}"), done="webhook_disabled")


@post("/webhooks/{webhook_id:uuid}/enable", opt=WRITE)
async def enable_webhook(request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.enable_webhook(desk.actor, webhook_id)
    except PortalError as error:
        return await _webhook_page(request, desk, webhook_id, error=error)
    return see_other(desk.url(f"webhooks/{webhook_id}"), done="webhook_enabled")


@post("/webhooks/{webhook_id:uuid}/secrets", opt=WRITE)
async def add_secret(request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID]) -> Response[Any]:
    """The answer shows the secret; nothing can show it again."""
    try:
        given = to_input(await read_values(request), SecretInput)
        webhook, secret = await service.add_secret(desk.actor, webhook_id, given)
    except PortalError as error:
        return await _webhook_page(request, desk, webhook_id, error=error)
    return _made_page(request, desk, webhook, secret, new=False)


@post("/webhooks/{webhook_id:uuid}/secrets/{webhook_secret_id:uuid}/end", opt=WRITE)
async def end_secret(
    request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID], webhook_secret_id: FromPath[UUID]
) -> Response[Any]:
    try:
        await service.end_secret(desk.actor, webhook_id, webhook_secret_id)
    except PortalError as error:
        return await _webhook_page(request, desk, webhook_id, error=error)
    return see_other(desk.url(f"webhooks/{webhook_id}"), done="webhook_secret_ended")


@get("/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}", opt=READ)
async def show_delivery(
    request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID], delivery_id: FromPath[UUID]
) -> Response[str]:
    return await _delivery_page(request, desk, webhook_id, delivery_id)


@post("/webhooks/{webhook_id:uuid}/deliveries/{delivery_id:uuid}/redeliver", opt=WRITE)
async def redeliver(
    request: AnyRequest, desk: AtDesk, webhook_id: FromPath[UUID], delivery_id: FromPath[UUID]
) -> Response[Any]:
    try:
        await service.redeliver(desk.actor, webhook_id, delivery_id)
    except PortalError as error:
        return await _delivery_page(request, desk, webhook_id, delivery_id, error)
    return see_other(desk.url(f"webhooks/{webhook_id}/deliveries/{delivery_id}"), done="redelivery_requested")


def _input(values: dict[str, str], types: list[str]) -> WebhookInput:
    """What the form says. Raises `InputInvalid` at its fields."""
    if not types:
        raise InputInvalid.at("/types", "Choose at least one type of event.")
    # What all of a noun names, and `*` names, need not be named again.
    wanted = [form for form in types if form == "*"] or [
        form for form in types if form.endswith(".*") or f"{form.partition('.')[0]}.*" not in types
    ]
    given = {"name": values.get("name", ""), "url": values.get("url", "")}
    return to_input({**given, "types": wanted}, WebhookInput)


def _form_page(
    request: AnyRequest,
    desk: Desk,
    values: dict[str, str],
    types: list[str],
    webhook: WebhookView | None = None,
    *,
    error: PortalError | None = None,
) -> Response[str]:
    kept = {"name": webhook.name, "url": webhook.url, "version": webhook.updated_at.isoformat()} if webhook else {}
    return desk_page(
        request,
        desk,
        "webhooks/form.html",
        active="webhooks",
        http_status=error.status if error else 200,
        webhook=webhook,
        home=desk.url(f"webhooks/{webhook.id}") if webhook else desk.url("webhooks"),
        values={"name": "", "url": "", "version": "", **kept, **values},
        groups=_groups(),
        chosen=types,
        error=error,
    )


def _made_page(request: AnyRequest, desk: Desk, webhook: WebhookView, secret: str, *, new: bool) -> Response[str]:
    home = desk.url(f"webhooks/{webhook.id}")
    return desk_page(
        request, desk, "webhooks/made.html", active="webhooks", webhook=webhook, secret=secret, new=new, home=home
    )


async def _webhook_page(
    request: AnyRequest,
    desk: Desk,
    webhook_id: UUID,
    *,
    status: str = "",
    cursor: str | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    webhook = await queries.get_webhook(organization, webhook_id)
    wanted = next((each for each in DeliveryStatus if each.value == status), None)
    found = await queries.list_deliveries(organization, webhook_id, status=wanted, cursor=cursor, limit=SHOWN)
    return desk_page(
        request,
        desk,
        "webhooks/detail.html",
        active="webhooks",
        http_status=error.status if error else 200,
        webhook=webhook,
        home=desk.url(f"webhooks/{webhook_id}"),
        deliveries=found.items,
        next_cursor=found.next_cursor,
        cursor=cursor,
        status=wanted.value if wanted else "",
        choices=[("", "All", None), *((each.value, state_of(each).word, None) for each in DeliveryStatus)],
        most_attempts=MOST_ATTEMPTS,
        in_words=_in_words,
        overlaps=OVERLAPS,
        active_secrets=sum(secret.ends_at is None for secret in webhook.secrets),
        is_active=webhook.status == WebhookStatus.ACTIVE,
        may_write=desk.may("webhooks:write"),
        error=error,
    )


async def _delivery_page(
    request: AnyRequest, desk: Desk, webhook_id: UUID, delivery_id: UUID, error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    webhook = await queries.get_webhook(organization, webhook_id)
    delivery = await queries.get_delivery(organization, webhook_id, delivery_id)
    subject = delivery.subject
    return desk_page(
        request,
        desk,
        "webhooks/delivery.html",
        active="webhooks",
        http_status=error.status if error else 200,
        webhook=webhook,
        delivery=delivery,
        about=desk.url(SUBJECTS[subject.kind].format(subject.id)) if subject.kind in SUBJECTS else None,
        says=EVENT_TYPES.get(delivery.type),
        body=msgspec.json.format(msgspec.json.encode(delivery.event), indent=2).decode(),
        home=desk.url(f"webhooks/{webhook_id}"),
        own=desk.url(f"webhooks/{webhook_id}/deliveries/{delivery_id}"),
        most_attempts=MOST_ATTEMPTS,
        may_write=desk.may("webhooks:write") and webhook.status == WebhookStatus.ACTIVE,
        error=error,
    )


def _groups() -> list[Group]:
    return [
        Group(
            f"{noun}.*",
            word,
            [(kind, says) for kind, says in EVENT_TYPES.items() if kind.startswith(f"{noun}.") and kind != TEST],
        )
        for noun, word in NOUNS.items()
    ]


def _in_words(types: list[str]) -> str:
    """`All events`, `Transactions, action.rejected`."""
    if "*" in types:
        return "All events"
    nouns = {f"{noun}.*": f"All of {word.lower()}" for noun, word in NOUNS.items()}
    return ", ".join(nouns.get(form, form) for form in types)


handlers = [
    show_webhooks,
    show_new_webhook,
    create_webhook,
    show_webhook,
    show_webhook_editor,
    change_webhook,
    delete_webhook,
    send_test,
    disable_webhook,
    enable_webhook,
    add_secret,
    end_secret,
    show_delivery,
    redeliver,
]
