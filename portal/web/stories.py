"""Puts audit entries and transactions into plain words: the timeline of an action, and what it waits for."""

from datetime import datetime
from typing import Any

import msgspec

from portal.actions.schemas import ActionView
from portal.audit.schemas import AuditEntryView
from portal.transactions.schemas import TransactionView
from portal.web.states import action_state, state_of

UNTOLD = ("rule.", "session.", "source.")
UNSIGNED = ("action.approved",)
"""What follows from what is told just before, with whose deed it was."""
STAGES = (
    ("proposed", "Proposed", "Being proposed"),
    ("approved", "Approved", "Waits for approval"),
    ("broadcast", "Sent", "Being sent"),
    ("mined", "Included", "Being included"),
    ("confirmed", "Confirmed", "Being confirmed"),
    ("finalized", "Final", "Becoming final"),
)
"""Each stage's key, its word once it is reached, and its word while it is worked towards."""
ENDS = {
    "rejected": "Rejected",
    "expired": "Expired",
    "cancelled": "Cancelled",
    "refused": "Refused",
    "refused_by_node": "Refused",
    "reverted": "Reverted",
    "displaced": "Displaced",
}
"""The word of the last stage of what was not carried out."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a timeline."""

    at: datetime
    text: str
    icon: str
    tone: str
    who: str = ""


class Stage(msgspec.Struct, frozen=True):
    word: str
    mark: str
    """`done`, `now`, `wait` (for people), `failed`, `ended` (called off) or `open`."""


class Waiting(msgspec.Struct, frozen=True):
    text: str
    tone: str
    icon: str = "info-circle"


# kind: (sentence with fields of the entry's detail, icon, tone)
SENTENCES: dict[str, tuple[str, str, str]] = {
    "signal.received": ("The signal arrived and its signature was verified", "broadcast", "good"),
    "signal.block_undone": ("The block it was read from is no longer part of the chain", "arrow-back-up", "warn"),
    "signal.assessed": ("The signal was compared with the rules", "git-branch", "good"),
    "action.proposed": ("The action was proposed", "file-text", "calm"),
    "action.simulation_reverted": ("A node tried the call: it would fail", "flask-off", "bad"),
    "action.simulated": ("A node tried the call without carrying it out", "flask", "calm"),
    "action.approval_given": ("Approved by", "check", "good"),
    "action.approved": ("Enough people approved: it may run", "circle-check", "good"),
    "action.approved.by_policy": ("Its policy “{policy}” asks nobody: it may run", "circle-check", "good"),
    "action.rejected": ("Rejected: {reason}", "x", "bad"),
    "action.cancelled": ("Cancelled: {reason}", "ban", "calm"),
    "action.expired": ("Nobody decided in time, so it expired", "clock-off", "calm"),
    "action.second_factor_refused": ("A code that was not valid was refused", "shield-x", "warn"),
    "action.digest_refused": ("An approval of a different call was refused", "shield-x", "bad"),
    "transaction.queued": ("A worker took it up", "stack-2", "move"),
    "transaction.nonced": ("It got its place in the signer's order", "stack-2", "move"),
    "transaction.requeued": ("It gave its place back, and waits: {reason}", "player-pause", "warn"),
    "transaction.signed": ("Checked again, and signed", "signature", "move"),
    "transaction.broadcast": ("Sent to the chain", "send", "move"),
    "transaction.repriced": ("Offered again at the same nonce, with higher fees", "bolt", "move"),
    "transaction.closing": ("An empty transaction was signed at its nonce ({reason})", "ban", "warn"),
    "transaction.gap_filled": ("An empty transaction fills the gap before it, nonce {nonce}", "stack-2", "calm"),
    "transaction.cancelled": ("Cancelled before anything was signed", "ban", "calm"),
    "transaction.expired": ("Its time ran out before anything was signed", "clock-off", "calm"),
    "transaction.hurry_requested": ("Higher fees were asked for by", "bolt", "calm"),
    "transaction.cancel_requested": ("Its cancellation was asked for by", "ban", "calm"),
    "transaction.mined": ("Included in block {block_number}", "box", "good"),
    "transaction.mined.reverted": (
        "Included in block {block_number}, but the contract refused: {reason}",
        "arrow-back-up",
        "bad",
    ),
    "transaction.mined.cancelled": ("An empty transaction took its nonce, in block {block_number}", "ban", "calm"),
    "transaction.confirmed": ("Confirmed by the blocks after it", "circle-check", "good"),
    "transaction.finalized": ("Final: the chain can no longer undo it", "rosette-discount-check", "good"),
    "transaction.reorganised": ("What was told of it in block {block_number} is undone", "arrow-back-up", "warn"),
    "transaction.suspected": (
        "The chain has used its nonce, and shows no receipt of ours so far",
        "alert-triangle",
        "warn",
    ),
    "transaction.suspicion_withdrawn": ("Its nonce is free again, so it goes on", "arrow-back-up", "move"),
    "transaction.displaced": (
        "Another program used the key: its transaction is final at nonce {nonce}",
        "alert-octagon",
        "bad",
    ),
    "transaction.held": ("It waits: {reason}", "player-pause", "warn"),
    "transaction.refused": ("Refused at signing: {reason}", "shield-x", "bad"),
    "transaction.rejected": ("The node refused it for good: {reason}", "x", "bad"),
}


