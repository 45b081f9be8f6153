"""JSON Schemas of signals: checked and compiled, payloads validated, schemas inferred. Pure; it fetches nothing.

Both sides may come from strangers, so every cost is bounded: schemas by size, depth and patterns, patterns by an engine
without backtracking, failures by number.
"""

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec
from genson import SchemaBuilder  # type: ignore[import-untyped]

from portal.errors import InputInvalid

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 50
MAX_PATTERNS = 100
MAX_PATTERN_BYTES = 512 * 1024
"""Of one compiled pattern."""
MAX_FAILURES = 20
MAX_MESSAGE_LENGTH = 300
DETAILED_VALUES = 2000
"""Up to so many values in a payload its failures are told one by one in full: each costs some 15 microseconds."""

WORDING = {
    "type": "This must be of type {}.",
    "const": "This must be {}.",
    "enum": "This must be one of {}.",
    "minimum": "This must be at least {}.",
    "exclusiveMinimum": "This must be more than {}.",
    "maximum": "This must be at most {}.",
    "exclusiveMaximum": "This must be less than {}.",
    "multipleOf": "This must be a multiple of {}.",
    "minLength": "This must have at least {} characters.",
    "maxLength": "This must have at most {} characters.",
    "pattern": "This must match the pattern {}.",
    "format": "This must be of the format {}.",
    "minItems": "This must have at least {} items.",
    "maxItems": "This must have at most {} items.",
    "uniqueItems": "This must not have the same item twice.",
    "contains": "This has too few or too many of the items that it must contain.",
    "minProperties": "This must have at least {} fields.",
    "maxProperties": "This must have at most {} fields.",
    "required": "The field {} is missing.",
    "not": "This is what the schema excludes.",
    "falseSchema": "Nothing is allowed here.",
    "additionalItems": "This must have at most {} items.",
    "unevaluatedItems": "This has items that are not allowed.",
}
Kind = jsonschema_rs.ValidationErrorKind

PATTERNS = jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES, dfa_size_limit=MAX_PATTERN_BYTES)
"""Linear in the length of the text whatever the pattern; it knows neither look-around nor back-references."""


class Validator(msgspec.Struct, frozen=True):
    """A compiled schema. Safe to share and cheap to call."""

    compiled: Any


def compile_schema(schema: dict[str, Any]) -> Validator:
    """The schema ready to validate with, in the dialect that its `$schema` names, else 2020-12. Formats are asserted.

    Raises `InputInvalid` with the JSON Pointer of what is wrong, for a reference to anything outside the schema too.
    """
    _check_limits(schema)
    try:
        compiled = jsonschema_rs.validator_for(
            schema, offline=True, validate_formats=True, pattern_options=PATTERNS, mask="The value"
        )
    except jsonschema_rs.ValidationError as error:
        raise InputInvalid.at(_pointer(error.instance_path), _why_no_schema(error)) from None
    except Exception as error:  # what the library refuses in its own ways, such as half of a surrogate pair
        raise InputInvalid.at("", f"The schema cannot be used: {_printable(str(error))}") from None
    return Validator(compiled)


def failures(validator: Validator, payload: Any) -> list[dict[str, str | None]]:
    """Where and why `payload` fails, as `reasons` of a signal: at most 20, empty if it passes.

    The path is a JSON Pointer (RFC 6901) into the payload. Never raises for what `parse_payload` returns.
    """
    if validator.compiled.is_valid(payload):
        return []
    if _has_at_most(payload, DETAILED_VALUES):
        found = ((_pointer(error.instance_path), _why(error)) for error in validator.compiled.iter_errors(payload))
    else:
        errors = validator.compiled.evaluate(payload).errors()
        found = ((error["instanceLocation"], f"{error['error']}.") for error in errors)
    return [
        {"rule_id": None, "path": path, "message": _printable(message)} for path, message in islice(found, MAX_FAILURES)
    ]


def infer_schema(payloads: Iterable[Any]) -> dict[str, Any]:
    """A schema in 2020-12 that all `payloads` pass: their types, and what they all have as required. No bounds."""
    builder = SchemaBuilder(schema_uri=DIALECT)
    for payload in payloads:
        builder.add_object(_without_decimals(payload))
    inferred: dict[str, Any] = builder.to_schema()
    return inferred


def _check_limits(schema: dict[str, Any]) -> None:
    patterns: set[str] = set()
    level: list[tuple[str, Any]] = [("", schema)]
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        for path, value in level:
            patterns.update(_patterns(value))
            if "\0" in (value if isinstance(value, str) else "".join(value) if isinstance(value, dict) else ""):
                raise InputInvalid.at(path, "This holds the character U+0000, which no text here can contain.")
        level = [child for path, value in level for child in _children(path, value)]
    if level:
        raise InputInvalid.at(level[0][0][:500], f"The schema is nested deeper than {MAX_SCHEMA_DEPTH} levels.")
    if len(patterns) > MAX_PATTERNS:
        raise InputInvalid.at("", f"The schema has {len(patterns)} different patterns; at most {MAX_PATTERNS} fit.")
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError):
        raise InputInvalid.at("", "The schema holds something that JSON cannot carry exactly.") from None
    if size > MAX_SCHEMA_BYTES:
        raise InputInvalid.at("", f"The schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are taken.")


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        if isinstance(value.get("patternProperties"), dict):
            yield from value["patternProperties"]


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{path}/{_escaped(name)}", child) for name, child in value.items())
    elif isinstance(value, list):
        yield from ((f"{path}/{index}", child) for index, child in enumerate(value))


def _why_no_schema(error: jsonschema_rs.ValidationError) -> str:
    if error.kind.name == "format" and error.kind.value == "regex":
        return "This pattern cannot be used. Look-around, back-references and very large repetitions are not supported."
    if isinstance(error.kind, Kind.Referencing) or "registry" in error.message:
        return "This refers to a schema outside of itself, and none is fetched. Put it into `$defs`."
    return _why(error)


def _why(error: jsonschema_rs.ValidationError) -> str:
    kind = error.kind
    if isinstance(kind, Kind.AnyOf | Kind.OneOfNotValid):
        nearest = next((first for first, *_ in kind.context if first), None)
        return f"This fits none of the alternatives; of the first: {_why(nearest)}" if nearest else "This fits none."
    if isinstance(kind, Kind.PropertyNames):
        return f"The name of a field is not allowed: {_why(kind.error)}"
    if isinstance(kind, Kind.AdditionalProperties | Kind.UnevaluatedProperties):
        return f"The field {kind.unexpected[0]!r} is not allowed here."
    wording = WORDING.get(kind.name)
    return wording.format(_shown(kind.value)) if wording else f"{error.message}."


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(_shown(item) for item in value[:20])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _pointer(path: Iterable[str | int]) -> str:
    return "".join(f"/{_escaped(str(part))}" for part in path)


def _escaped(name: str) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")


def _printable(message: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in message[: 2 * MAX_MESSAGE_LENGTH])
    return line if len(line) <= MAX_MESSAGE_LENGTH else f"{line[: MAX_MESSAGE_LENGTH - 1]}…"


def _has_at_most(payload: Any, limit: int) -> bool:
    count, waiting = 0, [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            count += len(value)
            if count > limit:
                return False
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return True


def _without_decimals(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_decimals(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_decimals(inner) for inner in value]
    return 0.5 if isinstance(value, Decimal) else value
