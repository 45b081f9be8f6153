"""Turns received signals into proposed actions, a batch in one db transaction.

Invariants: a signal is claimed under its row lock and leaves `received` in the same db transaction that holds its
actions; (signal, rule) is unique among actions, so assessing again proposes nothing twice; one bad signal fails alone.
"""

import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from portal import clock
from portal.accounts import service as accounts
from portal.accounts.schemas import system_actor
from portal.actions import service as actions
from portal.actions.schemas import ProposedCall
from portal.chain import signers
from portal.db.engine import is_unreachable, run_sql, transaction
from portal.errors import PortalError, SettingInvalid, Unavailable
from portal.jobs.queue import ring
from portal.logging import bind_correlation_id, correlation_id, get_logger
from portal.rules import conditions
from portal.rules.conditions import ARGUMENT_VARIABLES, Facts, Subject
from portal.rules.drafts import make_facts
from portal.rules.errors import RuleFailed
from portal.signals.metrics import DELIVERIES, STAGE_SECONDS
from portal.signals.payloads import PayloadUnreadable
from portal.signals.tables import SignalStatus

log = get_logger(__name__)

BATCH_BYTES = 16 * 1024 * 1024
"""Bodies held in memory at once; a batch ends there."""


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


class Match(msgspec.Struct):
    """A rule whose condition holds for a signal."""

    rule: PublishedRule
    subject: Subject | None


class Assessment(msgspec.Struct):
    """What the rules say about one signal."""

    signal: dict[str, Any]
    facts: Facts | None = None
    matches: list[Match] = []
    reasons: list[dict[str, str | None]] = []

    def fail(self, rule: PublishedRule | None, message: str) -> None:
        prefix = f"Rule {rule.name}: " if rule else ""
        text = conditions.printable(prefix + message)
        self.reasons.append({"rule_id": str(rule.id) if rule else None, "message": text[:1000]})

    @property
    def status(self) -> SignalStatus:
        if self.reasons:
            return SignalStatus.FAILED
        return SignalStatus.ASSESSED if self.matches else SignalStatus.IGNORED


async def assess(limit: int = 500) -> int:
    """Assess up to `limit` received signals; how many it were. Raises `Unavailable` with nothing changed."""
    before = correlation_id()
    try:
        async with transaction() as current:
            signals = await _claim(limit)
            if not signals:
                return 0
            rules = await _list_published({signal["source_id"] for signal in signals})
            started = time.perf_counter()
            assessments = [_evaluate(signal, rules.get(signal["source_id"], [])) for signal in signals]
            STAGE_SECONDS.labels("assess").observe((time.perf_counter() - started) / len(signals))
            proposed = await _propose_all(current, assessments)
            await _write(assessments)
    finally:
        bind_correlation_id(before)
    _count(assessments)
    if proposed:
        ring("simulate_actions")
    return len(assessments)


async def _claim(limit: int) -> list[dict[str, Any]]:
    """The oldest received signals that no other worker holds, locked, up to the batch's bytes."""
    claimed = await run_sql(
        """SELECT id, octet_length(body) AS size FROM signal WHERE status = 'received'
           ORDER BY received_at, id LIMIT {} FOR UPDATE SKIP LOCKED""",
        limit,
    )
    chosen: list[UUID] = []
    total = 0
    for row in claimed:
        total += row["size"]
        if chosen and total > BATCH_BYTES:
            break
        chosen.append(row["id"])
    if not chosen:
        return []
    return await run_sql(
        """SELECT g.id, g.organization, g.source AS source_id, s.name AS source, s.scheme, g.external_id, g.type,
                  g.body, g.correlation_id, g.received_at
           FROM signal g JOIN source s ON s.id = g.source WHERE g.id = ANY({}) ORDER BY g.received_at, g.id""",
        chosen,
    )


async def _list_published(source_ids: Iterable[UUID]) -> dict[UUID, list[PublishedRule]]:
    rows = await run_sql(
        """SELECT r.id, v.id AS version_id, r.source, r.name, v.condition, v.subject, v.contract AS contract_id,
                  v.function, v.arguments, v.policy AS policy_id
           FROM rule r JOIN rule_version v ON v.rule = r.id AND v.number = r.published_number
           WHERE r.status = 'published' AND r.source = ANY({}) ORDER BY r.id""",
        list(source_ids),
    )
    published: dict[UUID, list[PublishedRule]] = {}
    for row in rows:
        rule = PublishedRule(**{**row, "arguments": msgspec.json.decode(row["arguments"])})
        published.setdefault(rule.source, []).append(rule)
    return published


