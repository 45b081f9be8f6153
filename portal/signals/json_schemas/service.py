"""Schemas of signals: set and ended in versions, inferred from what has arrived, and tried on it."""

import asyncio
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, ActorKind
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict, NotFound, PreconditionFailed
from portal.signals.json_schemas.queries import checked, find_schema, get_schema_version
from portal.signals.json_schemas.validation import Validator, compile_schema, failures, infer_schema
from portal.signals.json_schemas.views import SchemaProposal, SchemaTrial, SignalSchemaView, TrialFailure
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.schemas import Reason
from portal.signals.tables import SignalStatus

MAX_SCHEMAS = 200
"""Types of one source that have a schema: the web processes keep them all in memory."""
LOOKED_AT = 200
LOOKED_AT_BYTES = 8 * 1024 * 1024
SHOWN_FAILURES = 10


class TooManySchemas(Conflict):
    title = "Enough types of this source have a schema"


class SchemaNotInferable(Conflict):
    title = "There is nothing to infer a schema from"


async def set_schema(
    actor: Actor, source_id: UUID, type: str, schema: dict[str, Any] | None, *, expected: datetime | None = None
) -> SignalSchemaView:
    """Check deliveries of a type against `schema` from now on, as its next version; None ends it.

    A schema that is in force already makes no version. Raises `InputInvalid` with the path within the schema,
    `TooManySchemas`, `NotFound` (no such source, or nothing to end), and `PreconditionFailed` if the source's
    `updated_at` is not `expected` any more.
    """
    actor.require(Permission.SOURCES_WRITE)
    checked(type)
    if schema is not None:
        await asyncio.to_thread(compile_schema, schema)
    async with transaction():
        await _lock_source(actor, source_id, expected)
        current = await find_schema(actor.organization_id, source_id, type)
        if current is None and schema is None:
            raise NotFound("Signals of this type have no schema.")
        if current is not None and _text_of(current.schema) == _text_of(schema):
            return current
        if current is None:
            await _check_room(source_id)
        id = await _append(actor, source_id, type, schema)
    return await get_schema_version(actor.organization_id, id)


async def infer(actor: Actor, source_id: UUID, type: str) -> SchemaProposal:
    """A schema that the newest signals of a type pass; nothing is stored. Raises `NotFound`, `SchemaNotInferable`."""
    actor.require(Permission.SOURCES_WRITE)
    actor.require(Permission.SIGNALS_READ)
    signals = await _newest(actor.organization_id, source_id, checked(type))
    return await asyncio.to_thread(_infer, type, signals)


async def try_schema(actor: Actor, source_id: UUID, type: str, schema: dict[str, Any]) -> SchemaTrial:
    """How many of the newest signals of a type `schema` would let pass, and why not the others; nothing is stored.

    Signals whose body has expired are left out. Raises `NotFound`, and `InputInvalid` with the path in the schema.
    """
    actor.require(Permission.SOURCES_WRITE)
    actor.require(Permission.SIGNALS_READ)
    signals = await _newest(actor.organization_id, source_id, checked(type))
    return await asyncio.to_thread(_try, type, schema, signals)


async def _lock_source(actor: Actor, source_id: UUID, expected: datetime | None) -> None:
    rows = await run_sql(
        "SELECT updated_at FROM source WHERE id = {} AND organization = {} FOR NO KEY UPDATE",
        source_id,
        actor.organization_id,
    )
    if not rows:
        raise NotFound("There is no such source.")
    if expected is not None and rows[0]["updated_at"] != expected:
        raise PreconditionFailed("The source was changed since you read it. Read it again, then decide.")


async def _check_room(source_id: UUID) -> None:
    rows = await run_sql(
        """SELECT count(*) AS count FROM (
               SELECT DISTINCT ON (type) schema FROM signal_schema WHERE source = {} ORDER BY type, number DESC) newest
           WHERE schema IS NOT NULL""",
        source_id,
    )
    if rows[0]["count"] >= MAX_SCHEMAS:
        raise TooManySchemas(f"{MAX_SCHEMAS} types of this source have a schema, which is the most. End another first.")


