"""Reads of sources, signals and refused deliveries, each within one organisation."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.db.columns import oldest_id
from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of
from portal.errors import InputInvalid, NotFound
from portal.settings import get_settings
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.schemas import (
    DEFAULT_BODY_BYTES,
    HourCount,
    Reason,
    RejectedView,
    SecretView,
    SignalFilter,
    SignalItem,
    SignalView,
    SourceView,
)
from portal.signals.tables import SchemaFailure, SignalStatus, SourceStatus

SOURCE_COLUMNS = """
    s.id, s.name, s.scheme, s.settings, s.status, s.body_cap_bytes, s.allowed_networks, s.rate_limit_per_minute,
    s.on_schema_failure, s.expected_every_seconds, s.created_at, s.updated_at,
    (SELECT g.received_at FROM signal g WHERE g.source = s.id ORDER BY g.id DESC LIMIT 1) AS last_signal_at,
    (SELECT count(*) FROM signal g WHERE g.source = s.id AND g.id > {}) AS signals_24h,
    (SELECT count(*) FROM rejected_delivery r WHERE r.source = s.id AND r.id > {}) AS rejected_24h"""

ITEMS = """
    SELECT g.id, g.source AS source_id, s.name AS source_name, g.external_id, g.type, g.status, g.reasons,
           g.body_bytes, g.correlation_id, g.received_at, g.assessed_at
    FROM signal g JOIN source s ON s.id = g.source"""


async def get_source(organization_id: UUID, source_id: UUID) -> SourceView:
    """Raises `NotFound`."""
    found = await _sources(organization_id, "AND s.id = {}", source_id)
    if not found:
        raise NotFound("There is no such source.")
    return _source(found[0])


async def list_sources(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[SourceView]:
    """Sources, the newest first."""
    where, arguments = ("AND s.id < {}", [decode_cursor(cursor)]) if cursor else ("", list[Any]())
    rows = await _sources(organization_id, f"{where} ORDER BY s.id DESC LIMIT {{}}", *arguments, check_limit(limit) + 1)
    return page_of(rows, limit, _source)


async def _sources(organization_id: UUID, where: str, *arguments: Any) -> list[dict[str, Any]]:
    day_ago = oldest_id(clock.now() - timedelta(hours=24))
    rows = await run_sql(
        f"SELECT {SOURCE_COLUMNS} FROM source s WHERE s.organization = {{}} {where}",  # noqa: S608
        day_ago,
        day_ago,
        organization_id,
        *arguments,
    )
    secrets = await run_sql(
        """SELECT source, id, hint, created_at, last_used_at, ends_at FROM source_secret
           WHERE source = ANY({}) ORDER BY id DESC""",
        [row["id"] for row in rows],
    )
    by_source: dict[UUID, list[SecretView]] = {}
    for secret in secrets:
        by_source.setdefault(secret.pop("source"), []).append(SecretView(**secret))
    return [{**row, "secrets": by_source.get(row["id"], [])} for row in rows]


def _source(row: dict[str, Any]) -> SourceView:
    url = f"{get_settings().public_url}/api/v1/sources/{row['id']}/signals"
    typed = {
        "settings": msgspec.json.decode(row["settings"]),
        "status": SourceStatus(row["status"]),
        "allowed_networks": msgspec.json.decode(row["allowed_networks"]),
        "on_schema_failure": SchemaFailure(row["on_schema_failure"]),
    }
    return SourceView(**{**row, **typed}, url=url)


async def find_body_cap(source_id: UUID) -> int:
    """How many bytes a delivery to this address may have; the default for what is no source."""
    rows = await run_sql("SELECT body_cap_bytes FROM source WHERE id = {}", source_id)
    return int(rows[0]["body_cap_bytes"]) if rows else DEFAULT_BODY_BYTES


async def get_signal(organization_id: UUID, signal_id: UUID) -> SignalView:
    """One signal with its body. Raises `NotFound`."""
    rows = await run_sql(
        """SELECT g.id, g.source AS source_id, s.name AS source_name, s.scheme, g.external_id, g.type, g.status,
                  g.reasons, g.content_type, g.body, g.body_bytes, g.body_digest, g.schema AS schema_id,
                  g.secret AS secret_id, k.hint AS secret_hint, g.skew_ms, g.correlation_id, g.received_at,
                  g.assessed_at
           FROM signal g JOIN source s ON s.id = g.source LEFT JOIN source_secret k ON k.id = g.secret
           WHERE g.id = {} AND g.organization = {}""",
        signal_id,
        organization_id,
    )
    if not rows:
        raise NotFound("There is no such signal.")
    row = _typed(rows[0])
    body = bytes(row["body"]) if row["body"] is not None else None
    try:
        payload = parse_payload(body) if body is not None else None
    except PayloadUnreadable:
        payload = None
    text = body.decode(errors="replace") if body is not None else None
    return SignalView(
        **{**row, "body": text, "body_digest": bytes(row["body_digest"]).hex()},
        payload=payload,
        body_expired=body is None,
    )


async def list_signals(
    organization_id: UUID,
    filter: SignalFilter = SignalFilter(),  # noqa: B008  frozen
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[SignalItem]:
    """Signals that match the filter, the newest first."""
    where, arguments = conditions_of(organization_id, filter)
    if cursor:
        where, arguments = f"{where} AND g.id < {{}}", [*arguments, decode_cursor(cursor)]
    rows = await run_sql(
        f"{ITEMS} WHERE {where} ORDER BY g.id DESC LIMIT {{}}",
        *arguments,
        check_limit(limit) + 1,
    )
    return page_of(rows, limit, lambda row: SignalItem(**_typed(row)))


async def find_signals(organization_id: UUID, ids: Sequence[UUID]) -> list[SignalItem]:
    """Those of the signals that there are, the newest first."""
    rows = await run_sql(
        f"{ITEMS} WHERE g.organization = {{}} AND g.id = ANY({{}}) ORDER BY g.id DESC", organization_id, ids
    )
    return [SignalItem(**_typed(row)) for row in rows]


async def count_signals_by_status(
    organization_id: UUID,
    filter: SignalFilter = SignalFilter(),  # noqa: B008  frozen
) -> dict[SignalStatus, int]:
    """How many signals match the filter (its own status aside) in each status; every status is there."""
    where, arguments = conditions_of(organization_id, msgspec.structs.replace(filter, status=None))
    rows = await run_sql(
        f"SELECT g.status, count(*) AS count FROM signal g WHERE {where} GROUP BY g.status",  # noqa: S608
        *arguments,
    )
    found = {row["status"]: row["count"] for row in rows}
    return {status: found.get(status.value, 0) for status in SignalStatus}


async def list_signal_types(organization_id: UUID) -> list[str]:
    """The types of the newest 10,000 signals, for a filter's choices."""
    rows = await run_sql(
        """SELECT DISTINCT type FROM (
               SELECT type FROM signal WHERE organization = {} ORDER BY id DESC LIMIT 10000) newest ORDER BY type""",
        organization_id,
    )
    return [row["type"] for row in rows]


