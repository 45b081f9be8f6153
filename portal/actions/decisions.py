"""People's decisions: approving, rejecting, cancelling; and what nobody decided in time."""

from typing import Any
from uuid import UUID

from structlog.contextvars import bound_contextvars

from portal import clock
from portal.accounts.permissions import GRANTS, Permission, Role
from portal.accounts.proofs import SecondFactorInvalid, SecondFactorMissing, use_second_factor
from portal.accounts.schemas import Actor, ActorKind, system_actor
from portal.actions import digest as digests
from portal.actions import queries, simulations
from portal.actions.checks import checked_reason
from portal.actions.errors import (
    ActionNotProposed,
    AlreadyDecided,
    DigestChanged,
    OnlyMembersDecide,
    OutcomeChanged,
    OutcomeNotShown,
    ProposerMayNotApprove,
    SimulationReverts,
)
from portal.actions.happenings import happening_of
from portal.actions.schemas import ActionView
from portal.actions.simulated import is_stale, outcome_digest_of, simulation_of
from portal.actions.tables import Action, ActionStatus, Decision, Verdict
from portal.audit import service as audit
from portal.chain.rpc import NodeUnavailable
from portal.chain.service import fail_contract
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Forbidden, NotFound
from portal.jobs.queue import ring
from portal.logging import get_logger
from portal.notify.outbox import record_many

log = get_logger(__name__)

OPEN = f"""
    SELECT a.*, {queries.PROPOSER} AS proposer, v.approvals_required, c.head_number
    FROM action a JOIN policy_terms v ON v.id = a.policy_version JOIN chain c ON c.id = a.chain
    WHERE a.id = {{}} AND a.organization = {{}}
"""  # noqa: S608  constants


async def approve(
    actor: Actor, action_id: UUID, digest_hex: str, code: str, outcome_digest: str | None = None
) -> ActionView:
    """Record that this member approves exactly the call with this digest, confirmed by their second factor.

    `outcome_digest` is that of the simulation that they were shown, empty if they were shown none, and None if that is
    not known: then it is what was stored when this was called. The approval counts only if the newest simulation has
    the same, also when one is stored meanwhile.

    The approval that meets the quorum makes the action approved, exactly once. What was never simulated, or so long ago
    that it may not hold any more, is simulated first. Checked in this order, and the code is spent only after all of
    it: `OnlyMembersDecide`, `Forbidden`, `NotFound`, `ActionNotProposed` (also once it is past its deadline),
    `DigestChanged`, `ProposerMayNotApprove`, `AlreadyDecided`, `NodeUnavailable` if it is to be simulated and cannot
    be now, `SimulationReverts`, `OutcomeNotShown` and `OutcomeChanged` if something else would happen than was shown,
    `SecondFactorInvalid`.
    """
    member_id, _ = _deciding_member(actor)
    action = await _get_open(actor, action_id)
    await _check_digest(actor, action, digest_hex)
    await _check_may_approve(action, member_id)
    simulation = simulation_of(action)
    if outcome_digest is None and simulation is not None:
        outcome_digest = outcome_digest_of(simulation)
    if simulation is None or is_stale(simulation, action["head_number"], clock.now()):
        await _simulate_first(action_id)
    try:
        async with transaction():
            approved = await _approve_locked(actor, action_id, digest_hex, code, outcome_digest)
    except SecondFactorMissing:
        raise
    except SecondFactorInvalid:
        async with transaction():
            await audit.append(actor, "action.second_factor_refused", "action", action_id)
        raise
    if approved:
        ring("run_lanes")
    return await queries.get_action(actor.organization_id, action_id)


async def _simulate_first(action_id: UUID) -> None:
    try:
        await simulations.simulate([action_id])
    except NodeUnavailable as error:
        raise NodeUnavailable(
            f"{error.detail} The node has to simulate the call before it can be approved, and again once a result "
            "is old. Nothing was approved and your code was not used: approve it once it answers, or reject it now."
        ) from error


