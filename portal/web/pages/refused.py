"""What was refused: why, with its body as far as it is kept, and accepted after all once the cause is mended.

And for how long bodies are kept at all.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal import clock
from portal.accounts.permissions import Permission
from portal.errors import InputInvalid, PortalError
from portal.signals import queries as signals
from portal.signals import retention
from portal.signals.intake import acceptance
from portal.signals.intake.acceptance import AcceptanceInput
from portal.signals.retention import MAX_DAYS, RetentionView
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, fragment, query, see_other
from portal.web.signal_filters import source_choices

READ = {"permission": Permission.SOURCES_READ}
WRITE = {"permission": Permission.SOURCES_WRITE}
KEEP = {"permission": Permission.ORGANIZATION_WRITE}
CAUSES = {
    "signature_invalid": "Not verified",
    "headers_invalid": "Headers not usable",
    "body_too_large": "Too large",
    "source_paused": "The source was paused",
    "signal_conflict": "Its id is taken",
    "address_not_allowed": "From an address not allowed",
    "rate_limited": "Too many a minute",
    "payload_invalid": "Not as its schema says",
    "media_type_unsupported": "Compressed",
    "body_too_slow": "Came too slowly",
    "input_invalid": "Not readable as a request",
}
"""A cause in a few words; what has none here is shown as it is."""
MOST_NEW = 50
SHOWN_LETTERS = 100_000
DAYS = (7, 30, 90, 180, 365, 730, MAX_DAYS)


@get("/signals/refused", opt=READ)
async def show_refused(
    request: AnyRequest,
    desk: AtDesk,
    *,
    source_id: FromQuery[UUID | None] = None,
    cause: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> Response[str]:
    organization, cause = desk.actor.organization_id, cause if cause in CAUSES else None
    found = await signals.list_rejected_deliveries(organization, source_id=source_id, cause=cause, cursor=cursor)
    newest = (found.items[0].received_at if found.items else clock.now()).isoformat()
    return desk_page(
        request,
        desk,
        "signals/refused.html",
        active="signals",
        deliveries=found.items,
        causes=CAUSES,
        sources=[("", "Any source"), *await source_choices(organization)],
        source_id=source_id,
        cause=cause,
        fresh=desk.url("signals/refused/new") + query(source_id=source_id, cause=cause, after=newest),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/signals/refused/new", opt=READ)
async def show_new_refused(
    request: AnyRequest,
    desk: AtDesk,
    *,
    after: FromQuery[datetime],
    source_id: FromQuery[UUID | None] = None,
    cause: FromQuery[str | None] = None,
) -> Response[str]:
    """How many were refused after the newest one shown, up to `MOST_NEW`."""
    since, organization = clock.in_utc(after, path="/after"), desk.actor.organization_id
    found = await signals.list_rejected_deliveries(organization, source_id=source_id, cause=cause, limit=MOST_NEW)
    number = sum(each.received_at > since for each in found.items)
    context = {
        "number": f"{number}+" if number == MOST_NEW else str(number or ""),
        "href": desk.url("signals/refused") + query(source_id=source_id, cause=cause),
        "settled": [],
    }
    return fragment(request, "signals/_new.html", context)


@get("/signals/refused/{rejected_id:uuid}", opt=READ)
async def show_refused_delivery(request: AnyRequest, desk: AtDesk, rejected_id: FromPath[UUID]) -> Response[str]:
    return await _delivery_page(request, desk, rejected_id)


@post("/signals/refused/{rejected_id:uuid}/accept", opt=WRITE)
async def accept_refused_delivery(request: AnyRequest, desk: AtDesk, rejected_id: FromPath[UUID]) -> Response[Any]:
    try:
        receipt = await acceptance.accept_rejected(desk.actor, rejected_id)
    except PortalError as error:
        return await _delivery_page(request, desk, rejected_id, error)
    return see_other(desk.url(f"signals/{receipt.signal_id}"), done="delivery_accepted")


@post("/signals/refused/{rejected_id:uuid}/accept-alike", opt=WRITE)
async def accept_alike(request: AnyRequest, desk: AtDesk, rejected_id: FromPath[UUID]) -> Response[str]:
    """All of the same source that were refused for the same cause, 100 at once: the page offers the next ones."""
    delivery = await acceptance.get_rejected(desk.actor.organization_id, rejected_id)
    cursor = (await read_values(request)).get("cursor") or None
    outcome = await acceptance.accept_all(
        desk.actor, delivery.source_id, AcceptanceInput(cause=delivery.cause, cursor=cursor)
    )
    return desk_page(
        request,
        desk,
        "signals/accepted.html",
        active="signals",
        delivery=delivery,
        cause=CAUSES.get(delivery.cause, delivery.cause),
        outcome=outcome,
        own=desk.url(f"signals/refused/{rejected_id}"),
    )


async def _delivery_page(
    request: AnyRequest, desk: Desk, rejected_id: UUID, error: PortalError | None = None
) -> Response[str]:
    delivery = await acceptance.get_rejected(desk.actor.organization_id, rejected_id)
    body = delivery.body or ""
    return desk_page(
        request,
        desk,
        "signals/refused_delivery.html",
        active="signals",
        http_status=error.status if error else 200,
        delivery=delivery,
        cause=CAUSES.get(delivery.cause, delivery.cause),
        raw=_pretty(body)[:SHOWN_LETTERS],
        raw_is_whole=len(body) <= SHOWN_LETTERS,
        may_accept=desk.may("sources:write") and delivery.acceptable,
        own=desk.url(f"signals/refused/{rejected_id}"),
        error=error,
    )


def _pretty(body: str) -> str:
    """JSON with a line for each value; anything else as it is."""
    try:
        return msgspec.json.format(body.encode()).decode()
    except msgspec.DecodeError:
        return body


@get("/signals/retention", opt=KEEP)
async def show_retention(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return await _retention_page(request, desk)


@post("/signals/retention", opt=KEEP)
async def change_retention(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    try:
        if values.get("understood") != "yes":
            raise InputInvalid.at("/understood", "Say that you know what is deleted.")
        expected = RetentionView(body_days=_days(values.get("before", "")))
        await retention.set_retention(desk.actor, _days(values.get("body_days", "")), expected=expected)
    except PortalError as error:
        return await _retention_page(request, desk, chosen=values.get("body_days"), error=error)
    return see_other(desk.url("signals/retention"), done="retention_changed")


async def _retention_page(
    request: AnyRequest, desk: Desk, *, chosen: str | None = None, error: PortalError | None = None
) -> Response[str]:
    kept = (await retention.get_retention(desk.actor.organization_id)).body_days
    days = sorted({*DAYS, *([kept] if kept else [])})
    return desk_page(
        request,
        desk,
        "signals/retention.html",
        active="signals",
        http_status=error.status if error else 200,
        kept=kept,
        chosen=chosen if chosen is not None else str(kept or ""),
        choices=[("", "For ever"), *((str(each), _period(each)) for each in days)],
        error=error,
    )


def _days(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > 6:
        raise InputInvalid.at("/body_days", "Choose for how long from the list.")
    return int(text)


def _period(days: int) -> str:
    years, rest = divmod(days, 365)
    if not rest:
        return f"{years} year{'' if years == 1 else 's'}"
    return f"{days} days"


handlers = [
    show_refused,
    show_new_refused,
    show_refused_delivery,
    accept_refused_delivery,
    accept_alike,
    show_retention,
    change_retention,
]
