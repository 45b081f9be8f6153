"""Proposes what the rules matched in a batch of signals, in a few statements for each organisation.

Everything is evaluated and encoded before anything is written: so what is wrong with one signal concerns no other, and
leaves neither an end user nor a key. Where writing fails all the same, the matches are tried in halves, at last alone.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from portal.accounts import end_users
from portal.accounts.end_users import NewEndUser
from portal.accounts.schemas import Actor, system_actor
from portal.actions import service as actions
from portal.actions.schemas import ProposedCall
from portal.audit.service import Entry
from portal.chain import signers
from portal.chain.signers import HoldingKey
from portal.db.columns import new_id
from portal.db.engine import is_unreachable, run_sql
from portal.errors import PortalError, SettingInvalid, Unavailable
from portal.logging import bind_correlation_id, correlation_id, get_logger
from portal.rules import conditions
from portal.rules.conditions import ARGUMENT_VARIABLES, Facts, Subject
from portal.rules.errors import RuleFailed

log = get_logger(__name__)


class PublishedRule(msgspec.Struct, frozen=True):
    """A rule's version in force, as the assessment needs it."""

    id: UUID
    version_id: UUID
    source: UUID
    name: str
    condition: str
    subject: str | None
    contract_id: UUID
    function: str
    arguments: dict[str, str]
    policy_id: UUID

    @property
    def expressions(self) -> list[str]:
        return [self.condition, *([] if self.subject is None else [self.subject]), *self.arguments.values()]


class Match(msgspec.Struct, frozen=True, eq=False):
    """A rule whose condition holds for a signal."""

    signal: dict[str, Any]
    rule: PublishedRule
    subject: Subject | None
    facts: Facts


class Proposals(msgspec.Struct):
    """What became of matches: how many actions are new, what the audit is to say, and who failed with what sentence."""

    made: int = 0
    entries: list[Entry] = []
    failures: list[tuple[Match, str]] = []

    def add(self, other: "Proposals") -> None:
        self.made += other.made
        self.entries += other.entries
        self.failures += other.failures


class Holder(msgspec.Struct, frozen=True):
    """Whom a match is for: an end user with an address, or one who gets it with the proposal, and its key."""

    id: UUID
    address: str
    key: HoldingKey | None


class Draft(msgspec.Struct, frozen=True):
    """What a match would propose, and the end user who is made with it."""

    match: Match
    actor: Actor
    call: ProposedCall
    person: NewEndUser | None = None
    key: HoldingKey | None = None


async def propose_matches(current: Any, matches: Sequence[Match]) -> Proposals:
    """Propose in the db transaction `current`, whose last statement is to append the audit entries.

    End users are locked in the order of the signals, which differs between workers: so one worker at a time proposes
    for an organisation, and organisations are taken in the order of their ids. The audit comes last because a member
    who publishes a rule holds the rule's row, to which actions refer, while waiting for the end of the chain.
    """
    proposals = Proposals()
    for organization_id, group in groupby(sorted(matches, key=_organization_of), key=_organization_of):
        await run_sql("SELECT pg_advisory_xact_lock(hashtextextended({}, 0))", f"assess:{organization_id}")
        proposals.add(await _propose_safely(current, organization_id, list(group)))
    return proposals


def _organization_of(match: Match) -> UUID:
    organization_id: UUID = match.signal["organization"]
    return organization_id


async def _propose_safely(current: Any, organization_id: UUID, matches: list[Match]) -> Proposals:
    """Propose in a savepoint, so that a failure leaves nothing; without those that cannot be written."""
    savepoint = await current.savepoint()
    try:
        proposals = await _propose(organization_id, matches)
    except (Unavailable, SettingInvalid, asyncpg.TransactionRollbackError):
        raise
    except Exception as error:
        if is_unreachable(error):
            raise
        await savepoint.rollback_to()
        if len(matches) == 1:
            return Proposals(failures=[(matches[0], _sentence(matches[0], error))])
        half = len(matches) // 2
        proposals = await _propose_safely(current, organization_id, matches[:half])
        proposals.add(await _propose_safely(current, organization_id, matches[half:]))
        return proposals
    await savepoint.release()
    return proposals


