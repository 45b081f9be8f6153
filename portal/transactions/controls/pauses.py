"""Pauses: one member begins one; to end it takes as many votes as an approval.

While a pause lasts, nothing new is signed within its scope. What was sent before is still followed, resent, replaced
and closed: to stop that would leave its outcome open.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import GRANTS, Permission, Role
from portal.accounts.schemas import Actor, ActorKind
from portal.actions.checks import checked_reason
from portal.actions.errors import OnlyMembersDecide
from portal.audit import service as audit
from portal.audit.service import Entry
from portal.chain.queries import get_chain, get_contract, get_signer
from portal.db.columns import new_id
from portal.db.engine import in_transaction, run_sql, transaction
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of
from portal.errors import Conflict, Forbidden, InputInvalid, NotFound
from portal.jobs.queue import ring
from portal.notify import outbox
from portal.transactions.tables import PauseScope

MAY_RESUME = [role.value for role in Role if Permission.ACTIONS_APPROVE in GRANTS[role]]

PAUSES = """
    SELECT p.*, chain.name AS chain_name, contract.name AS contract_name, signer.name AS signer_name
    FROM pause p
    LEFT JOIN chain ON p.scope = 'chain' AND chain.id::text = p.subject
    LEFT JOIN contract ON p.scope = 'contract' AND contract.id::text = p.subject
    LEFT JOIN signer ON p.scope = 'signer' AND signer.id::text = p.subject
    WHERE p.organization = {} """

PAUSED_CHAINS = """
    SELECT NULL AS scope, c.name AS chain_name, c.paused_at FROM chain c WHERE c.paused_at IS NOT NULL
        AND EXISTS (SELECT FROM lane l WHERE l.chain = c.id AND l.organization = {}) ORDER BY c.name"""

VOTES = """
    SELECT r.pause, r.voted_at, p.email, p.name, r.member AS member_id,
           m.disabled_at IS NULL AND p.disabled_at IS NULL AND m.role = ANY({}) AS counts
    FROM resumption r JOIN member m ON m.id = r.member JOIN person p ON p.id = m.person
    WHERE r.pause = ANY({}::uuid[]) ORDER BY r.voted_at, r.id"""

QUORUM = """
    SELECT (SELECT coalesce(max(newest.approvals_required), 1) FROM policy p JOIN LATERAL (
                SELECT approvals_required FROM policy_version v WHERE v.policy = p.id ORDER BY number DESC LIMIT 1
            ) newest ON true WHERE p.organization = {}) AS highest,
           (SELECT count(*) FROM member m JOIN person p ON p.id = m.person
            WHERE m.organization = {} AND m.disabled_at IS NULL AND p.disabled_at IS NULL AND m.role = ANY({})
           ) AS people"""

# Signing shares the lock of its organisation, pausing takes it alone: it waits for what is being signed.
TAKE_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('pause:' || {}::uuid, 0))"
SHARE_LOCKS = """
    SELECT pg_advisory_xact_lock_shared(hashtextextended('pause:' || concerned.organization, 0)) FROM (
        SELECT DISTINCT organization FROM transaction WHERE id = ANY({}::uuid[]) ORDER BY organization
    ) concerned"""

STOPPED = """
    SELECT DISTINCT ON (t.id) t.id, p.scope, p.begun_by, p.begun_at, p.reason, c.paused_at,
           c.name AS chain_name, contract.name AS contract_name, s.name AS signer_name
    FROM transaction t
    JOIN lane l ON l.id = t.lane
    JOIN chain c ON c.id = l.chain
    JOIN signer s ON s.id = l.signer
    JOIN action a ON a.id = t.action
    JOIN contract ON contract.id = a.contract
    LEFT JOIN pause p ON p.organization = t.organization AND p.ended_at IS NULL AND (p.scope, p.subject) IN (
        ('organization', t.organization::text), ('chain', l.chain::text),
        ('contract', a.contract::text), ('signer', l.signer::text))
    WHERE t.id = ANY({}::uuid[]) AND (p.id IS NOT NULL OR c.paused_at IS NOT NULL)
    ORDER BY t.id, p.begun_at NULLS LAST, p.id"""


class AlreadyPaused(Conflict):
    title = "It is paused already"


class PauseEnded(Conflict):
    title = "This pause has ended"


class AlreadyVoted(Conflict):
    title = "You voted already"


class PauseInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to stop, and why."""

    scope: PauseScope
    subject: str | None = None
    """The id of the chain, contract or signer; null for the whole organisation."""
    reason: str


class ResumptionView(msgspec.Struct, frozen=True, kw_only=True):
    """One member's vote to go on."""

    member_id: UUID
    email: str
    name: str
    counts: bool
    """False where the member was disabled or may not approve any more."""
    voted_at: datetime


