"""Reads of the schemas of signals, each within one organisation."""

from typing import Any
from uuid import UUID

import msgspec

from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of
from portal.errors import InputInvalid, NotFound
from portal.signals.json_schemas.views import SignalSchemaView, TypeView
from portal.signals.schemes import TYPE

NEWEST = 5000
"""Signals of a source that its types are counted in."""

VIEW = """
    SELECT v.id, v.source AS source_id, v.type, v.number, v.schema, person.email AS created_by, v.created_at,
           v.number = (SELECT max(number) FROM signal_schema n WHERE n.source = v.source AND n.type = v.type)
               AND v.schema IS NOT NULL AS in_force
    FROM signal_schema v JOIN source s ON s.id = v.source
         LEFT JOIN member m ON m.id = v.created_by LEFT JOIN person ON person.id = m.person"""


async def list_schemas(organization_id: UUID, source_id: UUID) -> list[SignalSchemaView]:
    """The schemas in force of a source, by type."""
    rows = await run_sql(
        f"SELECT * FROM ({VIEW} WHERE s.organization = {{}} AND s.id = {{}}) v WHERE in_force ORDER BY type",  # noqa: S608
        organization_id,
        source_id,
    )
    return [_view(row) for row in rows]


async def list_types(organization_id: UUID, source_id: UUID) -> list[TypeView]:
    """The types of a source's newest 5,000 signals, and those that have a schema; the most frequent first."""
    rows = await run_sql(
        f"""SELECT type, count(*) AS signals, max(received_at) AS last_at FROM (
                SELECT g.type, g.received_at FROM signal g
                WHERE g.source = (SELECT id FROM source WHERE id = {{}} AND organization = {{}})
                ORDER BY g.id DESC LIMIT {NEWEST}) newest GROUP BY type""",  # noqa: S608
        source_id,
        organization_id,
    )
    in_force = {schema.type: schema for schema in await list_schemas(organization_id, source_id)}
    found = [TypeView(**row, schema_number=_number_of(in_force.pop(row["type"], None))) for row in rows]
    found += [
        TypeView(type=schema.type, signals=0, last_at=None, schema_number=schema.number) for schema in in_force.values()
    ]
    return sorted(found, key=lambda each: (-each.signals, each.type))


def _number_of(schema: SignalSchemaView | None) -> int | None:
    return schema.number if schema else None


async def find_schema(organization_id: UUID, source_id: UUID, type: str) -> SignalSchemaView | None:
    """The version in force of a type's schema. Raises `InputInvalid` for what cannot be a type."""
    rows = await run_sql(
        f"SELECT * FROM ({VIEW} WHERE s.organization = {{}} AND s.id = {{}} AND v.type = {{}}) v WHERE in_force",  # noqa: S608
        organization_id,
        source_id,
        checked(type),
    )
    return _view(rows[0]) if rows else None


async def get_schema(organization_id: UUID, source_id: UUID, type: str) -> SignalSchemaView:
    """The version in force of a type's schema. Raises `NotFound` where it has none, and `InputInvalid`."""
    found = await find_schema(organization_id, source_id, type)
    if found is None:
        raise NotFound("Signals of this type have no schema.")
    return found


async def get_schema_version(organization_id: UUID, schema_id: UUID) -> SignalSchemaView:
    """One version, in force or not. Raises `NotFound`."""
    rows = await run_sql(f"{VIEW} WHERE s.organization = {{}} AND v.id = {{}}", organization_id, schema_id)
    if not rows:
        raise NotFound("There is no such version of a schema.")
    return _view(rows[0])


async def list_schema_versions(
    organization_id: UUID, source_id: UUID, type: str, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[SignalSchemaView]:
    """All versions of one type's schema, the newest first. Raises `InputInvalid` for what cannot be a type."""
    where, arguments = "s.organization = {} AND s.id = {} AND v.type = {}", [organization_id, source_id, checked(type)]
    if cursor:
        where, arguments = f"{where} AND v.id < {{}}", [*arguments, decode_cursor(cursor)]
    rows = await run_sql(f"{VIEW} WHERE {where} ORDER BY v.id DESC LIMIT {{}}", *arguments, check_limit(limit) + 1)
    return page_of(rows, limit, _view)


def checked(type: str) -> str:
    """The name of a type. Raises `InputInvalid` for one that no signal can have."""
    if not TYPE.fullmatch(type):
        raise InputInvalid.at("/type", "A type has up to 128 letters, digits and _ . : / -, a letter or digit first.")
    return type


def _view(row: dict[str, Any]) -> SignalSchemaView:
    schema = msgspec.json.decode(row["schema"]) if row["schema"] is not None else None
    return SignalSchemaView(**{**row, "schema": schema})