def _sentence(match: Match, error: Exception) -> str:
    if isinstance(error, PortalError):
        return error.detail
    bind_correlation_id(match.signal["correlation_id"])
    log.error("rule.broken", error=type(error).__name__, exc_info=error)
    return f"An internal error kept the action from being proposed. Correlation id {correlation_id()}."


async def _propose(organization_id: UUID, matches: list[Match]) -> Proposals:
    holders = await _find_holders(organization_id, matches)
    drafts, failures = draft_all(organization_id, matches, holders)
    ready = []
    for draft, prepared in zip(
        drafts, await actions.prepare_many([(draft.actor, draft.call) for draft in drafts]), strict=True
    ):
        if isinstance(prepared, PortalError):
            failures.append((draft.match, prepared.detail))
        else:
            ready.append((draft, prepared))
    entries = await _make_people(organization_id, [draft for draft, _ in ready])
    stored, said = await actions.store_many(organization_id, [prepared for _, prepared in ready])
    return Proposals(sum(action_id is not None for action_id in stored), entries + said, failures)


async def _find_holders(organization_id: UUID, matches: list[Match]) -> dict[str, Holder]:
    """By subject its end user; those who do not exist yet and those without an address get a key."""
    subjects = dict.fromkeys(match.subject.id for match in matches if match.subject)
    known = await end_users.find_end_users(organization_id, subjects) if subjects else {}
    holders = {}
    for subject in subjects:
        found = known.get(subject)
        if found and found.address:
            holders[subject] = Holder(found.id, found.address, None)
        else:
            key = signers.new_holding_key()
            holders[subject] = Holder(found.id if found else new_id(), key.address, key)
    return holders


def draft_all(
    organization_id: UUID, matches: list[Match], holders: dict[str, Holder]
) -> tuple[list[Draft], list[tuple[Match, str]]]:
    """What each match would propose, and why those that have no draft cannot."""
    drafts, failures, actors = [], [], dict[UUID, Actor]()
    for match in matches:
        rule = match.rule
        actor = actors.setdefault(rule.id, actors.get(rule.id) or system_actor(organization_id, f"rule {rule.name}"))
        try:
            drafts.append(_draft(match, actor, holders[match.subject.id] if match.subject else None))
        except RuleFailed as error:
            failures.append((match, str(error)))
        except PortalError as error:
            failures.append((match, error.detail))
    return drafts, failures


def _draft(match: Match, actor: Actor, holder: Holder | None) -> Draft:
    signal, rule, subject, person = match.signal, match.rule, match.subject, None
    if subject and holder:
        name, email = end_users.check_end_user(subject.id, subject.name, subject.email)
        match.facts.set_subject(subject, id=str(holder.id), address=holder.address)
        if holder.key:
            person = NewEndUser(
                id=holder.id,
                subject=subject.id,
                name=name,
                email=email,
                address=holder.address,
                correlation_id=signal["correlation_id"],
            )
    call = ProposedCall(
        contract_id=rule.contract_id,
        function=rule.function,
        arguments={name: _argument(match.facts, name, text) for name, text in rule.arguments.items()},
        policy_id=rule.policy_id,
        end_user_id=holder.id if holder else None,
        signal_id=signal["id"],
        rule_id=rule.id,
        rule_version_id=rule.version_id,
        correlation_id=signal["correlation_id"],
    )
    return Draft(match, actor, call, person, holder.key if holder else None)


def _argument(facts: Facts, name: str, text: str) -> Any:
    try:
        return conditions.evaluate_argument(facts, conditions.compile_condition(text, ARGUMENT_VARIABLES))
    except RuleFailed as error:
        raise RuleFailed(f"argument {name}: {error}") from None


async def _make_people(organization_id: UUID, drafts: list[Draft]) -> list[Entry]:
    """Make the end users of these drafts who are new, each as the first of them says, with their keys."""
    people, keys = dict[UUID, NewEndUser](), dict[UUID, HoldingKey]()
    for draft in drafts:
        if draft.person and draft.key:
            people.setdefault(draft.person.id, draft.person)
            keys[draft.person.id] = draft.key
    if not people:
        return []
    entries = await end_users.make_end_users(organization_id, list(people.values()))
    await signers.store_holding_keys(organization_id, keys)
    return entries
