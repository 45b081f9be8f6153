"""Reads of rules and their versions."""

from typing import Any
from uuid import UUID

import msgspec

from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of
from portal.errors import NotFound
from portal.rules.schemas import RuleVersionView, RuleView
from portal.rules.tables import RuleStatus

VERSION = """SELECT v.rule, v.id, v.number, v.condition, v.subject, v.contract AS contract_id, c.name AS contract_name,
                    v.function, v.arguments, v.policy AS policy_id, p.name AS policy_name,
                    person.email AS created_by, v.created_at
             FROM rule_version v JOIN contract c ON c.id = v.contract JOIN policy p ON p.id = v.policy
                  LEFT JOIN member m ON m.id = v.created_by LEFT JOIN person ON person.id = m.person"""


async def get_rule(organization_id: UUID, rule_id: UUID) -> RuleView:
    """Raises `NotFound`."""
    found = await _rules("r.organization = {} AND r.id = {}", organization_id, rule_id)
    if not found:
        raise NotFound("There is no such rule.")
    return _view(found[0])


async def list_rules(
    organization_id: UUID,
    *,
    source_id: UUID | None = None,
    status: RuleStatus | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[RuleView]:
    """Rules, the newest first."""
    where, arguments = "r.organization = {}", list[Any]([organization_id])
    if source_id:
        where, arguments = f"{where} AND r.source = {{}}", [*arguments, source_id]
    if status:
        where, arguments = f"{where} AND r.status = {{}}", [*arguments, status.value]
    if cursor:
        where, arguments = f"{where} AND r.id < {{}}", [*arguments, decode_cursor(cursor)]
    rows = await _rules(f"{where} ORDER BY r.id DESC LIMIT {{}}", *arguments, check_limit(limit) + 1)
    return page_of(rows, limit, _view)


async def list_rule_versions(organization_id: UUID, rule_id: UUID) -> list[RuleVersionView]:
    """All versions of a rule, the newest first. Raises `NotFound`."""
    await get_rule(organization_id, rule_id)
    rows = await run_sql(f"{VERSION} WHERE v.rule = {{}} ORDER BY v.number DESC", rule_id)
    return [_version(row) for row in rows]


async def _rules(where: str, *arguments: Any) -> list[dict[str, Any]]:
    rows = await run_sql(
        f"""SELECT r.id, r.name, r.status, r.source AS source_id, s.name AS source_name, r.published_number,
                   r.created_at, r.updated_at
            FROM rule r JOIN source s ON s.id = r.source WHERE {where}""",  # noqa: S608
        *arguments,
    )
    versions = await run_sql(
        f"SELECT DISTINCT ON (rule) * FROM ({VERSION} WHERE v.rule = ANY({{}})) newest ORDER BY rule, number DESC",  # noqa: S608
        [row["id"] for row in rows],
    )
    latest = {version["rule"]: _version(version) for version in versions}
    return [{**row, "latest": latest[row["id"]]} for row in rows]


def _view(row: dict[str, Any]) -> RuleView:
    return RuleView(**{**row, "status": RuleStatus(row["status"])})


def _version(row: dict[str, Any]) -> RuleVersionView:
    fields = {name: value for name, value in row.items() if name != "rule"}
    return RuleVersionView(**{**fields, "arguments": msgspec.json.decode(row["arguments"])})
