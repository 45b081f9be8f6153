"""What the actions under a policy may still cost today: the limit of 24 hours that was approved with them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from portal import clock
from portal.actions.errors import GateRefused
from portal.actions.schemas import SigningOrder
from portal.chain.signers import TransactionFields
from portal.db.columns import oldest_id
from portal.db.engine import run_sql
from portal.transactions.costs.limits import cost
from portal.transactions.moves import Work

WINDOW = timedelta(hours=24)

# What is mined has its price; what is not may cost as much as its dearest attempt. Attempts are numbered by time. What
# was signed before the window and is out still may be mined at any moment, so it counts until it is final.
SPENT = """
    SELECT v.policy, l.chain, CASE WHEN t.action = ANY({}::uuid[]) THEN t.action END AS action,
           sum(CASE WHEN t.block_number IS NULL
               THEN (SELECT max(x.gas_limit * x.max_fee_wei) FROM attempt x WHERE x.transaction = t.id) + a.value_wei
               ELSE t.gas_used * t.gas_price_wei + CASE WHEN t.outcome = 'ok' THEN a.value_wei ELSE 0 END
           END) AS cost
    FROM transaction t
    JOIN action a ON a.id = t.action JOIN policy_version v ON v.id = a.policy_version JOIN lane l ON l.id = t.lane
    WHERE t.id IN (
            SELECT transaction FROM attempt WHERE id >= {}
            UNION SELECT o.id FROM policy p JOIN lane ON lane.organization = p.organization
                JOIN transaction o ON o.lane = lane.id
                    AND o.status IN ('signed', 'broadcast', 'closing', 'suspect', 'mined', 'confirmed')
            WHERE p.id = ANY({}::uuid[]))
        AND v.policy = ANY({}::uuid[]) AND t.status NOT IN ('rejected', 'displaced')
    GROUP BY 1, 2, 3
"""


class Purse:
    """What the actions of the policies have spent, or may yet, on their chains."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._spent: dict[tuple[UUID, int], dict[UUID | None, int]] = {}
        """By action, and with None what those together spent that nobody asks for."""
        for row in rows:
            self._spent.setdefault((row["policy"], row["chain"]), {})[row["action"]] = int(row["cost"])

    def left(self, work: Work, policy_id: UUID, most_a_day_wei: int | None) -> int | None:
        """What all others under the policy leave of its day's limit for `work`; None without a limit."""
        if most_a_day_wei is None:
            return None
        spent = self._spent.get((policy_id, work.chain_id), {})
        return most_a_day_wei - sum(wei for action_id, wei in spent.items() if action_id != work.action_id)

    def spend(self, work: Work, approved: SigningOrder, fields: TransactionFields) -> None:
        """Count what was just signed, for those that are signed after it in the same db transaction."""
        own = self._spent.setdefault((approved.policy_id, work.chain_id), {})
        own[work.action_id] = cost(fields.value_wei, fields.gas_limit, fields.max_fee_wei)


async def open_purse(approved: Mapping[UUID, SigningOrder | GateRefused]) -> Purse:
    """The purse of those policies that have a limit a day; until the db transaction ends nobody else spends of it."""
    policies = sorted(
        {
            order.policy_id
            for order in approved.values()
            if isinstance(order, SigningOrder) and order.most_cost_a_day_wei is not None
        }
    )
    for policy_id in policies:
        await run_sql("SELECT pg_advisory_xact_lock(hashtextextended('spending:' || {}::uuid, 0))", policy_id)
    return await read_purse(policies, approved)


async def read_purse(policy_ids: Sequence[UUID], action_ids: Iterable[UUID]) -> Purse:
    """The purse of these policies as it is just now, for whoever only wants to know what is left for these actions."""
    if not policy_ids:
        return Purse([])
    return Purse(await run_sql(SPENT, list(action_ids), oldest_id(clock.now() - WINDOW), policy_ids, policy_ids))
