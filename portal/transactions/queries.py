"""Reads of transactions, for pages and the API."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from portal.chain.rpc import Fees
from portal.db.columns import wei
from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Count, Page, check_limit, decode_cursor, page_of
from portal.errors import NotFound
from portal.transactions import standing
from portal.transactions.costs.limits import Limits, may_rise
from portal.transactions.moves import DEADLINE
from portal.transactions.schemas import AttemptView, Evidence, Holding, TransactionView
from portal.transactions.standing import Standing
from portal.transactions.states import CANCELLABLE, HURRIABLE, TERMINAL, UNMINED, depth
from portal.transactions.tables import AttemptKind, ClosingReason, Outcome, TransactionStatus

MOST_COUNTED = 10_000
"""Of those that are over, of which there may be millions; more are told by a plus."""
ENDED = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
WITH_A_NONCE = ", ".join(f"'{status}'" for status in sorted(UNMINED))
SELECT = f"""
    SELECT t.*, l.chain AS chain_id, l.signer AS signer_id, s.address AS signer_address, c.name AS chain_name,
           c.currency, c.confirmations AS confirmations_required, c.explorer_url, c.head_number, c.most_fee_wei,
           a.value_wei, p.most_cost_wei, {DEADLINE} AS deadline,
           CASE WHEN t.status = 'queued' THEN (
               SELECT count(*) FROM transaction o WHERE o.lane = t.lane
                   AND (o.status IN ({WITH_A_NONCE}) OR o.status = 'queued' AND o.id < t.id))
           WHEN t.status IN ({WITH_A_NONCE}) THEN (
               SELECT count(*) FROM transaction o
               WHERE o.lane = t.lane AND o.status IN ({WITH_A_NONCE}) AND o.nonce < t.nonce)
           ELSE 0 END AS ahead
    FROM transaction t
    JOIN lane l ON l.id = t.lane
    JOIN signer s ON s.id = l.signer
    JOIN chain c ON c.id = l.chain
    JOIN action a ON a.id = t.action
    JOIN policy_terms p ON p.id = a.policy_version
"""  # noqa: S608


async def get_transaction(organization_id: UUID, transaction_id: UUID) -> TransactionView:
    """One transaction with its attempts. Raises `NotFound`, for another organisation's too."""
    rows = await run_sql(SELECT + "WHERE t.id = {} AND t.organization = {}", transaction_id, organization_id)
    if not rows:
        raise NotFound("There is no such transaction.")
    return (await _views(rows))[0]


async def find_transaction_of_action(organization_id: UUID, action_id: UUID) -> TransactionView | None:
    """What carries out the action; None while it is not queued."""
    return (await find_transactions_of_actions(organization_id, [action_id])).get(action_id)


async def find_transactions_of_actions(
    organization_id: UUID, action_ids: Iterable[UUID]
) -> dict[UUID, TransactionView]:
    """Transactions by the action that they carry out; an action that has none is left out."""
    wanted = list(action_ids)
    if not wanted:
        return {}
    rows = await run_sql(SELECT + "WHERE t.action = ANY({}) AND t.organization = {}", wanted, organization_id)
    return {view.action_id: view for view in await _views(rows)}


