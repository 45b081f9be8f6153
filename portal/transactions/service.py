"""Takes over approved actions: each gets exactly one transaction, in the lane of its signer."""

from typing import Any
from uuid import UUID

from structlog.contextvars import bound_contextvars

from portal import clock
from portal.accounts.schemas import Actor, system_actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.transactions.tables import TransactionStatus

BATCH = 200


async def queue_approved() -> int:
    """Queue a transaction for every action that is approved and has none; how many were queued.

    Each action's `queued_at`, its transaction and the audit entry are written in one db transaction, so an action is
    queued once whoever runs this at the same time.
    """
    waiting = await run_sql("SELECT DISTINCT organization FROM action WHERE status = 'approved' AND queued_at IS NULL")
    queued = 0
    # One organisation at a time: whoever holds the ends of two audit chains may lock up with somebody else who does.
    for row in waiting:
        actor = system_actor(row["organization"], "transactions")
        while batch := await _queue_batch(actor):
            queued += batch
    return queued


async def _queue_batch(actor: Actor) -> int:
    async with transaction():
        actions = await run_sql(
            """SELECT a.id, a.chain, a.correlation_id, a.signer FROM action a
               WHERE a.organization = {} AND a.status = 'approved' AND a.queued_at IS NULL
               ORDER BY a.decided_at, a.id LIMIT {} FOR NO KEY UPDATE SKIP LOCKED""",
            actor.organization_id,
            BATCH,
        )
        for action in actions:
            await _queue(actor, action)
    return len(actions)


async def _queue(actor: Actor, action: dict[str, Any]) -> None:
    id, now = new_id(), clock.now()
    lane_id = await _lane_of(actor.organization_id, action["signer"], action["chain"])
    made = await run_sql(
        """INSERT INTO transaction (id, organization, action, lane, status, correlation_id, queued_at)
           VALUES ({}, {}, {}, {}, {}, {}, {}) ON CONFLICT (action) DO NOTHING RETURNING id""",
        id,
        actor.organization_id,
        action["id"],
        lane_id,
        TransactionStatus.QUEUED.value,
        action["correlation_id"],
        now,
    )
    await run_sql("UPDATE action SET queued_at = {} WHERE id = {}", now, action["id"])
    if made:
        with bound_contextvars(correlation_id=action["correlation_id"]):
            await audit.append(actor, "transaction.queued", "transaction", id, {"action_id": str(action["id"])})


async def _lane_of(organization_id: UUID, signer_id: UUID, chain_id: int) -> UUID:
    """The lane of the signer on the chain, made where there is none yet.

    It takes no lock on a lane that is there: a lane that signs waits for the audit chain that we may hold.
    """
    rows = await run_sql("SELECT id FROM lane WHERE signer = {} AND chain = {}", signer_id, chain_id)
    if not rows:
        await run_sql(
            """INSERT INTO lane (id, organization, signer, chain) VALUES ({}, {}, {}, {})
               ON CONFLICT (signer, chain) DO NOTHING""",
            new_id(),
            organization_id,
            signer_id,
            chain_id,
        )
        rows = await run_sql("SELECT id FROM lane WHERE signer = {} AND chain = {}", signer_id, chain_id)
    lane_id: UUID = rows[0]["id"]
    return lane_id