def _evaluate(signal: dict[str, Any], rules: list[PublishedRule]) -> Assessment:
    """Conditions and subjects: all that needs no database."""
    assessment = Assessment(signal)
    if not rules:
        return assessment
    try:
        facts = assessment.facts = make_facts(signal)
    except (PayloadUnreadable, RuleFailed) as error:
        assessment.fail(None, str(error))
        return assessment
    for rule in rules:
        try:
            if conditions.evaluate_condition(facts, conditions.compile_condition(rule.condition)):
                subject = None
                if rule.subject is not None:
                    subject = conditions.evaluate_subject(facts, conditions.compile_condition(rule.subject))
                assessment.matches.append(Match(rule, subject))
        except RuleFailed as error:
            assessment.fail(rule, str(error))
    return assessment


async def _propose_all(current: Any, assessments: list[Assessment]) -> int:
    """Propose what matched; how many actions were new.

    End users and the audit's head are locked in the order of the signals, which differs between workers: so one worker
    at a time proposes for an organisation, and organisations are taken in the order of their ids.
    """
    proposed, locked = 0, None
    for assessment in sorted(assessments, key=lambda each: each.signal["organization"]):
        organization_id = assessment.signal["organization"]
        if assessment.matches and organization_id != locked:
            await run_sql("SELECT pg_advisory_xact_lock(hashtextextended({}, 0))", f"assess:{organization_id}")
            locked = organization_id
        for match in assessment.matches:
            bind_correlation_id(assessment.signal["correlation_id"])
            proposed += await _propose(current, assessment, match)
    return proposed


async def _propose(current: Any, assessment: Assessment, match: Match) -> int:
    """1 if an action was proposed, 0 if it exists or cannot be; in a savepoint, so that a failure leaves nothing."""
    savepoint = await current.savepoint()
    try:
        proposed = await _propose_match(assessment, match)
    except (Unavailable, SettingInvalid, asyncpg.TransactionRollbackError):
        raise
    except Exception as error:
        if is_unreachable(error):
            raise
        await savepoint.rollback_to()
        assessment.fail(match.rule, _sentence(error))
        return 0
    await savepoint.release()
    return int(proposed)


def _sentence(error: Exception) -> str:
    if isinstance(error, PortalError):
        return error.detail
    if isinstance(error, RuleFailed):
        return str(error)
    log.error("rule.broken", error=type(error).__name__, exc_info=error)
    return f"An internal error kept the action from being proposed. Correlation id {correlation_id()}."


async def _propose_match(assessment: Assessment, match: Match) -> bool:
    signal, facts, rule, end_user_id = assessment.signal, assessment.facts, match.rule, None
    assert facts is not None, "what matched was evaluated"
    if match.subject is not None:
        end_user_id, address = await _find_end_user(signal["organization"], match.subject)
        facts.set_subject(match.subject, id=str(end_user_id), address=address)
    action_id = await actions.propose_in_transaction(
        system_actor(signal["organization"], f"rule {rule.name}"),
        ProposedCall(
            contract_id=rule.contract_id,
            function=rule.function,
            arguments={name: _argument(facts, name, text) for name, text in rule.arguments.items()},
            policy_id=rule.policy_id,
            end_user_id=end_user_id,
            signal_id=signal["id"],
            rule_id=rule.id,
            rule_version_id=rule.version_id,
            correlation_id=signal["correlation_id"],
        ),
    )
    return action_id is not None


def _argument(facts: Facts, name: str, text: str) -> Any:
    try:
        return conditions.evaluate_argument(facts, conditions.compile_condition(text, ARGUMENT_VARIABLES))
    except RuleFailed as error:
        raise RuleFailed(f"argument {name}: {error}") from None


async def _find_end_user(organization_id: UUID, subject: Subject) -> tuple[UUID, str]:
    end_user = await accounts.find_or_create_end_user(organization_id, subject.id, subject.name, subject.email)
    if end_user.address is not None:
        return end_user.id, end_user.address
    address = await signers.make_holding_key(organization_id, end_user.id)
    await accounts.set_end_user_address(organization_id, end_user.id, address)
    return end_user.id, address


async def _write(assessments: list[Assessment]) -> None:
    await run_sql(
        """UPDATE signal SET status = made.status, reasons = made.reasons::jsonb, assessed_at = {}
           FROM unnest({}::uuid[], {}::text[], {}::text[]) AS made (id, status, reasons) WHERE signal.id = made.id""",
        clock.now(),
        [each.signal["id"] for each in assessments],
        [each.status.value for each in assessments],
        [msgspec.json.encode(each.reasons).decode() for each in assessments],
    )


def _count(assessments: list[Assessment]) -> None:
    now = clock.now()
    for assessment in assessments:
        DELIVERIES.labels(assessment.signal["scheme"], assessment.status.value).inc()
        waited = (now - assessment.signal["received_at"]).total_seconds()
        STAGE_SECONDS.labels("wait").observe(max(0.0, waited))
