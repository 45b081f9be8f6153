"""Policies: how many people must approve, and what it may cost, in immutable versions."""

from decimal import Decimal
from uuid import UUID

import asyncpg
import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, ActorKind
from portal.actions import queries
from portal.actions.checks import checked, checked_text
from portal.actions.errors import NameTaken
from portal.actions.schemas import PolicyInput, PolicyView
from portal.actions.tables import Policy, PolicyVersion
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Forbidden, InputInvalid, NotFound, PreconditionFailed


async def create_policy(actor: Actor, given: PolicyInput) -> PolicyView:
    """A new policy with version 1. Raises `Forbidden`, `InputInvalid` and `NameTaken`."""
    actor.require(Permission.POLICIES_WRITE)
    given = _checked(given)
    _check_asks_people(actor, given)
    policy_id, now = new_id(), clock.now()
    async with transaction():
        inserted = (
            await Policy.insert(
                Policy(id=policy_id, organization=actor.organization_id, name=given.name, created_at=now)
            )
            .on_conflict(target=(Policy.organization, Policy.name), action="DO NOTHING")
            .returning(Policy.id)
        )
        if not inserted:
            raise _name_taken(given.name)
        await _add_version(policy_id, 1, given)
        await audit.append(actor, "policy.created", "policy", policy_id, _detail(given, 1))
    return await queries.get_policy(actor.organization_id, policy_id)


async def change_policy(
    actor: Actor, policy_id: UUID, given: PolicyInput, *, expected: UUID | None = None
) -> PolicyView:
    """Give a policy a new version.

    What is already proposed, or approved and not signed yet, stays bound to the version it was proposed under, but for
    what is stricter in the new one: that binds at once (the view `policy_terms`).

    Raises `Forbidden`, `NotFound`, `InputInvalid`, `NameTaken`, and `PreconditionFailed` unless its newest version is
    still `expected`. A change that changes nothing makes no version.
    """
    actor.require(Permission.POLICIES_WRITE)
    given = _checked(given)
    _check_asks_people(actor, given)
    async with transaction():
        if not await run_sql(
            "SELECT id FROM policy WHERE id = {} AND organization = {} FOR UPDATE", policy_id, actor.organization_id
        ):
            raise NotFound("There is no such policy.")
        before = await queries.get_policy(actor.organization_id, policy_id)
        if expected not in (None, before.version_id):
            raise PreconditionFailed("The policy was changed since you read it. Read it again, then decide.")
        if given != PolicyInput(**{name: getattr(before, name) for name in PolicyInput.__struct_fields__}):
            try:
                await Policy.update({Policy.name: given.name}).where(Policy.id == policy_id)
            except asyncpg.UniqueViolationError:
                raise _name_taken(given.name) from None
            await _add_version(policy_id, before.version + 1, given)
            await audit.append(actor, "policy.changed", "policy", policy_id, _detail(given, before.version + 1))
    return await queries.get_policy(actor.organization_id, policy_id)


def _checked(given: PolicyInput) -> PolicyInput:
    given = checked(msgspec.structs.replace(given, name=checked_text(given.name, "/name")))
    caps = {"/most_cost_wei": given.most_cost_wei, "/most_cost_a_day_wei": given.most_cost_a_day_wei}
    for path, cap in caps.items():
        if cap == "0":
            raise InputInvalid.at(path, "With a limit of 0 nothing could be carried out: gas is never free.")
    one, day = (None if cap is None else int(cap) for cap in caps.values())
    if one is not None and day is not None and day < one:
        raise InputInvalid.at(
            "/most_cost_a_day_wei",
            "The limit for 24 hours is below that for one action: what costs more would wait for ever.",
        )
    return given


def _check_asks_people(actor: Actor, given: PolicyInput) -> None:
    """A key that made a policy which asks nobody, and proposed under it, would have approved by itself."""
    if given.approvals_required == 0 and actor.kind is ActorKind.API_KEY:
        raise Forbidden("Only a member who signs in, never a key, decides that actions run without an approval.")


async def _add_version(policy_id: UUID, number: int, given: PolicyInput) -> None:
    await PolicyVersion.insert(
        PolicyVersion(
            id=new_id(),
            policy=policy_id,
            number=number,
            approvals_required=given.approvals_required,
            expires_after_seconds=given.expires_after_seconds,
            execute_within_seconds=given.execute_within_seconds,
            most_cost_wei=_amount(given.most_cost_wei),
            most_cost_a_day_wei=_amount(given.most_cost_a_day_wei),
            created_at=clock.now(),
        )
    )


def _detail(given: PolicyInput, number: int) -> dict[str, object]:
    return {**msgspec.structs.asdict(given), "version": number}


def _amount(wei: str | None) -> Decimal | None:
    return None if wei is None else Decimal(wei)


def _name_taken(name: str) -> NameTaken:
    return NameTaken(f"There is a policy called {name} already. Choose another name.")
