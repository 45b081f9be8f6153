"""The presets say what everybody can look up, and nothing that a chain could not be used with."""

import re

import pytest

from portal.chain.presets import PRESETS, Preset
from portal.chain.tables import FeeStyle

MAIN_NETS = {
    1: ("Ethereum", "ETH"),
    10: ("Optimism", "ETH"),
    56: ("BNB Smart Chain", "BNB"),
    100: ("Gnosis", "xDAI"),
    137: ("Polygon", "POL"),
    8453: ("Base", "ETH"),
    42161: ("Arbitrum One", "ETH"),
    43114: ("Avalanche C-Chain", "AVAX"),
}
TEST_NETS = {
    97: 56,
    10200: 100,
    17000: 1,
    43113: 43114,
    80002: 137,
    84532: 8453,
    421614: 42161,
    560048: 1,
    11155111: 1,
    11155420: 10,
}


def test_all_chains_that_are_promised_are_there() -> None:
    assert {id: (preset.name, preset.currency) for id, preset in PRESETS.items() if id in MAIN_NETS} == MAIN_NETS
    assert set(PRESETS) == {*MAIN_NETS, *TEST_NETS, 31337}


@pytest.mark.parametrize(("id", "main_id"), sorted(TEST_NETS.items()))
def test_a_test_net_behaves_as_its_main_net(id: int, main_id: int) -> None:
    test, main = PRESETS[id], PRESETS[main_id]
    same = ("confirmations", "final_depth", "fee_style", "fee_percentile", "base_fee_percent", "stuck_blocks")
    assert [getattr(test, name) for name in same] == [getattr(main, name) for name in same]
    assert test.least_tip_wei <= main.least_tip_wei
    assert (test.name, test.explorer_url) != (main.name, main.explorer_url)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_a_preset_can_be_used(preset: Preset) -> None:
    assert preset.is_local or re.fullmatch(r"https://[a-z0-9.-]+", str(preset.explorer_url))
    assert preset.is_local is (preset.explorer_url is None)
    assert preset.fee_style is FeeStyle.EIP1559, "every public chain of these has a base fee"
    assert 1 <= preset.least_tip_wei <= 30 * 10**9
    assert preset.confirmations >= 2


def test_names_and_explorers_are_told_apart() -> None:
    assert len({preset.name for preset in PRESETS.values()}) == len(PRESETS)
    assert len({preset.explorer_url for preset in PRESETS.values()}) == len(PRESETS)


def test_the_finality_that_was_violated_is_not_relied_on() -> None:
    assert {id for id, preset in PRESETS.items() if preset.final_depth is not None} == {137, 80002}
