"""Asking the chain what a call would do, and approving automatically where the policy says so.

The node is asked outside any db transaction; the answers are stored by compare-and-set.
"""

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, system_actor
from portal.actions import queries
from portal.actions.errors import ActionNotProposed
from portal.actions.happenings import happening_of
from portal.actions.schemas import ActionView, SimulatedEffects
from portal.actions.tables import ActionStatus
from portal.actions.tracing import TracedCall, find_effects
from portal.audit import service as audit
from portal.chain.rpc import Call, NodeUnavailable, get_node
from portal.chain.rpc import Simulation as SimulatedCall
from portal.db.engine import run_sql, transaction
from portal.errors import Forbidden
from portal.jobs.queue import ring
from portal.logging import get_logger
from portal.notify.outbox import record_many

log = get_logger(__name__)

BATCH = 200
CALLS = """
    SELECT a.id, a.organization, a.chain, a.contract, a.to_address, a.calldata, a.value_wei, s.address AS signer_address
    FROM action a JOIN contract c ON c.id = a.contract JOIN signer s ON s.id = a.signer
    WHERE a.status = 'proposed'
"""


async def simulate_waiting() -> int:
    """Simulate a batch of each chain's proposed actions that never were, the oldest first; returns how many.

    Those of a chain whose nodes are down wait for the next call, without keeping other chains' waiting.
    """
    chains = await run_sql("SELECT DISTINCT chain FROM action WHERE status = 'proposed' AND simulated_at IS NULL")
    done = 0
    for chain in chains:
        calls = await run_sql(
            CALLS + "AND a.simulated_at IS NULL AND a.chain = {} ORDER BY a.id LIMIT {}", chain["chain"], BATCH
        )
        try:
            done += await _simulate(calls)
        except NodeUnavailable as error:
            log.warning("simulation.node_unavailable", chain_id=chain["chain"], waiting=len(calls), error=error.detail)
    return done


async def simulate(action_ids: Iterable[UUID]) -> int:
    """Simulate these actions, again if need be, as far as they are still proposed; returns how many.

    Raises `NodeUnavailable` if the node did not answer about one of them; those it answered about are recorded.
    """
    return await _simulate(await run_sql(CALLS + "AND a.id = ANY({}::uuid[]) ORDER BY a.id", list(action_ids)))


async def resimulate(actor: Actor, action_id: UUID) -> ActionView:
    """Simulate one open action again, for somebody who may propose or approve.

    Raises `NotFound`, `Forbidden`, `ActionNotProposed` and `NodeUnavailable`.
    """
    action = await queries.get_action(actor.organization_id, action_id)
    if not actor.permissions & {Permission.ACTIONS_PROPOSE, Permission.ACTIONS_APPROVE}:
        raise Forbidden("Simulating again is for those who may propose or approve actions.")
    if action.status != ActionStatus.PROPOSED:
        raise ActionNotProposed(f"This action is {action.status}; only an open one is simulated.")
    await simulate([action_id])
    return await queries.get_action(actor.organization_id, action_id)


async def _simulate(calls: list[dict[str, Any]]) -> int:
    abis = {
        row["id"]: msgspec.json.decode(row["abi"])
        for row in await run_sql(
            "SELECT id, abi FROM contract WHERE id = ANY({}::uuid[])", list({call["contract"] for call in calls})
        )
    }
    answers: dict[UUID, SimulatedCall | NodeUnavailable] = {}
    effects: dict[UUID, SimulatedEffects] = {}
    for chain_id, group in groupby(sorted(calls, key=itemgetter("chain")), key=itemgetter("chain")):
        rows = list(group)
        asked = [(_call(row), abis[row["contract"]]) for row in rows]
        try:
            simulated = await get_node(chain_id).simulate_many(asked)
        except NodeUnavailable as error:
            simulated = [error] * len(rows)
        answers |= {row["id"]: answer for row, answer in zip(rows, simulated, strict=True)}
        effects |= await find_effects(chain_id, _succeeding(rows, answers))
    # One that the node does not answer keeps no other from being recorded.
    done = await _store({id: answer for id, answer in answers.items() if isinstance(answer, SimulatedCall)}, effects)
    for answer in answers.values():
        if isinstance(answer, NodeUnavailable):
            raise answer
    return done


def _call(row: dict[str, Any]) -> Call:
    return Call(row["signer_address"], row["to_address"], bytes(row["calldata"]), int(row["value_wei"]))


def _succeeding(rows: list[dict[str, Any]], answers: dict[UUID, SimulatedCall | NodeUnavailable]) -> list[TracedCall]:
    return [
        TracedCall(row["id"], row["organization"], row["contract"], _call(row), answer.block_number)
        for row in rows
        if isinstance(answer := answers[row["id"]], SimulatedCall) and answer.ok
    ]


async def _store(answers: dict[UUID, SimulatedCall], effects: dict[UUID, SimulatedEffects]) -> int:
    """Store what the chain said about actions that are still open, and approve those whose policy asks nobody."""
    if not answers:
        return 0
    async with transaction():
        # In one order, so that two simulations of the same actions do not deadlock.
        rows = await run_sql(
            """SELECT a.id, a.organization, a.digest, a.correlation_id, a.expires_at, a.summary, a.chain, a.function,
                      a.contract, a.signal, a.rule, a.end_user, v.approvals_required, v.number, p.name AS policy
               FROM action a JOIN policy_terms v ON v.id = a.policy_version JOIN policy p ON p.id = v.policy
               WHERE a.id = ANY({}::uuid[]) AND a.status = 'proposed' ORDER BY a.organization, a.id FOR UPDATE OF a""",
            list(answers),
        )
        now = clock.now()
        approved = [
            row["approvals_required"] == 0 and answers[row["id"]].ok and row["expires_at"] > now for row in rows
        ]
        await run_sql(
            """UPDATE action SET simulation = made.simulation, simulated_at = {}, status = made.status,
                                 decided_at = CASE made.status WHEN {} THEN {}::timestamptz END
               FROM unnest({}::uuid[], {}::jsonb[], {}::text[]) AS made (id, simulation, status)
               WHERE action.id = made.id""",
            *(now, ActionStatus.APPROVED.value, now),
            [row["id"] for row in rows],
            [_stored(answers[row["id"]], effects.get(row["id"])) for row in rows],
            [(ActionStatus.APPROVED if each else ActionStatus.PROPOSED).value for each in approved],
        )
        done = [row for row, each in zip(rows, approved, strict=True) if each]
        await record_many([happening_of(row, ActionStatus.APPROVED, approvals=0, required=0) for row in done])
        await audit.append_many([_automatic(row) for row in done])
    if done:
        ring("run_lanes")
    return len(rows)


def _stored(answer: SimulatedCall, effects: SimulatedEffects | None) -> str:
    return msgspec.json.encode({**msgspec.structs.asdict(answer), "effects": effects}).decode()


def _automatic(row: dict[str, Any]) -> audit.Entry:
    return audit.Entry(
        system_actor(row["organization"], f"policy {row['policy']}"),
        "action.approved",
        "action",
        row["id"],
        {"digest": bytes(row["digest"]).hex(), "policy": row["policy"], "version": row["number"]},
        row["correlation_id"],
    )
