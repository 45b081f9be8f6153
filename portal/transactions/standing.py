"""Says in a sentence what a transaction waits for, why it failed, and what else is to be known of it. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from portal.chain.send_answers import SendKind, classify
from portal.chain.sends import DOUBTFUL
from portal.transactions.states import TERMINAL
from portal.transactions.tables import ClosingReason, Outcome, TransactionStatus

INCLUDED = (TransactionStatus.MINED, TransactionStatus.CONFIRMED, TransactionStatus.FINALIZED)
CAUSES = {
    ClosingReason.CANCELLED: "It was cancelled",
    ClosingReason.EXPIRED: "Its time ran out",
    ClosingReason.REFUSED: "The check at signing refused it",
}
TOO_LATE = {
    ClosingReason.CANCELLED: "The cancellation came too late: the chain included the call first.",
    ClosingReason.EXPIRED: "Its time ran out, but the chain included the call first.",
    ClosingReason.REFUSED: "The check at signing refused it later, but the call was out and the chain included it.",
}

NO_CLEAR_ANSWER = "No clear answer from the node: it may have it or not, and gets the same bytes again"
ANSWERS = {
    SendKind.ACCEPTED: None,
    SendKind.KNOWN: None,
    SendKind.NONCE_TOO_LOW: "Not taken: the chain has used its nonce already",
    SendKind.REPLACEMENT_UNDERPRICED: "Not taken: the node holds another at this nonce that pays about as much or more",
    SendKind.UNDERPRICED: "Not taken: it offers less than the node asks for",
    SendKind.NONCE_TOO_HIGH: "Not taken yet: the node does not know what comes before it",
    SendKind.ACCOUNT_LIMITED: "Not taken yet: the node takes one of this signer at a time",
    SendKind.FUNDS: "Not taken: the signer has too little for gas",
    SendKind.FEE_CAP: "The node lets no fee this high through; another node may",
    SendKind.FATAL: "Refused for good: no node will ever take it",
    SendKind.UNAVAILABLE: NO_CLEAR_ANSWER,
    SendKind.UNKNOWN: NO_CLEAR_ANSWER,
}
"""What the node's last answer means for the signed form that it was about; None where all is well."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the sentences are made of."""

    status: TransactionStatus
    outcome: Outcome | None
    reason: str | None
    revert_reason: str | None
    closing_reason: ClosingReason | None
    cancel_requested: bool
    hurry_requested: bool
    nonce: int | None
    signer_address: str | None
    ahead: int
    """How many of the same lane come first."""
    has_call: bool
    """Whether an attempt of the approved call is signed."""
    no_op_is_out: bool
    """Whether an empty transaction was sent."""
    block_number: int | None
    confirmations: int
    confirmations_required: int


def answer_in_words(status: TransactionStatus, answer: str | None) -> str | None:
    """What stands in the way of a signed form, by the node's last `answer` about it; None where nothing does."""
    if answer is None or status in INCLUDED:
        return None
    return NO_CLEAR_ANSWER if answer.startswith(DOUBTFUL) else ANSWERS[classify(answer)]


def waiting_for(it: Standing) -> str | None:
    """What has to happen next, or why it does not; None once nothing more will happen."""
    if it.status in TERMINAL:
        return None
    if it.cancel_requested and it.closing_reason is None and it.status not in (*INCLUDED, TransactionStatus.SUSPECT):
        return f"{_cancelling(it)} What held it up: {it.reason}" if it.reason else _cancelling(it)
    return it.reason or _next(it)


def failure(it: Standing) -> str | None:
    """Why the action was not carried out as it was approved; None where it was, may yet be, or was called off."""
    if it.status in INCLUDED and it.outcome is Outcome.CANCELLED:
        return None if it.closing_reason in (None, ClosingReason.CANCELLED) else _closed(it)
    if it.status in TERMINAL and it.status not in (TransactionStatus.FINALIZED, TransactionStatus.CANCELLED):
        return it.reason or "It was not carried out."
    return it.revert_reason


def remark(it: Standing) -> str | None:
    """That it was called off, or that this came too late; None for most."""
    if it.status is TransactionStatus.CANCELLED:
        return it.reason or "It was cancelled before anything was signed."
    if it.status not in INCLUDED or it.closing_reason is None:
        return None
    if it.outcome is Outcome.CANCELLED:
        return _closed(it) if it.closing_reason is ClosingReason.CANCELLED else None
    return TOO_LATE[it.closing_reason]


