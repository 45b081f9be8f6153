"""One word, one icon and one colour for each state, the same on every page."""

import msgspec


class State(msgspec.Struct, frozen=True):
    """How a state is shown: never by colour alone."""

    word: str
    icon: str
    tone: str
    """`good`, `wait`, `move`, `warn`, `bad` or `calm`; the style sheet gives each its colour."""


STATES: dict[str, State] = {
    # Signals
    "received": State("Received", "inbox", "move"),
    "assessed": State("Matched a rule", "check", "good"),
    "ignored": State("No rule matched", "minus", "calm"),
    "quarantined": State("Quarantined", "shield-question", "warn"),
    "dead": State("Given up", "skull", "bad"),
    # Long work over many signals
    "waiting": State("Waiting", "hourglass", "wait"),
    "running": State("Under way", "loader-2", "move"),
    "done": State("Done", "circle-check", "good"),
    # Actions
    "proposed": State("Waits for approval", "clock", "wait"),
    "approved": State("Approved", "check", "move"),
    "rejected": State("Rejected", "x", "bad"),
    "expired": State("Expired", "clock-off", "calm"),
    "cancelled": State("Cancelled", "ban", "calm"),
    # Transactions
    "queued": State("Queued", "stack-2", "move"),
    "nonced": State("Being signed", "signature", "move"),
    "signed": State("Signed", "signature", "move"),
    "broadcast": State("Sent", "send", "move"),
    "closing": State("Being called off", "ban", "warn"),
    "suspect": State("Nonce used", "alert-triangle", "warn"),
    "displaced": State("Displaced", "alert-octagon", "bad"),
    "mined": State("Included", "box", "move"),
    "confirmed": State("Confirmed", "circle-check", "good"),
    "finalized": State("Final", "rosette-discount-check", "good"),
    "reverted": State("Reverted", "arrow-back-up", "bad"),
    "refused": State("Refused at signing", "shield-x", "bad"),
    "refused_by_node": State("Refused by the node", "x", "bad"),
    # Sources, rules, contracts, signers, people
    "active": State("Active", "circle-check", "good"),
    "paused": State("Paused", "player-pause", "warn"),
    "draft": State("Draft", "pencil", "calm"),
    "published": State("Published", "circle-check", "good"),
    "disabled": State("Disabled", "ban", "calm"),
    "deploying": State("Being deployed", "upload", "move"),
    "pending": State("Being made", "clock", "move"),
    "failed": State("Failed", "alert-triangle", "bad"),
    "revoked": State("Revoked", "ban", "calm"),
    "invited": State("Invited", "mail", "wait"),
    # Deliveries to webhooks
    "delivered": State("Delivered", "check", "good"),
    "failing": State("Failing", "alert-triangle", "warn"),
    # Health
    "ok": State("Well", "circle-check", "good"),
    "quiet": State("Quiet", "volume-3", "warn"),
    "lags": State("Behind", "clock", "warn"),
    "disagrees": State("Disagrees", "alert-octagon", "bad"),
    "closed": State("Left alone", "ban", "bad"),
    "unknown": State("Not asked yet", "minus", "calm"),
    "degraded": State("Degraded", "alert-triangle", "warn"),
    "down": State("Down", "alert-octagon", "bad"),
}

SIGNAL_STATES = ("received", "assessed", "ignored", "quarantined", "failed", "dead")


def state_of(name: str) -> State:
    """How `name` is shown; raises `KeyError` for a state that nobody gave a word."""
    return STATES[str(name)]


def action_state(
    status: str, transaction_status: str | None, outcome: str | None, closing_reason: str | None = None
) -> str:
    """The one state of an action for readers: its own until it runs, then that of its transaction.

    Of one whose nonce was used up by an empty transaction, it is why: cancelled, expired or refused.
    """
    if status != "approved" or transaction_status is None:
        return status
    if transaction_status in ("mined", "confirmed", "finalized"):
        if outcome == "cancelled":
            return closing_reason or outcome
        if outcome == "reverted":
            return outcome
    return "refused_by_node" if transaction_status == "rejected" else transaction_status
