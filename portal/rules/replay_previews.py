"""What a replay would do, worked out with the code of the assessment and nothing stored."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from portal.accounts import end_users
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.actions import service as actions
from portal.db.engine import run_sql
from portal.errors import PortalError
from portal.rules.assessment import SIGNAL, Assessment, evaluate_all, list_published
from portal.rules.drafts import NO_ADDRESS_YET
from portal.rules.proposing import Holder, Match, PublishedRule, draft_all
from portal.rules.replays import REPLAYABLE
from portal.signals.batches.schemas import SignalSelection
from portal.signals.batches.selections import MOST_COUNTED, count_selected, next_ids

PREVIEWED = 1000
PREVIEWED_BYTES = 16 * 1024 * 1024
STEP = 50
"""Signals evaluated at once: between steps, others of the process get their turn."""
EXAMPLES = 5
MOST_FAILURES = 20
NEWEST = UUID(int=2**128 - 1)


class Prospect(StrEnum):
    """What would come of a rule that matches a signal."""

    NEW = "new"
    """An action would be proposed."""
    KNOWN = "known"
    """The rule has proposed for this signal before, and does not again."""
    FAILING = "failing"


class PreviewExample(msgspec.Struct, frozen=True, kw_only=True):
    signal_id: UUID
    external_id: str
    type: str
    received_at: datetime
    prospect: Prospect
    arguments: list[dict[str, Any]]
    """Of the call that would be proposed. The zero address stands for an end user who has none yet."""
    message: str | None
    """Why it would fail."""


class RulePreview(msgspec.Struct, kw_only=True):
    """What one published rule would make of the signals."""

    rule_id: UUID
    rule_name: str
    function: str
    new: int = 0
    known: int = 0
    failing: int = 0
    examples: list[PreviewExample] = []
    """Up to five of each."""


class PreviewFailure(msgspec.Struct, frozen=True):
    """A reason for which signals would end as `failed`, and how many."""

    message: str
    signals: int


class ReplayPreview(msgspec.Struct, frozen=True, kw_only=True):
    total: int | None
    """How many signals are selected; None where they are too many to be counted."""
    previewed: int
    """The newest of them, for which all that follows was worked out: at most 1,000."""
    left: int
    """Stay as they are: they wait already, are in quarantine, or have an expired body."""
    ignored: int
    """No rule matches."""
    new: int
    """Actions that would be proposed."""
    known: int
    """Actions that there are already, and that are not proposed again."""
    failing: int
    """Signals that would end as `failed`."""
    rules: list[RulePreview]
    """Those that match any of the signals."""
    failures: list[PreviewFailure]
    """The most frequent reasons first."""


class Tally:
    """What the preview has found so far."""

    def __init__(self) -> None:
        self.rules: dict[UUID, RulePreview] = {}
        self.failures: Counter[str] = Counter()
        self.failing: set[UUID] = set()
        self.ignored = 0

    def assessed(self, assessment: Assessment) -> None:
        if assessment.reasons:
            self.failing.add(assessment.signal["id"])
            self.failures.update(str(reason["message"]) for reason in assessment.reasons)
        elif not assessment.matched:
            self.ignored += 1

    def matched(
        self,
        match: Match,
        prospect: Prospect,
        *,
        arguments: list[dict[str, Any]] | None = None,
        message: str | None = None,
    ) -> None:
        signal, rule = match.signal, match.rule
        preview = self.rules.get(rule.id) or self.rules.setdefault(rule.id, _empty(rule))
        number = getattr(preview, prospect.value)
        setattr(preview, prospect.value, number + 1)
        if message is not None:
            self.failing.add(signal["id"])
            self.failures[f"Rule {rule.name}: {message}"] += 1
        if number < EXAMPLES:
            known = {name: signal[name] for name in ("external_id", "type", "received_at")}
            preview.examples.append(
                PreviewExample(
                    **known, signal_id=signal["id"], prospect=prospect, arguments=arguments or [], message=message
                )
            )


def _empty(rule: PublishedRule) -> RulePreview:
    return RulePreview(rule_id=rule.id, rule_name=rule.name, function=rule.function)


async def preview_replay(actor: Actor, selection: SignalSelection) -> ReplayPreview:
    """What a replay of the selection would do now, for the newest 1,000 signals of it. Raises `InputInvalid`."""
    actor.require(Permission.RULES_WRITE)
    organization_id = actor.organization_id
    total = await count_selected(organization_id, selection)
    ids, _ = await next_ids(
        organization_id, selection, until=NEWEST, position=None, most=PREVIEWED, max_bytes=PREVIEWED_BYTES
    )
    tally, replayed = Tally(), 0
    for start in range(0, len(ids), STEP):
        signals = await _read(ids[start : start + STEP])
        replayed += len(signals)
        await _preview(organization_id, signals, tally)
        await asyncio.sleep(0)
    rules = sorted(tally.rules.values(), key=lambda rule: rule.rule_name)
    return ReplayPreview(
        total=None if total is not None and total > MOST_COUNTED else total,
        previewed=len(ids),
        left=len(ids) - replayed,
        ignored=tally.ignored,
        new=sum(rule.new for rule in rules),
        known=sum(rule.known for rule in rules),
        failing=len(tally.failing),
        rules=rules,
        failures=[PreviewFailure(message, number) for message, number in tally.failures.most_common(MOST_FAILURES)],
    )


async def _read(ids: list[UUID]) -> list[dict[str, Any]]:
    """Those of the signals that a replay would set back."""
    return await run_sql(
        f"""SELECT {SIGNAL} FROM signal g JOIN source s ON s.id = g.source
            WHERE g.id = ANY({{}}) AND g.status = ANY({{}}) AND g.body IS NOT NULL ORDER BY g.id DESC""",  # noqa: S608
        ids,
        [status.value for status in REPLAYABLE],
    )


async def _preview(organization_id: UUID, signals: list[dict[str, Any]], tally: Tally) -> None:
    sources = await list_published({signal["source_id"] for signal in signals})
    assessments = [Assessment(signal) for signal in signals]
    matches = evaluate_all(assessments, sources)
    for assessment in assessments:
        tally.assessed(assessment)
    proposed = await run_sql(
        "SELECT signal, rule FROM action WHERE signal = ANY({})", [match.signal["id"] for match in matches]
    )
    known = {(row["signal"], row["rule"]) for row in proposed}
    drafts, failures = draft_all(organization_id, matches, await _holders(organization_id, matches))
    for match, message in failures:
        tally.matched(match, Prospect.FAILING, message=message)
    prepared = await actions.prepare_many([(draft.actor, draft.call) for draft in drafts])
    for draft, call in zip(drafts, prepared, strict=True):
        if isinstance(call, PortalError):
            tally.matched(draft.match, Prospect.FAILING, message=call.detail)
        elif (draft.match.signal["id"], draft.match.rule.id) in known:
            tally.matched(draft.match, Prospect.KNOWN)
        else:
            tally.matched(draft.match, Prospect.NEW, arguments=call.encoded.arguments)


async def _holders(organization_id: UUID, matches: Iterable[Match]) -> dict[str, Holder]:
    """By subject its end user; for one without an address, which only a worker could make, the zero address."""
    subjects = {match.subject.id for match in matches if match.subject}
    known = await end_users.find_end_users(organization_id, subjects)
    return {
        subject: Holder(found.id, found.address or NO_ADDRESS_YET, None)
        if (found := known.get(subject))
        else Holder(UUID(int=0), NO_ADDRESS_YET, None)
        for subject in subjects
    }
