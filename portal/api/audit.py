"""The audit chain, for reading."""

from typing import Annotated

from litestar import Router, get
from litestar.params import FromQuery, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import Acting, problems
from portal.audit import queries
from portal.audit.schemas import AuditEntryView
from portal.db.paging import Page

Kind = Annotated[str | None, QueryParameter(description="`noun.verb`, such as `action.approved`.")]


@get(
    "/audit-entries",
    summary="List audit entries",
    description="Who did what, the newest first. Each entry's hash covers the entry before it.",
    opt={"permission": Permission.AUDIT_READ},
    responses=problems(),
)
async def list_audit_entries(
    actor: Acting,
    *,
    kind: Kind = None,
    subject_kind: FromQuery[str | None] = None,
    subject_id: FromQuery[str | None] = None,
    correlation_id: FromQuery[str | None] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[AuditEntryView]:
    return await queries.list_entries(
        actor.organization_id,
        kind=kind,
        subject_kind=subject_kind,
        subject_id=subject_id,
        correlation_id=correlation_id,
        cursor=cursor,
        limit=limit,
    )


audit_router = Router("/", route_handlers=[list_audit_entries], tags=["Audit"])
