"""Costs: nothing is ever offered above a limit, and what is offered instead of nothing suits pool and market."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.rpc import Fees
from portal.transactions.costs.fees import CAP_MULTIPLE, raised
from portal.transactions.costs.limits import Limits, TooCostly, cost, first_fees, may_rise, most_fee, next_fees

WEI = st.integers(0, 2**256 - 1)
GAS = st.integers(21_000, 30_000_000)
AMOUNT = st.none() | WEI
LIMITS = st.builds(
    Limits,
    value_wei=WEI,
    gas_limit=GAS,
    currency=st.just("ETH"),
    most_fee_wei=AMOUNT,
    most_cost_wei=AMOUNT,
    left_today_wei=st.none() | st.integers(-(2**256), 2**256),
)
FREE = Limits(value_wei=0, gas_limit=100_000, currency="ETH")


def offer(tip: int, base: int) -> Fees:
    return Fees(max_fee_wei=tip + 2 * base, max_priority_fee_wei=tip)


def must_be_within(fees: Fees, limits: Limits) -> None:
    assert limits.most_fee_wei is None or fees.max_fee_wei <= limits.most_fee_wei
    for allowed in (limits.most_cost_wei, limits.left_today_wei):
        assert allowed is None or cost(limits.value_wei, limits.gas_limit, fees.max_fee_wei) <= allowed
    assert fees.max_priority_fee_wei <= fees.max_fee_wei


@given(tip=WEI, base=WEI, limits=LIMITS)
def test_a_first_attempt_offers_what_the_market_asks_for_or_nothing(tip: int, base: int, limits: Limits) -> None:
    try:
        fees = first_fees(offer(tip, base), limits)
    except TooCostly:
        cap = most_fee(limits)
        assert cap is not None
        assert offer(tip, base).max_fee_wei > cap
    else:
        assert fees == offer(tip, base)
        must_be_within(fees, limits)


@given(tip=WEI, base=WEI, first=WEI, bumps=st.integers(0, 20), limits=LIMITS)
def test_a_replacement_stays_within_every_limit_and_above_what_a_pool_asks_for(
    tip: int, base: int, first: int, bumps: int, limits: Limits
) -> None:
    begun = newest = Fees(first, first // 3)
    for _ in range(bumps):
        newest = Fees(raised(newest.max_fee_wei), raised(newest.max_priority_fee_wei))
    try:
        fees = next_fees(offer(tip, base), begun, newest, limits)
    except TooCostly:
        cap = most_fee(limits)
        assert raised(newest.max_fee_wei) > min(CAP_MULTIPLE * first, CAP_MULTIPLE * first if cap is None else cap)
        assert not may_rise(begun, newest, limits)
    else:
        assert may_rise(begun, newest, limits)
        must_be_within(fees, limits)
        assert fees.max_fee_wei <= CAP_MULTIPLE * first
        assert fees.max_fee_wei >= raised(newest.max_fee_wei)
        assert fees.max_priority_fee_wei >= raised(newest.max_priority_fee_wei)


# TX-53. Vectors of the OP stack's transaction manager: previous tip 100, base fee 1000, hence a fee of 2100.
@pytest.mark.parametrize(
    ("tip", "base", "expected"),
    [
        (90, 900, (110, 2310)),
        (101, 2000, (110, 4110)),
        (120, 900, (120, 2310)),
        (120, 1100, (120, 2320)),
        (120, 1140, (120, 2400)),
        (120, 1200, (120, 2520)),
    ],
)
def test_tx_53_replacements_without_a_limit_are_those_of_optimism(
    tip: int, base: int, expected: tuple[int, int]
) -> None:
    before = offer(100, 1000)
    assert next_fees(offer(tip, base), before, before, FREE) == Fees(expected[1], expected[0])


def test_tx_54_the_least_and_the_most_fees_neither_stand_still_nor_overflow() -> None:
    assert next_fees(Fees(0, 0), Fees(1, 1), Fees(1, 1), FREE) == Fees(2, 2)
    huge = Fees(2**256 - 1, 2**256 - 1)
    assert next_fees(huge, huge, huge, FREE).max_fee_wei == -(-(2**256 - 1) * 11 // 10)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"most_fee_wei": 99}, "On this chain at most 0.000000099 gwei are offered for a unit of gas."),
        ({"most_cost_wei": 10**16}, "Its policy allows at most 0.01 ETH for it, gas included."),
        ({"left_today_wei": 10**17}, "Of what its policy allows in 24 hours on this chain, 0.1 ETH are left."),
        ({"left_today_wei": -5}, "Of what its policy allows in 24 hours on this chain, 0 ETH are left."),
        (
            {"left_today_wei": 10**17, "most_cost_wei": 10**16},
            "Its policy allows at most 0.01 ETH for it, gas included.",
        ),
    ],
)
def test_the_limit_that_is_reached_is_named(limits: dict[str, int], sentence: str) -> None:
    with pytest.raises(TooCostly) as refused:
        first_fees(Fees(10**12, 1), Limits(value_wei=0, gas_limit=10**6, currency="ETH", **limits))
    assert str(refused.value) == sentence


def test_a_cost_at_the_limit_is_allowed_and_a_wei_more_is_not() -> None:
    limits = Limits(value_wei=700, gas_limit=100, currency="ETH", most_cost_wei=700 + 100 * 50)
    assert first_fees(Fees(50, 1), limits) == Fees(50, 1)
    with pytest.raises(TooCostly):
        first_fees(Fees(51, 1), limits)


def test_a_replacement_goes_up_to_the_limit_where_the_market_asks_for_more() -> None:
    limits = Limits(value_wei=0, gas_limit=1, currency="ETH", most_fee_wei=2500)
    assert next_fees(offer(300, 2000), offer(100, 1000), offer(100, 1000), limits) == Fees(2500, 300)
