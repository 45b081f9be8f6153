"""Stored simulations as people read them: with names, sentences, and whether they still say what is so. Pure."""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from portal.actions import effects
from portal.actions.effects import name_or_short
from portal.actions.schemas import BalanceChange, EmittedEvent, SimulatedEffects, Simulation

FRESH_FOR = timedelta(minutes=5)
CLOCKS_DIFFER = timedelta(seconds=30)
"""At most, those of several machines: what seems to be made later than that was made when a clock was wrong."""
FOR_ALL = "ApprovalForAll(address,address,bool)"
PERMISSIONS = ("Approval(address,address,uint256)", FOR_ALL)
UNLIMITED = 2**255
"""An allowance of more is meant as without end; wallets and tokens ask for 2^256 - 1."""


def simulation_of(row: dict[str, Any]) -> Simulation | None:
    """The stored simulation of an action's row, without names and `outcome_digest`; None until it is simulated.

    Rows from before effects were traced have none.
    """
    if row["simulation"] is None:
        return None
    stored = msgspec.json.decode(row["simulation"])
    return msgspec.convert({**stored, "simulated_at": row["simulated_at"]}, Simulation)


def is_stale(simulation: Simulation, head_number: int | None, now: datetime) -> bool:
    """Whether it is not of the last 5 minutes and a block was mined since: without one nothing can have changed."""
    is_fresh = -CLOCKS_DIFFER < now - simulation.simulated_at <= FRESH_FOR
    return not is_fresh and (head_number or 0) > simulation.block_number


def outcome_digest_of(simulation: Simulation) -> str:
    """SHA-256 of what would happen: success or not, who gains and loses what, and every event in full, in any order.

    Gas, block, balances before, names, and the way it was traced do not count. Untraced is not the same as no effects.
    """
    outcome: list[Any] = [simulation.ok]
    if found := simulation.effects:
        changes = [[each.holder, each.asset, each.token, each.token_id, each.change] for each in found.changes]
        events = [[each.contract, each.topics, each.data, each.data_bytes] for each in found.events]
        outcome += [_sorted(changes), found.more_changes, _sorted(events), found.more_events]
    return hashlib.sha256(msgspec.json.encode(outcome)).hexdigest()


def _sorted(items: list[list[Any]]) -> list[list[Any]]:
    return sorted(items, key=msgspec.json.encode)


def addresses_of(simulation: Simulation | None) -> set[str]:
    """The EIP-55 addresses in it that a person would want a name for."""
    if simulation is None or simulation.effects is None:
        return set()
    found = {change.holder for change in simulation.effects.changes}
    found |= {change.token for change in simulation.effects.changes if change.token}
    for event in simulation.effects.events:
        found |= {event.contract, *effects.addresses_in(event.arguments)}
    return found


def with_names(found: SimulatedEffects, names: Mapping[str, str], currency: str) -> SimulatedEffects:
    """The same with what the organisation calls its addresses (`names` by address in lower case), in sentences."""
    return msgspec.structs.replace(
        found,
        changes=[_named(change, names, currency) for change in found.changes],
        events=[
            msgspec.structs.replace(
                event,
                contract_name=names.get(event.contract.lower()),
                text=_permission(event, names),
            )
            for event in found.events
        ],
    )


def _named(change: BalanceChange, names: Mapping[str, str], currency: str) -> BalanceChange:
    if change.token is None:
        change = msgspec.structs.replace(change, symbol=currency)
    what = _what(change, names)
    verb = "loses" if change.change.startswith("-") else "gets"
    return msgspec.structs.replace(
        change,
        holder_name=names.get(change.holder.lower()),
        what=what,
        text=f"{name_or_short(change.holder, names)} {verb} {what}",
    )


def _what(change: BalanceChange, names: Mapping[str, str]) -> str:
    amount = abs(int(change.change))
    if change.token is None:
        return f"{effects.units(amount, effects.WEI_DECIMALS)} {change.symbol}"
    name = effects.plain(change.symbol or names.get(change.token.lower(), ""))
    if not change.is_registered:
        # Anybody can call a token USDC; only its address says which one it is.
        name = f"“{name}” ({effects.short_address(change.token)})" if name else effects.short_address(change.token)
    if change.asset == "erc721":
        return f"{name} number {change.token_id}"
    if change.asset == "erc1155":
        return f"{amount:,} of {name} number {change.token_id}"
    if change.decimals is None:
        return f"{amount:,} of the smallest units of {name}"
    return f"{effects.units(amount, change.decimals)} {name}"


def _permission(event: EmittedEvent, names: Mapping[str, str]) -> str:
    """What the standards' events of permission say, as a sentence; empty for other events."""
    if event.event not in PERMISSIONS:
        return ""
    owner, other, given = (argument["value"] for argument in event.arguments)
    lets = f"{name_or_short(owner, names)} lets {name_or_short(other, names)}"
    stops = f"{name_or_short(owner, names)} no longer lets {name_or_short(other, names)}"
    name = name_or_short(event.contract, names)
    if event.event == FOR_ALL:
        return f"{lets if given else stops} take all its tokens of {name}"
    if len(event.topics) == 4:  # of one token; nobody may take it any more where it says nobody
        return "" if int(other, 16) == 0 else f"{lets} take number {given} of {name}"
    if int(given) >= UNLIMITED:
        return f"{lets} spend all its {effects.plain(event.symbol or '') or name}, without a limit"
    if event.decimals is None:
        return (
            f"{lets} spend up to {int(given):,} of the smallest units of {name}"
            if int(given)
            else f"{stops} spend {name}"
        )
    symbol = effects.plain(event.symbol or "") or name
    return (
        f"{lets} spend up to {effects.units(int(given), event.decimals)} {symbol}"
        if int(given)
        else f"{stops} spend {symbol}"
    )
