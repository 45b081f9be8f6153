"""The states of a transaction: which moves exist, whatever the order of events."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from portal.chain.send_answers import SendKind
from portal.transactions.lanes.answers import AFTER_FIRST_SEND, Consequence, hold_reason, may_be_out
from portal.transactions.states import MOVES, TERMINAL, UNMINED, UNSIGNED_ENDS, depth, may_move
from portal.transactions.tables import TransactionStatus as Status

INCLUDED = {Status.MINED, Status.CONFIRMED, Status.FINALIZED}
"""These have a receipt."""
WALKS = st.lists(st.sampled_from(list(Status)), max_size=60)


def walk(wanted: list[Status]) -> list[Status]:
    """The states a transaction goes through when it is asked to take each of `wanted` and takes those it may."""
    path = [Status.QUEUED]
    for status in wanted:
        if may_move(path[-1], status):
            path.append(status)
    return path


def test_every_state_has_its_moves_and_every_state_can_be_reached() -> None:
    assert set(MOVES) == set(Status)
    assert {Status.QUEUED}.union(*MOVES.values()) == set(Status)


def test_the_terminal_states_are_these() -> None:
    assert {Status.FINALIZED, Status.DISPLACED, Status.REJECTED, *UNSIGNED_ENDS} == TERMINAL


@given(WALKS)
def test_nothing_is_broadcast_before_its_bytes_are_stored(wanted: list[Status]) -> None:
    """They are with the first of `signed` and `closing`, whose bytes do nothing."""
    path = walk(wanted)
    if Status.BROADCAST in path:
        assert {Status.SIGNED, Status.CLOSING} & set(path[: path.index(Status.BROADCAST)])


@given(WALKS)
def test_once_it_is_signed_it_gets_no_other_nonce(wanted: list[Status]) -> None:
    path = walk(wanted)
    if Status.SIGNED in path:
        assert not {Status.QUEUED, Status.NONCED, Status.SIGNED} & set(path[path.index(Status.SIGNED) + 1 :])


@given(WALKS)
def test_what_may_have_been_sent_is_never_given_up(wanted: list[Status]) -> None:
    path = walk(wanted)
    if Status.BROADCAST in path:
        assert not {Status.REJECTED, *UNSIGNED_ENDS} & set(path)
        assert path[-1] in UNMINED | INCLUDED | {Status.DISPLACED}


@given(WALKS)
def test_a_terminal_state_absorbs(wanted: list[Status]) -> None:
    assert all(status not in TERMINAL for status in walk(wanted)[:-1])


@given(WALKS)
def test_final_comes_only_after_mined_and_confirmed(wanted: list[Status]) -> None:
    path = walk(wanted)
    if path[-1] == Status.FINALIZED:
        assert path[-3:] == [Status.MINED, Status.CONFIRMED, Status.FINALIZED]


@given(WALKS)
def test_a_displacement_is_suspected_first(wanted: list[Status]) -> None:
    path = walk(wanted)
    assert Status.DISPLACED not in path or path[-2] == Status.SUSPECT


@given(WALKS)
def test_a_reorganisation_leads_back_to_what_is_out(wanted: list[Status]) -> None:
    path = walk(wanted)
    for before, after in pairwise(path):
        if before in INCLUDED and after not in INCLUDED:
            assert after in (Status.BROADCAST, Status.CLOSING)


def test_depth_counts_the_block_itself() -> None:
    assert depth(100, 99) == 0
    assert depth(100, 100) == 1
    assert depth(100, 102) == 3


def test_every_answer_of_a_node_has_its_consequence_and_all_but_the_plain_ones_say_why_it_waits() -> None:
    assert set(AFTER_FIRST_SEND) == set(SendKind)
    silent = {
        kind
        for kind in SendKind
        if hold_reason(kind, signer_address="0xA", nonce=7, currency="ETH", message="so it says") is None
    }
    assert silent == {SendKind.ACCEPTED, SendKind.KNOWN}


def test_only_an_answer_that_rules_out_acceptance_lets_a_transaction_be_given_up() -> None:
    given_up = {kind for kind, each in AFTER_FIRST_SEND.items() if each is Consequence.GIVE_UP}
    assert given_up == {SendKind.FATAL}
    assert {kind for kind in SendKind if not may_be_out(kind)} == {
        SendKind.UNDERPRICED,
        SendKind.NONCE_TOO_HIGH,
        SendKind.ACCOUNT_LIMITED,
        SendKind.FUNDS,
        SendKind.FATAL,
    }


def test_a_sentence_names_what_to_do() -> None:
    sentence = hold_reason(SendKind.FUNDS, signer_address="0xA", nonce=7, currency="POL", message="")
    assert sentence == "The signer 0xA has too little POL for gas; top it up and it goes on."
