"""The form of calls that are proposed by hand: each argument by its type, amounts in units that people use.

The fields of the call at `place` are `calls/<place>/function`, `calls/<place>/arguments/<name>` and, where an amount
may be written in several units, `calls/<place>/unit/<name>`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from portal.actions.batches import MULTICALL
from portal.actions.effects import WEI_DECIMALS, parse_units
from portal.actions.schemas import ActionInput, BatchedCall
from portal.chain.schemas import ContractView, FunctionView, Parameter
from portal.errors import FieldError, InputInvalid, PortalError

MOST_CALLS = 20
FUNCTION = re.compile(r"calls/([0-9]{1,3})/function")
LIKE_AMOUNTS = ("amount", "value", "wad", "assets", "shares", "supply", "tokens")
MONEY_UNITS = ((WEI_DECIMALS, None), (9, "gwei"), (0, "wei"))
"""Decimals and names of the units of native currency; the first is called as the chain calls it."""


class ArgumentField(msgspec.Struct, frozen=True):
    """One argument as the form shows it."""

    name: str
    """Of the field."""
    label: str
    type: str
    kind: str
    """`address`, `yes_no`, `number`, `json`, `long_text` or `text`."""
    value: str
    hint: str
    units: list[tuple[str, str]]
    """Choices of what the number counts; empty where it is just a number."""
    unit_name: str
    unit: str
    max_bytes: int | None


class CallBlock(msgspec.Struct, frozen=True):
    """One call of the form."""

    place: int
    function: FunctionView | None
    fields: list[ArgumentField]


def blocks_of(values: dict[str, str], contract: ContractView | None) -> list[CallBlock]:
    """The calls of the form in their order, at least one, each with the fields of its function."""
    if contract is None:
        return []
    allowed = {each.signature: each for each in callable_functions(contract)}
    blocks = []
    for place in _places(values):
        chosen = allowed.get(values.get(f"calls/{place}/function", "")) or next(iter(allowed.values()), None)
        fields = argument_fields(chosen.inputs if chosen else [], f"calls/{place}/", values, contract)
        blocks.append(CallBlock(place, chosen, fields))
    return blocks


def callable_functions(contract: ContractView) -> list[FunctionView]:
    """What of it may be proposed, in the order of the ABI; a batch is made of several of them."""
    return [each for each in contract.functions if each.allowed and each.signature != MULTICALL]


def takes_batches(contract: ContractView) -> bool:
    return any(each.signature == MULTICALL for each in contract.functions)


def argument_fields(
    inputs: Iterable[Parameter], prefix: str, values: dict[str, str], contract: ContractView | None = None
) -> list[ArgumentField]:
    """The fields of a function's or constructor's arguments. Whole numbers may be in a contract's token units."""
    fields = []
    for each in inputs:
        kind = _kind(each.type)
        units = _token_units(contract) if contract and each.type.startswith("uint") and kind == "number" else []
        unit_name = f"{prefix}unit/{each.name}"
        usual = units[0][0] if units and each.name.strip("_").lower() in LIKE_AMOUNTS else "0"
        fields.append(
            ArgumentField(
                name=f"{prefix}arguments/{each.name}",
                label=each.name,
                type=each.type,
                kind=kind,
                value=values.get(f"{prefix}arguments/{each.name}", ""),
                hint=_hint(each, kind),
                units=units,
                unit_name=unit_name,
                unit=values.get(unit_name, usual),
                max_bytes=each.max_bytes,
            )
        )
    return fields


def action_input(values: dict[str, str], contract: ContractView) -> ActionInput:
    """The whole form. Raises `InputInvalid` for what the service could not even read, at our fields."""
    blocks = blocks_of(values, contract)
    calls = [_call(block, values) for block in blocks]
    for_whom = values.get("end_user_id")
    shared: dict[str, Any] = {
        "contract_id": contract.id,
        "policy_id": _id(values, "policy_id", "Choose the policy that says who must approve it."),
        "end_user_id": _id(values, "end_user_id", "Choose somebody of the list.") if for_whom else None,
    }
    if len(calls) > 1:
        return ActionInput(**shared, calls=calls)
    return ActionInput(
        **shared,
        function=calls[0].function,
        arguments=calls[0].arguments,
        value_wei=_value_wei(values, blocks[0].function),
    )