async def _approve_locked(
    actor: Actor, action_id: UUID, digest_hex: str, code: str, outcome_digest: str | None
) -> bool:
    """Under the lock of the action's row: check again, spend the code, decide. Whether the quorum is met now."""
    member_id, person_id = _deciding_member(actor)
    action = await _get_open(actor, action_id, lock=True)
    digest = bytes(action["digest"])
    if not digests.equals(digest, digest_hex):
        raise _digest_changed()
    await _check_may_approve(action, member_id)
    outcome_digest = _checked_outcome(action, outcome_digest)
    await _check_still_may_decide(actor, member_id)
    method = await use_second_factor(person_id, code)
    await Decision.insert(
        Decision(
            id=new_id(),
            organization=actor.organization_id,
            action=action_id,
            member=member_id,
            verdict=Verdict.APPROVAL,
            digest=digest,
            second_factor=method,
            decided_at=clock.now(),
        )
    )
    standing = queries.standing_of(action, (await queries.cast_decisions([action_id]))[action_id])
    detail = {"digest": digest.hex(), "approvals": standing.approvals, "required": standing.required}
    given = {**detail, "second_factor": method, "outcome_digest": outcome_digest}
    await audit.append(actor, "action.approval_given", "action", action_id, given)
    if not standing.is_met:
        return False
    await _decide(action_id, ActionStatus.APPROVED)
    told = {"approvals": standing.approvals, "required": standing.required}
    await record_many([happening_of(action, ActionStatus.APPROVED, **told)])
    await audit.append(actor, "action.approved", "action", action_id, detail)
    return True


async def reject(actor: Actor, action_id: UUID, reason: str) -> ActionView:
    """Refuse an open action for good; one rejection is enough, also from somebody who approved it before.

    Raises `OnlyMembersDecide`, `Forbidden`, `InputInvalid`, `NotFound` and `ActionNotProposed`.
    """
    member_id, _ = _deciding_member(actor)
    reason = checked_reason(reason)
    async with transaction():
        action = await _get_open(actor, action_id, lock=True)
        await _check_still_may_decide(actor, member_id)
        await run_sql(
            """INSERT INTO decision (id, organization, action, member, verdict, digest, reason, decided_at)
               VALUES ({}, {}, {}, {}, {}, {}, {}, {})
               ON CONFLICT (action, member) DO UPDATE SET
                 verdict = excluded.verdict, reason = excluded.reason, second_factor = NULL,
                 decided_at = excluded.decided_at""",
            new_id(),
            actor.organization_id,
            action_id,
            member_id,
            Verdict.REJECTION.value,
            bytes(action["digest"]),
            reason,
            clock.now(),
        )
        await _close(actor, action, ActionStatus.REJECTED, {"reason": reason})
    return await queries.get_action(actor.organization_id, action_id)


async def cancel(actor: Actor, action_id: UUID, reason: str) -> ActionView:
    """Withdraw an open action: by whoever proposed it or made the key that did, or with the permission to cancel.

    Raises `Forbidden`, `InputInvalid`, `NotFound` and `ActionNotProposed`.
    """
    reason = checked_reason(reason)
    async with transaction():
        action = await _get_open(actor, action_id, lock=True)
        if actor.id is None or action["proposer"] != actor.id:
            actor.require(Permission.ACTIONS_CANCEL)
        await _close(actor, action, ActionStatus.CANCELLED, {"reason": reason})
    return await queries.get_action(actor.organization_id, action_id)


async def expire_due(limit: int = 500) -> int:
    """Expire up to `limit` open actions that are past their deadline; returns how many."""
    async with transaction():
        due = await run_sql(
            """SELECT a.* FROM action a
               WHERE a.status = 'proposed' AND a.expires_at <= {}
               ORDER BY a.organization, a.id LIMIT {} FOR UPDATE SKIP LOCKED""",
            clock.now(),
            limit,
        )
        for action in due:
            actor = system_actor(action["organization"], "expire_actions")
            with bound_contextvars(correlation_id=action["correlation_id"]):
                await _close(actor, action, ActionStatus.EXPIRED, {"expires_at": action["expires_at"].isoformat()})
    return len(due)


def _deciding_member(actor: Actor) -> tuple[UUID, UUID]:
    if actor.kind != ActorKind.MEMBER or actor.id is None or actor.person_id is None:
        raise OnlyMembersDecide(
            f"{actor.label} is not a person. An action is decided by a member who signs in and confirms it."
        )
    actor.require(Permission.ACTIONS_APPROVE)
    return actor.id, actor.person_id


