"""Exports of the history: a job writes the file in compressed parts, anybody who may read signals downloads it."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.engine import run_sql, transaction
from portal.db.paging import DEFAULT_LIMIT, Page, page_of
from portal.errors import InputInvalid
from portal.signals.batches import service as batches
from portal.signals.batches.export_formats import MEDIA_TYPES, compressed
from portal.signals.batches.schemas import ExportInput, ExportView
from portal.signals.batches.selections import count_selected, next_ids
from portal.signals.batches.service import Batch, BatchFailed, Slice
from portal.signals.errors import ExportHasNoFile
from portal.signals.tables import BatchKind, BatchStatus

MAX_SIGNALS = 1_000_000
MAX_FILE_BYTES = 2 * 1024**3
"""Compressed, as it is kept."""
SLICE_SIGNALS = 1000
SLICE_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 256 * 1024


async def start_export(actor: Actor, given: ExportInput) -> ExportView:
    """Let a worker write the selected signals into a file. Raises `TooManyBatches`, `InputInvalid`."""
    actor.require(batches.NEEDS[BatchKind.EXPORT])
    total = await count_selected(actor.organization_id, given.selection, most=MAX_SIGNALS)
    if total is not None and total > MAX_SIGNALS:
        raise InputInvalid.at(
            "/filter",
            f"More than {MAX_SIGNALS:,} signals match, and an export holds no more. Narrow it by since and until.",
        )
    batch = await batches.start(actor, BatchKind.EXPORT, given, total)
    return await get_export(actor.organization_id, batch.id)


async def get_export(organization_id: UUID, export_id: UUID) -> ExportView:
    """Raises `NotFound`."""
    row = await batches.get_row(organization_id, BatchKind.EXPORT, export_id)
    return _view(row, await _file_sizes([export_id]))


async def list_exports(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[ExportView]:
    """Exports, the newest first."""
    rows = await batches.list_rows(organization_id, BatchKind.EXPORT, cursor=cursor, limit=limit)
    sizes = await _file_sizes([row["id"] for row in rows])
    return page_of(rows, limit, lambda row: _view(row, sizes))


async def delete_export(actor: Actor, export_id: UUID) -> None:
    """Cancel it if it is under way, and delete its file. Raises `ExportHasNoFile` if there is neither, `NotFound`."""
    actor.require(batches.NEEDS[BatchKind.EXPORT])
    seen = await get_export(actor.organization_id, export_id)
    if seen.status in (BatchStatus.WAITING, BatchStatus.RUNNING):
        await batches.cancel(actor, BatchKind.EXPORT, export_id)
        await run_sql("DELETE FROM export_part WHERE batch = {}", export_id)
        return
    async with transaction():
        if not await run_sql("DELETE FROM export_part WHERE batch = {} RETURNING number", export_id):
            raise ExportHasNoFile("Its file is deleted already.")
        await audit.append(actor, "batch.file_deleted", "batch", export_id)


class ExportFile(msgspec.Struct, frozen=True):
    """A file to send: its name, its media type and its bytes."""

    name: str
    media_type: str
    size: int | None
    """None where it is only known at the end."""
    chunks: AsyncIterator[bytes]


async def open_file(organization_id: UUID, export_id: UUID, *, compressed: bool = False) -> ExportFile:
    """The file of an export, or its gzip. Raises `ExportHasNoFile`, `NotFound`.

    Compressed, it is a file of its own and not a content coding: browsers show only the first member of one with
    several (RFC 1952 allows them, and every unpacker reads them).
    """
    export = await get_export(organization_id, export_id)
    if export.status is not BatchStatus.DONE:
        raise ExportHasNoFile(f"The export is {export.status}. Its file is there once it is done.")
    if export.file_bytes is None:
        raise ExportHasNoFile("Its file is deleted. Start the export again where you need it.")
    name = f"signals-{export.requested_at:%Y-%m-%d}-{export.id.hex[-8:]}.{export.format}"
    if compressed:
        return ExportFile(f"{name}.gz", "application/gzip", export.file_bytes, _parts(export_id, export.file_bytes))
    return ExportFile(name, MEDIA_TYPES[export.format], None, _unpacked(_parts(export_id, export.file_bytes)))


async def _parts(export_id: UUID, size: int) -> AsyncIterator[bytes]:
    """The parts, each read for itself. Fails rather than end early where the file is deleted meanwhile."""
    number, sent = 1, 0
    while rows := await run_sql("SELECT content FROM export_part WHERE batch = {} AND number = {}", export_id, number):
        content = bytes(rows[0]["content"])
        sent += len(content)
        number += 1
        yield content
    if sent != size:
        raise ExportHasNoFile("The file was deleted while it was sent.")


async def _unpacked(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """In chunks of a bounded size, so that nobody else waits for long."""
    async for part in parts:
        unpacking = zlib.decompressobj(wbits=31)
        rest = part
        while rest:
            chunk = unpacking.decompress(rest, CHUNK_BYTES)
            rest = unpacking.unconsumed_tail
            if chunk:
                yield chunk
        if last := unpacking.flush():
            yield last


async def export_slice(batch: Batch) -> Slice:
    """Write the next part of an export's file. Raises `BatchFailed` where it becomes too large."""
    given = msgspec.convert(batch.given, ExportInput)
    ids, more = await next_ids(
        batch.organization_id,
        given.selection,
        until=batch.until,
        position=batch.position,
        most=SLICE_SIGNALS,
        max_bytes=SLICE_BYTES,
    )
    written = await run_sql(
        "SELECT count(*) AS parts, coalesce(sum(octet_length(content)), 0) AS size FROM export_part WHERE batch = {}",
        batch.id,
    )
    rows = await _read(ids)
    if batch.done + len(ids) > MAX_SIGNALS or written[0]["size"] > MAX_FILE_BYTES:
        raise BatchFailed(_too_large(rows[0]["received_at"] if rows else clock.now()))
    # In a thread, where it keeps nobody waiting: it touches no database.
    part = await asyncio.to_thread(compressed, rows, given.format, first=batch.position is None)
    await run_sql(
        "INSERT INTO export_part (batch, number, content) VALUES ({}, {}, {})", batch.id, written[0]["parts"] + 1, part
    )
    return Slice(done=ids, changed=len(ids), more=more)


