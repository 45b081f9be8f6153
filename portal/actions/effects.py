"""What a call does, as one plain sentence: "Mint 50 PTS to Ada Park". Pure.

The sentence helps; it never decides. What is approved is the exact call, which is always shown with it.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from portal.chain.abi import RECEIVE

WEI_DECIMALS = 18
LONGEST_TEXT = 80
LONGEST_HEX = 20
INTEGER = re.compile(r"u?int\d+")
ADDRESS = re.compile("0x[0-9a-fA-F]{40}")
AMOUNT = re.compile(r"(?P<whole>[0-9]{1,78})(?:\.(?P<part>[0-9]{1,77}))?")


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A call and what is needed to put it into words."""

    contract_name: str
    function: str
    arguments: list[dict[str, Any]]
    """`[{"name", "type", "value"}]` in the order of the ABI."""
    symbol: str | None = None
    decimals: int | None = None
    names: dict[str, str] = {}
    """Names of people and things by address in lower case."""
    value_wei: int = 0
    currency: str = "ETH"

    def who(self, index: int) -> str:
        return name_or_short(str(self.arguments[index]["value"]), self.names)

    def amount(self, index: int) -> str:
        """The amount with its symbol; a token's number where the contract has no decimals."""
        value = int(self.arguments[index]["value"])
        if self.decimals is None:
            return f"{self.thing} number {value}"
        return f"{units(value, self.decimals)} {self.thing}"

    @property
    def thing(self) -> str:
        return plain(self.symbol or self.contract_name)


SENTENCES: dict[str, Callable[[Effect], str]] = {
    "mint(address,uint256)": lambda e: f"Mint {e.amount(1)} to {e.who(0)}",
    "burn(uint256)": lambda e: f"Burn {e.amount(0)}",
    "burn_from(address,uint256)": lambda e: f"Burn {e.amount(1)} of {e.who(0)}",
    "transfer(address,uint256)": lambda e: f"Transfer {e.amount(1)} to {e.who(0)}",
    "transferFrom(address,address,uint256)": lambda e: f"Transfer {e.amount(2)} from {e.who(0)} to {e.who(1)}",
    "safeTransferFrom(address,address,uint256)": lambda e: f"Transfer {e.amount(2)} from {e.who(0)} to {e.who(1)}",
    "approve(address,uint256)": lambda e: f"Allow {e.who(0)} to spend {e.amount(1)}",
    "mint(address,string)": lambda e: f"Issue a {e.thing} certificate to {e.who(0)}",
    "append(bytes32,string)": lambda e: f"Append “{plain(e.arguments[1]['value'])}” to {plain(e.contract_name)}",
    "transfer_ownership(address)": lambda e: f"Make {e.who(0)} the owner of {plain(e.contract_name)}",
    "renounce_ownership()": lambda e: f"Leave {plain(e.contract_name)} without an owner, for ever",
}


def summarize(effect: Effect) -> str:
    """One sentence without a full stop; a function that nobody described is shown as a call with its values."""
    sent = f"{units(effect.value_wei, WEI_DECIMALS)} {effect.currency}"
    if effect.function == RECEIVE:
        return f"Send {sent} to {plain(effect.contract_name)}"
    if effect.function.startswith("constructor("):
        sentence = f"Deploy {plain(effect.contract_name)}"
        if effect.symbol:
            sentence += f" ({plain(effect.symbol)})"
    elif describe := SENTENCES.get(effect.function):
        sentence = describe(effect)
    else:
        values = ", ".join(f"{plain(str(a['name'])) or a['type']}: {_value(effect, a)}" for a in effect.arguments)
        sentence = f"Call {effect.function.partition('(')[0]}({values}) of {plain(effect.contract_name)}"
    if effect.value_wei:
        sentence += f", sending {sent}"
    return sentence


def summarize_batch(calls: list[Effect]) -> str:
    """What several calls of one contract do in one transaction: the first three, and how many more.

    As sentences where each of them has one; else by their functions, whose values would make it too long to read.
    """
    if all(each.function in SENTENCES for each in calls):
        told = [summarize(each) for each in calls]
        more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        return f"All or nothing: {'; '.join(told[:3])}{more}"
    names = [each.function.partition("(")[0] for each in calls]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(calls)} calls of {plain(calls[0].contract_name)}, all or nothing: {', '.join(names[:3])}{more}"


def units(amount: int, decimals: int) -> str:
    """`amount` of the smallest unit, exactly, with thousands separated: 1234500 with 3 decimals is `1,234.5`."""
    whole, part = divmod(abs(amount), 10**decimals)
    fraction = str(part).rjust(decimals, "0").rstrip("0") if part else ""
    return f"{'-' if amount < 0 else ''}{whole:,}{'.' if fraction else ''}{fraction}"


def parse_units(text: str, decimals: int) -> int:
    """`text`, such as `1.5`, in the smallest unit, exactly. Raises `ValueError` with a sentence for people."""
    found = AMOUNT.fullmatch(text.strip())
    if not found:
        raise ValueError("Give an amount in digits, with a point before the decimals: 1.5.")
    part = (found["part"] or "").rstrip("0")
    if len(part) > decimals:
        raise ValueError(f"Give at most {decimals} decimals." if decimals else "Give a whole number.")
    whole: int = int(found["whole"]) * 10**decimals
    return whole + int(part.ljust(decimals, "0") or "0")


def name_or_short(address: str, names: Mapping[str, str]) -> str:
    """What `names`, by address in lower case, calls it; else its first and last digits."""
    return plain(names.get(address.lower(), "")) or short_address(address)


def short_address(address: str) -> str:
    return f"{address[:6]}…{address[-4:]}"


def plain(text: str) -> str:
    """`text` on one line, cut at 80 characters, without characters that hide or turn around what follows.

    Names come from senders of signals: a right-to-left override in one must not change how the sentence reads.
    """
    visible = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join(visible.split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def addresses_in(arguments: list[dict[str, Any]]) -> list[str]:
    """The addresses a call names, in order, each once; those inside arrays and structs too."""
    found = [
        address for argument in arguments if "address" in argument["type"] for address in _addresses(argument["value"])
    ]
    return list(dict.fromkeys(found))


def _addresses(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if ADDRESS.fullmatch(value) else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [address for item in items for address in _addresses(item)]


def _value(effect: Effect, argument: dict[str, Any]) -> str:
    value = argument["value"]
    if argument["type"] == "address":
        return name_or_short(str(value), effect.names)
    if INTEGER.fullmatch(argument["type"]):
        return f"{int(value):,}"
    if argument["type"].startswith("bytes") and isinstance(value, str) and len(value) > LONGEST_HEX:
        return short_address(value)
    return plain(value if isinstance(value, str) else msgspec.json.encode(value).decode())
