"""Turns received signals into proposed actions, a batch in one db transaction.

Invariants: a signal is claimed under its row lock and leaves `received` in the same db transaction that holds its
actions; (signal, rule) is unique among actions, so assessing again proposes nothing twice; one bad signal fails alone.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.audit import service as audit
from portal.db.engine import run_sql, transaction
from portal.db.notices import announce
from portal.jobs.queue import ring
from portal.logging import bind_correlation_id, correlation_id
from portal.rules import conditions
from portal.rules.conditions import Facts, Subject
from portal.rules.drafts import make_facts, read_payload
from portal.rules.errors import RuleFailed
from portal.rules.fields import Wanted, fields_read
from portal.rules.proposing import Match, PublishedRule, propose_matches
from portal.signals.metrics import DELIVERIES, STAGE_SECONDS
from portal.signals.payloads import PayloadUnreadable
from portal.signals.tables import SignalStatus
from portal.signals.words import words_of

BATCH_BYTES = 8 * 1024 * 1024
"""Bodies that a batch holds in memory; it ends there."""


class SourceRules(msgspec.Struct, frozen=True):
    """The published rules of a source, and what of its payloads they read."""

    rules: list[PublishedRule]
    wanted: Wanted | None


NO_RULES = SourceRules([], {})
SIGNAL = """g.id, g.organization, g.source AS source_id, s.name AS source, s.scheme, g.external_id, g.type, g.body,
            g.body_bytes, g.correlation_id, g.received_at"""
"""What an assessment reads of a signal `g` and its source `s`."""


class Assessment(msgspec.Struct):
    """What the rules say about one signal."""

    signal: dict[str, Any]
    words: list[str] | None = None
    """None where there is no payload to be read."""
    matched: bool = False
    reasons: list[dict[str, str | None]] = []

    def fail(self, rule: PublishedRule | None, message: str) -> None:
        prefix = f"Rule {rule.name}: " if rule else ""
        text = conditions.printable(prefix + message)
        self.reasons.append({"rule_id": str(rule.id) if rule else None, "path": None, "message": text[:1000]})

    @property
    def status(self) -> SignalStatus:
        if self.reasons:
            return SignalStatus.FAILED
        return SignalStatus.ASSESSED if self.matched else SignalStatus.IGNORED


async def assess(limit: int = 500) -> int:
    """Assess up to `limit` received signals; how many it were. Raises `Unavailable` with nothing changed."""
    before = correlation_id()
    try:
        async with transaction() as current:
            signals = await _claim(limit)
            if not signals:
                return 0
            sources = await list_published({signal["source_id"] for signal in signals})
            assessments = {signal["id"]: Assessment(signal) for signal in signals}
            started = time.perf_counter()
            matches = evaluate_all(assessments.values(), sources)
            STAGE_SECONDS.labels("assess").observe((time.perf_counter() - started) / len(assessments))
            proposals = await propose_matches(current, matches)
            for match, message in proposals.failures:
                assessments[match.signal["id"]].fail(match.rule, message)
            await _write(assessments.values())
            await audit.append_many(proposals.entries)
    finally:
        bind_correlation_id(before)
    _count(assessments.values())
    for organization_id in {signal["organization"] for signal in signals}:
        announce("signals", organization_id)
    if proposals.made:
        ring("simulate_actions")
    return len(assessments)


async def _claim(limit: int) -> list[dict[str, Any]]:
    """The oldest received signals that no other worker holds, locked, up to the batch's bytes."""
    return await run_sql(
        f"""WITH waiting AS MATERIALIZED (
               SELECT id, organization, source, external_id, type, body, body_bytes, correlation_id, received_at
               FROM signal WHERE status = 'received' ORDER BY received_at, id LIMIT {{}} FOR UPDATE SKIP LOCKED
           ), summed AS (
               SELECT *, sum(body_bytes) OVER (ORDER BY received_at, id) AS bytes FROM waiting
           )
           SELECT {SIGNAL} FROM summed g JOIN source s ON s.id = g.source
           WHERE g.bytes <= {{}} OR g.bytes = g.body_bytes ORDER BY g.received_at, g.id""",  # noqa: S608
        limit,
        BATCH_BYTES,
    )


async def list_published(source_ids: Iterable[UUID]) -> dict[UUID, SourceRules]:
    """The rules in force, by source; a source without one is left out."""
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
    return {
        source_id: SourceRules(rules, fields_read(text for rule in rules for text in rule.expressions))
        for source_id, rules in published.items()
    }


def evaluate_all(assessments: Iterable[Assessment], sources: dict[UUID, SourceRules]) -> list[Match]:
    """What matches, in the order of the signals; notes words and what fails with each. Needs no database."""
    return [
        match
        for assessment in assessments
        for match in _evaluate(assessment, sources.get(assessment.signal["source_id"], NO_RULES))
    ]


def _evaluate(assessment: Assessment, source: SourceRules) -> list[Match]:
    try:
        payload = read_payload(assessment.signal)
        assessment.words = words_of(payload)
        facts = make_facts(assessment.signal, payload, source.wanted) if source.rules else None
    except (PayloadUnreadable, RuleFailed) as error:
        if source.rules:
            assessment.fail(None, str(error))
        return []
    matches = []
    for rule in source.rules:
        assert facts
        try:
            if conditions.evaluate_condition(facts, conditions.compile_condition(rule.condition)):
                assessment.matched = True
                matches.append(Match(assessment.signal, rule, _subject(facts, rule), facts))
        except RuleFailed as error:
            assessment.fail(rule, str(error))
    return matches


def _subject(facts: Facts, rule: PublishedRule) -> Subject | None:
    if rule.subject is None:
        return None
    return conditions.evaluate_subject(facts, conditions.compile_condition(rule.subject))


async def _write(assessments: Collection[Assessment]) -> None:
    await run_sql(
        """UPDATE signal SET status = made.status, reasons = made.reasons, assessed_at = {},
                             words = string_to_array(made.words, chr(10))
           FROM unnest({}::uuid[], {}::text[], {}::jsonb[], {}::text[]) AS made (id, status, reasons, words)
           WHERE signal.id = made.id""",
        clock.now(),
        [each.signal["id"] for each in assessments],
        [each.status.value for each in assessments],
        [msgspec.json.encode(each.reasons).decode() for each in assessments],
        [None if each.words is None else "\n".join(each.words) for each in assessments],
    )


def _count(assessments: Collection[Assessment]) -> None:
    for (scheme, outcome), number in Counter((each.signal["scheme"], each.status) for each in assessments).items():
        DELIVERIES.labels(scheme, outcome.value).inc(number)
    now, waits = clock.now(), STAGE_SECONDS.labels("wait")
    for assessment in assessments:
        waits.observe(max(0.0, (now - assessment.signal["received_at"]).total_seconds()))
