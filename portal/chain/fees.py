"""What to offer for gas now, from what the chain's last blocks paid. Pure; amounts are wei per unit of gas.

EIP-1559: of a block's base fee the protocol takes all, the rest of what is offered, up to the tip, goes to whoever made
the block; the base fee rises by at most an eighth a block. So the maximum is the tip plus a multiple of the next base
fee: twice of it lasts through about six full blocks (`calcGasFeeCap` of Optimism's op-service/txmgr does the same).
The tip is what others paid of late: the percentile of the settings in each of the last 20 blocks, and the median of
those, so that one odd block decides nothing. geth's oracle (eth/gasprice) looks at as many blocks. Blocks without
transactions say nothing about tips (`eth_feeHistory` reports 0 for them) and are left out.
"""

from collections.abc import Sequence
from statistics import median_low
from typing import Any

import msgspec

from portal.chain.results import Nonsense, Refused, parse_block, parse_price, result_of
from portal.chain.tables import FeeStyle

HISTORY_BLOCKS = 20


class FeeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a chain's fees are reckoned; see the table `chain`."""

    style: FeeStyle
    percentile: int
    """Of the tips paid in a block, 1 to 100."""
    base_fee_percent: int
    """Of the next base fee, or of a legacy gas price, what is allowed for: at least 100."""
    least_tip_wei: int
    """At least 1, so that nothing is ever offered for 0. Of a legacy chain: the least gas price."""
    most_fee_wei: int | None


class Fees(msgspec.Struct, frozen=True):
    """What a transaction offers. On a legacy chain both are the gas price."""

    max_fee_wei: int
    max_priority_fee_wei: int


class Market(msgspec.Struct, frozen=True):
    """What a node says of fees."""

    next_base_fee_wei: int
    tips_wei: Sequence[int]
    """Of each of the last blocks that had transactions, the tip at the percentile."""
    suggested_tip_wei: int | None
    """The node's own."""


def asked_of_node(settings: FeeSettings) -> list[tuple[str, list[Any]]]:
    """The questions whose answers `read_fees` takes."""
    if settings.style is FeeStyle.LEGACY:
        return [("eth_gasPrice", [])]
    return [
        ("eth_feeHistory", [hex(HISTORY_BLOCKS), "latest", [settings.percentile]]),
        ("eth_maxPriorityFeePerGas", []),
        ("eth_getBlockByNumber", ["latest", False]),
    ]


def read_fees(settings: FeeSettings, answers: Sequence[dict[str, Any]]) -> Fees:
    """What to offer, from the answers to `asked_of_node`. Raises `Refused` if they do not tell."""
    if settings.style is FeeStyle.LEGACY:
        return legacy_fees(parse_price(result_of(answers[0])), settings)
    return eip1559_fees(_read_market(*answers), settings)


def eip1559_fees(market: Market, settings: FeeSettings) -> Fees:
    """The market's tip, and a maximum of that and the headroom for the base fee; never above `most_fee_wei`."""
    paid = median_low(market.tips_wei) if market.tips_wei else market.suggested_tip_wei or 0
    tip = max(paid, settings.least_tip_wei)
    fee = tip + _percent(market.next_base_fee_wei, settings.base_fee_percent)
    fee = fee if settings.most_fee_wei is None else min(fee, settings.most_fee_wei)
    return Fees(max_fee_wei=fee, max_priority_fee_wei=min(tip, fee))


def legacy_fees(gas_price_wei: int, settings: FeeSettings) -> Fees:
    """The node's gas price with headroom. All of it is paid, so the headroom of a legacy chain should be small."""
    price = max(_percent(gas_price_wei, settings.base_fee_percent), settings.least_tip_wei)
    price = price if settings.most_fee_wei is None else min(price, settings.most_fee_wei)
    return Fees(max_fee_wei=price, max_priority_fee_wei=price)


def _read_market(history: dict[str, Any], suggested: dict[str, Any], head: dict[str, Any]) -> Market:
    base_fee = parse_block(result_of(head)).base_fee_wei
    if base_fee is None:
        raise Refused("has no base fee: transactions need EIP-1559, or the chain's `fee_style` must be legacy")
    suggested_tip = parse_price(suggested["result"]) if "result" in suggested else None
    if history.get("result") is not None:
        return Market(*_read_history(history["result"]), suggested_tip)
    if suggested_tip is None:
        raise Refused("knows neither eth_feeHistory nor eth_maxPriorityFeePerGas")
    return Market(_percent(base_fee, 113), [], suggested_tip)  # the next one is at most an eighth higher


def _read_history(result: Any) -> tuple[int, list[int]]:
    """The next block's base fee, which is the last one listed, and the tips of the blocks that were not empty."""
    base_fees = [parse_price(fee) for fee in result["baseFeePerGas"]]
    if len(base_fees) != len(result["gasUsedRatio"]) + 1:
        raise Nonsense("lists other fees than blocks")
    tips = [
        parse_price(rewards[0])
        for rewards, used in zip(result.get("reward") or [], result["gasUsedRatio"], strict=False)
        if used > 0
    ]
    return base_fees[-1], tips


def _percent(amount: int, percent: int) -> int:
    return -(-amount * percent // 100)
