"""Who counts towards a quorum."""

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from portal.actions.policy import CastDecision, assess
from portal.actions.tables import Verdict

DIGEST = b"d" * 32


def approval(member: UUID | None = None, *, digest: bytes = DIGEST, may_decide: bool = True) -> CastDecision:
    return CastDecision(member or uuid4(), Verdict.APPROVAL, digest, may_decide)


def test_two_distinct_members_meet_a_quorum_of_two() -> None:
    one = assess([approval()], digest=DIGEST, required=2, proposer_id=None)
    two = assess([approval(), approval()], digest=DIGEST, required=2, proposer_id=None)
    assert (one.approvals, one.is_met) == (1, False)
    assert (two.approvals, two.is_met) == (2, True)


def test_the_same_member_counts_once() -> None:
    member = uuid4()
    assert not assess([approval(member), approval(member)], digest=DIGEST, required=2, proposer_id=None).is_met


def test_an_approval_of_another_call_does_not_count() -> None:
    assert not assess([approval(digest=b"x" * 32)], digest=DIGEST, required=1, proposer_id=None).is_met


def test_somebody_who_lost_the_right_does_not_count() -> None:
    assert not assess([approval(may_decide=False)], digest=DIGEST, required=1, proposer_id=None).is_met


def test_the_proposer_does_not_count() -> None:
    proposer = uuid4()
    assert not assess([approval(proposer)], digest=DIGEST, required=1, proposer_id=proposer).is_met


def test_one_rejection_outweighs_all_approvals_even_of_somebody_who_left_since() -> None:
    rejection = CastDecision(uuid4(), Verdict.REJECTION, DIGEST, False)
    standing = assess([approval(), approval(), rejection], digest=DIGEST, required=2, proposer_id=None)
    assert standing.rejected
    assert not standing.is_met


def test_none_required_is_met_by_nobody() -> None:
    assert assess([], digest=DIGEST, required=0, proposer_id=None).is_met


@given(
    st.lists(
        st.builds(
            CastDecision,
            member_id=st.sampled_from([UUID(int=n) for n in range(4)]),
            verdict=st.sampled_from(Verdict),
            digest=st.sampled_from([DIGEST, b"x" * 32]),
            may_decide=st.booleans(),
        )
    ),
    st.integers(1, 4),
)
def test_a_met_quorum_always_has_that_many_people_who_agreed_to_this_call(
    decisions: list[CastDecision], required: int
) -> None:
    standing = assess(decisions, digest=DIGEST, required=required, proposer_id=UUID(int=0))
    agreed = {
        d.member_id for d in decisions if d.may_decide and d.digest == DIGEST and d.verdict == Verdict.APPROVAL
    } - {UUID(int=0)}
    against = any(d.verdict == Verdict.REJECTION for d in decisions)
    assert standing.is_met == (len(agreed) >= required and not against)
