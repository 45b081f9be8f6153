"""Fees: what a node's pool accepts, and never more than the cap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.rpc import Fees
from portal.transactions.costs.fees import fee_cap, gas_limit, raised, replacement_fees

NO_CAP = 2**512
WEI = st.integers(0, 2**256 - 1)


def offer(tip: int, base: int) -> Fees:
    """What a new transaction offers at this tip and base fee."""
    return Fees(max_fee_wei=tip + 2 * base, max_priority_fee_wei=tip)


@given(fee=WEI, tip=WEI, base=WEI, market_tip=WEI)
def test_both_fees_of_a_replacement_rise_by_a_tenth_and_by_a_wei(
    fee: int, tip: int, base: int, market_tip: int
) -> None:
    previous = Fees(max_fee_wei=max(fee, tip), max_priority_fee_wei=tip)
    after = replacement_fees(previous, offer(market_tip, base), cap_wei=NO_CAP)
    assert after is not None
    for old, new in (
        (previous.max_fee_wei, after.max_fee_wei),
        (previous.max_priority_fee_wei, after.max_priority_fee_wei),
    ):
        assert new > old
        assert new * 100 >= old * 110
    assert after.max_fee_wei >= after.max_priority_fee_wei


@given(previous=WEI, base=WEI, tip=WEI, cap=WEI)
def test_a_replacement_never_exceeds_the_cap(previous: int, base: int, tip: int, cap: int) -> None:
    fees = replacement_fees(Fees(previous, 0), offer(tip, base), cap_wei=cap)
    assert fees is None or fees.max_fee_wei <= cap


def test_a_replacement_at_the_cap_is_allowed_and_one_wei_above_is_not() -> None:
    assert replacement_fees(offer(100, 1000), offer(90, 900), cap_wei=2310) is not None
    assert replacement_fees(offer(100, 1000), offer(90, 900), cap_wei=2309) is None


def test_raising_to_the_cap_comes_to_an_end() -> None:
    first = fees = offer(10**9, 10**9)
    rounds = 0
    while replaced := replacement_fees(fees, offer(0, 0), cap_wei=fee_cap(first)):
        fees, rounds = replaced, rounds + 1
    assert rounds == 16
    assert fees.max_fee_wei <= 5 * first.max_fee_wei


@pytest.mark.parametrize(("fee", "expected"), [(0, 1), (1, 2), (10, 11), (11, 13), (2100, 2310), (2101, 2312)])
def test_a_tenth_is_rounded_up(fee: int, expected: int) -> None:
    assert raised(fee) == expected


def test_gas_has_a_margin() -> None:
    assert gas_limit(100_000) == 125_000
    assert gas_limit(21_001) == 26_252
