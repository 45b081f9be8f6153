"""What is offered for gas: never nothing, never above the limit, and what the market pays in between."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.fees import FeeSettings, Market, asked_of_node, eip1559_fees, legacy_fees, read_fees
from portal.chain.results import NONSENSE, Refused
from portal.chain.tables import FeeStyle

WEI = st.integers(0, 2**256 - 1)


def settings(**more: Any) -> FeeSettings:
    usual = {"style": FeeStyle.EIP1559, "percentile": 50, "base_fee_percent": 200}
    return FeeSettings(**usual | {"least_tip_wei": 1, "most_fee_wei": None} | more)


@st.composite
def any_settings(draw: st.DrawFn) -> FeeSettings:
    """All that the table `chain` lets in."""
    least = draw(st.integers(1, 10**18))
    return settings(
        percentile=draw(st.integers(1, 100)),
        base_fee_percent=draw(st.integers(100, 1000)),
        least_tip_wei=least,
        most_fee_wei=draw(st.none() | st.integers(least, 10**20)),
    )


MARKETS = st.builds(Market, WEI, st.lists(WEI, max_size=20), st.none() | WEI)


@given(MARKETS, any_settings())
def test_an_offer_is_one_that_the_chain_and_the_settings_allow(market: Market, given: FeeSettings) -> None:
    fees = eip1559_fees(market, given)
    assert 1 <= fees.max_priority_fee_wei <= fees.max_fee_wei
    assert given.most_fee_wei is None or fees.max_fee_wei <= given.most_fee_wei
    assert fees.max_priority_fee_wei >= min(given.least_tip_wei, fees.max_fee_wei)
    if given.most_fee_wei is None:
        headroom = fees.max_fee_wei - fees.max_priority_fee_wei
        assert headroom * 100 >= market.next_base_fee_wei * given.base_fee_percent
        assert (headroom - 1) * 100 < market.next_base_fee_wei * given.base_fee_percent


@given(WEI, any_settings())
def test_a_legacy_offer_is_one_price(price: int, given: FeeSettings) -> None:
    fees = legacy_fees(price, given)
    assert fees.max_fee_wei == fees.max_priority_fee_wei >= 1
    if given.most_fee_wei is None:
        assert fees.max_fee_wei >= max(price, given.least_tip_wei)
    else:
        assert fees.max_fee_wei <= given.most_fee_wei


@given(st.lists(WEI, min_size=1, max_size=20))
def test_the_tip_is_what_at_least_half_of_the_blocks_took(tips: list[int]) -> None:
    tip = eip1559_fees(Market(0, tips, None), settings()).max_priority_fee_wei
    assert sum(each <= tip for each in tips) * 2 >= len(tips)
    assert tip in (*tips, 1)


def test_one_odd_block_does_not_move_the_tip() -> None:
    assert eip1559_fees(Market(100, [7, 7, 10**18], 5), settings()).max_priority_fee_wei == 7
    assert eip1559_fees(Market(100, [], 5), settings()).max_priority_fee_wei == 5, "the node's own, if all were empty"
    assert eip1559_fees(Market(100, [], 5), settings(least_tip_wei=30)).max_priority_fee_wei == 30


HEAD = {"number": "0x9", "hash": "0x" + "ab" * 32, "timestamp": "0x1", "baseFeePerGas": "0x64"}
HISTORY = {
    "oldestBlock": "0x7",
    "baseFeePerGas": ["0x64", "0x64", "0x64", "0x70"],
    "gasUsedRatio": [0.5, 0, 0.25],
    "reward": [["0x6"], ["0x0"], ["0x8"]],
}
UNKNOWN = {"error": {"code": -32601, "message": "the method does not exist"}}


def read(history: Any, tip: Any, head: Any = None, **more: Any) -> tuple[int, int]:
    answers = [{"result": history} if history is not UNKNOWN else UNKNOWN, tip, {"result": head or HEAD}]
    fees = read_fees(settings(**more), answers)
    return fees.max_fee_wei, fees.max_priority_fee_wei


def test_empty_blocks_say_nothing_of_tips() -> None:
    assert read(HISTORY, UNKNOWN) == (6 + 2 * 0x70, 6)
    quiet = HISTORY | {"gasUsedRatio": [0, 0, 0]}
    assert read(quiet, {"result": "0x3"}) == (3 + 2 * 0x70, 3)
    assert read(quiet, UNKNOWN) == (1 + 2 * 0x70, 1)
    assert read({name: HISTORY[name] for name in ("baseFeePerGas", "gasUsedRatio")}, UNKNOWN)[1] == 1


def test_without_history_the_node_may_suggest_a_tip() -> None:
    for absent in (UNKNOWN, None):  # some nodes answer null to a method that they do not have
        assert read(absent, {"result": "0x3"}) == (3 + 2 * 113, 3)
        with pytest.raises(Refused, match="neither eth_feeHistory nor"):
            read(absent, UNKNOWN)


def test_a_chain_without_a_base_fee_is_not_paid_by_eip_1559() -> None:
    without = {name: value for name, value in HEAD.items() if name != "baseFeePerGas"}
    with pytest.raises(Refused, match="no base fee"):
        read(HISTORY | {"baseFeePerGas": ["0x0"] * 4}, {"result": "0x1"}, without)
    assert read_fees(settings(style=FeeStyle.LEGACY), [{"result": "0x5"}]).max_fee_wei == 10
    with pytest.raises(Refused):
        read_fees(settings(style=FeeStyle.LEGACY), [UNKNOWN])


@pytest.mark.parametrize(
    "broken",
    [
        HISTORY | {"baseFeePerGas": []},
        HISTORY | {"baseFeePerGas": ["0x1", "0x1", "0x1", "-0x1"]},
        HISTORY | {"baseFeePerGas": ["0x1", "0x1", "0x1", "0x1" + "0" * 64]},
        HISTORY | {"reward": [[], [], []]},
        HISTORY | {"gasUsedRatio": ["a lot", 0, 0]},
        "0x1",
        [],
    ],
)
def test_a_history_that_makes_no_sense_is_no_history(broken: Any) -> None:
    with pytest.raises(NONSENSE):
        read(broken, {"result": "0x1"})


def test_what_is_asked_fits_what_is_read() -> None:
    assert [method for method, _ in asked_of_node(settings(style=FeeStyle.LEGACY))] == ["eth_gasPrice"]
    (method, [blocks, tag, percentiles]), *_ = asked_of_node(settings(percentile=30))
    assert (method, int(blocks, 16), tag, percentiles) == ("eth_feeHistory", 20, "latest", [30])
