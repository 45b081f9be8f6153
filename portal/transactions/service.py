"""Takes over approved actions: each gets exactly one transaction, in the lane of its signer."""

from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts.schemas import Actor, system_actor
from portal.audit.service import Entry
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.notify.outbox import record_entries

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
            """SELECT a.id, a.chain, a.correlation_id, a.signer,
                      a.decided_at + v.execute_within_seconds * interval '1 second' AS execute_before
               FROM action a JOIN policy_terms v ON v.id = a.policy_version
               WHERE a.organization = {} AND a.status = 'approved' AND a.queued_at IS NULL
               ORDER BY a.decided_at, a.id LIMIT {} FOR NO KEY UPDATE OF a SKIP LOCKED""",
            actor.organization_id,
            BATCH,
        )
        if actions:
            await _queue(actor, actions)
    return len(actions)


async def _queue(actor: Actor, actions: list[dict[str, Any]]) -> None:
    now = clock.now()
    lanes = await _lanes_of(actor.organization_id, {(action["signer"], action["chain"]) for action in actions})
    made = await run_sql(
        """INSERT INTO transaction (id, organization, action, lane, status, correlation_id, queued_at, execute_before,
                                    suspect_reads)
           SELECT id, {}, action, lane, 'queued', correlation_id, {}, execute_before, 0
           FROM unnest({}::uuid[], {}::uuid[], {}::uuid[], {}::text[], {}::timestamptz[])
               AS made (id, action, lane, correlation_id, execute_before)
           ON CONFLICT (action) DO NOTHING RETURNING id, action, correlation_id""",
        *(actor.organization_id, now),
        [new_id() for _ in actions],
        [action["id"] for action in actions],
        [lanes[action["signer"], action["chain"]] for action in actions],
        [action["correlation_id"] for action in actions],
        [action["execute_before"] for action in actions],
    )
    await run_sql("UPDATE action SET queued_at = {} WHERE id = ANY({}::uuid[])", now, [each["id"] for each in actions])
    await record_entries(
        [
            Entry(
                actor,
                "transaction.queued",
                "transaction",
                row["id"],
                {"action_id": str(row["action"])},
                row["correlation_id"],
            )
            for row in made
        ]
    )


async def _lanes_of(organization_id: UUID, wanted: set[tuple[UUID, int]]) -> dict[tuple[UUID, int], UUID]:
    """The lanes of the signers on their chains, made where there is none yet.

    It takes no lock on a lane that is there: a lane that signs waits for the audit chain that we may hold.
    """
    signers, chains = [signer for signer, _ in wanted], [chain for _, chain in wanted]
    lanes = await _find_lanes(signers, chains)
    missing = [pair for pair in wanted if pair not in lanes]
    if missing:
        await run_sql(
            """INSERT INTO lane (id, organization, signer, chain, fence)
               SELECT id, {}, signer, chain, 0 FROM unnest({}::uuid[], {}::uuid[], {}::bigint[])
                   AS made (id, signer, chain)
               ON CONFLICT (signer, chain) DO NOTHING""",
            organization_id,
            [new_id() for _ in missing],
            [signer for signer, _ in missing],
            [chain for _, chain in missing],
        )
        lanes = await _find_lanes(signers, chains)
    return lanes


async def _find_lanes(signers: list[UUID], chains: list[int]) -> dict[tuple[UUID, int], UUID]:
    rows = await run_sql(
        """SELECT l.id, l.signer, l.chain FROM lane l
           JOIN unnest({}::uuid[], {}::bigint[]) AS wanted (signer, chain)
               ON l.signer = wanted.signer AND l.chain = wanted.chain""",
        signers,
        chains,
    )
    return {(row["signer"], row["chain"]): row["id"] for row in rows}
