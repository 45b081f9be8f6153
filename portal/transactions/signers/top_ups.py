"""Reads what signers have, raises the alarm where it is low, and proposes top-ups: ordinary actions that wait for their
policy like any. An address that is topped up is registered like a contract that can do one thing: receive.
"""

from collections import defaultdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from prometheus_client import Gauge

from portal import clock
from portal.accounts.schemas import Actor, system_actor
from portal.actions.effects import WEI_DECIMALS, units
from portal.actions.proposals import propose_in_transaction
from portal.actions.schemas import ProposedCall
from portal.audit import service as audit
from portal.audit.service import Entry
from portal.chain.abi import PLAIN_ADDRESS, RECEIVE
from portal.chain.balances import read_accounts
from portal.chain.rpc import NodeUnavailable
from portal.chain.service import NewContract, insert_contract
from portal.db.columns import new_id, oldest_id
from portal.db.engine import run_sql, transaction
from portal.errors import PortalError
from portal.jobs.queue import ring
from portal.logging import get_logger
from portal.notify.outbox import record_entries
from portal.transactions.signers.runway import SENDERS
from portal.transactions.states import TERMINAL

log = get_logger(__name__)
LOW_SIGNERS = Gauge("portal_signers_low", "Signers whose balance is below their threshold", ["chain"])
ASK_AGAIN_AFTER = timedelta(days=1)
"""Where a top-up was turned down, ran out of time or failed: nobody wants to be asked every minute."""
ENDED = sorted(status.value for status in TERMINAL)

WINDOW = timedelta(days=7)
RECKONED_EVERY = timedelta(minutes=10)
"""What was spent takes longer to add up than a balance to read."""
# Queued a day before the window at the earliest: keys are in the order of time, so that only these are looked at.
RECKON = """
    UPDATE signer_reading r SET spent_wei = spent.wei, spent_transactions = spent.transactions, spent_at = given.now,
        spent_since = CASE WHEN spent.is_older THEN given.since ELSE spent.since END
    FROM (SELECT {}::timestamptz AS now, {}::timestamptz AS since, {}::uuid AS first_id) given, lane l,
        LATERAL (
            SELECT coalesce(sum(t.gas_used * t.gas_price_wei + CASE t.outcome WHEN 'ok' THEN a.value_wei ELSE 0 END), 0)
                       AS wei, count(*) AS transactions, min(t.mined_at) AS since,
                   EXISTS (SELECT FROM transaction o WHERE o.lane = l.id AND o.id < given.first_id) AS is_older
            FROM transaction t JOIN action a ON a.id = t.action
            WHERE t.lane = l.id AND t.id >= given.first_id AND t.mined_at >= given.since
        ) spent
    WHERE l.signer = r.signer AND l.chain = r.chain AND (r.spent_at IS NULL OR r.spent_at < {})"""

TURNED = """
    SELECT r.id, r.organization, r.signer, r.chain, r.balance_wei, r.low_since, s.name, s.low_balance_wei, c.currency
    FROM signer_reading r JOIN signer s ON s.id = r.signer JOIN chain c ON c.id = r.chain
    WHERE (r.low_since IS NULL) = (s.low_balance_wei IS NOT NULL AND s.status = 'active'
                                   AND r.balance_wei < s.low_balance_wei) ORDER BY r.organization"""

DUE = """
    SELECT r.id, r.organization, r.chain, r.read_at, s.id AS signer_id, s.name, s.address, s.top_up_wei, s.top_up_from,
           s.top_up_policy, c.id AS contract_id, c.signer AS contract_signer
    FROM signer_reading r JOIN signer s ON s.id = r.signer
    LEFT JOIN contract c ON c.organization = r.organization AND c.chain = r.chain AND c.address = s.address
    WHERE r.low_since IS NOT NULL AND s.top_up_wei IS NOT NULL AND s.status = 'active' """

# One that waits or is on its way; one that arrived after the balance was read; one that came to nothing of late.
ASKED = """
    SELECT a.id FROM action a LEFT JOIN transaction t ON t.action = a.id
    WHERE a.contract = {} AND a.function = {} AND (
        a.status = 'proposed' OR (a.status = 'approved' AND (t.id IS NULL OR t.status <> ALL({}::text[])))
        OR (t.outcome = 'ok' AND t.mined_at > {}) OR (t.outcome IS DISTINCT FROM 'ok' AND a.decided_at > {})) LIMIT 1"""


async def read_signers() -> int:
    """Read balance and nonce of every signer that sends, tell of those that are low, propose the top-ups that are due.

    Returns how many accounts were read. A chain whose nodes are down keeps what was read before.
    """
    by_chain: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for sender in await run_sql(SENDERS):
        by_chain[sender["chain_id"]].append(sender)
    read = 0
    for chain_id, senders in by_chain.items():
        try:
            read += await _read(chain_id, senders)
        except NodeUnavailable as error:
            log.warning("signers.unread", chain_id=chain_id, reason=error.detail)
    now = clock.now()
    since = now - WINDOW
    await run_sql(RECKON, now, since, oldest_id(since - timedelta(days=1)), now - RECKONED_EVERY)
    for turned in await run_sql(TURNED):
        await _turn(turned)
    for due in await run_sql(DUE):
        await _propose(due)
    return read


