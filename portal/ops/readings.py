"""What health checks and metrics read from the rows: few queries, each bounded in what it scans."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.chain.schemas import EndpointView
from portal.db.columns import oldest_id
from portal.db.engine import run_sql

RECENT = timedelta(minutes=5)
"""Short, so that a scrape under load counts what fits into a moment."""

DISPLACED_SINCE = timedelta(days=7)
"""So long a displaced transaction is a matter for whoever looks at the health."""


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """What one sending signer held of one chain's native currency when a worker last read it; None where none did."""

    signer_id: UUID
    name: str
    address: str | None
    trouble: str | None
    """Why it cannot sign just now."""
    chain_id: int | None
    currency: str | None
    balance_wei: int | None
    read_at: datetime | None
    low_balance_wei: int | None
    """Below this it is an alarm; None where nobody asked for one."""


async def read_chains() -> list[dict[str, Any]]:
    """All chains, with how the watcher last saw their nodes."""
    rows = await run_sql(
        """SELECT id, name, head_number, head_at, final_number, paused_at, watched_at,
                  coalesce(endpoints, '[]') AS endpoints FROM chain ORDER BY id"""
    )
    return [{**row, "endpoints": msgspec.json.decode(row["endpoints"], type=list[EndpointView])} for row in rows]


async def read_transactions(organization_id: UUID) -> dict[str, Any]:
    """How many are under way, held, suspect and lately displaced, and since when the oldest one sent is not mined."""
    rows = await run_sql(
        """SELECT count(*) AS under_way, count(t.reason) AS held,
                  count(*) FILTER (WHERE t.status = 'suspect') AS suspect,
                  min(t.broadcast_at) FILTER (WHERE t.status IN ('broadcast', 'closing', 'suspect')) AS oldest_sent_at,
                  (SELECT count(*) FROM transaction d WHERE d.organization = {} AND d.status = 'displaced'
                   AND d.suspect_since >= {}) AS displaced
           FROM lane l JOIN transaction t ON t.lane = l.id
           WHERE l.organization = {}
             AND t.status NOT IN ('finalized', 'refused', 'rejected', 'expired', 'cancelled', 'displaced')""",
        organization_id,
        clock.now() - DISPLACED_SINCE,
        organization_id,
    )
    return rows[0]


async def read_sealing_keys() -> dict[str, int]:
    """How many keys of signers are encrypted with each sealing key, by its id; numbers end at 10,000.

    The ids are found one after the other in the index: there may be a key for each end user.
    """
    rows = await run_sql(
        """WITH RECURSIVE known AS (
             SELECT min(sealed_with) AS id FROM signer
             UNION ALL SELECT (SELECT min(sealed_with) FROM signer WHERE sealed_with > known.id) FROM known
             WHERE known.id IS NOT NULL)
           SELECT id,
                  (SELECT count(*) FROM (SELECT FROM signer WHERE sealed_with = known.id LIMIT 10000) AS few) AS count
           FROM known WHERE id IS NOT NULL"""
    )
    return {row["id"]: row["count"] for row in rows}


async def read_sources(organization_id: UUID) -> list[dict[str, Any]]:
    """Sources of the organisation with the time of the last signal of each, and how its pulls fail."""
    return await run_sql(
        """SELECT source.id, source.name, source.status, source.quiet_since, source.expected_every_seconds,
                  last.received_at AS last_signal_at, coalesce(pull.failures, 0) AS failures, pull.error
           FROM source LEFT JOIN pull ON pull.source = source.id LEFT JOIN LATERAL
             (SELECT received_at FROM signal WHERE signal.source = source.id ORDER BY id DESC LIMIT 1) last ON true
           WHERE source.organization = {} ORDER BY source.name LIMIT 200""",
        organization_id,
    )


async def read_silences() -> list[dict[str, Any]]:
    """Active sources of all organisations, with the last signal of each; first those that are expected to be heard."""
    return await run_sql(
        """SELECT source.id, source.quiet_since, last.received_at AS last_signal_at
           FROM (SELECT id, quiet_since, expected_every_seconds FROM source WHERE status = 'active'
                 ORDER BY expected_every_seconds IS NULL, id DESC LIMIT 500) source LEFT JOIN LATERAL
             (SELECT received_at FROM signal WHERE signal.source = source.id ORDER BY id DESC LIMIT 1) last ON true"""
    )


async def read_balances(organization_id: UUID) -> list[Balance]:
    """Balances of the signers that send, on each chain where they have a contract, as a worker reads them every minute.

    Who sends nothing yet, and so needs nothing, is left out.
    """
    rows = await run_sql(
        """SELECT DISTINCT signer.id AS signer_id, signer.name, signer.address, signer.trouble,
                  chain.id AS chain_id, chain.currency, signer.low_balance_wei, r.balance_wei, r.read_at
           FROM signer LEFT JOIN contract
                  ON contract.signer = signer.id OR contract.signer_group = signer.signer_group
                LEFT JOIN chain ON chain.id = contract.chain
                LEFT JOIN signer_reading r ON r.signer = signer.id AND r.chain = chain.id
           WHERE signer.organization = {} AND signer.purpose = 'sends' AND signer.status <> 'disabled'
             AND (chain.id IS NOT NULL OR signer.address IS NULL OR signer.trouble IS NOT NULL)
           ORDER BY signer.name LIMIT 50""",
        organization_id,
    )
    amounts = ("balance_wei", "low_balance_wei")
    return [Balance(**row | {name: None if row[name] is None else int(row[name]) for name in amounts}) for row in rows]


async def read_signals() -> list[dict[str, Any]]:
    """Signals of the last five minutes by outcome, and all that wait."""
    return await run_sql(
        """SELECT status, count(*) AS count FROM signal WHERE id >= {} AND status <> 'received' GROUP BY status
           UNION ALL SELECT 'received', count(*) FROM signal WHERE status = 'received'""",
        oldest_id(clock.now() - RECENT),
    )


async def read_stages() -> list[dict[str, Any]]:
    """How long each stage took for what went through it of late: median and 95th percentile in seconds."""
    stages = {
        "received_to_assessed": ("signal", "received_at", "assessed_at"),
        "proposed_to_decided": ("action", "proposed_at", "decided_at"),
        "queued_to_broadcast": ("transaction", "queued_at", "broadcast_at"),
        "broadcast_to_mined": ("transaction", "broadcast_at", "mined_at"),
        "mined_to_confirmed": ("transaction", "mined_at", "confirmed_at"),
    }
    since = oldest_id(clock.now() - RECENT)
    parts = [
        f"""SELECT '{stage}' AS stage,
                   percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median,
                   percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS p95
            FROM (SELECT extract(epoch FROM {end} - {start})::float8 AS seconds FROM {table}
                  WHERE id >= {{}} AND {end} IS NOT NULL ORDER BY id DESC LIMIT 1000) recent"""  # noqa: S608
        for stage, (table, start, end) in stages.items()
    ]
    return await run_sql(" UNION ALL ".join(parts), *([since] * len(stages)))
