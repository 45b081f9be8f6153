"""The types of events there are, and which of them a subscription wants. Pure."""

from collections.abc import Collection

TEST = "webhook.test"
"""Sent on request to one webhook, whatever it subscribes to."""

EVENT_TYPES: dict[str, str] = {
    "action.proposed": "A rule, a member or a program proposed a call.",
    "action.approved": "The quorum is met, or the policy asks nobody: the call will be carried out.",
    "action.rejected": "A member refused it; it will not run.",
    "action.expired": "Nobody decided in time; it will not run.",
    "action.cancelled": "It was withdrawn before it was decided.",
    "transaction.queued": "A transaction was made for an approved action.",
    "transaction.nonced": "It has its place among its signer's transactions.",
    "transaction.requeued": "It gave its nonce back before it was signed, and waits in the queue: `reason` says why.",
    "transaction.signed": "Its bytes are signed and stored; nothing has been sent.",
    "transaction.broadcast": "A node took it, or has it already.",
    "transaction.repriced": "It is sent with higher fees, at the same nonce.",
    "transaction.held": "It waits for something out of the ordinary: `reason` says why.",
    "transaction.closing": "An empty transaction is replacing it: it was cancelled, has expired, or may not be sent.",
    "transaction.gap_filled": "An empty transaction was sent with an earlier nonce that no transaction has.",
    "transaction.mined": "It is in a block, which the chain may still undo.",
    "transaction.confirmed": "Its block is as deep as the chain's setting asks; it may still be undone.",
    "transaction.finalized": "Its block is final: what happened stays.",
    "transaction.reorganised": "Its block was undone, or nodes corrected what became of it: what was told is void.",
    "transaction.suspected": "The chain has used its nonce, and it is not known for what.",
    "transaction.suspicion_withdrawn": "Its nonce is free again.",
    "transaction.displaced": "Something else is final at its nonce: it was never carried out and never will be.",
    "transaction.refused": "The gate at signing found a difference from what was approved: it is not carried out.",
    "transaction.rejected": "The node refused it for good before it was ever sent: it is not carried out.",
    "transaction.cancelled": "Somebody cancelled it before it was signed: it is not carried out.",
    "transaction.expired": "Its time ran out before it was signed: it is not carried out.",
    "lane.stuck": "The first transaction of a signer on a chain does not move; those behind it wait.",
    "lane.moving": "The first transaction of a lane that was stuck moves again.",
    "signer.low": "A signer's balance is below its threshold.",
    "signer.no_longer_low": "A signer's balance is above its threshold again.",
    "pause.begun": "Somebody stopped the organisation, a chain, a contract or a signer.",
    "pause.ended": "Enough people agreed to go on.",
    TEST: "Somebody asked for a test of this webhook.",
}
"""What each says; docs/webhooks.md shows an example of each."""


def forms_of(kind: str) -> tuple[str, str, str]:
    """How a subscription may name the type `kind`: itself, all of its noun, or all."""
    return kind, f"{kind.partition('.')[0]}.*", "*"


def is_wanted(kind: str, wanted: Collection[str]) -> bool:
    """Whether one of `wanted` (exact, `noun.*` or `*`) names the type `kind`. None but `webhook.test` names that."""
    return kind != TEST and any(form in wanted for form in forms_of(kind))


def unknown_forms(wanted: Collection[str]) -> list[str]:
    """Those of `wanted` that name no type there is."""
    known = {form for kind in EVENT_TYPES if kind != TEST for form in forms_of(kind)}
    return [form for form in wanted if form not in known]
