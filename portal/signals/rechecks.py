"""Quarantined signals, checked against the schema that is in force now: what passes is assessed like any other."""

import asyncio
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from portal.accounts.schemas import Actor
from portal.db.engine import run_sql
from portal.signals import batches, json_schemas
from portal.signals.batch_schemas import BatchView, SignalSelection
from portal.signals.batches import Batch, Slice
from portal.signals.json_schemas import Validator
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.selections import count_selected, next_ids
from portal.signals.tables import BatchKind, SignalStatus
from portal.signals.words import words_of

MOST_COUNTED = 1_000_000
SLICE_SIGNALS = 500
SLICE_BYTES = 4 * 1024 * 1024


async def start_recheck(actor: Actor, selection: SignalSelection) -> BatchView:
    """Let a worker check the selected signals that are in quarantine. Raises `TooManyBatches`, `InputInvalid`."""
    actor.require(batches.NEEDS[BatchKind.RECHECK])
    if selection.filter is not None:
        quarantined = msgspec.structs.replace(selection.filter, status=SignalStatus.QUARANTINED)
        selection = SignalSelection(filter=quarantined)
    total = await count_selected(actor.organization_id, selection, most=MOST_COUNTED)
    return await batches.start(actor, BatchKind.RECHECK, selection, total)


async def recheck_slice(batch: Batch) -> Slice:
    """Check the next signals; those that pass are `received`, the others get their reasons anew."""
    ids, more = await next_ids(
        batch.organization_id,
        msgspec.convert(batch.given, SignalSelection),
        until=batch.until,
        position=batch.position,
        most=SLICE_SIGNALS,
        max_bytes=SLICE_BYTES,
    )
    rows = await run_sql(
        """SELECT id, source, type, body FROM signal
           WHERE id = ANY({}) AND status = 'quarantined' AND body IS NOT NULL ORDER BY id FOR UPDATE""",
        ids,
    )
    in_force = await _schemas_in_force(list({row["source"] for row in rows}))
    # In a thread, where it keeps nobody waiting: it touches no database.
    checked = await asyncio.to_thread(lambda: [_check(row, in_force) for row in rows])
    await _write(checked)
    released = sum(each.status is SignalStatus.RECEIVED for each in checked)
    return Slice(done=ids, changed=released, more=more, wakes="assess_signals" if released else None)


class Checked(msgspec.Struct, frozen=True):
    """What a signal is now."""

    id: UUID
    status: SignalStatus
    reasons: list[dict[str, Any]]
    schema_id: UUID | None
    words: list[str] | None
    """None where the body cannot be read."""


def _check(row: dict[str, Any], in_force: dict[tuple[UUID, str], tuple[UUID, str]]) -> Checked:
    try:
        payload = parse_payload(bytes(row["body"]))
    except PayloadUnreadable as error:
        reason = {"rule_id": None, "path": None, "message": str(error)}
        return Checked(row["id"], SignalStatus.QUARANTINED, [reason], None, None)
    schema_id, reasons = None, list[dict[str, Any]]()
    if found := in_force.get((row["source"], row["type"])):
        schema_id, schema = found
        reasons = list[dict[str, Any]](json_schemas.failures(_compiled(schema), payload))
    status = SignalStatus.QUARANTINED if reasons else SignalStatus.RECEIVED
    return Checked(row["id"], status, reasons, schema_id, words_of(payload))


@lru_cache(maxsize=64)
def _compiled(schema: str) -> Validator:
    return json_schemas.compile_schema(msgspec.json.decode(schema))


async def _schemas_in_force(source_ids: list[UUID]) -> dict[tuple[UUID, str], tuple[UUID, str]]:
    """By source and type: the id of the schema and its text."""
    rows = await run_sql(
        """SELECT DISTINCT ON (source, type) source, type, id, schema FROM signal_schema
           WHERE source = ANY({}) ORDER BY source, type, number DESC""",
        source_ids,
    )
    return {(row["source"], row["type"]): (row["id"], row["schema"]) for row in rows if row["schema"] is not None}


async def _write(checked: list[Checked]) -> None:
    await run_sql(
        """UPDATE signal SET status = made.status, reasons = made.reasons::jsonb, schema = made.schema,
                             words = coalesce(signal.words, (SELECT array_agg(word) FROM jsonb_array_elements_text(
                                 made.words::jsonb) AS word))
           FROM unnest({}::uuid[], {}::text[], {}::text[], {}::uuid[], {}::text[])
                AS made (id, status, reasons, schema, words)
           WHERE signal.id = made.id""",
        [each.id for each in checked],
        [each.status.value for each in checked],
        [msgspec.json.encode(each.reasons).decode() for each in checked],
        [each.schema_id for each in checked],
        [msgspec.json.encode(each.words or []).decode() for each in checked],
    )