async def list_transactions(
    organization_id: UUID,
    *,
    status: str | None = None,
    outcome: str | None = None,
    held: bool | None = None,
    signer_id: UUID | None = None,
    chain_id: int | None = None,
    ids: Sequence[UUID] | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[TransactionView]:
    """Transactions, the newest first, of those that fit every filter given."""
    filters: list[tuple[str, Any]] = [
        ("t.organization = {}", organization_id),
        ("t.status = {}", status),
        ("t.outcome = {}", outcome),
        (f"(t.reason IS NOT NULL AND t.status NOT IN ({ENDED})) = {{}}", held),
        ("l.signer = {}", signer_id),
        ("l.chain = {}", chain_id),
        ("t.id = ANY({}::uuid[])", ids),
        ("t.id < {}", decode_cursor(cursor) if cursor else None),
    ]
    wanted = [(sql, value) for sql, value in filters if value is not None]
    rows = await run_sql(
        SELECT + "WHERE " + " AND ".join(sql for sql, _ in wanted) + " ORDER BY t.id DESC LIMIT {}",
        *(value for _, value in wanted),
        check_limit(limit) + 1,
    )
    views = {view.id: view for view in await _views(rows)}
    return page_of(rows, limit, lambda row: views[row["id"]])


HOLDINGS = """
    SELECT contract_id, contract_name, symbol, decimals, sum(sign * amount)::text AS amount FROM (
        SELECT c.id AS contract_id, c.name AS contract_name, c.symbol, c.decimals,
               CASE WHEN a.function IN ('mint(address,uint256)', 'mint(address,string)', 'transfer(address,uint256)')
                        THEN (lower(a.arguments->0->>'value') = lower(e.address))::int
                    WHEN a.function = 'burn_from(address,uint256)'
                        THEN -(lower(a.arguments->0->>'value') = lower(e.address))::int
                    WHEN a.function IN ('transferFrom(address,address,uint256)',
                                        'safeTransferFrom(address,address,uint256)')
                        THEN (lower(a.arguments->1->>'value') = lower(e.address))::int
                             - (lower(a.arguments->0->>'value') = lower(e.address))::int
                    ELSE 0 END AS sign,
               CASE WHEN c.decimals IS NULL OR a.function NOT LIKE '%,uint256)' THEN 1
                    ELSE (a.arguments->-1->>'value')::numeric END AS amount
        FROM action a
        JOIN transaction t ON t.action = a.id
        JOIN contract c ON c.id = a.contract
        JOIN end_user e ON e.id = a.end_user
        WHERE a.organization = {} AND a.end_user = {} AND t.outcome = 'ok' AND t.status IN ('confirmed', 'finalized')
    ) moved
    GROUP BY contract_id, contract_name, symbol, decimals HAVING sum(sign * amount) > 0 ORDER BY contract_name
"""


async def list_holdings(organization_id: UUID, end_user_id: UUID) -> list[Holding]:
    """Of each contract, what confirmed actions gave the end user less what they took.

    What is on its way does not count, nor what moved on the chain without an action of this portal.
    """
    return [Holding(**row) for row in await run_sql(HOLDINGS, organization_id, end_user_id)]


COUNTS = f"""
    SELECT t.status, count(*) AS count FROM lane l JOIN transaction t ON t.lane = l.id
    WHERE l.organization = {{}} AND t.status NOT IN ({ENDED}) GROUP BY t.status
"""  # noqa: S608
# Each by name, as the partial index of those that ended badly has them: else all that ended well are read for none.
COUNT_ENDED = """
    UNION ALL SELECT '{status}', count(*) FROM (
        SELECT FROM transaction WHERE organization = {{}} AND status = '{status}' LIMIT {{}}) few
"""


async def count_by_status(organization_id: UUID) -> dict[TransactionStatus, Count]:
    """How many transactions are in each status, of those that are over up to 10,000 each; every status is there."""
    over = sorted(TERMINAL)
    rows = await run_sql(
        COUNTS + "".join(COUNT_ENDED.format(status=status) for status in over),
        organization_id,
        *(organization_id, MOST_COUNTED + 1) * len(over),
    )
    found = {row["status"]: row["count"] for row in rows}
    return {
        status: Count.up_to(MOST_COUNTED, number) if status in TERMINAL else Count(number)
        for status in TransactionStatus
        for number in [found.get(status, 0)]
    }


async def count_held(organization_id: UUID) -> int:
    """How many transactions wait for something out of the ordinary."""
    rows = await run_sql(
        f"""SELECT count(*) AS held FROM transaction t JOIN lane l ON l.id = t.lane
            WHERE l.organization = {{}} AND t.status NOT IN ({ENDED}) AND t.reason IS NOT NULL""",  # noqa: S608
        organization_id,
    )
    return int(rows[0]["held"])


async def _views(rows: list[dict[str, Any]]) -> list[TransactionView]:
    found = await run_sql("SELECT * FROM attempt WHERE transaction = ANY({}) ORDER BY id", [row["id"] for row in rows])
    attempts = defaultdict(list)
    for each in found:
        attempts[each["transaction"]].append(each)
    return [_view(row, attempts[row["id"]]) for row in rows]


AS_STORED = (
    *("id", "chain_id", "chain_name", "currency", "signer_id", "signer_address", "nonce", "correlation_id"),
    *("block_number", "block_hash", "confirmations_required", "contract_address", "gas_used"),
    *("queued_at", "broadcast_at", "mined_at", "confirmed_at", "finalized_at"),
    *("cancel_requested_at", "hurry_requested_at", "suspect_since"),
)
"""What a view takes over from its row as it is."""


def _view(row: dict[str, Any], attempts: list[dict[str, Any]]) -> TransactionView:
    it = _standing(row, attempts)
    hash = row["mined_hash"] or (attempts[-1]["hash"] if attempts else None)
    price = wei(row["gas_price_wei"])
    return TransactionView(
        **{name: row[name] for name in AS_STORED},
        action_id=row["action"],
        status=it.status,
        outcome=it.outcome,
        waiting_for=standing.waiting_for(it),
        held=row["reason"] is not None and it.status not in TERMINAL,
        failure=standing.failure(it),
        remark=standing.remark(it),
        closing_reason=it.closing_reason,
        execute_before=row["deadline"],
        may_cancel=it.status in CANCELLABLE and not it.cancel_requested,
        may_hurry=(
            it.status in HURRIABLE and not it.hurry_requested and not it.ahead and _may_cost_more(row, attempts)
        ),
        evidence=msgspec.json.decode(row["evidence"], type=Evidence) if row["evidence"] else None,
        hash=hash,
        explorer_url=_explorer_page(row, hash),
        confirmations=it.confirmations,
        gas_price_wei=None if price is None else str(price),
        fee_wei=None if price is None else str(price * row["gas_used"]),
        attempts=[_attempt_view(row, attempt) for attempt in attempts],
    )


def _standing(row: dict[str, Any], attempts: list[dict[str, Any]]) -> Standing:
    return Standing(
        status=TransactionStatus(row["status"]),
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        reason=row["reason"],
        revert_reason=row["revert_reason"],
        closing_reason=ClosingReason(row["closing_reason"]) if row["closing_reason"] else None,
        cancel_requested=row["cancel_requested_at"] is not None,
        hurry_requested=row["hurry_requested_at"] is not None,
        nonce=row["nonce"],
        signer_address=row["signer_address"],
        ahead=row["ahead"],
        has_call=any(each["kind"] == AttemptKind.CALL for each in attempts),
        no_op_is_out=any(each["kind"] == AttemptKind.NOOP and each["first_sent_at"] for each in attempts),
        block_number=row["block_number"],
        confirmations=_confirmations(row),
        confirmations_required=row["confirmations_required"],
    )


def _may_cost_more(row: dict[str, Any], attempts: list[dict[str, Any]]) -> bool:
    """Whether the least fees that a pool takes instead of the newest attempt's keep to every limit but the day's."""
    if not attempts:
        return False
    newest = attempts[-1]
    first = next(each for each in attempts if each["kind"] == newest["kind"])
    is_call = newest["kind"] == AttemptKind.CALL
    limits = Limits(
        value_wei=int(row["value_wei"]) if is_call else 0,
        gas_limit=newest["gas_limit"],
        currency=row["currency"],
        most_fee_wei=wei(row["most_fee_wei"]),
        most_cost_wei=wei(row["most_cost_wei"]) if is_call else None,
    )
    before, now = (Fees(int(each["max_fee_wei"]), int(each["max_priority_fee_wei"])) for each in (first, newest))
    return may_rise(before, now, limits)


def _attempt_view(row: dict[str, Any], attempt: dict[str, Any]) -> AttemptView:
    return AttemptView(
        hash=attempt["hash"],
        kind=AttemptKind(attempt["kind"]),
        explorer_url=_explorer_page(row, attempt["hash"]),
        is_legacy=attempt["is_legacy"],
        gas_limit=attempt["gas_limit"],
        max_fee_wei=str(int(attempt["max_fee_wei"])),
        max_priority_fee_wei=str(int(attempt["max_priority_fee_wei"])),
        signed_at=attempt["signed_at"],
        first_sent_at=attempt["first_sent_at"],
        last_sent_at=attempt["last_sent_at"],
        last_answer=attempt["last_answer"],
        trouble=standing.answer_in_words(row["status"], attempt["last_answer"]),
        mined=attempt["hash"] == row["mined_hash"],
    )


def _explorer_page(row: dict[str, Any], hash: str | None) -> str | None:
    return f"{row['explorer_url'].rstrip('/')}/tx/{hash}" if row["explorer_url"] and hash else None


def _confirmations(row: dict[str, Any]) -> int:
    if row["block_number"] is None or row["head_number"] is None:
        return 0
    return depth(row["block_number"], row["head_number"])
