"""Long work over many signals: replays after a preview, rechecks, exports; each with its progress, and cancelled."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from portal.accounts.permissions import Permission
from portal.errors import PortalError
from portal.rules import replays, service
from portal.rules.replay_previews import preview_replay
from portal.signals import queries as signals
from portal.signals.batches import exports, rechecks
from portal.signals.batches import service as batches
from portal.signals.batches.schemas import BatchKind, BatchView, ExportInput
from portal.signals.schemas import SignalFilter
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_list, read_values, to_input
from portal.web.render import AnyRequest, duration, see_other
from portal.web.signal_filters import Asked, asked_in, asked_of, selection_of
from portal.web.states import STATES

READ_EXPORTS = {"permission": Permission.SIGNALS_READ}
READ_REPLAYS = {"permission": Permission.RULES_READ}
READ_RECHECKS = {"permission": Permission.SOURCES_READ}
WRITE_REPLAYS = {"permission": Permission.RULES_WRITE}
WRITE_RECHECKS = {"permission": Permission.SOURCES_WRITE}


class Words(msgspec.Struct, frozen=True):
    """How the pages call one kind of work."""

    path: str
    one: str
    many: str
    does: str
    empty: str
    write: Permission


KINDS = {
    BatchKind.EXPORT: Words(
        "exports",
        "Export",
        "Exports",
        "Signals as a file, written in the background and kept for a week.",
        "Tick signals in the history, or narrow it by any filter; then Export… writes them into a file.",
        Permission.SIGNALS_READ,
    ),
    BatchKind.REPLAY: Words(
        "replays",
        "Replay",
        "Replays",
        "Signals compared again with the rules that are published now. Nothing is ever proposed twice.",
        "Choose signals in the history, then Replay… shows first what would come of it.",
        Permission.RULES_WRITE,
    ),
    BatchKind.RECHECK: Words(
        "rechecks",
        "Check of quarantined signals",
        "Checks",
        "Quarantined signals, checked again with the schema that is in force now.",
        "After a schema is mended, choose quarantined signals in the history and check them again.",
        Permission.SOURCES_WRITE,
    ),
}


@get("/signals/exports", opt=READ_EXPORTS)
async def show_exports(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await exports.list_exports(desk.actor.organization_id, cursor=cursor)
    return _list_page(request, desk, BatchKind.EXPORT, found, cursor)


@get("/signals/replays", opt=READ_REPLAYS)
async def show_replays(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await batches.list_batches(desk.actor.organization_id, BatchKind.REPLAY, cursor=cursor)
    return _list_page(request, desk, BatchKind.REPLAY, found, cursor)


@get("/signals/rechecks", opt=READ_RECHECKS)
async def show_rechecks(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await batches.list_batches(desk.actor.organization_id, BatchKind.RECHECK, cursor=cursor)
    return _list_page(request, desk, BatchKind.RECHECK, found, cursor)


@get("/signals/exports/new", opt=READ_EXPORTS)
async def show_new_export(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return await _start_page(request, desk, BatchKind.EXPORT, asked_of(request), _ticked(request))


@get("/signals/replays/new", opt=WRITE_REPLAYS)
async def show_new_replay(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """What a replay would do, before anybody starts it."""
    return await _start_page(request, desk, BatchKind.REPLAY, asked_of(request), _ticked(request))


@get("/signals/rechecks/new", opt=WRITE_RECHECKS)
async def show_new_recheck(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return await _start_page(request, desk, BatchKind.RECHECK, asked_of(request), _ticked(request))


@post("/signals/exports", opt=READ_EXPORTS)
async def start_export(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values, ids = await read_values(request), await read_list(request, "signal_id")
    asked = asked_in(values)
    try:
        wanted = to_input({"format": values.get("format", "")}, ExportInput)
        selection = selection_of(asked, ids)
        export = await exports.start_export(
            desk.actor,
            msgspec.structs.replace(wanted, signal_ids=selection.signal_ids, filter=selection.filter),
        )
    except PortalError as error:
        return await _start_page(request, desk, BatchKind.EXPORT, asked, ids, error=error)
    return see_other(desk.url(f"signals/exports/{export.id}"))


@post("/signals/replays", opt=WRITE_REPLAYS)
async def start_replay(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    """A single signal is set back at once; many by a worker, whose progress is shown."""
    asked, ids = asked_in(await read_values(request)), await read_list(request, "signal_id")
    try:
        selection = selection_of(asked, ids)
        if selection.signal_ids and len(selection.signal_ids) == 1:
            await service.reassess(desk.actor, selection.signal_ids[0])
            return see_other(desk.url(f"signals/{selection.signal_ids[0]}"), done="replayed")
        replay = await replays.start_replay(desk.actor, selection)
    except PortalError as error:
        return await _start_page(request, desk, BatchKind.REPLAY, asked, ids, error=error)
    return see_other(desk.url(f"signals/replays/{replay.id}"))


@post("/signals/rechecks", opt=WRITE_RECHECKS)
async def start_recheck(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    asked, ids = asked_in(await read_values(request)), await read_list(request, "signal_id")
    try:
        recheck = await rechecks.start_recheck(desk.actor, selection_of(asked, ids))
    except PortalError as error:
        return await _start_page(request, desk, BatchKind.RECHECK, asked, ids, error=error)
    return see_other(desk.url(f"signals/rechecks/{recheck.id}"))


@get("/signals/exports/{export_id:uuid}", opt=READ_EXPORTS)
async def show_export(request: AnyRequest, desk: AtDesk, export_id: FromPath[UUID]) -> Response[str]:
    return await _export_page(request, desk, export_id)


@get("/signals/replays/{replay_id:uuid}", opt=READ_REPLAYS)
async def show_replay(request: AnyRequest, desk: AtDesk, replay_id: FromPath[UUID]) -> Response[str]:
    found = await batches.get_batch(desk.actor.organization_id, BatchKind.REPLAY, replay_id)
    return _batch_page(request, desk, found)


@get("/signals/rechecks/{recheck_id:uuid}", opt=READ_RECHECKS)
async def show_recheck(request: AnyRequest, desk: AtDesk, recheck_id: FromPath[UUID]) -> Response[str]:
    found = await batches.get_batch(desk.actor.organization_id, BatchKind.RECHECK, recheck_id)
    return _batch_page(request, desk, found)


@get("/signals/exports/{export_id:uuid}/file", opt=READ_EXPORTS)
async def download_export(desk: AtDesk, export_id: FromPath[UUID], compressed: FromQuery[bool] = False) -> Stream:
    file = await exports.open_file(desk.actor.organization_id, export_id, compressed=compressed)
    headers = {"Content-Disposition": f'attachment; filename="{file.name}"'}
    if file.size is not None:
        headers["Content-Length"] = str(file.size)
    return Stream(file.chunks, media_type=file.media_type, headers=headers)


@post("/signals/exports/{export_id:uuid}/cancel", opt=READ_EXPORTS)
async def cancel_export(request: AnyRequest, desk: AtDesk, export_id: FromPath[UUID]) -> Response[Any]:
    """Stops it, or deletes its file once it is done."""
    try:
        await exports.delete_export(desk.actor, export_id)
    except PortalError as error:
        return await _export_page(request, desk, export_id, error)
    return see_other(desk.url(f"signals/exports/{export_id}"))


@post("/signals/replays/{replay_id:uuid}/cancel", opt=WRITE_REPLAYS)
async def cancel_replay(request: AnyRequest, desk: AtDesk, replay_id: FromPath[UUID]) -> Response[Any]:
    return await _cancel(request, desk, BatchKind.REPLAY, replay_id)


@post("/signals/rechecks/{recheck_id:uuid}/cancel", opt=WRITE_RECHECKS)
async def cancel_recheck(request: AnyRequest, desk: AtDesk, recheck_id: FromPath[UUID]) -> Response[Any]:
    return await _cancel(request, desk, BatchKind.RECHECK, recheck_id)


async def _cancel(request: AnyRequest, desk: Desk, kind: BatchKind, batch_id: UUID) -> Response[Any]:
    try:
        await batches.cancel(desk.actor, kind, batch_id)
    except PortalError as error:
        found = await batches.get_batch(desk.actor.organization_id, kind, batch_id)
        return _batch_page(request, desk, found, error)
    return see_other(desk.url(f"signals/{KINDS[kind].path}/{batch_id}"))


def _list_page(request: AnyRequest, desk: Desk, kind: BatchKind, found: Any, cursor: str | None) -> Response[str]:
    return desk_page(
        request,
        desk,
        "signals/batches.html",
        active="signals",
        words=KINDS[kind],
        batches=found.items,
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


async def _start_page(
    request: AnyRequest, desk: Desk, kind: BatchKind, asked: Asked, ids: list[str], *, error: PortalError | None = None
) -> Response[str]:
    """What is about to be done, with which signals; for a replay what would come of it."""
    selection = selection_of(asked, ids)
    return desk_page(
        request,
        desk,
        "signals/start.html",
        active="signals",
        http_status=error.status if error else 200,
        kind=kind.value,
        words=KINDS[kind],
        chosen=await _in_words(desk, asked.filter) if not ids else [],
        given={} if ids else asked.fixed,
        ids=ids,
        back=desk.url("signals") if ids else "",
        preview=await preview_replay(desk.actor, selection) if kind is BatchKind.REPLAY else None,
        error=error,
    )


async def _in_words(desk: Desk, filter: SignalFilter) -> list[tuple[str, str]]:
    """The filter in words: pairs of a name and what it is narrowed to; moments are the template's."""
    words = (
        ("Holds", filter.text),
        ("Type", filter.type),
        ("End user", filter.subject),
        ("The sender's id", filter.external_id),
        ("Correlation id", filter.correlation_id),
    )
    chosen = [(word, text) for word, text in words if text]
    if filter.source_id:
        source = await signals.get_source(desk.actor.organization_id, filter.source_id)
        chosen.append(("Source", source.name))
    if filter.status:
        chosen.append(("State", STATES[filter.status].word))
    return chosen


