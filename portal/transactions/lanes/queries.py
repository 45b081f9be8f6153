"""Reads of lanes: who sends where, how far each is, and which do not move."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, encode_cursor, page_of
from portal.errors import NotFound
from portal.transactions.controls.pauses import find_pauses
from portal.transactions.queries import find_transactions_of_actions
from portal.transactions.schemas import TransactionView
from portal.transactions.states import UNMINED
from portal.transactions.tables import TransactionStatus as Status

STOPPABLE = (Status.QUEUED, Status.NONCED)
"""What a pause keeps from being signed."""

# What leads lane `l` holds the lowest nonce that the chain has not used, or waits longest where nothing holds one.
# OFFSET keeps the few open ones from being looked for among all nonces that ever were.
HEAD = """(
    (SELECT * FROM (
        SELECT t.* FROM transaction t
        WHERE t.lane = l.id AND t.status IN ('nonced', 'signed', 'broadcast', 'closing', 'suspect') OFFSET 0
    ) holding ORDER BY nonce LIMIT 1)
    UNION ALL
    (SELECT * FROM (SELECT t.* FROM transaction t WHERE t.lane = l.id AND t.status = 'queued' OFFSET 0) waiting
     ORDER BY id LIMIT 1)
    LIMIT 1)"""
# It has not moved since the one before it was mined, at the latest since a node first had it.
STILL_SINCE = """greatest(coalesce(head.broadcast_at, head.queued_at), (
    SELECT o.mined_at FROM transaction o
    WHERE o.lane = l.id AND o.nonce IS NOT NULL AND o.mined_at IS NOT NULL ORDER BY o.nonce DESC LIMIT 1))"""
LANES = f"""
    SELECT l.id, l.signer AS signer_id, s.name AS signer_name, s.address AS signer_address,
           l.chain AS chain_id, c.name AS chain_name, c.in_flight_limit,
           CASE WHEN l.held_until > now() THEN l.held_by END AS held_by,
           CASE WHEN l.held_until > now() THEN l.held_until END AS held_until,
           l.next_nonce, l.stuck_since, r.transaction_count AS chain_nonce, r.read_at AS chain_nonce_at,
           waiting.in_flight, waiting.queued, head.action AS head_action,
           {STILL_SINCE} AS still_since
    FROM lane l JOIN signer s ON s.id = l.signer JOIN chain c ON c.id = l.chain
    LEFT JOIN signer_reading r ON r.signer = l.signer AND r.chain = l.chain
    LEFT JOIN LATERAL {HEAD} head ON true
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE t.status <> 'queued') AS in_flight,
               count(*) FILTER (WHERE t.status = 'queued') AS queued
        FROM transaction t
        WHERE t.lane = l.id AND t.status IN ('queued', 'nonced', 'signed', 'broadcast', 'closing', 'suspect')
    ) waiting
    WHERE l.organization = {{}} """  # noqa: S608  constants


class LaneView(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered nonces of one signer on one chain, as far as they are."""

    id: UUID
    signer_id: UUID
    signer_name: str
    signer_address: str | None
    chain_id: int
    chain_name: str
    held_by: UUID | None
    """The pass of a worker that writes in it just now; None while nobody does."""
    held_until: datetime | None
    next_nonce: int | None
    """What the next transaction gets; None until the chain was first asked."""
    chain_nonce: int | None
    """What the chain expects next, as of `chain_nonce_at`; None until it was read, within a minute."""
    chain_nonce_at: datetime | None
    in_flight: int
    """Transactions with a nonce that the chain has not used yet."""
    in_flight_limit: int
    queued: int
    """Transactions that wait for a nonce."""
    head: TransactionView | None
    """What everything else in the lane waits for; None while nothing waits to be signed or mined."""
    still_since: datetime | None
    """Since when the head has not moved."""
    stuck_since: datetime | None
    """The same once that is an alarm: ten minutes, unless it is paused. No other lane waits for this one."""
    waits_for: str
    """What its head waits for, as a sentence."""


async def list_lanes(
    organization_id: UUID,
    *,
    chain_id: int | None = None,
    signer_id: UUID | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[LaneView]:
    """The organisation's lanes, the newest first."""
    after = decode_cursor(cursor) if cursor else None
    rows = await run_sql(
        LANES
        + """AND ({}::bigint IS NULL OR l.chain = {}) AND ({}::uuid IS NULL OR l.signer = {})
             AND ({}::uuid IS NULL OR l.id < {}) ORDER BY l.id DESC LIMIT {}""",
        *(organization_id, chain_id, chain_id, signer_id, signer_id, after, after, check_limit(limit) + 1),
    )
    views = {view.id: view for view in await _views(organization_id, rows)}
    return page_of(rows, limit, lambda row: views[row["id"]])


async def get_lane(organization_id: UUID, lane_id: UUID) -> LaneView:
    """One lane. Raises `NotFound`."""
    rows = await run_sql(LANES + "AND l.id = {}", organization_id, lane_id)
    if not rows:
        raise NotFound("There is no such lane.")
    return (await _views(organization_id, rows))[0]


async def list_stuck_lanes(organization_id: UUID) -> list[LaneView]:
    """Lanes whose head does not move, the longest first; of many the first 50."""
    rows = await run_sql(LANES + "AND l.stuck_since IS NOT NULL ORDER BY l.stuck_since, l.id LIMIT 50", organization_id)
    return await _views(organization_id, rows)


async def count_stuck_lanes(organization_id: UUID) -> int:
    """How many `list_stuck_lanes` would list without a limit; for every page."""
    rows = await run_sql(
        "SELECT count(*) FROM lane WHERE organization = {} AND stuck_since IS NOT NULL", organization_id
    )
    return int(rows[0]["count"])


async def list_nonces(
    organization_id: UUID, lane_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[TransactionView]:
    """The nonces that were given out in the lane, the highest first, each with its transaction and its attempts.

    A lane of another organisation has none.
    """
    below = decode_cursor(cursor).int if cursor else 2**63 - 1
    rows = await run_sql(
        """SELECT action, nonce FROM transaction WHERE lane = {} AND organization = {} AND nonce < {}
           ORDER BY nonce DESC LIMIT {}""",
        *(lane_id, organization_id, min(below, 2**63 - 1), check_limit(limit) + 1),
    )
    shown = rows[:limit]
    views = await find_transactions_of_actions(organization_id, [row["action"] for row in shown])
    return Page(
        [views[row["action"]] for row in shown],
        encode_cursor(UUID(int=shown[-1]["nonce"])) if len(rows) > limit else None,
    )


async def _views(organization_id: UUID, rows: list[dict[str, Any]]) -> list[LaneView]:
    heads = await find_transactions_of_actions(
        organization_id, [row["head_action"] for row in rows if row["head_action"]]
    )
    pauses = await find_pauses([head.id for head in heads.values() if head.status in STOPPABLE])
    return [_view(row, heads.get(row["head_action"]), pauses) for row in rows]


def _view(row: dict[str, Any], head: TransactionView | None, pauses: dict[UUID, str]) -> LaneView:
    shown = {name: row[name] for name in LaneView.__struct_fields__ if name in row}
    if head is None:
        shown["still_since"] = None
    return LaneView(**shown, head=head, waits_for=_waits_for(head, pauses))


def _waits_for(head: TransactionView | None, pauses: dict[UUID, str]) -> str:
    if head is None:
        return "Nothing waits here."
    if paused := pauses.get(head.id):
        return paused
    return (f"Nonce {head.nonce}: " if head.status in UNMINED else "") + (head.waiting_for or "")