class PauseView(msgspec.Struct, frozen=True, kw_only=True):
    """What was stopped, by whom and why, and how far it is on its way to go on."""

    id: UUID
    scope: PauseScope
    subject: str
    """The id of what is paused."""
    subject_name: str
    """What people call it: `Base`, `the contract Points`; `everything` for the organisation."""
    reason: str
    begun_by: str
    begun_at: datetime
    ended_at: datetime | None
    votes: list[ResumptionView]
    votes_given: int
    """Of those, the ones that count."""
    votes_required: int
    """As of now: more or fewer once the policies or the members change."""


async def pause(actor: Actor, scope: PauseScope, subject: str | None, reason: str) -> PauseView:
    """Stop the organisation (`subject` is None), or one chain, contract or signer of it. One person is enough.

    Once this returns, nothing within the scope is signed any more. Raises `Forbidden`, `InputInvalid`, `NotFound`, and
    `AlreadyPaused` while a pause of the same subject lasts.
    """
    actor.require(Permission.PAUSES_WRITE)
    reason = checked_reason(reason)
    subject = await _checked_subject(actor.organization_id, scope, subject)
    id = new_id()
    async with transaction():
        await run_sql(TAKE_LOCK, actor.organization_id)
        made = await run_sql(
            """INSERT INTO pause (id, organization, scope, subject, reason, begun_by, begun_at)
               VALUES ({}, {}, {}, {}, {}, {}, {}) ON CONFLICT DO NOTHING RETURNING id""",
            *(id, actor.organization_id, scope.value, subject, reason, actor.label, clock.now()),
        )
        if not made:
            raise AlreadyPaused("It is already paused, and stays so until enough members vote to end the pause.")
        detail = {"scope": scope.value, "subject": subject, "reason": reason}
        await outbox.record_entries([Entry(actor, "pause.begun", "pause", id, detail)])
    ring("run_lanes")  # which says on each transaction why it waits
    return await get_pause(actor.organization_id, id)


async def resume(actor: Actor, pause_id: UUID) -> PauseView:
    """Vote to end a pause. The vote that meets the quorum ends it; whoever began it may vote like anybody.

    The quorum is the highest `approvals_required` among the newest versions of the organisation's policies, at least
    1 and at most as many as there are members who may approve. Only votes of members who may approve now count.
    Raises `OnlyMembersDecide`, `Forbidden`, `NotFound`, `PauseEnded`, and `AlreadyVoted` where that changes nothing.
    """
    if actor.kind != ActorKind.MEMBER or actor.id is None:
        raise OnlyMembersDecide(f"{actor.label} is not a person. Only members who sign in can vote to end a pause.")
    actor.require(Permission.ACTIONS_APPROVE)
    async with transaction():
        await _lock_lasting(actor.organization_id, pause_id)
        voted = await run_sql(
            """INSERT INTO resumption (id, organization, pause, member, voted_at) VALUES ({}, {}, {}, {}, {})
               ON CONFLICT (pause, member) DO NOTHING RETURNING id""",
            *(new_id(), actor.organization_id, pause_id, actor.id, clock.now()),
        )
        view = await get_pause(actor.organization_id, pause_id)
        if not any(vote.member_id == actor.id and vote.counts for vote in view.votes):
            raise Forbidden(f"{actor.label} may not decide about pauses any more.")
        met = view.votes_given >= view.votes_required
        if not voted and not met:
            raise AlreadyVoted(f"You voted already; {view.votes_given} of {view.votes_required} votes are in.")
        detail = {"votes": view.votes_given, "required": view.votes_required}
        if met:
            await run_sql("UPDATE pause SET ended_at = {} WHERE id = {}", clock.now(), pause_id)
            ended = {"scope": view.scope.value, "subject": view.subject}
            await outbox.record(actor.organization_id, "pause.ended", "pause", pause_id, ended)
        if voted:
            await audit.append(actor, "pause.vote_given", "pause", pause_id, detail)
        if met:
            await audit.append(actor, "pause.ended", "pause", pause_id, detail)
    if met:
        ring("run_lanes")
    return await get_pause(actor.organization_id, pause_id)