async def _export_page(
    request: AnyRequest, desk: Desk, export_id: UUID, error: PortalError | None = None
) -> Response[str]:
    """An export also says what it holds: a file is looked for days later."""
    export = await exports.get_export(desk.actor.organization_id, export_id)
    chosen = await _in_words(desk, export.filter) if export.filter else [("Signals", "Chosen one by one")]
    return _batch_page(request, desk, export, error, chosen=chosen)


def _batch_page(
    request: AnyRequest,
    desk: Desk,
    batch: BatchView,
    error: PortalError | None = None,
    *,
    chosen: list[tuple[str, str]] | None = None,
) -> Response[str]:
    words = KINDS[batch.kind]
    return desk_page(
        request,
        desk,
        "signals/batch.html",
        active="signals",
        http_status=error.status if error else 200,
        batch=batch,
        words=words,
        own=desk.url(f"signals/{words.path}/{batch.id}"),
        under_way=batch.status in ("waiting", "running"),
        chosen=chosen,
        left=duration(batch.seconds_left) if batch.seconds_left is not None else None,
        may_cancel=words.write in desk.actor.permissions,
        error=error,
    )


def _ticked(request: AnyRequest) -> list[str]:
    return [str(each) for each in request.query_params.getall("signal_id", [])]


handlers = [
    show_exports,
    show_replays,
    show_rechecks,
    show_new_export,
    show_new_replay,
    show_new_recheck,
    start_export,
    start_replay,
    start_recheck,
    show_export,
    show_replay,
    show_recheck,
    download_export,
    cancel_export,
    cancel_replay,
    cancel_recheck,
]
