"""Calls to bytes and back, with values as JSON writes them. Pure.

What `encode_call` and `decode_call` return as `arguments` holds values in the canonical form of `chain.values`.
"""

import math
import re
from functools import cache
from typing import Any, cast

import msgspec
from eth_abi.abi import decode, encode
from eth_abi.exceptions import ABITypeError, DecodingError, ParseError
from eth_abi.grammar import parse
from eth_typing import ABIElement
from eth_utils.abi import abi_to_signature, collapse_if_tuple, function_signature_to_4byte_selector

from portal.chain.schemas import FunctionView, Parameter
from portal.chain.values import (
    HEX,
    MAX_ELEMENTS,
    component_names,
    convert,
    escape,
    example_of,
    printable,
    to_json,
)
from portal.errors import FieldError, InputInvalid

Abi = list[dict[str, Any]]
RECEIVE = "receive()"
"""The ABI's name for a plain transfer of native currency: a call without data."""
PLAIN_ADDRESS: Abi = [{"type": "receive", "stateMutability": "payable"}]
"""The ABI of an address that can be sent native currency, and nothing else."""
MAX_CALLDATA_BYTES = 100_000  # nodes refuse a transaction above 128 KiB
MAX_TYPE = 200
MAX_NESTING = 16
"""Tuples and arrays within each other: far beyond what compilers write, far below what Python recurses."""
MAX_VALUES = 65_536
"""Of all functions and errors of an ABI together: each has examples that people are shown."""
MAX_REASON = 4096
ERROR_STRING = bytes.fromhex("08c379a0")
PANIC = bytes.fromhex("4e487b71")
NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
"""Of functions and errors, in Solidity as in Vyper: what follows it in a signature is always a parenthesis."""
PANICS = {
    0x00: "a compiler-inserted panic",
    0x01: "an assertion failed",
    0x11: "an arithmetic overflow",
    0x12: "a division by zero",
    0x21: "a value outside its enum",
    0x22: "wrongly encoded storage",
    0x31: "pop of an empty array",
    0x32: "an array index out of bounds",
    0x41: "too much memory allocated",
    0x51: "a call of an unset function",
}

STANDARD_ERRORS = (
    "ERC20InsufficientBalance(address sender,uint256 balance,uint256 needed)",
    "ERC20InvalidSender(address sender)",
    "ERC20InvalidReceiver(address receiver)",
    "ERC20InsufficientAllowance(address spender,uint256 allowance,uint256 needed)",
    "ERC20InvalidApprover(address approver)",
    "ERC20InvalidSpender(address spender)",
    "ERC721InvalidOwner(address owner)",
    "ERC721NonexistentToken(uint256 tokenId)",
    "ERC721IncorrectOwner(address sender,uint256 tokenId,address owner)",
    "ERC721InvalidSender(address sender)",
    "ERC721InvalidReceiver(address receiver)",
    "ERC721InsufficientApproval(address operator,uint256 tokenId)",
    "ERC1155InsufficientBalance(address sender,uint256 balance,uint256 needed,uint256 tokenId)",
    "ERC1155InvalidReceiver(address receiver)",
    "ERC1155MissingApprovalForAll(address operator,address owner)",
    "OwnableUnauthorizedAccount(address account)",
    "AccessControlUnauthorizedAccount(address account,bytes32 neededRole)",
    "SafeERC20FailedOperation(address token)",
    "EnforcedPause()",
    "ExpectedPause()",
    "ReentrancyGuardReentrantCall()",
    "FailedCall()",
)
"""Errors of EIP-6093 and of OpenZeppelin 5: a contract passes on those of others, which its own ABI does not name."""


class EncodedCall(msgspec.Struct, frozen=True):
    """A call both ways: `calldata` for the chain, `arguments` for people and digests."""

    function: str
    calldata: bytes
    arguments: list[dict[str, Any]]
    """`[{"name", "type", "value"}]`, in the order of the ABI."""


