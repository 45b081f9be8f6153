"""The rows that the engine works on, and the only way their status changes: compare-and-set with an audit entry."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from piccolo.columns import Column
from structlog.contextvars import bound_contextvars

from portal.accounts.schemas import system_actor
from portal.audit.service import Entry
from portal.db.engine import in_transaction, run_sql
from portal.logging import get_logger
from portal.notify.outbox import record_entries
from portal.transactions.states import may_move
from portal.transactions.tables import Transaction, TransactionStatus

log = get_logger(__name__)

# A version of its policy that allows less time binds what is not signed yet, too, though it was queued under another.
DEADLINE = """CASE WHEN t.status IN ('queued', 'nonced') THEN least(t.execute_before, a.decided_at + (
                  SELECT v.execute_within_seconds FROM policy_terms v WHERE v.id = a.policy_version) * interval '1 s')
              ELSE t.execute_before END"""
WORK = f"""SELECT t.id, t.organization AS organization_id, t.action AS action_id, t.lane AS lane_id, t.status, t.nonce,
                 t.reason, t.correlation_id, t.block_number, t.block_hash, t.mined_hash, t.outcome,
                 t.gas_used, t.mined_at, t.contract_address, t.closing_reason, t.suspect_since, t.suspect_reads,
                 t.cancel_requested_at, {DEADLINE} AS execute_before,
                 l.chain AS chain_id, l.signer AS signer_id, s.address AS signer_address, s.name AS signer_name,
                 s.status AS signer_status,
                 c.currency, a.decided_at,
                 CASE WHEN a.to_address IS NULL THEN a.contract END AS deploys_contract_id
          FROM transaction t JOIN lane l ON l.id = t.lane JOIN signer s ON s.id = l.signer
               JOIN chain c ON c.id = l.chain JOIN action a ON a.id = t.action """  # noqa: S608  a constant


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as the engine read it. What is done with it holds only while its status is still `status`."""

    id: UUID
    organization_id: UUID
    action_id: UUID
    lane_id: UUID
    status: TransactionStatus
    nonce: int | None
    reason: str | None
    correlation_id: str
    block_number: int | None
    block_hash: str | None
    mined_hash: str | None
    outcome: str | None
    gas_used: int | None
    mined_at: datetime | None
    contract_address: str | None
    closing_reason: str | None
    suspect_since: datetime | None
    suspect_reads: int
    cancel_requested_at: datetime | None
    execute_before: datetime | None
    """By the chain's clock."""
    chain_id: int
    signer_id: UUID
    signer_address: str
    signer_name: str
    signer_status: str
    currency: str
    decided_at: datetime | None
    """When the action was approved."""
    deploys_contract_id: UUID | None


async def list_work(where: str, *arguments: Any) -> list[Work]:
    """Transactions by an SQL condition on `t` (transaction), `l` (lane), `c` (chain), with `{}` for each argument."""
    rows = await run_sql(f"{WORK} {where}", *arguments)
    return [Work(**{**row, "status": TransactionStatus(row["status"])}) for row in rows]


@contextmanager
def correlated(work: Work) -> Iterator[None]:
    """Log lines and audit entries inside carry the transaction's correlation id."""
    with bound_contextvars(correlation_id=work.correlation_id, transaction_id=str(work.id)):
        yield


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction's part in `move_many`."""

    work: Work
    changes: dict[str, Any] = {}
    """JSON values by column; all steps taken together name the same columns."""
    detail: dict[str, Any] = {}
    """What the audit entry and the event say."""


async def move(
    work: Work, after: TransactionStatus, verb: str, changes: dict[Column | str, Any], **detail: Any
) -> bool:
    """Take `work` to `after` if it is still as it was read, and write the audit entry `transaction.<verb>`.

    Runs within the caller's db transaction; False means that another process was quicker and nothing was changed.
    """
    assert in_transaction(), "a state changes together with its audit entry"
    assert may_move(work.status, after), f"{work.status} does not lead to {after}"
    values: dict[Column | str, Any] = {"status": after.value, "reason": None, **changes}
    moved = (
        await Transaction.update(values)
        .where(Transaction.id == work.id, Transaction.status == work.status.value)
        .returning(Transaction.id)
    )
    if not moved:
        return False
    await record(work, verb, **detail)
    return True


async def move_many(steps: Sequence[Step], after: TransactionStatus, verb: str) -> list[Work]:
    """As `move`, for all of them with one update and one insert each of audit entries and events; those that moved.

    `reason` becomes null where no step names it. Best as the last of the caller's db transaction: from here to its end
    nobody else writes to the audit chains of their organisations.
    """
    assert in_transaction(), "a state changes together with its audit entry"
    if not steps:
        return []
    assert all(may_move(step.work.status, after) for step in steps), f"not all of them may become {after}"
    columns = {"reason": None, **steps[0].changes}.keys()
    rows = [{"id": str(step.work.id), "status": step.work.status.value, **step.changes} for step in steps]
    moved = await run_sql(
        f"""UPDATE transaction t SET status = {{}}, {", ".join(f"{name} = wanted.{name}" for name in columns)}
            FROM jsonb_populate_recordset(NULL::transaction, {{}}::jsonb) wanted
            WHERE t.id = wanted.id AND t.status = wanted.status RETURNING t.id""",  # noqa: S608  names of columns
        after.value,
        msgspec.json.encode(rows).decode(),
    )
    ids = {row["id"] for row in moved}
    taken = [step for step in steps if step.work.id in ids]
    await record_many([(step.work, verb, step.detail) for step in taken])
    return [step.work for step in taken]


async def record(work: Work, verb: str, **detail: Any) -> None:
    """Write the audit entry `transaction.<verb>` and the event of the same name, in the caller's db transaction."""
    await record_many([(work, verb, detail)])


async def record_many(told: Sequence[tuple[Work, str, dict[str, Any]]]) -> None:
    """As `record` for each, in the order given, by one insert each of entries and of events."""
    await record_entries([entry_of(work, verb, detail) for work, verb, detail in told])


def entry_of(work: Work, verb: str, detail: dict[str, Any]) -> Entry:
    """The audit entry `transaction.<verb>`, to be appended."""
    return Entry(
        system_actor(work.organization_id, "transactions"),
        f"transaction.{verb}",
        "transaction",
        work.id,
        {"action_id": str(work.action_id), **detail},
        work.correlation_id,
    )


async def hold_many(holds: Sequence[tuple[Work, str | None]]) -> None:
    """Say why each waits, or with None that it no longer does, in the caller's db transaction.

    Nothing is written of what is known already, or is no longer in the state that it was read in.
    """
    changed = [(work, reason) for work, reason in holds if reason != work.reason]
    if not changed:
        return
    rows = await run_sql(
        """UPDATE transaction t SET reason = said.reason FROM unnest({}::uuid[], {}::text[], {}::text[])
               AS said (id, status, reason)
           WHERE t.id = said.id AND t.status = said.status AND t.reason IS DISTINCT FROM said.reason RETURNING t.id""",
        [work.id for work, _ in changed],
        [work.status.value for work, _ in changed],
        [reason for _, reason in changed],
    )
    ids = {row["id"] for row in rows}
    told = [(work, reason) for work, reason in changed if reason is not None and work.id in ids]
    await record_many([(work, "held", {"reason": reason}) for work, reason in told])
    for work, reason in told:
        with correlated(work):
            log.warning("transaction.held", reason=reason)
