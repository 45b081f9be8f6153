"""What a transaction waits for, in one sentence that is true for its state and for what was asked of it."""

import msgspec
import pytest

from portal.chain.sends import DOUBTFUL
from portal.transactions.standing import (
    INCLUDED,
    Standing,
    answer_in_words,
    displacement,
    failure,
    remark,
    suspicion,
    waiting_for,
)
from portal.transactions.states import TERMINAL
from portal.transactions.tables import ClosingReason, Outcome
from portal.transactions.tables import TransactionStatus as Status

PLAIN = Standing(
    status=Status.QUEUED,
    outcome=None,
    reason=None,
    revert_reason=None,
    closing_reason=None,
    cancel_requested=False,
    hurry_requested=False,
    nonce=7,
    signer_address="0xA",
    ahead=0,
    has_call=True,
    no_op_is_out=False,
    block_number=40,
    confirmations=1,
    confirmations_required=2,
)


def standing(status: Status, **more: object) -> Standing:
    return msgspec.structs.replace(PLAIN, status=status, **more)


@pytest.mark.parametrize("status", list(Status))
def test_every_state_says_what_it_waits_for_or_that_it_waits_for_nothing(status: Status) -> None:
    said = waiting_for(standing(status))
    if status in TERMINAL:
        assert said is None
    else:
        assert said
        assert said.endswith(".")
        assert "None" not in said


@pytest.mark.parametrize(
    ("status", "more", "said"),
    [
        (Status.QUEUED, {}, "Waits for a worker to sign it."),
        (Status.QUEUED, {"ahead": 1}, "Waits its turn: 1 earlier transaction of its signer comes first."),
        (Status.QUEUED, {"ahead": 3}, "Waits its turn: 3 earlier transactions of its signer come first."),
        (Status.NONCED, {}, "It has its place in the signer's order, nonce 7, and is signed next."),
        (Status.SIGNED, {}, "Signed; it is sent next."),
        (Status.BROADCAST, {}, "Sent; waits for a block."),
        (
            Status.BROADCAST,
            {"ahead": 2},
            "Sent; waits for a block, and 2 earlier transactions of its signer come first.",
        ),
        (Status.MINED, {"outcome": Outcome.OK}, "In block 40, with 1 of 2 confirmations."),
        (Status.MINED, {"outcome": Outcome.REVERTED}, "Reverted in block 40, with 1 of 2 confirmations."),
    ],
)
def test_the_plain_way(status: Status, more: dict[str, object], said: str) -> None:
    assert waiting_for(standing(status, **more)) == said


@pytest.mark.parametrize("status", [status for status in Status if status not in TERMINAL])
def test_what_holds_it_is_what_it_waits_for(status: Status) -> None:
    assert waiting_for(standing(status, reason="The signer 0xA has too little ETH.")) == (
        "The signer 0xA has too little ETH."
    )


CANCELLING = [
    (Status.QUEUED, "It was cancelled; the worker takes it out of the queue within seconds."),
    (Status.NONCED, "It was cancelled; its place in the signer's order is freed next."),
    *(
        (
            status,
            "It was cancelled: an empty transaction with the same nonce, 7, is sent next. Whichever of the two "
            "the chain includes takes effect.",
        )
        for status in (Status.SIGNED, Status.BROADCAST)
    ),
]


@pytest.mark.parametrize(("status", "said"), CANCELLING)
def test_a_cancellation_that_was_asked_for_is_said_before_what_held_it_and_both_are_said(
    status: Status, said: str
) -> None:
    wanted = standing(status, cancel_requested=True)
    assert waiting_for(wanted) == said
    held = msgspec.structs.replace(wanted, reason="The signer 0xA has too little ETH.")
    assert waiting_for(held) == f"{said} What held it up: The signer 0xA has too little ETH."


def test_a_cancellation_that_the_chain_overtook_is_not_promised_any_more() -> None:
    assert waiting_for(standing(Status.MINED, cancel_requested=True)) == "In block 40, with 1 of 2 confirmations."


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (ClosingReason.CANCELLED, "It was cancelled: "),
        (ClosingReason.EXPIRED, "Its time ran out: "),
        (ClosingReason.REFUSED, "The check at signing refused it: "),
    ],
)
def test_closing_names_its_cause_and_whether_the_call_may_still_win(reason: ClosingReason, cause: str) -> None:
    closing = standing(Status.CLOSING, closing_reason=reason, cancel_requested=True)
    said = str(waiting_for(closing))
    assert said.startswith(cause)
    assert "is sent with its nonce, 7" in said
    assert "Whichever of the two" in said
    out = str(waiting_for(msgspec.structs.replace(closing, no_op_is_out=True, has_call=False)))
    assert "was sent with its nonce, 7" in out
    assert "Whichever of the two" not in out, "there is no call that could be included instead"


@pytest.mark.parametrize("status", INCLUDED)
def test_a_cancellation_that_won_is_no_failure_but_an_expiry_is(status: Status) -> None:
    cancelled = standing(status, outcome=Outcome.CANCELLED, closing_reason=ClosingReason.CANCELLED)
    assert failure(cancelled) is None
    assert remark(cancelled) == (
        "It was cancelled: an empty transaction used its nonce, 7, so the action was not carried out."
    )
    expired = msgspec.structs.replace(cancelled, closing_reason=ClosingReason.EXPIRED)
    assert str(failure(expired)).startswith("Its time ran out: ")
    assert remark(expired) is None


@pytest.mark.parametrize("status", INCLUDED)
def test_a_cancellation_that_lost_says_so(status: Status) -> None:
    late = standing(status, outcome=Outcome.OK, closing_reason=ClosingReason.CANCELLED)
    assert failure(late) is None
    assert remark(late) == "The cancellation came too late: the chain included the call first."


@pytest.mark.parametrize("status", [Status.REFUSED, Status.REJECTED, Status.EXPIRED, Status.DISPLACED])
def test_what_ended_without_being_carried_out_says_why(status: Status) -> None:
    assert failure(standing(status, reason="Bob may not approve any more.")) == "Bob may not approve any more."
    assert failure(standing(status)), "never nothing"


def test_what_was_called_off_before_it_was_signed_is_no_failure() -> None:
    called_off = standing(Status.CANCELLED, reason="Cancelled by alice.")
    assert (failure(called_off), remark(called_off)) == (None, "Cancelled by alice.")


def test_the_sentences_about_a_foreign_transaction_name_nonce_address_and_what_to_do() -> None:
    assert "nonce 7 of 0xA" in suspicion(7, "0xA")
    assert "new approvals" in displacement(7, "0xA")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, None),
        ("transaction already imported", None),
        ("already known", None),
        ("insufficient funds for gas * price + value", "Not taken: the signer has too little for gas"),
        ("nonce too low: next nonce 8, tx nonce 7", "Not taken: the chain has used its nonce already"),
        ("intrinsic gas too low", "Refused for good: no node will ever take it"),
        ("the moon is in the wrong house", "No clear answer"),
        ("The node of chain 31337 cannot be reached.", "No clear answer"),
        (f"{DOUBTFUL}insufficient funds", "No clear answer"),
    ],
)
def test_a_nodes_answer_is_told_where_it_is_in_the_way(answer: str | None, said: str | None) -> None:
    told = answer_in_words(Status.BROADCAST, answer)
    assert told is None if said is None else str(told).startswith(said)
    assert all(answer_in_words(status, answer) is None for status in INCLUDED), "it is on the chain all the same"