def parse_abi(value: Any) -> Abi:
    """`value` as an ABI. Raises `InputInvalid` at `/abi/...` for anything else, and for types we cannot encode."""
    if not isinstance(value, list) or not value:
        raise InputInvalid.at("/abi", "The ABI must be a JSON array of functions, events and errors.")
    named: dict[bytes, str] = {}
    values = 0
    for position, element in enumerate(value):
        path = f"/abi/{position}"
        if not isinstance(element, dict) or not isinstance(element.get("type"), str):
            raise InputInvalid.at(path, 'Each element of an ABI is an object with a "type".')
        kind = element["type"]
        if kind in ("function", "error") and not isinstance(element.get("name"), str):
            raise InputInvalid.at(path, f"This {kind} has no name.")
        if kind in ("function", "error") and not NAME.fullmatch(element["name"]):
            raise InputInvalid.at(path, f"The name of this {kind} is not one that a contract can have.")
        if kind == "receive" and element.get("inputs"):
            raise InputInvalid.at(path, "What receives a plain transfer has no inputs.")
        if kind in ("function", "constructor", "error"):
            values += check_components(element.get("inputs", [] if kind == "constructor" else None), f"{path}/inputs")
        if values > MAX_VALUES:
            raise InputInvalid.at("/abi", f"The functions of this ABI take more than {MAX_VALUES:,} values.")
        if kind == "function":
            function = signature(element)
            other = named.setdefault(function_signature_to_4byte_selector(function), function)
            if other != function:  # the bytes of a call would not say which of the two it is
                raise InputInvalid.at(path, f"{function} and {other} have the same selector; no contract has both.")
    return value


def check_components(components: Any, path: str, depth: int = 0) -> int:
    """How many single values a call holds for these inputs at least.

    Raises `InputInvalid` below `path` for inputs that are none, or of a type that we cannot encode.
    """
    if not isinstance(components, list):
        raise InputInvalid.at(path, "The inputs must be an array.")
    names: set[str] = set()
    values = 0
    for position, component in enumerate(components, start=1):
        here = f"{path}/{position - 1}"
        if not isinstance(component, dict) or not isinstance(component.get("type"), str):
            raise InputInvalid.at(here, 'Each input is an object with a "name" and a "type".')
        if not isinstance(component.get("name", ""), str) or not isinstance(component.get("maxLength", 0), int):
            raise InputInvalid.at(here, "The name of an input must be a text, its maxLength an integer.")
        name = component.get("name") or f"argument{position}"
        if name in names or not name.isprintable():
            raise InputInvalid.at(here, "Each input needs a printable name of its own, or none.")
        names.add(name)
        if len(component["type"]) > MAX_TYPE:
            raise InputInvalid.at(here, f"A type has at most {MAX_TYPE} characters.")
        base, *sizes = component["type"].split("[")
        inner = depth + len(sizes) + (base == "tuple")
        if inner > MAX_NESTING:
            raise InputInvalid.at(here, f"Arrays and tuples can be nested {MAX_NESTING} deep at most.")
        parts = check_components(component.get("components"), f"{here}/components", inner) if base == "tuple" else 1
        if not component.get("components") and base == "tuple":
            raise InputInvalid.at(here, "A tuple needs at least one component.")
        try:
            parse(component["type"].replace("tuple", "uint256", 1)).validate()
        except (ABITypeError, ParseError):
            raise InputInvalid.at(here, f"{component['type']!r} is not a type of the ABI.") from None
        if base not in ("tuple", "address", "bool", "string") and not re.fullmatch(r"u?int\d+|bytes\d*", base):
            raise InputInvalid.at(here, f"Inputs of type {base} are not supported.")
        values += max(1, parts) * math.prod(int(size.rstrip("]") or 1) for size in sizes)
        if values > MAX_ELEMENTS:
            raise InputInvalid.at(here, "These inputs hold more values than a transaction can.")
    return values


def signature(element: dict[str, Any]) -> str:
    """The canonical signature of a function, error or constructor: `mint(address,uint256)`, `constructor(string)`."""
    return abi_to_signature(cast(ABIElement, {"inputs": [], **element}))


