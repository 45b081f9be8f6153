"""Reads of the audit chain, each within one organisation."""

from typing import Any
from uuid import UUID

from portal.audit.schemas import AuditEntryView
from portal.audit.tables import AuditEntry
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of


async def list_entries(
    organization_id: UUID,
    *,
    kind: str | None = None,
    subject_kind: str | None = None,
    subject_id: str | None = None,
    correlation_id: str | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[AuditEntryView]:
    """Entries of the organisation, newest first, that match every filter given."""
    query = (
        AuditEntry.select()
        .where(AuditEntry.organization == organization_id)
        .order_by(AuditEntry.id, ascending=False)
        .limit(check_limit(limit) + 1)
        .output(load_json=True)
    )
    filters = {"kind": kind, "subject_kind": subject_kind, "subject_id": subject_id, "correlation_id": correlation_id}
    for name, value in filters.items():
        if value is not None:
            query = query.where(getattr(AuditEntry, name) == value)
    if cursor is not None:
        query = query.where(AuditEntry.id < decode_cursor(cursor))
    return page_of(await query, limit, _view)


async def list_story(organization_id: UUID, correlation_id: str) -> list[AuditEntryView]:
    """Everything that was written under one correlation id, in the order it happened; at most 500 entries."""
    rows = (
        await AuditEntry.select()
        .where(AuditEntry.organization == organization_id, AuditEntry.correlation_id == correlation_id)
        .order_by(AuditEntry.sequence)
        .limit(500)
        .output(load_json=True)
    )
    return [_view(row) for row in rows]


def _view(row: dict[str, Any]) -> AuditEntryView:
    shown = {name: row[name] for name in AuditEntryView.__struct_fields__}
    return AuditEntryView(
        **(shown | {"hash": bytes(row["hash"]).hex(), "previous_hash": bytes(row["previous_hash"]).hex()})
    )