async def refresh() -> None:
    """Set the gauge to what the database says now."""
    LOW_SIGNERS.clear()
    for row in await run_sql("SELECT chain, count(low_since) AS low FROM signer_reading GROUP BY chain"):
        LOW_SIGNERS.labels(str(row["chain"])).set(row["low"])


async def _read(chain_id: int, senders: list[dict[str, Any]]) -> int:
    accounts = await read_accounts(chain_id, [sender["address"] for sender in senders])
    await run_sql(
        """INSERT INTO signer_reading (chain, read_at, id, organization, signer, balance_wei, transaction_count)
           SELECT {}, {}, made.* FROM unnest({}::uuid[], {}::uuid[], {}::uuid[], {}::numeric[], {}::bigint[]) AS made
           ON CONFLICT (signer, chain) DO UPDATE SET balance_wei = excluded.balance_wei,
               transaction_count = excluded.transaction_count, read_at = excluded.read_at""",
        chain_id,
        clock.now(),
        [new_id() for _ in senders],
        [sender["organization_id"] for sender in senders],
        [sender["signer_id"] for sender in senders],
        [account.balance_wei for account in accounts],
        [account.transaction_count for account in accounts],
    )
    return len(accounts)


async def _turn(reading: dict[str, Any]) -> None:
    """Note that a balance has become low, or no longer is: once, however many workers see it."""
    low = reading["low_since"] is None
    async with transaction():
        turned = await run_sql(
            "UPDATE signer_reading SET low_since = {} WHERE id = {} AND (low_since IS NULL) = {} RETURNING id",
            *(clock.now() if low else None, reading["id"], low),
        )
        if not turned:
            return
        detail = {"chain_id": reading["chain"], "balance_wei": str(int(reading["balance_wei"]))}
        kind = "signer.low" if low else "signer.no_longer_low"
        actor = system_actor(reading["organization"], "balances")
        await record_entries([Entry(actor, kind, "signer", reading["signer"], detail)])
    if low:
        balance = f"{units(int(reading['balance_wei']), WEI_DECIMALS)} {reading['currency']}"
        log.error("signer.low", signer=reading["name"], chain_id=reading["chain"], balance=balance)


async def _propose(due: dict[str, Any]) -> None:
    """Propose the top-up, unless one is open or was turned down within a day."""
    actor = system_actor(due["organization"], "top-ups")
    try:
        async with transaction():
            await run_sql("SELECT id FROM signer_reading WHERE id = {} FOR UPDATE", due["id"])
            rows = await run_sql(DUE + "AND r.id = {}", due["id"])
            if not rows:
                return
            due = rows[0]
            contract_id = due["contract_id"] or await _register(actor, due)
            now = clock.now()
            if await run_sql(ASKED, contract_id, RECEIVE, ENDED, due["read_at"], now - ASK_AGAIN_AFTER):
                return
            await _send_from_treasury(actor, due, contract_id)
            call = ProposedCall(
                contract_id=contract_id,
                function=RECEIVE,
                arguments={},
                policy_id=due["top_up_policy"],
                value_wei=int(due["top_up_wei"]),
            )
            action_id = await propose_in_transaction(actor, call)
    except PortalError as error:
        log.warning("top_up.not_proposed", signer=due["name"], chain_id=due["chain"], reason=error.detail)
        return
    log.info("top_up.proposed", signer=due["name"], chain_id=due["chain"], action_id=str(action_id))
    ring("simulate_actions")


async def _register(actor: Actor, due: dict[str, Any]) -> UUID:
    """Register the signer's own address, which only the treasury may send to."""
    name = f"Signer {due['name']}"[:80]
    contract_id = await insert_contract(
        NewContract(
            organization_id=due["organization"],
            chain_id=due["chain"],
            name=name,
            abi=PLAIN_ADDRESS,
            allowed_functions=[RECEIVE],
            signer_id=due["top_up_from"],
            address=due["address"],
        )
    )
    detail = {"name": name, "address": due["address"], "chain_id": due["chain"], "functions": [RECEIVE]}
    await audit.append(actor, "contract.registered", "contract", contract_id, detail)
    return contract_id


async def _send_from_treasury(actor: Actor, due: dict[str, Any], contract_id: UUID) -> None:
    """Let the treasury of the settings send to the address, where another one did so far."""
    changed = await run_sql(
        """UPDATE contract SET signer = {}, signer_group = NULL
           WHERE id = {} AND (signer <> {} OR signer_group IS NOT NULL) RETURNING id""",
        *(due["top_up_from"], contract_id, due["top_up_from"]),
    )
    if changed:
        detail = {"signer_id": str(due["top_up_from"])}
        await audit.append(actor, "contract.signer_changed", "contract", contract_id, detail)
