"""Exports: the history of signals as a file, written in the background."""

from typing import Annotated
from uuid import UUID

from litestar import Response, Router, delete, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, EXAMPLE_ID, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.signals.batches import exports
from portal.signals.batches.schemas import ExportInput, ExportView

READ = {"permission": Permission.SIGNALS_READ}
ExportInputBody = Annotated[
    ExportInput, example({"format": "ndjson", "filter": {"source_id": EXAMPLE_ID, "since": "2026-05-03T00:00:00Z"}})
]
Compressed = Annotated[bool, QueryParameter(description="As a file of gzip, as it is kept.")]


@get("/exports", summary="List exports", opt=READ, responses=problems())
async def list_exports(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[ExportView]:
    return await exports.list_exports(actor.organization_id, cursor=cursor, limit=limit)


@post(
    "/exports",
    summary="Export signals",
    description=(
        "Writes the signals that match `filter` now, or those with these `signal_ids`, into a file, in the background: "
        "read the export again to see how far it has come. With neither of them it is every signal. `ndjson` holds "
        "each signal exactly, its payload digit by digit; `csv` is for spreadsheets, and puts an apostrophe before a "
        "text that one would take for a formula. At most 1,000,000 signals and 2 GiB compressed; it is kept for a "
        "week."
    ),
    opt=READ,
    responses=problems(409, 422),
)
async def start_export(actor: Acting, data: ExportInputBody) -> Response[ExportView]:
    view = await exports.start_export(actor, data)
    return created(view, f"exports/{view.id}", version=view.ended_at)


@get("/exports/{export_id:uuid}", summary="Get an export", opt=READ, response_headers=ETAG, responses=problems(404))
async def get_export(actor: Acting, export_id: FromPath[UUID]) -> Response[ExportView]:
    view = await exports.get_export(actor.organization_id, export_id)
    return with_etag(view, view.ended_at)


@get(
    "/exports/{export_id:uuid}/file",
    summary="Download the file of an export",
    opt=READ,
    responses={
        200: ResponseSpec(
            bytes, description="The file.", media_type="application/octet-stream", generate_examples=False
        ),
        **problems(404, 409),
    },
)
async def get_export_file(actor: Acting, export_id: FromPath[UUID], compressed: Compressed = False) -> Stream:
    file = await exports.open_file(actor.organization_id, export_id, compressed=compressed)
    headers = {"Content-Disposition": f'attachment; filename="{file.name}"'}
    if file.size is not None:
        headers["Content-Length"] = str(file.size)
    return Stream(file.chunks, media_type=file.media_type, headers=headers)


@delete(
    "/exports/{export_id:uuid}",
    summary="Cancel an export or delete its file",
    description="Stops it if it is under way, and deletes what there is of its file. Needs If-Match.",
    opt=READ,
    responses=problems(404, 409, 412, 428),
)
async def delete_export(actor: Acting, export_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    require_match(if_match, (await exports.get_export(actor.organization_id, export_id)).ended_at)
    await exports.delete_export(actor, export_id)


exports_router = Router(
    "/",
    route_handlers=[list_exports, start_export, get_export, get_export_file, delete_export],
    tags=["Exports"],
)
