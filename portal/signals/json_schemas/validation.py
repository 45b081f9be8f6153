"""JSON Schemas of signals: checked and compiled, payloads validated, schemas inferred. Pure; it fetches nothing.

Both sides may come from strangers, so every cost is bounded: schemas by size, depth and patterns, patterns by an engine
without backtracking, the work of a payload by what its schema may multiply it to, failures by number.
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
from portal.signals.json_schemas.loads import Loads, children, loads_of
from portal.signals.pointers import escaped

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 50
MAX_PATTERNS = 50
MAX_PATTERN_BYTES = 2 * 1024 * 1024
"""Of one compiled pattern."""
MAX_FAILURES = 20
MAX_MESSAGE_LENGTH = 300
MAX_PATH_LENGTH = 1000
MAX_WORK = 1_000_000
"""Checks of one payload, at some 0.2 microseconds each where a schema is at its worst."""
PLACED_WORK = 100_000
"""A check that fails costs some 2.5 microseconds if its place is told,"""
DETAILED_WORK = 10_000
"""and some 15 if it is told in words of ours."""

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
    loads: Loads


def compile_schema(schema: dict[str, Any]) -> Validator:
    """The schema ready to validate with, in the dialect that its `$schema` names, else 2020-12. Formats are asserted.

    Raises `InputInvalid` with the JSON Pointer of what is wrong, for a reference to anything outside the schema too.
    """
    _check_limits(schema)
    loads = loads_of(schema)
    try:
        compiled = jsonschema_rs.validator_for(
            schema, offline=True, validate_formats=True, pattern_options=PATTERNS, mask="The value"
        )
    except jsonschema_rs.ValidationError as error:
        raise InputInvalid.at(_pointer(error.instance_path), _why_no_schema(error)) from None
    except Exception as error:  # what the library refuses in its own ways, such as half of a surrogate pair
        raise InputInvalid.at("", f"The schema cannot be used: {_printable(str(error))}") from None
    return Validator(compiled, loads)


def failures(validator: Validator, payload: Any) -> list[dict[str, str | None]]:
    """Where and why `payload` fails, as `reasons` of a signal: at most 20, empty if it passes.

    The path is a JSON Pointer (RFC 6901) into the payload. Never raises for what `parse_payload` returns.
    """
    if validator.loads.heavy and validator.loads.work(payload, MAX_WORK) > MAX_WORK:
        return [_failure("", "The schema has too many alternatives for a body of this size or depth to be checked.")]
    if validator.compiled.is_valid(payload):
        return []
    work = validator.loads.work(payload, PLACED_WORK)
    if work <= DETAILED_WORK:
        errors = validator.compiled.iter_errors(payload)
        return [_failure(_pointer(error.instance_path), _why(error)) for error in islice(errors, MAX_FAILURES)]
    if work <= PLACED_WORK:
        units = validator.compiled.evaluate(payload).errors()
        return [_failure(unit["instanceLocation"], f"{unit['error']}.") for unit in islice(units, MAX_FAILURES)]
    return [_failure("", "The body fails the schema; it is too large for the places to be told.")]


def infer_schema(payloads: Iterable[Any]) -> dict[str, Any]:
    """A schema in 2020-12 that all `payloads` pass: their types, and what they all have as required. No bounds."""
    builder = SchemaBuilder(schema_uri=DIALECT)
    for payload in payloads:
        builder.add_object(_without_decimals(payload))
    inferred: dict[str, Any] = builder.to_schema()
    return inferred


def _failure(path: str, message: str) -> dict[str, str | None]:
    return {"rule_id": None, "path": _storable(path), "message": _printable(message)}


def _check_limits(schema: dict[str, Any]) -> None:
    patterns: set[str] = set()
    level: list[tuple[str, Any]] = [("", schema)]
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        for path, value in level:
            patterns.update(_patterns(value))
            if "\0" in (value if isinstance(value, str) else "".join(value) if isinstance(value, dict) else ""):
                raise InputInvalid.at(path, "This holds the character U+0000, which no text here can contain.")
        level = [child for path, value in level for child in children(path, value)]
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


def _why_no_schema(error: jsonschema_rs.ValidationError) -> str:
    if error.kind.name == "format" and error.kind.value == "regex":
        return "This pattern cannot be used. Look-around, back-references and very large repetitions are not supported."
    return _why(error)


def _why(error: jsonschema_rs.ValidationError) -> str:
    kind = error.kind
    if isinstance(kind, Kind.AnyOf | Kind.OneOfNotValid):
        nearest = _nearest(error)
        place = _pointer(nearest.instance_path[len(error.instance_path) :])
        return f"This fits none of the alternatives. The nearest says{place and ' of '}{place}: {_why(nearest)}"
    if isinstance(kind, Kind.OneOfMultipleValid):
        return "This fits more than one of the alternatives, and only one is allowed."
    if isinstance(kind, Kind.PropertyNames):
        return f"The name of a field is not allowed: {_why(kind.error)}"
    if isinstance(kind, Kind.AdditionalProperties | Kind.UnevaluatedProperties):
        return f"The field {kind.unexpected[0]!r} is not allowed here."
    wording = WORDING.get(kind.name)
    return wording.format(_shown(kind.value)) if wording else f"{error.message}."


def _nearest(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """Of the failures of all alternatives, one that is deepest in the payload: so far that alternative did fit."""
    kind = error.kind
    if not isinstance(kind, Kind.AnyOf | Kind.OneOfNotValid):
        return error
    found = [_nearest(alternative[0]) for alternative in kind.context if alternative]
    return max(found, key=lambda failure: len(failure.instance_path))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(_shown(item) for item in value[:20])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _pointer(path: Iterable[str | int]) -> str:
    return "".join(f"/{escaped(str(part))}" for part in path)


def _storable(path: str) -> str:
    """A pointer that fits: of one that is too long, the longest beginning that is one. PostgreSQL has no U+0000."""
    path = path.replace("\0", "\ufffd")
    return path if len(path) <= MAX_PATH_LENGTH else path[: path.rfind("/", 0, MAX_PATH_LENGTH)]


def _printable(message: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in message[: 2 * MAX_MESSAGE_LENGTH])
    return line if len(line) <= MAX_MESSAGE_LENGTH else f"{line[: MAX_MESSAGE_LENGTH - 1]}…"


def _without_decimals(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_decimals(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_decimals(inner) for inner in value]
    return 0.5 if isinstance(value, Decimal) else value
