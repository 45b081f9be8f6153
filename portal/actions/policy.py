"""Quorum, as pure rules: who counts, and when it is enough."""

from collections.abc import Iterable
from uuid import UUID

import msgspec

from portal.actions.tables import Verdict


class CastDecision(msgspec.Struct, frozen=True):
    """One stored decision, with whether its member may still decide (enabled, and their role still permits it)."""

    member_id: UUID
    verdict: Verdict
    digest: bytes
    may_decide: bool


class Standing(msgspec.Struct, frozen=True):
    """How far an action is: `approvals` that count of the `required`."""

    approvals: int
    required: int
    rejected: bool

    @property
    def is_met(self) -> bool:
        """Whether it may run: enough approvals and nobody against. With `required` 0 the simulation decides instead."""
        return not self.rejected and self.approvals >= self.required


def assess(decisions: Iterable[CastDecision], *, digest: bytes, required: int, proposer_id: UUID | None) -> Standing:
    """Count what counts: one approval a member, of exactly `digest`, by somebody who may still decide.

    The proposer never counts. A rejection counts for ever, whoever made it.
    """
    decisions = list(decisions)
    approvers = {
        decision.member_id
        for decision in decisions
        if decision.verdict == Verdict.APPROVAL
        and decision.may_decide
        and decision.digest == digest
        and decision.member_id != proposer_id
    }
    return Standing(
        approvals=len(approvers),
        required=required,
        rejected=any(decision.verdict == Verdict.REJECTION for decision in decisions),
    )