async def _get_open(actor: Actor, action_id: UUID, *, lock: bool = False) -> dict[str, Any]:
    rows = await run_sql(OPEN + (" FOR UPDATE OF a" if lock else ""), action_id, actor.organization_id)
    if not rows:
        raise NotFound("There is no such action.")
    action = rows[0]
    if action["status"] != ActionStatus.PROPOSED:
        raise ActionNotProposed(f"This action is already {action['status']}; nothing was changed.")
    if action["expires_at"] <= clock.now():
        raise ActionNotProposed(
            f"This action expired at {action['expires_at']:%Y-%m-%d %H:%M} UTC. Propose it again if it is still wanted."
        )
    return action


async def _check_digest(actor: Actor, action: dict[str, Any], digest_hex: str) -> None:
    if digests.equals(bytes(action["digest"]), digest_hex):
        return
    # Somebody confirms a call that is not this one: a stale page, or a page that was tampered with.
    log.error("security.digest_refused", action_id=str(action["id"]), actor=actor.label)
    async with transaction():
        await audit.append(
            actor,
            "action.digest_refused",
            "action",
            action["id"],
            {"digest": bytes(action["digest"]).hex(), "given": digest_hex[:128].replace("\0", "")},
        )
    raise _digest_changed()


def _digest_changed() -> DigestChanged:
    return DigestChanged(
        "The digest is not the one of this action, so this is not the call that you were shown. "
        "Load the action again, compare it, and only then decide."
    )


async def _check_may_approve(action: dict[str, Any], member_id: UUID) -> None:
    if action["proposer"] == member_id:
        did = "made the API key that proposed" if action["proposed_by_key"] else "proposed"
        raise ProposerMayNotApprove(f"You {did} this action, so somebody else has to approve it.")
    decided = await Decision.select(Decision.verdict, Decision.decided_at).where(
        Decision.action == action["id"], Decision.member == member_id
    )
    if decided:
        raise AlreadyDecided(
            f"You gave your {decided[0]['verdict']} at {decided[0]['decided_at']:%Y-%m-%d %H:%M} UTC. It counts once."
        )


def _checked_outcome(action: dict[str, Any], outcome_digest: str | None) -> str:
    """The digest of what the locked row says would happen, if `outcome_digest` is the same; None names nothing."""
    simulation = simulation_of(action)
    if simulation is None or not simulation.ok:
        reason = simulation.revert_reason if simulation else "it has not been simulated"
        raise SimulationReverts(f"The call would fail on chain: {reason}. Simulate it again once the cause is gone.")
    newest = outcome_digest_of(simulation)
    if outcome_digest not in (None, newest):
        unspent = "approve it if that is what you want. Nothing was approved and your code was not used."
        if not outcome_digest:
            raise OutcomeNotShown(f"It is not sure that your page showed this result. Look at it, and {unspent}")
        raise OutcomeChanged(f"The call would no longer do what you were shown. Look at the new result, and {unspent}")
    return newest


async def _check_still_may_decide(actor: Actor, member_id: UUID) -> None:
    """The actor's rights were read when the request began; what counts is what holds now."""
    rows = await run_sql(
        """SELECT m.role, m.disabled_at IS NULL AND p.disabled_at IS NULL AS enabled
           FROM member m JOIN person p ON p.id = m.person WHERE m.id = {} AND m.organization = {}""",
        member_id,
        actor.organization_id,
    )
    if not rows or not rows[0]["enabled"] or Permission.ACTIONS_APPROVE not in GRANTS[Role(rows[0]["role"])]:
        raise Forbidden(f"{actor.label} may not decide about actions any more.")


async def _close(actor: Actor, action: dict[str, Any], status: ActionStatus, detail: dict[str, Any]) -> None:
    """End an open action that will not run, in the caller's db transaction that holds its row."""
    await _decide(action["id"], status)
    await record_many([happening_of(action, status, **detail)])
    await audit.append(actor, f"action.{status}", "action", action["id"], detail)
    if action["to_address"] is None:
        await fail_contract(action["contract"])
        because = {"action_id": str(action["id"]), "because": status.value}
        await audit.append(actor, "contract.failed", "contract", action["contract"], because)


async def _decide(action_id: UUID, status: ActionStatus) -> None:
    moved = (
        await Action.update({Action.status: status, Action.decided_at: clock.now()})
        .where(Action.id == action_id, Action.status == ActionStatus.PROPOSED)
        .returning(Action.id)
    )
    assert moved, "the caller holds the row's lock and has seen it proposed"