async def signals_by_hour(organization_id: UUID, *, hours: int = 24) -> list[HourCount]:
    """Counts of the last `hours` hours (1 to 168), the oldest first, the current hour last, empty hours included."""
    if not 1 <= hours <= 168:
        raise InputInvalid.at("/hours", "The number of hours must be between 1 and 168.")
    now = clock.now()
    rows = await run_sql(
        """WITH hours AS (
               SELECT generate_series(date_trunc('hour', {}::timestamptz, 'UTC') - ({}::int - 1) * interval '1 hour',
                                      date_trunc('hour', {}::timestamptz, 'UTC'), interval '1 hour') AS hour),
           counted AS (
               SELECT date_trunc('hour', received_at, 'UTC') AS hour, count(*) AS count,
                      count(*) FILTER (WHERE status IN ('quarantined', 'failed', 'dead')) AS troubled
               FROM signal WHERE organization = {} AND id > {} AND received_at >= (SELECT min(hour) FROM hours)
               GROUP BY 1)
           SELECT hours.hour, coalesce(count, 0) AS count, coalesce(troubled, 0) AS troubled
           FROM hours LEFT JOIN counted USING (hour) ORDER BY hours.hour""",
        now,
        hours,
        now,
        organization_id,
        oldest_id(now - timedelta(hours=hours + 1)),
    )
    return [HourCount(**row) for row in rows]


async def list_rejected_deliveries(
    organization_id: UUID, *, source_id: UUID | None = None, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[RejectedView]:
    """Refused deliveries to one source or to all, the newest first; the newest 1,000 of each source are kept."""
    where, arguments = "r.organization = {}", [organization_id]
    if source_id:
        where, arguments = f"{where} AND r.source = {{}}", [*arguments, source_id]
    if cursor:
        where, arguments = f"{where} AND r.id < {{}}", [*arguments, decode_cursor(cursor)]
    rows = await run_sql(
        f"""SELECT r.id, r.source AS source_id, s.name AS source_name, r.cause, r.detail, r.external_id, r.body_bytes,
                   r.ip, r.correlation_id, r.received_at
            FROM rejected_delivery r JOIN source s ON s.id = r.source
            WHERE {where} ORDER BY r.id DESC LIMIT {{}}""",  # noqa: S608
        *arguments,
        check_limit(limit) + 1,
    )
    return page_of(rows, limit, lambda row: RejectedView(**row))


def conditions_of(organization_id: UUID, filter: SignalFilter) -> tuple[str, list[Any]]:
    """What `filter` says, in SQL over `signal g`, and its arguments. Raises `InputInvalid`."""
    given = {
        "g.status = {}": filter.status.value if filter.status else None,
        "g.source = {}": filter.source_id,
        "g.type = {}": filter.type,
        "g.external_id = {}": filter.external_id,
        "g.correlation_id = {}": filter.correlation_id,
        # Bytes in bytes: no body, whatever it holds, can make the search fail.
        "position({}::bytea IN g.body) > 0": filter.text.encode() if filter.text else None,
        "g.received_at >= {}": clock.in_utc(filter.since, path="/since") if filter.since else None,
        "g.received_at < {}": clock.in_utc(filter.until, path="/until") if filter.until else None,
    }
    for value in given.values():
        if isinstance(value, str) and "\0" in value:
            raise InputInvalid.at("", "A filter must not contain the character U+0000.")
    chosen = {condition: value for condition, value in given.items() if value is not None}
    return " AND ".join(["g.organization = {}", *chosen]), [organization_id, *chosen.values()]


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    reasons = [
        Reason(item["message"], _rule_id(item), item.get("path")) for item in msgspec.json.decode(row["reasons"])
    ]
    return {**row, "status": SignalStatus(row["status"]), "reasons": reasons}


def _rule_id(item: dict[str, Any]) -> UUID | None:
    return UUID(item["rule_id"]) if item["rule_id"] else None
