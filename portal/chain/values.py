"""Single values of calls, between JSON and what eth-abi takes. Pure.

In JSON, integers are decimal strings (JSON integers are taken too), addresses EIP-55, `bytes` `0x` and hex digits,
tuples objects by component name, arrays arrays.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth_utils.crypto import keccak

from portal.errors import FieldError

MAX_ELEMENTS = 4096  # of an array; 32 bytes each make what nodes take as a whole transaction
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,79}")
HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


def escape(name: str) -> str:
    """`name` as one step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def printable(text: str) -> str:
    """`text` on one line, with a space for each kind of white space and U+FFFD for what else cannot be printed."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def component_names(components: list[dict[str, Any]]) -> list[str]:
    """The names of inputs; one without a name is called `argument1`, `argument2` ... by its place."""
    return [component.get("name") or f"argument{place}" for place, component in enumerate(components, start=1)]


def convert(component: dict[str, Any], value: Any, path: str, name: str) -> tuple[Any, Any]:
    """`value` for the ABI input `component`: as eth-abi takes it, and in canonical JSON. Raises `FieldError`."""
    kind = component["type"]
    if kind.endswith("]"):
        return _convert_array(component, value, path, name)
    if kind == "tuple":
        return _convert_tuple(component, value, path, name)
    if kind == "string":
        return _convert_string(component.get("maxLength"), value, path, name)
    base = kind.rstrip("0123456789")
    return ELEMENTARY[base](kind, value, path, name)


def _convert_array(component: dict[str, Any], value: Any, path: str, name: str) -> tuple[Any, Any]:
    base, _, size = component["type"].rpartition("[")
    size = size.rstrip("]")
    if not isinstance(value, list):
        raise FieldError(path, f"{name} must be an array.")
    if size and len(value) != int(size):
        raise FieldError(path, f"{name} must have {size} elements; it has {len(value)}.")
    if len(value) > MAX_ELEMENTS:
        raise FieldError(path, f"{name} has more elements than a transaction can hold.")
    item = {**component, "type": base}
    pairs = [convert(item, each, f"{path}/{place}", f"{name}[{place}]") for place, each in enumerate(value)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _convert_tuple(component: dict[str, Any], value: Any, path: str, name: str) -> tuple[Any, Any]:
    names = component_names(component["components"])
    if not isinstance(value, dict) or set(value) != set(names):
        raise FieldError(path, f"{name} must be an object with exactly: {', '.join(names)}.")
    pairs = [
        convert(part, value[label], f"{path}/{escape(label)}", f"{name}.{label}")
        for part, label in zip(component["components"], names, strict=True)
    ]
    return tuple(pair[0] for pair in pairs), dict(zip(names, (pair[1] for pair in pairs), strict=True))


def _convert_string(limit: int | None, value: Any, path: str, name: str) -> tuple[str, str]:
    if not isinstance(value, str):
        raise FieldError(path, f"{name} must be a text.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise FieldError(path, f"{name} holds half of a surrogate pair, which is not a character.") from None
    if "\0" in value:
        raise FieldError(path, f"{name} must not hold the character U+0000.")
    if limit is not None and size > limit:
        raise FieldError(path, f"{name} must be at most {limit} bytes long; it has {size}.")
    return value, value


def _convert_integer(kind: str, value: Any, path: str, name: str) -> tuple[int, str]:
    if isinstance(value, str) and INTEGER.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(path, f"{name} ({kind}) must be a whole number, as a JSON integer or a decimal string.")
    bits = int(kind.removeprefix("u").removeprefix("int"))
    least, most = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not least <= value <= most:
        raise FieldError(path, f"{name} ({kind}) must be between {least} and {most}.")
    return value, str(value)


@lru_cache(maxsize=8192)
def checksum_address(address: str) -> str:
    """The EIP-55 form of an address in lower case."""
    digits = address[2:]
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(digit.upper() if mark > "7" else digit for digit, mark in zip(digits, marks, strict=False))


def created_address(sender: str, nonce: int) -> str:
    """The EIP-55 address of the contract that `sender` creates with its transaction `nonce` (yellow paper, 7)."""
    return checksum_address("0x" + keccak(rlp.encode([bytes.fromhex(sender[2:]), nonce]))[-20:].hex())


def _convert_address(_kind: str, value: Any, path: str, name: str) -> tuple[bytes, str]:
    if not isinstance(value, str) or not ADDRESS.fullmatch(value):
        raise FieldError(path, f"{name} must be an address: 0x and 40 hex digits.")
    address = checksum_address(value.lower())
    if value not in (address, value.lower()):
        raise FieldError(path, f"{name} is not written as EIP-55 says: a digit is wrong, or the case of a letter.")
    return bytes.fromhex(address[2:]), address


def _convert_bool(_kind: str, value: Any, path: str, name: str) -> tuple[bool, bool]:
    if value in ("true", "false"):
        value = value == "true"
    if not isinstance(value, bool):
        raise FieldError(path, f"{name} must be true or false.")
    return value, value


def _convert_bytes(kind: str, value: Any, path: str, name: str) -> tuple[bytes, str]:
    if not isinstance(value, str) or not HEX.fullmatch(value):
        raise FieldError(path, f"{name} ({kind}) must be 0x and an even number of hex digits.")
    raw = bytes.fromhex(value[2:])
    size = kind.removeprefix("bytes")
    if size and len(raw) != int(size):
        raise FieldError(
            path, f"{name} must be {size} bytes: 0x and {2 * int(size)} hex digits; it has {len(raw)} bytes."
        )
    return raw, "0x" + raw.hex()


ELEMENTARY: dict[str, Callable[[str, Any, str, str], tuple[Any, Any]]] = {
    "uint": _convert_integer,
    "int": _convert_integer,
    "address": _convert_address,
    "bool": _convert_bool,
    "bytes": _convert_bytes,
}


def example_of(component: dict[str, Any]) -> Any:
    """A value for the ABI input `component` in canonical JSON, which shows what to write: short, but complete."""
    kind = component["type"]
    if kind.endswith("]"):
        base, _, size = kind.rpartition("[")
        return [example_of({**component, "type": base})] * int(size.rstrip("]") or 1)
    if kind == "tuple":
        parts = component["components"]
        return dict(zip(component_names(parts), map(example_of, parts), strict=True))
    if kind.startswith("bytes"):
        return "0x" + "00" * int(kind.removeprefix("bytes") or 2)
    return {"address": "0x52908400098527886E0F7030069857D2E4169EE7", "bool": True, "string": "text"}.get(kind, "1000")


def to_json(component: dict[str, Any], value: Any) -> Any:
    """The canonical JSON form of what eth-abi decoded for `component`."""
    kind = component["type"]
    if kind.endswith("]"):
        item = {**component, "type": kind.rpartition("[")[0]}
        return [to_json(item, each) for each in value]
    if kind == "tuple":
        names = component_names(component["components"])
        return {
            name: to_json(part, each) for name, part, each in zip(names, component["components"], value, strict=True)
        }
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if kind == "address":
        return checksum_address(value.lower())
    return value if kind in ("bool", "string") else str(value)