class _Blanks(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "no reason given" if "reason" in key else "unknown"


def tell(entries: list[AuditEntryView]) -> list[Told]:
    """The entries as a timeline, in the order in which they were written."""
    return [_told(entry) for entry in entries if not entry.kind.startswith(UNTOLD)]


def _told(entry: AuditEntryView) -> Told:
    fallback = (entry.kind.replace(".", " ").replace("_", " ").capitalize(), "point", "calm")
    special = f"{entry.kind}.{'by_policy' if 'policy' in entry.detail else entry.detail.get('outcome')}"
    sentence, icon, tone = SENTENCES.get(special) or SENTENCES.get(entry.kind, fallback)
    text = sentence.format_map(_Blanks(entry.detail))
    known = entry.actor_kind in ("member", "api_key", "command") and entry.kind not in UNSIGNED
    who = entry.actor_label if known and text.endswith(" by") else f"· {entry.actor_label}" if known else ""
    return Told(at=entry.at, text=text, icon=icon, tone=tone, who=who)


def proposer(action: ActionView, entries: list[AuditEntryView]) -> str:
    """Who proposed the action that these entries tell of, in words."""
    if action.proposed_by or action.rule_id:
        return action.proposed_by or "a rule"
    if action.proposed_by_key:
        return f"the API key “{action.proposed_by_key}”"
    proposed = next((entry for entry in entries if entry.kind == "action.proposed"), None)
    if proposed is None or proposed.actor_kind == "system":
        return "the portal itself"
    return proposed.actor_label


def is_settled(action: ActionView, transaction: TransactionView | None) -> bool:
    """Whether nothing more will happen to the action."""
    if transaction is not None:
        return transaction.waiting_for is None
    return action.status in ("rejected", "expired", "cancelled")


def stages(action: ActionView, transaction: TransactionView | None) -> list[Stage]:
    """How far the action is; an empty list for one that people or its deadline ended before it was approved."""
    state = current_state(action, transaction)
    if state in ENDS:
        if transaction is None:
            return []
        reached = 3 if transaction.broadcast_at else 2
        end = "ended" if state_of(state).tone == "calm" else "failed"
        return [*(Stage(word, "done") for _, word, _ in STAGES[:reached]), Stage(ENDS[state], end)]
    before = {
        **dict.fromkeys(("queued", "nonced", "signed"), "approved"),
        "closing": "broadcast",
        "suspect": "broadcast",
    }
    reached = [key for key, _, _ in STAGES].index(before.get(state, state)) + 1
    next_mark = "wait" if state == "proposed" else "now"
    return [
        Stage(towards, next_mark) if index == reached else Stage(word, "done" if index < reached else "open")
        for index, (_, word, towards) in enumerate(STAGES)
    ]


def waiting(action: ActionView, transaction: TransactionView | None) -> Waiting | None:
    """What the action waits for, or how it ended, as one sentence."""
    if transaction is not None:
        return _waiting_on_chain(transaction)
    if action.status == "approved":
        return Waiting("Approved. A worker signs and sends it in a moment.", "move")
    if action.status == "proposed":
        missing = action.approvals_required - action.approvals_given
        if missing > 0:
            return Waiting(f"Waits for {missing} more approval{'' if missing == 1 else 's'}.", "wait", "clock")
        return Waiting("Waits for its simulation.", "move")
    return None


def _waiting_on_chain(transaction: TransactionView) -> Waiting:
    if transaction.failure:
        return Waiting(transaction.failure, "bad", "alert-triangle")
    if transaction.waiting_for:
        text = " ".join(filter(None, (transaction.waiting_for, transaction.remark)))
        return Waiting(text, "wait" if transaction.held else "move", "player-pause")
    if transaction.outcome == "ok":
        done = "Done. It is final and can no longer be undone."
        return Waiting(" ".join(filter(None, (done, transaction.remark))), "good", "rosette-discount-check")
    return Waiting(transaction.remark or "It was not carried out.", "calm", "ban")


def current_state(action: ActionView, transaction: TransactionView | None) -> str:
    """The one state of the action that readers see."""
    if transaction is None:
        return action_state(action.status, None, None)
    return action_state(action.status, transaction.status, transaction.outcome, transaction.closing_reason)
