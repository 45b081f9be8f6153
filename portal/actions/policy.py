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

    def counts(self, *, digest: bytes, proposer_id: UUID | None) -> bool:
        """A rejection does, for ever, whoever made it; an approval if it is of exactly `digest`, by somebody who may
        still decide and did not propose it."""
        return self.verdict is Verdict.REJECTION or (
            self.may_decide and self.digest == digest and self.member_id != proposer_id
        )


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
    """What the decisions that count come to: one approval a member at most, and one rejection is enough."""
    counting = [decision for decision in decisions if decision.counts(digest=digest, proposer_id=proposer_id)]
    return Standing(
        approvals=len({each.member_id for each in counting if each.verdict is Verdict.APPROVAL}),
        required=required,
        rejected=any(each.verdict is Verdict.REJECTION for each in counting),
    )
