"""How much a transaction may offer for gas, and what to offer next. Pure; amounts are wei, fees wei per unit of gas.

Nothing is ever offered above any of these:

    the chain's `most_fee_wei`
    the policy's `most_cost_wei`, for the value sent along and all of the gas limit at the highest fee
    what is left of the policy's `most_cost_a_day_wei`, reckoned the same way
    five times what the first attempt of the same kind offered

What was approved is the policy's version, so its limits were approved, too. A no-op spends what it must: it is bound by
the chain's limit and by five times its own first offer only.
"""

import msgspec

from portal.actions.effects import WEI_DECIMALS, units
from portal.chain.rpc import Fees
from portal.transactions.costs.fees import CAP_MULTIPLE, fee_cap, replacement_fees

GWEI_DECIMALS = 9


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the fee of a transaction's next attempt; None bounds nothing."""

    value_wei: int
    gas_limit: int
    currency: str
    most_fee_wei: int | None = None
    most_cost_wei: int | None = None
    left_today_wei: int | None = None
    """Of the policy's day, without what all its other transactions may cost; negative where they may exceed it."""


class TooCostly(Exception):
    """It would cost more than is allowed; the text says which limit that is, as a sentence."""


def cost(value_wei: int, gas_limit: int, max_fee_wei: int) -> int:
    """The most that an attempt can cost."""
    return value_wei + gas_limit * max_fee_wei


def most_fee(limits: Limits) -> int | None:
    """The highest fee that the limits allow, below 0 where not even the value fits; None where nothing bounds it."""
    return min((fee for fee, _ in _bounds(limits)), default=None)


def first_fees(market: Fees, limits: Limits) -> Fees:
    """What a first attempt offers: what the market asks for or nothing at all. Raises `TooCostly`.

    Never less than the market: once it has a nonce, all behind it would wait until fees fall.
    """
    cap = most_fee(limits)
    if cap is not None and market.max_fee_wei > cap:
        raise TooCostly(min(_bounds(limits))[1])
    return market


def next_fees(market: Fees, first: Fees, newest: Fees, limits: Limits) -> Fees:
    """What takes the place of `newest`: see `replacement_fees`. Raises `TooCostly` where a limit leaves no room for it.

    `first` is the first attempt of the same kind.
    """
    cap, sentence = _tightest(first, limits)
    fees = replacement_fees(newest, market, cap_wei=cap)
    if fees is None:
        raise TooCostly(sentence)
    return fees


def may_rise(first: Fees, newest: Fees, limits: Limits) -> bool:
    """Whether the limits leave room for the least that a pool takes instead of `newest`."""
    cap, _ = _tightest(first, limits)
    return replacement_fees(newest, newest, cap_wei=cap) is not None


def _bounds(limits: Limits) -> list[tuple[int, str]]:
    """The highest fee that each limit allows, and the sentence that names the limit."""
    bounds = []
    if limits.most_fee_wei is not None:
        most = f"{units(limits.most_fee_wei, GWEI_DECIMALS)} gwei"
        bounds.append((limits.most_fee_wei, f"On this chain at most {most} are offered for a unit of gas."))
    for allowed, sentence in (
        (limits.most_cost_wei, "Its policy allows at most {} for it, gas included."),
        (limits.left_today_wei, "Of what its policy allows in 24 hours on this chain, {} are left."),
    ):
        if allowed is not None:
            said = f"{units(max(0, allowed), WEI_DECIMALS)} {limits.currency}"
            bounds.append(((allowed - limits.value_wei) // limits.gas_limit, sentence.format(said)))
    return bounds


def _tightest(first: Fees, limits: Limits) -> tuple[int, str]:
    """The highest fee that may be offered after `first`, and the sentence that names what bounds it."""
    own = f"It offers {CAP_MULTIPLE} times what it offered first already, and more is never offered."
    return min([(fee_cap(first), own), *_bounds(limits)])