def read_arguments(fields: Sequence[ArgumentField], values: dict[str, str]) -> dict[str, Any]:
    """What was typed as JSON, by argument. Raises `InputInvalid` that names each wrong field and what is right."""
    arguments, problems = {}, []
    for field in fields:
        try:
            arguments[field.label] = _read(field, values.get(field.name, ""))
        except ValueError as problem:
            problems.append(FieldError(f"/{field.name}", f"{field.label}: {problem}"))
    if problems:
        raise InputInvalid(problems[0].message, fields=problems)
    return arguments


def at_our_fields(error: PortalError, values: dict[str, str]) -> PortalError:
    """The same error with its paths as our fields are named: what is wrong inside a list is said at the list."""
    places = _places(values)
    error.fields = [FieldError(_our_path(each.path, places), each.message) for each in error.fields]
    return error


def unit_choices(currency: str) -> list[tuple[str, str]]:
    """The units in which native currency may be given."""
    return [(str(decimals), name or currency) for decimals, name in MONEY_UNITS]


def _our_path(path: str, places: list[int]) -> str:
    steps = path.strip("/").split("/")
    if steps[0] == "calls" and len(steps) > 2 and steps[1].isdigit() and int(steps[1]) < len(places):
        steps[1] = str(places[int(steps[1])])
        return "/" + "/".join(steps[: 4 if steps[2] == "arguments" else 3])
    if steps[0] in ("function", "arguments"):
        return f"/calls/{places[0]}/" + "/".join(steps[:2])
    return "/value" if path == "/value_wei" else path


def _places(values: dict[str, str]) -> list[int]:
    found = sorted(int(match[1]) for match in map(FUNCTION.fullmatch, values) if match)
    return found[:MOST_CALLS] or [0]


def _call(block: CallBlock, values: dict[str, str]) -> BatchedCall:
    if block.function is None:
        raise InputInvalid.at("/contract_id", "No function of this contract may be called. Choose another contract.")
    return BatchedCall(function=block.function.signature, arguments=read_arguments(block.fields, values))


def _kind(type_: str) -> str:
    if type_.endswith("]") or type_.startswith("("):
        return "json"
    if type_.startswith(("uint", "int")):
        return "number"
    return {"address": "address", "bool": "yes_no", "string": "long_text"}.get(type_, "text")


def _token_units(contract: ContractView) -> list[tuple[str, str]]:
    if not contract.decimals:
        return []
    return [(str(contract.decimals), contract.symbol or contract.name), ("0", "smallest units")]


def _hint(parameter: Parameter, kind: str) -> str:
    if kind == "json":
        return f"{parameter.type}, as JSON: {json.dumps(parameter.example)}"
    if kind == "number":
        return f"{parameter.type}, a {'number of 0 or more' if parameter.type[0] == 'u' else 'whole number'}"
    if kind == "long_text":
        return f"At most {parameter.max_bytes} bytes" if parameter.max_bytes else "A text"
    return {
        "address": "An address: 0x and 40 hex digits",
        "yes_no": "Yes or no",
    }.get(kind, f"{parameter.type}, in hex: {parameter.example}")


def _read(field: ArgumentField, text: str) -> Any:
    if field.kind == "long_text":
        return text
    if not text:
        raise ValueError(f"this is missing. {field.hint}.")
    if field.kind == "json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(f"this is not JSON. {field.hint}.") from None
    if field.kind == "number" and field.unit != "0" and field.unit in dict(field.units):
        return str(parse_units(text, int(field.unit)))
    return text


def _value_wei(values: dict[str, str], function: FunctionView | None) -> str:
    text = values.get("value", "")
    if not text or function is None or not function.payable:
        return "0"
    unit = values.get("value_unit", str(WEI_DECIMALS))
    try:
        return str(parse_units(text, int(unit) if unit in dict(unit_choices("")) else WEI_DECIMALS))
    except ValueError as problem:
        raise InputInvalid.at("/value", f"Value: {problem}") from None


def _id(values: dict[str, str], name: str, sentence: str) -> UUID:
    try:
        return UUID(values.get(name, ""))
    except ValueError:
        raise InputInvalid.at(f"/{name}", sentence) from None
