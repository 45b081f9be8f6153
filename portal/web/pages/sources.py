"""Sources: connected in one step with a line to try them, their secrets, and what they had refused."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.errors import PortalError
from portal.signals import queries as signals
from portal.signals import service
from portal.signals.pulls import KINDS
from portal.signals.schemas import DEFAULT_BODY_BYTES, SecretInput, SignalFilter, SourceChange, SourceInput, SourceView
from portal.signals.schemes import SCHEMES
from portal.web.asking import AtDesk
from portal.web.curl import curl_line
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values, to_input
from portal.web.render import AnyRequest, fragment, see_other

LABELS = {name: kind.label for name, kind in (SCHEMES | KINDS).items()}
READ = {"permission": Permission.SOURCES_READ}
WRITE = {"permission": Permission.SOURCES_WRITE}
CAPS = {
    65536: "64 KB",
    262144: "256 KB",
    DEFAULT_BODY_BYTES: "1 MB",
    5 * 1024 * 1024: "5 MB",
    25 * 1024 * 1024: "25 MB",
}
OVERLAPS = [
    ("", "Keep the others, too"),
    ("86400", "End the others in a day"),
    ("604800", "End the others in a week"),
    ("3600", "End the others in an hour"),
    ("0", "End the others at once"),
]


@get("/sources", opt=READ)
async def show_sources(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await signals.list_sources(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "sources/list.html",
        active="sources",
        sources=found.items,
        schemes=LABELS,
        may_write=desk.may("sources:write"),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/sources/new", opt=WRITE)
async def show_new_source(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return _new_page(request, desk, {})


@post("/sources/new", opt=WRITE)
async def create_source(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """The answer shows the secret; nothing can show it again."""
    values = await read_values(request)
    try:
        source, secret = await service.create_source(desk.actor, to_input(values, SourceInput))
    except PortalError as error:
        return _new_page(request, desk, values, error)
    if source.scheme in KINDS:
        return await _source_page(request, desk, source.id)
    return _made_page(request, desk, source, secret, new=True)


@get("/sources/{source_id:uuid}", opt=READ)
async def show_source(
    request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID], cursor: FromQuery[str | None] = None
) -> Response[str]:
    return await _source_page(request, desk, source_id, cursor=cursor)


@get("/sources/{source_id:uuid}/first", opt=READ)
async def show_first_delivery(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[str]:
    """What the source sent or had refused last, asked for until a signal is there."""
    organization = desk.actor.organization_id
    source = await signals.get_source(organization, source_id)
    found = (await signals.list_signals(organization, SignalFilter(source_id=source_id), limit=1)).items
    refused = (await signals.list_rejected_deliveries(organization, source_id=source_id, limit=1)).items
    context = {"desk": desk, "source": source, "signal": next(iter(found), None), "refused": next(iter(refused), None)}
    return fragment(request, "sources/_first.html", context)


@post("/sources/{source_id:uuid}", opt=WRITE)
async def change_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    try:
        await service.change_source(desk.actor, source_id, to_input(values, SourceChange))
    except PortalError as error:
        return await _source_page(request, desk, source_id, values=values, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="source_changed")


@post("/sources/{source_id:uuid}/secrets", opt=WRITE)
async def add_secret(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[str]:
    """The answer shows the secret; nothing can show it again."""
    values = await read_values(request)
    try:
        source, secret = await service.add_secret(desk.actor, source_id, to_input(values, SecretInput))
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    if source.scheme in KINDS:
        return await _source_page(request, desk, source_id)
    return _made_page(request, desk, source, secret, new=False)


@post("/sources/{source_id:uuid}/secrets/{secret_id:uuid}/end", opt=WRITE)
async def end_secret(
    request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID], secret_id: FromPath[UUID]
) -> Response[Any]:
    try:
        await service.end_secret(desk.actor, source_id, secret_id)
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="secret_ended")


@post("/sources/{source_id:uuid}/pause", opt=WRITE)
async def pause_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.pause_source(desk.actor, source_id)
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="source_paused")


@post("/sources/{source_id:uuid}/resume", opt=WRITE)
async def resume_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.resume_source(desk.actor, source_id)
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="source_resumed")


def _new_page(
    request: AnyRequest, desk: Desk, values: dict[str, str], error: PortalError | None = None
) -> Response[str]:
    return desk_page(
        request,
        desk,
        "sources/new.html",
        active="sources",
        http_status=error.status if error else 200,
        schemes=[scheme for scheme in SCHEMES.values() if not scheme.settings_type],
        values={"name": "", "scheme": "github", "secret": ""} | values,
        error=error,
    )


def _made_page(request: AnyRequest, desk: Desk, source: SourceView, secret: str | None, *, new: bool) -> Response[str]:
    return desk_page(
        request,
        desk,
        "sources/made.html",
        active="sources",
        source=source,
        secret=secret,
        label=LABELS[source.scheme],
        line=curl_line(source.scheme, source.settings, source.url, secret),
        new=new,
    )


async def _source_page(
    request: AnyRequest,
    desk: Desk,
    source_id: UUID,
    *,
    cursor: str | None = None,
    values: dict[str, str] | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    source = await signals.get_source(organization, source_id)
    refused = await signals.list_rejected_deliveries(organization, source_id=source_id, cursor=cursor, limit=20)
    caps = CAPS if source.body_cap_bytes in CAPS else CAPS | {source.body_cap_bytes: f"{source.body_cap_bytes:,} bytes"}
    return desk_page(
        request,
        desk,
        "sources/detail.html",
        active="sources",
        http_status=error.status if error else 200,
        source=source,
        home=desk.url(f"sources/{source_id}"),
        label=LABELS[source.scheme],
        refused=refused.items,
        next_cursor=refused.next_cursor,
        cursor=cursor,
        caps=sorted(caps.items()),
        overlaps=OVERLAPS,
        values=msgspec.structs.asdict(source) | (values or {}),
        may_write=desk.may("sources:write"),
        error=error,
    )


handlers = [
    show_sources,
    show_new_source,
    create_source,
    show_source,
    show_first_delivery,
    change_source,
    add_secret,
    end_secret,
    pause_source,
    resume_source,
]