def functions(abi: Abi, allowed: list[str]) -> list[FunctionView]:
    """The functions that change state: first those that may be called, as in `allowed`, then as in the ABI."""
    views = []
    for element in abi:
        if element["type"] == "receive":
            views.append(FunctionView(RECEIVE, "receive", RECEIVE, [], True, RECEIVE in allowed))
        elif element["type"] == "function" and element.get("stateMutability") not in ("view", "pure"):
            name, inputs = signature(element), inputs_of(element)
            label = f"{element['name']}({', '.join(f'{each.name}: {each.type}' for each in inputs)})"
            payable = element.get("stateMutability") == "payable"
            views.append(FunctionView(name, element["name"], label, inputs, payable, name in allowed))
    places = {name: place for place, name in enumerate(allowed)}
    return sorted(views, key=lambda view: places.get(view.signature, len(places)))


def function_inputs(abi: Abi, function: str) -> list[Parameter]:
    """The inputs of `function`, a canonical signature (or `constructor(...)`). Raises `InputInvalid` at `/function`."""
    return inputs_of(_find(abi, function))


def inputs_of(element: dict[str, Any]) -> list[Parameter]:
    """The inputs of an ABI element, each with a name."""
    components = element.get("inputs", [])
    return [
        Parameter(name, collapse_if_tuple(component), component.get("maxLength"), example_of(component))
        for name, component in zip(component_names(components), components, strict=True)
    ]


def _find(abi: Abi, function: str) -> dict[str, Any]:
    for element in abi:
        if element["type"] in ("function", "constructor", "receive") and signature(element) == function:
            return element
    if function == "constructor()":
        return {"type": "constructor", "inputs": []}
    known = ", ".join(signature(element) for element in abi if element["type"] == "function")
    raise InputInvalid.at("/function", f"The contract has no function {function[:200]}. It has: {known[:1000]}.")


class ContractFunction(msgspec.Struct, frozen=True):
    """A function of an ABI, found once to encode many calls of it."""

    signature: str
    selector: bytes
    element: dict[str, Any]
    inputs: list[Parameter]

    def encode(self, values: dict[str, Any]) -> EncodedCall:
        """The call with `values` by parameter name. Raises `InputInvalid` as `encode_call` does."""
        arguments, encoded = _encode_arguments(self.element, self.inputs, values)
        return EncodedCall(self.signature, self.selector + encoded, arguments)


def get_function(abi: Abi, function: str) -> ContractFunction:
    """The function with this canonical signature. Raises `InputInvalid` at `/function` where there is none."""
    element = _find(abi, function)
    selector = b"" if element["type"] == "receive" else function_signature_to_4byte_selector(function)
    return ContractFunction(function, selector, element, inputs_of(element))


def encode_call(abi: Abi, function: str, values: dict[str, Any]) -> EncodedCall:
    """The call of `function` (a canonical signature) with `values` by parameter name.

    Raises `InputInvalid`, naming every wrong value at `/arguments/<name>`.
    """
    return get_function(abi, function).encode(values)


def encode_constructor(abi: Abi, bytecode: bytes, values: dict[str, Any]) -> EncodedCall:
    """The creation of a contract: `bytecode` followed by the constructor's arguments. Raises as `encode_call` does."""
    element = next((element for element in abi if element["type"] == "constructor"), {"type": "constructor"})
    arguments, encoded = _encode_arguments(element, inputs_of(element), values)
    return EncodedCall(signature(element), bytecode + encoded, arguments)


def _encode_arguments(
    element: dict[str, Any], inputs: list[Parameter], values: dict[str, Any]
) -> tuple[list[dict[str, Any]], bytes]:
    arguments, python_values, problems = [], [], []
    for component, parameter in zip(element.get("inputs", []), inputs, strict=True):
        path = "/arguments/" + escape(parameter.name)
        try:
            if parameter.name not in values:
                raise FieldError(path, f"{parameter.name} ({parameter.type}) is missing.")
            python_value, value = convert(component, values[parameter.name], path, parameter.name)
        except FieldError as problem:
            problems.append(problem)
            continue
        python_values.append(python_value)
        arguments.append({"name": parameter.name, "type": parameter.type, "value": value})
    names = {parameter.name for parameter in inputs}
    problems += [
        FieldError("/arguments/" + escape(name), f"The function {signature(element)} has no argument {name!r}.")
        for name in values
        if name not in names
    ]
    if problems:
        raise InputInvalid(problems[0].message, fields=problems)
    encoded = encode([parameter.type for parameter in inputs], python_values)
    if len(encoded) > MAX_CALLDATA_BYTES:
        raise InputInvalid.at(
            "/arguments", f"The arguments take {len(encoded)} bytes; at most {MAX_CALLDATA_BYTES} fit."
        )
    return arguments, encoded


