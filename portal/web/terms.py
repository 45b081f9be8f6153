"""A policy's terms as sentences: what an action may cost, and until when it is carried out."""

from portal.actions.effects import WEI_DECIMALS, units
from portal.actions.schemas import PolicyOfAction, PolicyView
from portal.web.render import UNITS, count


def cost_terms(policy: PolicyOfAction | PolicyView, currency: str) -> str:
    """`At most 0.01 ETH, gas included; all under this policy at most 1 ETH in 24 hours.` Empty without limits."""
    parts = []
    if policy.most_cost_wei is not None:
        parts.append(f"at most {units(int(policy.most_cost_wei), WEI_DECIMALS)} {currency}, gas included")
    if policy.most_cost_a_day_wei is not None:
        day = units(int(policy.most_cost_a_day_wei), WEI_DECIMALS)
        parts.append(f"all under this policy at most {day} {currency} in 24 hours on one chain")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def span(seconds: int) -> str:
    """`24 hours`, `7 days`, `90 minutes`: the largest unit in which it is whole; one unit is said in the smaller."""
    for size, unit in UNITS:
        if seconds % size == 0 and seconds >= 2 * size:
            return count(seconds // size, unit)
    return count(seconds, "second") if seconds % 60 else count(seconds // 60, "minute")