async def find_pauses(transaction_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Why nothing may be signed for them now, as a sentence, by transaction; what is not paused is left out.

    Pauses of the organisation, chain, contract and signer count, and the installation's own of the chain. Inside a db
    transaction the answer holds until it ends: a pause of these organisations waits for it. Ask it there before the
    audit's chain is locked, and best as the first statement.
    """
    wanted = list(transaction_ids)
    if not wanted:
        return {}
    if in_transaction():
        await run_sql(SHARE_LOCKS, wanted)
    return {row["id"]: _sentence(row) for row in await run_sql(STOPPED, wanted)}


async def list_stops(organization_id: UUID) -> list[str]:
    """What is paused now, a sentence each: the organisation's own pauses, the longest first, then paused chains."""
    own = await run_sql(PAUSES + "AND p.ended_at IS NULL ORDER BY p.begun_at, p.id LIMIT 20", organization_id)
    return [_sentence(row) for row in [*own, *await run_sql(PAUSED_CHAINS, organization_id)]]


async def get_pause(organization_id: UUID, pause_id: UUID) -> PauseView:
    """One pause with its votes. Raises `NotFound`."""
    rows = await run_sql(PAUSES + "AND p.id = {}", organization_id, pause_id)
    if not rows:
        raise NotFound("There is no such pause.")
    return (await _views(organization_id, rows))[0]


async def list_pauses(
    organization_id: UUID, *, lasting: bool | None = None, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[PauseView]:
    """The organisation's pauses, the newest first; with `lasting` only those that last, or only those that ended."""
    after = decode_cursor(cursor) if cursor else None
    rows = await run_sql(
        PAUSES
        + """AND ({}::boolean IS NULL OR (p.ended_at IS NULL) = {}::boolean) AND ({}::uuid IS NULL OR p.id < {}::uuid)
             ORDER BY p.id DESC LIMIT {}""",
        *(organization_id, lasting, lasting, after, after, check_limit(limit) + 1),
    )
    views = {view.id: view for view in await _views(organization_id, rows)}
    return page_of(rows, limit, lambda row: views[row["id"]])


async def _checked_subject(organization_id: UUID, scope: PauseScope, subject: str | None) -> str:
    if scope is PauseScope.ORGANIZATION:
        if subject not in (None, "", str(organization_id)):
            raise InputInvalid.at("/subject", "Leave this out to pause the whole organisation.")
        return str(organization_id)
    try:
        if scope is PauseScope.CHAIN:
            # Longer than any id, and than what PostgreSQL could compare with one.
            return str((await get_chain(int((subject or "")[:18]))).id)
        id = UUID(subject or "")
    except ValueError:
        raise InputInvalid.at("/subject", f"Give the id of the {scope.value} to pause.") from None
    found = await (get_contract if scope is PauseScope.CONTRACT else get_signer)(organization_id, id)
    return str(found.id)


async def _lock_lasting(organization_id: UUID, pause_id: UUID) -> None:
    """Lock the pause, so that two who vote at the same time see each other's votes."""
    rows = await run_sql(
        "SELECT ended_at FROM pause WHERE id = {} AND organization = {} FOR UPDATE", pause_id, organization_id
    )
    if not rows:
        raise NotFound("There is no such pause.")
    if rows[0]["ended_at"]:
        raise PauseEnded(f"It ended at {rows[0]['ended_at']:%Y-%m-%d %H:%M} UTC; nothing was changed.")


async def _views(organization_id: UUID, rows: list[dict[str, Any]]) -> list[PauseView]:
    votes = await run_sql(VOTES, MAY_RESUME, [row["id"] for row in rows]) if rows else []
    quorum = (await run_sql(QUORUM, organization_id, organization_id, MAY_RESUME))[0]
    required = max(1, min(quorum["highest"], quorum["people"]))
    return [_view(row, [vote for vote in votes if vote["pause"] == row["id"]], required) for row in rows]


def _view(row: dict[str, Any], votes: list[dict[str, Any]], required: int) -> PauseView:
    return PauseView(
        id=row["id"],
        scope=PauseScope(row["scope"]),
        subject=row["subject"],
        subject_name=_name(row),
        reason=row["reason"],
        begun_by=row["begun_by"],
        begun_at=row["begun_at"],
        ended_at=row["ended_at"],
        votes=[ResumptionView(**{name: vote[name] for name in ResumptionView.__struct_fields__}) for vote in votes],
        votes_given=sum(vote["counts"] for vote in votes),
        votes_required=required,
    )


def _name(row: dict[str, Any]) -> str:
    match row["scope"]:
        case PauseScope.CHAIN:
            return str(row["chain_name"])
        case PauseScope.CONTRACT:
            return f"the contract {row['contract_name']}"
        case PauseScope.SIGNER:
            return f"the signer {row['signer_name']}"
    return "everything"


def _sentence(row: dict[str, Any]) -> str:
    if row["scope"] is None:
        return f"Whoever runs this portal paused {row['chain_name']} at {row['paused_at']:%Y-%m-%d %H:%M} UTC."
    name = _name(row)
    what = f"{name[0].upper()}{name[1:]}"
    return f"{what} is paused by {row['begun_by']} since {row['begun_at']:%Y-%m-%d %H:%M} UTC: {row['reason']}"
