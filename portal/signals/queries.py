"""Reads of sources, signals and refused deliveries, each within one organisation."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from portal.db.columns import oldest_id
from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Count, Page, check_limit, decode_cursor, page_of
from portal.errors import InputInvalid, NotFound
from portal.settings import get_settings
from portal.signals.filters import counts_of
from portal.signals.health.tallies import counts_by_hour, counts_of_day
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.schemas import (
    HourCount,
    Reason,
    RejectedView,
    SecretView,
    SignalFilter,
    SignalItem,
    SignalView,
    SourceView,
)
from portal.signals.search import find_ids
from portal.signals.tables import SchemaFailure, SignalStatus, SourceStatus

MOST_COUNTED = 5_000
MOST_FOUND = 500
"""Signals that match a text and are counted."""
TROUBLED = [SignalStatus.QUARANTINED, SignalStatus.FAILED, SignalStatus.DEAD]

SOURCE_COLUMNS = """
    s.id, s.name, s.scheme, s.settings, s.status, s.body_cap_bytes, s.allowed_networks, s.rate_limit_per_minute,
    s.on_schema_failure, s.expected_every_seconds, s.created_at, s.updated_at,
    (SELECT g.received_at FROM signal g WHERE g.source = s.id ORDER BY g.id DESC LIMIT 1) AS last_signal_at"""

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
    rows = await run_sql(
        f"SELECT {SOURCE_COLUMNS} FROM source s WHERE s.organization = {{}} {where}",  # noqa: S608
        organization_id,
        *arguments,
    )
    counts = await counts_of_day([row["id"] for row in rows])
    secrets = await run_sql(
        """SELECT source, id, hint, created_at, last_used_at, ends_at FROM source_secret
           WHERE source = ANY({}) ORDER BY id DESC""",
        [row["id"] for row in rows],
    )
    by_source: dict[UUID, list[SecretView]] = {}
    for secret in secrets:
        by_source.setdefault(secret.pop("source"), []).append(SecretView(**secret))
    for row in rows:
        row["signals_24h"], row["rejected_24h"] = counts[row["id"]]
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
    before = decode_cursor(cursor) if cursor else None
    ids = await find_ids(organization_id, filter, before=before, limit=check_limit(limit) + 1)
    rows = await run_sql(f"{ITEMS} WHERE g.id = ANY({{}}) ORDER BY g.id DESC", ids) if ids else []
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
    statuses: Collection[SignalStatus] = tuple(SignalStatus),
) -> dict[SignalStatus, Count]:
    """How many signals match the filter (its own status aside) in each of `statuses`; each is there.

    Each is counted up to 5,000. Of a text, the newest 500 signals that match are counted.
    """
    filter = msgspec.structs.replace(filter, status=None)
    if filter.text is not None:
        ids = await find_ids(organization_id, filter, limit=MOST_FOUND + 1)
        rows = await run_sql("SELECT status, count(*) AS number FROM signal WHERE id = ANY({}) GROUP BY status", ids)
        return _counts(rows, statuses, capped=len(ids) > MOST_FOUND)
    counts = counts_of(organization_id, filter, statuses, most=MOST_COUNTED + 1)
    return _counts(await run_sql(counts.text, *counts.arguments), statuses)


def _counts(
    rows: list[dict[str, Any]], statuses: Collection[SignalStatus], *, capped: bool = False
) -> dict[SignalStatus, Count]:
    numbers = {row["status"]: row["number"] for row in rows}
    return {
        status: Count(min(number, MOST_COUNTED), capped=capped or number > MOST_COUNTED)
        for status in statuses
        for number in [numbers.get(status.value, 0)]
    }


async def list_signal_types(organization_id: UUID) -> list[str]:
    """The types of the organisation's signals, for a filter's choices; 200 of each source at most."""
    rows = await run_sql(
        """SELECT DISTINCT known.type FROM source s CROSS JOIN LATERAL (
               WITH RECURSIVE known (type) AS (
                   (SELECT g.type FROM signal g WHERE g.source = s.id ORDER BY g.type LIMIT 1)
                   UNION ALL
                   SELECT (SELECT g.type FROM signal g WHERE g.source = s.id AND g.type > known.type
                           ORDER BY g.type LIMIT 1) FROM known WHERE known.type IS NOT NULL)
               SELECT type FROM known WHERE type IS NOT NULL LIMIT 200) known
           WHERE s.organization = {} ORDER BY known.type""",
        organization_id,
    )
    return [row["type"] for row in rows]


async def signals_by_hour(organization_id: UUID, *, hours: int = 24, source_id: UUID | None = None) -> list[HourCount]:
    """Of all sources or of one: the last `hours` hours (1 to 168), the oldest first, empty hours included."""
    tallies = await counts_by_hour(organization_id, hours=hours, source_id=source_id)
    rows = await run_sql(
        """SELECT date_trunc('hour', found.received_at, 'UTC') AS hour, count(*) AS number
           FROM source s CROSS JOIN unnest({}::text[]) AS troubled (status) CROSS JOIN LATERAL (
               SELECT g.received_at FROM signal g
               WHERE g.source = s.id AND g.status = troubled.status AND g.id >= {} AND g.received_at >= {}
               ORDER BY g.id DESC LIMIT {}) found
           WHERE s.organization = {} AND s.id = coalesce({}, s.id) GROUP BY 1""",
        TROUBLED,
        oldest_id(tallies[0].hour - timedelta(minutes=1)),
        tallies[0].hour,
        MOST_COUNTED,
        organization_id,
        source_id,
    )
    troubled = {row["hour"]: row["number"] for row in rows}
    return [HourCount(each.hour, each.stored, troubled.get(each.hour, 0)) for each in tallies]


async def list_rejected_deliveries(
    organization_id: UUID,
    *,
    source_id: UUID | None = None,
    cause: str | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[RejectedView]:
    """Refused deliveries to one source or to all, of one cause or of any, the newest first.

    Of each source the newest 1,000 are kept whose signature was right, and the newest 1,000 others.
    """
    given = {
        "r.source = {}": source_id,
        "r.cause = {}": cause,
        "r.id < {}": decode_cursor(cursor) if cursor else None,
    }
    if cause and "\0" in cause:
        raise InputInvalid.at("/cause", "A cause has no character U+0000.")
    chosen = {condition: value for condition, value in given.items() if value is not None}
    where = " AND ".join(["r.source = s.id", *chosen])
    rows = await run_sql(
        f"""SELECT r.id, s.id AS source_id, s.name AS source_name, r.cause, r.detail, r.external_id, r.body_bytes,
                   r.ip, r.correlation_id, r.received_at
            FROM source s CROSS JOIN LATERAL (
                SELECT * FROM rejected_delivery r WHERE {where} ORDER BY r.id DESC LIMIT {{}}) r
            WHERE s.organization = {{}} ORDER BY r.id DESC LIMIT {{}}""",  # noqa: S608
        *chosen.values(),
        check_limit(limit) + 1,
        organization_id,
        limit + 1,
    )
    return page_of(rows, limit, lambda row: RejectedView(**row))


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    reasons = [
        Reason(item["message"], _rule_id(item), item.get("path")) for item in msgspec.json.decode(row["reasons"])
    ]
    return {**row, "status": SignalStatus(row["status"]), "reasons": reasons}


def _rule_id(item: dict[str, Any]) -> UUID | None:
    return UUID(item["rule_id"]) if item["rule_id"] else None
