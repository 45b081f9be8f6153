"""What follows from a node's answer to a send. Pure.

Not knowing counts as sent: whoever might have accepted the bytes can still have them mined, so nothing but a receipt,
or a definite refusal before anybody can have accepted them, ends a transaction.
"""

from enum import StrEnum

from portal.chain.send_answers import NOT_TAKEN, SendAnswer, SendKind
from portal.transactions.moves import Work


class Consequence(StrEnum):
    BROADCAST = "broadcast"
    """It is out, or receipts will tell."""
    REPRICE = "reprice"
    """The same nonce with higher fees."""
    ASK_NONCE = "ask_nonce"
    """The node's pending nonce tells whether it has the bytes; if not, they are sent again later."""
    WAIT = "wait"
    """Nobody has them; the same bytes go out again later."""
    GIVE_UP = "give_up"
    """No node will ever take these bytes."""


AFTER_FIRST_SEND: dict[SendKind, Consequence] = {
    SendKind.ACCEPTED: Consequence.BROADCAST,
    SendKind.KNOWN: Consequence.BROADCAST,
    SendKind.NONCE_TOO_LOW: Consequence.BROADCAST,
    SendKind.REPLACEMENT_UNDERPRICED: Consequence.BROADCAST,
    SendKind.UNDERPRICED: Consequence.REPRICE,
    SendKind.NONCE_TOO_HIGH: Consequence.WAIT,
    SendKind.ACCOUNT_LIMITED: Consequence.WAIT,
    SendKind.FUNDS: Consequence.WAIT,
    SendKind.FEE_CAP: Consequence.ASK_NONCE,
    SendKind.UNAVAILABLE: Consequence.ASK_NONCE,
    SendKind.UNKNOWN: Consequence.ASK_NONCE,
    SendKind.FATAL: Consequence.GIVE_UP,
}

REPRICED_WHEN_OUT = frozenset({SendKind.UNDERPRICED, SendKind.REPLACEMENT_UNDERPRICED})
"""Answers to sending again that call for higher fees: what is out, or was, is too cheap for this node now."""


def may_be_out(kind: SendKind) -> bool:
    """Whether some node may hold the bytes after this answer."""
    return kind not in NOT_TAKEN


def hold_reason(kind: SendKind, *, signer_address: str, nonce: int, currency: str, message: str) -> str | None:
    """Why the transaction waits after this answer, as a sentence with what to do; None while all is well."""
    said = f" The node says: {message}." if message else ""
    sentences = {
        SendKind.FUNDS: f"The signer {signer_address} has too little {currency} for gas; top it up and it goes on.",
        SendKind.NONCE_TOO_LOW: (
            f"The chain has used nonce {nonce} of {signer_address} and shows no receipt of ours yet. If none appears, "
            "another program used this key."
        ),
        SendKind.REPLACEMENT_UNDERPRICED: (
            f"Another transaction of {signer_address} with nonce {nonce} waits in the node's pool; the chain decides."
        ),
        SendKind.UNDERPRICED: f"The node asks for higher fees than the most that we offer.{said}",
        SendKind.NONCE_TOO_HIGH: f"The node does not know what {signer_address} sent before nonce {nonce} yet.",
        SendKind.ACCOUNT_LIMITED: (
            f"The node takes one transaction of {signer_address} at a time; it goes out once the one before is mined."
        ),
        SendKind.FEE_CAP: f"The fee is above what the node lets through.{said}",
        SendKind.UNAVAILABLE: "The chain's node does not answer; the same bytes are sent again until it does.",
        SendKind.UNKNOWN: f"The node gave an answer that we do not know; the same bytes are sent again.{said}",
        SendKind.FATAL: f"The node refuses it for good, but its nonce cannot be given to another one: cancel it.{said}",
    }
    return sentences.get(kind)


def reason_of(work: Work, answer: SendAnswer) -> str | None:
    """As `hold_reason`, of what was just answered about `work`."""
    assert work.nonce is not None
    return hold_reason(
        answer.kind,
        signer_address=work.signer_address,
        nonce=work.nonce,
        currency=work.currency,
        message=answer.message,
    )