async def _append(actor: Actor, source_id: UUID, type: str, schema: dict[str, Any] | None) -> UUID:
    id, now = new_id(), clock.now()
    made = await run_sql(
        """INSERT INTO signal_schema (id, source, type, number, schema, created_by, created_at)
           SELECT {}, {}, {}, coalesce(max(number), 0) + 1, {}::jsonb, {}, {}
           FROM signal_schema WHERE source = {} AND type = {} RETURNING number""",
        id,
        source_id,
        type,
        None if schema is None else _text_of(schema),
        actor.id if actor.kind == ActorKind.MEMBER else None,
        now,
        source_id,
        type,
    )
    await run_sql("UPDATE source SET updated_at = {} WHERE id = {}", now, source_id)
    detail = {"type": type, "number": made[0]["number"], "schema_id": str(id), "ended": schema is None}
    await audit.append(actor, "source.schema_set", "source", source_id, detail)
    return id


def _text_of(schema: dict[str, Any] | None) -> str:
    """As JSON, each number with every digit."""
    return json.dumps(schema, sort_keys=True, allow_nan=False)


async def _newest(organization_id: UUID, source_id: UUID, type: str) -> list[dict[str, Any]]:
    """Of the newest signals of a type those that have a body, up to a sum of bytes that is read in a moment."""
    found = await run_sql("SELECT 1 AS one FROM source WHERE id = {} AND organization = {}", source_id, organization_id)
    if not found:
        raise NotFound("There is no such source.")
    # State by state, as the index on types has them, and in its order, which no other index has: however rare the type
    # or the state, nothing else is read.
    return await run_sql(
        f"""WITH newest AS (
                SELECT id, sum(body_bytes) OVER w AS bytes, row_number() OVER w AS rank
                FROM unnest({{}}::text[]) AS state (status) CROSS JOIN LATERAL (
                    SELECT id, body, body_bytes FROM signal
                    WHERE source = {{}} AND type = {{}} AND status BETWEEN state.status AND state.status
                    ORDER BY status DESC, id DESC LIMIT {LOOKED_AT}) g
                WHERE body IS NOT NULL
                WINDOW w AS (ORDER BY id DESC))
            SELECT g.id, g.external_id, g.received_at, g.body FROM signal g JOIN newest USING (id)
            WHERE rank <= {LOOKED_AT} AND (bytes <= {LOOKED_AT_BYTES} OR rank = 1) ORDER BY g.id DESC""",  # noqa: S608
        [status.value for status in SignalStatus],
        source_id,
        type,
    )


def _infer(type: str, signals: list[dict[str, Any]]) -> SchemaProposal:
    payloads = []
    for signal in signals:
        try:
            payloads.append(parse_payload(bytes(signal["body"])))
        except PayloadUnreadable:
            continue
    if not payloads:
        raise SchemaNotInferable("No signal of this type that can be read as JSON is kept. Send some, then ask again.")
    return SchemaProposal(type=type, signals=len(payloads), schema=infer_schema(payloads))


def _try(type: str, schema: dict[str, Any], signals: list[dict[str, Any]]) -> SchemaTrial:
    validator, failed = compile_schema(schema), []
    for signal in signals:
        if reasons := _reasons(validator, bytes(signal["body"])):
            failed.append(
                TrialFailure(
                    signal_id=signal["id"],
                    external_id=signal["external_id"],
                    received_at=signal["received_at"],
                    reasons=reasons,
                )
            )
    return SchemaTrial(
        type=type, signals=len(signals), passed=len(signals) - len(failed), failures=failed[:SHOWN_FAILURES]
    )


def _reasons(validator: Validator, body: bytes) -> list[Reason]:
    try:
        payload = parse_payload(body)
    except PayloadUnreadable as error:
        return [Reason(str(error))]
    return [Reason(str(failure["message"]), path=failure["path"]) for failure in failures(validator, payload)]