def suspicion(nonce: int | None, signer_address: str | None) -> str:
    """Why a suspect transaction waits."""
    return (
        f"The chain has used nonce {nonce} of {signer_address} and shows no receipt of ours. If none appears by "
        "the time that is final, another program used this key."
    )


def hidden_receipt(nonce: int | None, block_number: int) -> str:
    """Why a suspect transaction that is on the chain waits."""
    return (
        f"It was carried out: block {block_number:,} has it at nonce {nonce}, but no node of the chain shows its "
        "receipt, which says whether it succeeded. It goes on once one does; give the chain another node."
    )


def contradiction(said: Mapping[int, str]) -> str:
    """Why one in a final block waits of which endpoints, by their places in the settings, say different things."""
    return (
        f"The chain's nodes contradict each other about it, though its block is final: {_quoted(said)}. One of them is "
        "wrong. It goes on by itself once whoever runs this portal has taken that one out of PORTAL_CHAIN_RPC_URLS."
    )


def told_wrongly(said: Mapping[int, str]) -> str:
    """Why one in a final block waits of which all endpoints that answer say something else than was told of it."""
    return (
        f"What was told of it is not what the chain's nodes say now: {_quoted(said)}. It is taken back and told anew, "
        "unless one of them says otherwise again."
    )


def unheard(places: Sequence[int]) -> str:
    """Why one waits that is final by one endpoint's word at most; `places` of the others in the settings."""
    endpoints = ", ".join(f"endpoint {place}" for place in places)
    return (
        f"It is not final an hour after it was mined: {endpoints} does not call its block final, or shows no receipt "
        "of it. If that stays so, whoever runs this portal takes that node out of PORTAL_CHAIN_RPC_URLS."
    )


def _quoted(said: Mapping[int, str]) -> str:
    return ", ".join(f"endpoint {place} says that {words}" for place, words in said.items())


def displacement(nonce: int | None, signer_address: str | None) -> str:
    """How a displaced transaction ended, and what to do."""
    return (
        f"Another program used the key of {signer_address}: a transaction that is not ours is final at nonce {nonce}. "
        "The action was not carried out and is not repeated by itself: find out who has the key, then propose the "
        "action again, which needs new approvals."
    )


def _cancelling(it: Standing) -> str:
    if it.status is TransactionStatus.QUEUED:
        return "It was cancelled; the worker takes it out of the queue within seconds."
    if it.status is TransactionStatus.NONCED:
        return "It was cancelled; its place in the signer's order is freed next."
    return (
        f"It was cancelled: an empty transaction with the same nonce, {it.nonce}, is sent next. Whichever of the two "
        "the chain includes takes effect."
    )


def _next(it: Standing) -> str:
    which = "transaction of its signer comes" if it.ahead == 1 else "transactions of its signer come"
    first = f"{it.ahead} earlier {which} first"
    sent = f"Sent; waits for a block, and {first}." if it.ahead else "Sent; waits for a block."
    hurried = "Sent; somebody wants it sped up, so higher fees are offered next."
    return {
        TransactionStatus.QUEUED: f"Waits its turn: {first}." if it.ahead else "Waits for a worker to sign it.",
        TransactionStatus.NONCED: f"It has its place in the signer's order, nonce {it.nonce}, and is signed next.",
        TransactionStatus.SIGNED: "Signed; it is sent next.",
        TransactionStatus.BROADCAST: hurried if it.hurry_requested else sent,
        TransactionStatus.CLOSING: _closing(it),
        TransactionStatus.SUSPECT: suspicion(it.nonce, it.signer_address),
        TransactionStatus.MINED: _included(it),
        TransactionStatus.CONFIRMED: "Confirmed; waits until the chain can no longer undo its block.",
    }[it.status]


def _closing(it: Standing) -> str:
    cause = CAUSES[it.closing_reason or ClosingReason.CANCELLED]
    done = "was sent" if it.no_op_is_out else "is sent"
    decides = " Whichever of the two the chain includes takes effect." if it.has_call else ""
    return f"{cause}: an empty transaction {done} with its nonce, {it.nonce}.{decides}"


def _included(it: Standing) -> str:
    where = f"block {it.block_number}, with {it.confirmations} of {it.confirmations_required} confirmations."
    if it.outcome is Outcome.CANCELLED:
        return f"The empty transaction is in {where}"
    return f"Reverted in {where}" if it.outcome is Outcome.REVERTED else f"In {where}"


def _closed(it: Standing) -> str:
    cause = CAUSES[it.closing_reason or ClosingReason.CANCELLED]
    return f"{cause}: an empty transaction used its nonce, {it.nonce}, so the action was not carried out."