def elements_by_selector(abi: Abi) -> dict[bytes, dict[str, Any]]:
    """The functions of an ABI by the first bytes of their calls; a plain transfer has none."""
    found: dict[bytes, dict[str, Any]] = {}
    for element in abi:
        if element["type"] == "receive":
            found.setdefault(b"", element)
        if element["type"] == "function":
            found.setdefault(function_signature_to_4byte_selector(signature(element)), element)
    return found


def decode_call(elements: dict[bytes, dict[str, Any]], calldata: bytes) -> EncodedCall:
    """The call that `calldata` is, of `elements_by_selector`.

    Raises `InputInvalid` unless encoding it again gives the same bytes.
    """
    element = elements.get(calldata[:4])
    if element is None:
        raise InputInvalid.at("/calldata", f"The contract has no function with the selector 0x{calldata[:4].hex()}.")
    if element["type"] == "receive":
        return EncodedCall(RECEIVE, b"", [])
    return EncodedCall(signature(element), calldata, _decode_arguments(element, calldata[4:]))


def _decode_arguments(element: dict[str, Any], data: bytes) -> list[dict[str, Any]]:
    inputs = inputs_of(element)
    types = [parameter.type for parameter in inputs]
    try:
        values = decode(types, data)
        canonical = encode(types, values) == data
    except (DecodingError, ValueError, OverflowError):
        canonical = False
    if not canonical:
        raise InputInvalid.at("/calldata", f"These bytes are not a well-formed call of {signature(element)}.")
    return [
        {"name": parameter.name, "type": parameter.type, "value": to_json(component, value)}
        for parameter, component, value in zip(inputs, element.get("inputs", []), values, strict=True)
    ]


def decode_revert(data: bytes | str, abi: Abi | None = None) -> str:
    """Why a call reverted, in words: `Error(string)`, `Panic(uint256)`, or a custom error of `abi` or a standard.

    One printable line of at most 4096 characters, whatever a contract returned.
    """
    if isinstance(data, str):
        data = bytes.fromhex(data[2:]) if HEX.fullmatch(data) else b""
    if not data:
        return "The contract reverted without giving a reason."
    selector, body = data[:4], data[4:]
    try:
        if selector == ERROR_STRING:
            return _bounded(decode(["string"], body)[0]) or "The contract reverted with an empty reason."
        if selector == PANIC:
            code = decode(["uint256"], body)[0]
            return f"The contract panicked: {PANICS.get(code, 'an unknown reason')} (code 0x{code:02x})."
        for element in [*(abi or []), *_standard_errors()]:
            if element["type"] == "error" and function_signature_to_4byte_selector(signature(element)) == selector:
                named = ", ".join(f"{each['name']}: {each['value']}" for each in _decode_arguments(element, body))
                return _bounded(f"{element['name']}({named})")
    except (DecodingError, ValueError, OverflowError, InputInvalid):
        pass
    return _bounded(f"The contract reverted with 0x{data[:1024].hex()}.")


@cache
def _standard_errors() -> Abi:
    errors: Abi = []
    for error in STANDARD_ERRORS:
        name, _, inputs = error.rstrip(")").partition("(")
        pairs = [each.split(" ") for each in inputs.split(",") if each]
        errors.append(
            {"type": "error", "name": name, "inputs": [{"type": kind, "name": label} for kind, label in pairs]}
        )
    return errors


def _bounded(reason: str) -> str:
    return printable(reason[:MAX_REASON])