def _too_large(reached: datetime) -> str:
    moment = f"{reached:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"An export holds at most {MAX_SIGNALS:,} signals and {MAX_FILE_BYTES // 1024**3} GiB, compressed. "
        f"This one was full at {moment}, from the newest back. Export it in parts: one since then, one until then."
    )


async def _read(ids: list[UUID]) -> list[dict[str, Any]]:
    return await run_sql(
        """SELECT g.id, g.received_at, g.source AS source_id, s.name AS source_name, s.scheme, g.external_id, g.type,
                  g.status, g.reasons, g.content_type, g.body_bytes, g.body_digest, g.body,
                  g.schema AS schema_id, g.secret AS secret_id, g.skew_ms, g.correlation_id, g.assessed_at
           FROM signal g JOIN source s ON s.id = g.source WHERE g.id = ANY({}) ORDER BY g.id DESC""",
        ids,
    )


def _view(row: dict[str, Any], sizes: dict[UUID, int]) -> ExportView:
    batch, given = batches.view_of(row), msgspec.json.decode(row["given"], type=ExportInput)
    size = sizes.get(batch.id) if batch.status is BatchStatus.DONE else None
    return ExportView(
        **msgspec.structs.asdict(batch),
        format=given.format,
        filter=given.selection.filter,
        file_bytes=size,
        file_expires_at=batch.ended_at + batches.KEPT if size is not None and batch.ended_at else None,
    )


async def _file_sizes(ids: list[UUID]) -> dict[UUID, int]:
    rows = await run_sql(
        """SELECT batch, sum(octet_length(content))::bigint AS size FROM export_part
           WHERE batch = ANY({}) GROUP BY batch""",
        ids,
    )
    return {row["batch"]: row["size"] for row in rows}
