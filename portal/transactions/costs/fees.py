"""What to pay for gas (EIP-1559), beyond what the node suggests. Pure; amounts are wei per unit of gas.

A node's pool replaces a transaction only if both fees rise by a tenth. No attempt ever offers more than `CAP_MULTIPLE`
times what the first one of its transaction offered; from there on the last attempt is sent again as it is.
"""

from portal.chain.rpc import Fees

CAP_MULTIPLE = 5
BUMP_PERCENT = 10
GAS_MARGIN_PERCENT = 25
"""State may change between the estimate and the block; unused gas is not paid for."""


def replacement_fees(previous: Fees, market: Fees, *, cap_wei: int) -> Fees | None:
    """What a pool accepts in place of `previous` and suits the market as far as `cap_wei` allows; None above that.

    `market` is what a new transaction would offer: its tip, and the tip plus an allowance for the base fee. Both fees
    rise by a tenth at least (go-ethereum, `PriceBump`; the formula is `updateFees` of Optimism's op-service/txmgr).
    """
    least, least_tip = raised(previous.max_fee_wei), raised(previous.max_priority_fee_wei)
    if max(least, least_tip) > cap_wei:
        return None
    tip = max(market.max_priority_fee_wei, least_tip)
    allowance = market.max_fee_wei - market.max_priority_fee_wei
    fee = min(max(tip + allowance, least), cap_wei)
    return Fees(max_fee_wei=fee, max_priority_fee_wei=min(tip, fee))


def raised(fee_wei: int) -> int:
    """`fee_wei` and a tenth, rounded up, at least one wei more."""
    return max(fee_wei + 1, -(-fee_wei * (100 + BUMP_PERCENT) // 100))


def fee_cap(first: Fees) -> int:
    """The most that any attempt may offer, given the first one."""
    return first.max_fee_wei * CAP_MULTIPLE


def gas_limit(estimate: int) -> int:
    """The estimate and a margin."""
    return -(-estimate * (100 + GAS_MARGIN_PERCENT) // 100)
