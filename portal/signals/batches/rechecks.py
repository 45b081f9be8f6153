"""Quarantined signals, checked against the schema that is in force now: what passes is assessed like any other."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec

from portal.accounts.schemas import Actor
from portal.db.engine import run_sql
from portal.signals.batches import service as batches
from portal.signals.batches.schemas import BatchView, SignalSelection
from portal.signals.batches.selections import count_selected, next_ids
from portal.signals.batches.service import Batch, Slice
from portal.signals.intake.senders import SchemaInForce, load_sender
from portal.signals.json_schemas import validation
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.tables import BatchKind, SignalStatus
from portal.signals.words import words_of

SLICE_SIGNALS = 500
SLICE_BYTES = 4 * 1024 * 1024


async def start_recheck(actor: Actor, selection: SignalSelection) -> BatchView:
    """Let a worker check the selected signals that are in quarantine. Raises `TooManyBatches`, `InputInvalid`."""
    actor.require(batches.NEEDS[BatchKind.RECHECK])
    if selection.filter is not None:
        quarantined = msgspec.structs.replace(selection.filter, status=SignalStatus.QUARANTINED)
        selection = msgspec.structs.replace(selection, filter=quarantined)
    total = await count_selected(actor.organization_id, selection)
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
        """SELECT id, source, type, body, reasons, secret IS NULL AS pulled FROM signal
           WHERE id = ANY({}) AND status = 'quarantined' AND body IS NOT NULL ORDER BY id FOR UPDATE""",
        ids,
    )
    senders = {id: await load_sender(id) for id in {row["source"] for row in rows}}
    in_force = {id: sender.schemas for id, sender in senders.items() if sender}
    # In a thread, where it keeps nobody waiting: it touches no database.
    checked = await asyncio.to_thread(lambda: [_check(row, in_force[row["source"]]) for row in rows])
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


def _check(row: dict[str, Any], in_force: dict[str, SchemaInForce]) -> Checked:
    schema = in_force.get(row["type"])
    try:
        payload = parse_payload(bytes(row["body"]))
    except PayloadUnreadable as error:
        reason = {"rule_id": None, "path": None, "message": str(error)}
        return Checked(row["id"], SignalStatus.QUARANTINED, [reason], schema.id if schema else None, None)
    reasons = _troubles(row)
    if schema:
        reasons += validation.failures(schema.validator, payload)
    status = SignalStatus.QUARANTINED if reasons else SignalStatus.RECEIVED
    return Checked(row["id"], status, reasons, schema.id if schema else None, words_of(payload))


def _troubles(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What was wrong with a fact when it was pulled: no schema can mend that. Failures of a schema have a path."""
    reasons: list[dict[str, Any]] = msgspec.json.decode(row["reasons"])
    return [reason for reason in reasons if row["pulled"] and reason.get("path") is None]


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
