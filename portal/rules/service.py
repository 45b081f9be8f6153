"""Rules: written, published, disabled; and the assessment of signals by them."""

from datetime import datetime
from uuid import UUID

import asyncpg

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, ActorKind
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound, PreconditionFailed
from portal.rules import queries
from portal.rules.assessment import assess
from portal.rules.drafts import check_rule, try_rule
from portal.rules.errors import RuleNameTaken, RuleNotPublished, RulePublished
from portal.rules.replays import reassess
from portal.rules.schemas import RuleChange, RuleInput, RuleView
from portal.rules.tables import Rule, RuleStatus, RuleVersion

__all__ = [
    "assess",
    "change_rule",
    "create_rule",
    "disable_rule",
    "publish_rule",
    "reassess",
    "try_rule",
]


async def create_rule(actor: Actor, given: RuleInput) -> RuleView:
    """A draft with its first version. Raises `InputInvalid` naming all that is wrong, and `RuleNameTaken`."""
    actor.require(Permission.RULES_WRITE)
    if not await run_sql(
        "SELECT 1 FROM source WHERE id = {} AND organization = {}", given.source_id, actor.organization_id
    ):
        raise InputInvalid.at("/source_id", "There is no such source.")
    await check_rule(actor.organization_id, given)
    id, now = new_id(), clock.now()
    async with transaction():
        try:
            await Rule.insert(
                Rule(
                    id=id,
                    organization=actor.organization_id,
                    source=given.source_id,
                    name=given.name,
                    status=RuleStatus.DRAFT.value,
                    published_number=None,
                    created_at=now,
                    updated_at=now,
                )
            )
        except asyncpg.UniqueViolationError:
            raise _name_taken(given.name) from None
        await _insert_version(actor, id, 1, given)
        await audit.append(
            actor, "rule.created", "rule", id, {"name": given.name, "source_id": str(given.source_id), **_said(given)}
        )
    return await queries.get_rule(actor.organization_id, id)


async def change_rule(actor: Actor, rule_id: UUID, given: RuleChange, *, expected: datetime | None = None) -> RuleView:
    """A new version; the one in force stays so until `publish_rule`.

    Raises what `create_rule` raises, `NotFound`, and `PreconditionFailed` unless `updated_at` is still `expected`.
    """
    actor.require(Permission.RULES_WRITE)
    await check_rule(actor.organization_id, given)
    async with transaction():
        updated_at = await _lock_rule(actor, rule_id)
        if expected not in (None, updated_at):
            raise PreconditionFailed("The rule was changed since you read it. Read it again, then decide.")
        newest = await run_sql("SELECT max(number) AS number FROM rule_version WHERE rule = {}", rule_id)
        number = newest[0]["number"] + 1
        try:
            await Rule.update({Rule.name: given.name, Rule.updated_at: clock.now()}).where(Rule.id == rule_id)
        except asyncpg.UniqueViolationError:
            raise _name_taken(given.name) from None
        await _insert_version(actor, rule_id, number, given)
        await audit.append(
            actor, "rule.changed", "rule", rule_id, {"name": given.name, "number": number, **_said(given)}
        )
    return await queries.get_rule(actor.organization_id, rule_id)


async def publish_rule(actor: Actor, rule_id: UUID, *, number: int | None = None) -> RuleView:
    """Put a version, by default the newest, in force for signals assessed from now on. Raises `RulePublished`."""
    actor.require(Permission.RULES_WRITE)
    async with transaction():
        await _lock_rule(actor, rule_id)
        rows = await run_sql("SELECT number FROM rule_version WHERE rule = {} ORDER BY number DESC", rule_id)
        numbers = [row["number"] for row in rows]
        chosen = numbers[0] if number is None else number
        if chosen not in numbers:
            raise NotFound(f"The rule has no version {chosen}.")
        changed = await run_sql(
            """UPDATE rule SET status = 'published', published_number = {}, updated_at = {}
               WHERE id = {} AND (status <> 'published' OR published_number <> {}) RETURNING id""",
            chosen,
            clock.now(),
            rule_id,
            chosen,
        )
        if not changed:
            raise RulePublished(f"Version {chosen} of the rule is in force already.")
        await audit.append(actor, "rule.published", "rule", rule_id, {"number": chosen})
    return await queries.get_rule(actor.organization_id, rule_id)


async def disable_rule(actor: Actor, rule_id: UUID) -> RuleView:
    """Stop proposing by this rule; what it proposed stays. Raises `RuleNotPublished`, `NotFound`."""
    actor.require(Permission.RULES_WRITE)
    async with transaction():
        await _lock_rule(actor, rule_id)
        changed = (
            await Rule.update({Rule.status: RuleStatus.DISABLED.value, Rule.updated_at: clock.now()})
            .where(Rule.id == rule_id, Rule.status == RuleStatus.PUBLISHED.value)
            .returning(Rule.id)
        )
        if not changed:
            raise RuleNotPublished("Only a published rule can be disabled.")
        await audit.append(actor, "rule.disabled", "rule", rule_id)
    return await queries.get_rule(actor.organization_id, rule_id)


async def _lock_rule(actor: Actor, rule_id: UUID) -> datetime:
    """When it was changed last."""
    rows = await run_sql(
        "SELECT updated_at FROM rule WHERE id = {} AND organization = {} FOR UPDATE", rule_id, actor.organization_id
    )
    if not rows:
        raise NotFound("There is no such rule.")
    updated_at: datetime = rows[0]["updated_at"]
    return updated_at


async def _insert_version(actor: Actor, rule_id: UUID, number: int, given: RuleChange) -> None:
    await RuleVersion.insert(
        RuleVersion(
            id=new_id(),
            rule=rule_id,
            number=number,
            condition=given.condition,
            subject=given.subject,
            contract=given.contract_id,
            function=given.function,
            arguments=given.arguments,
            policy=given.policy_id,
            created_by=actor.id if actor.kind == ActorKind.MEMBER else None,
            created_at=clock.now(),
        )
    )


def _said(given: RuleChange) -> dict[str, object]:
    """What a version says, for the audit."""
    return {
        "condition": given.condition,
        "subject": given.subject,
        "contract_id": str(given.contract_id),
        "function": given.function,
        "arguments": given.arguments,
        "policy_id": str(given.policy_id),
    }


def _name_taken(name: str) -> RuleNameTaken:
    return RuleNameTaken(f"There is a rule named {name} already. Choose another name.")
