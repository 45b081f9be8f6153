"""Reads bodies as JSON, exactly and unambiguously, or says why that cannot be done. Pure.

Integers keep every digit. A fraction that a double would round is kept as a `Decimal`. What two parsers could read in
two ways (a key twice, NaN, half a surrogate pair) is not read at all.

A form (`application/x-www-form-urlencoded`, which can never be JSON) is read as an object of its fields, all texts; one
with the only field `payload` is read as the JSON in that field, which is how Slack and GitHub send JSON in forms.
"""

import json
import re
from collections import Counter
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import msgspec

MAX_DEPTH = 100
MAX_FIELDS = 1000
FORM = re.compile(rb"[A-Za-z0-9%+._~*\[\]-]+=[!$-;=?-_a-z~]*")
EXACT_LENGTH = 16
"""A fraction of so many characters has at most 15 digits: those a double keeps, whatever they are (DBL_DIG)."""
SPACES = (b" ", b"\n", b"\t", b"\r")
NOT_CANONICAL = object()
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class PayloadUnreadable(Exception):
    """The body is not JSON that can be read in one way only; the text says why, for people."""


def parse_payload(body: bytes) -> Any:
    """The value in `body`. Raises `PayloadUnreadable`, and nothing else, for whatever bytes."""
    fields = read_form(body)
    if fields is None:
        return _parse_json(body)
    if len(fields) == 1 and fields[0][0] == "payload" and fields[0][1].startswith(("{", "[")):
        return _parse_json(fields[0][1].encode())
    return _object(list[tuple[str, Any]](fields))


def read_form(body: bytes) -> list[tuple[str, str]] | None:
    """The fields of a form, in their order; None for a body that is none."""
    if not FORM.fullmatch(body):
        return None
    try:
        return parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        return None


def _parse_json(body: bytes) -> Any:
    return payload if (payload := _read_canonical(body)) is not NOT_CANONICAL else _read_carefully(body)


def _read_canonical(body: bytes) -> Any:
    """The value of a body that is written as most programs write JSON: without spaces, numbers at their shortest.

    That it comes out the same when it is written again proves that nothing was there twice and nothing was rounded. It
    takes a fifth of the time of looking at each part. `NOT_CANONICAL` for any other body, readable or not.
    """
    first = body.find(b'":')
    if first >= 0 and body[first + 2 : first + 3] in SPACES:
        return NOT_CANONICAL
    try:
        payload = msgspec.json.decode(body)
        if msgspec.json.encode(payload) != body:
            return NOT_CANONICAL
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return NOT_CANONICAL
    return payload if not _may_be_deep(body) or _is_shallow(payload) else NOT_CANONICAL


def _read_carefully(body: bytes) -> Any:
    try:
        payload = DECODER.decode(body.decode())
        if _may_be_deep(body) and not _is_shallow(payload):
            raise PayloadUnreadable(f"The body is nested deeper than {MAX_DEPTH} levels.")
        if SURROGATE.search(body):
            json.dumps(payload, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise PayloadUnreadable("A text in the body holds half of a surrogate pair, which is no character.") from None
    except UnicodeDecodeError as error:
        raise PayloadUnreadable(f"The body is not UTF-8: byte {error.start} cannot be read.") from None
    except json.JSONDecodeError as error:
        raise PayloadUnreadable(_why_not_json(body, error)) from None
    except RecursionError:
        raise PayloadUnreadable(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    except (ValueError, ArithmeticError):
        raise PayloadUnreadable("The body has a number that is too long to be read.") from None
    return payload


def _why_not_json(body: bytes, error: json.JSONDecodeError) -> str:
    if not body.strip():
        return "The body is empty."
    return f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise PayloadUnreadable(f"The body has the field {twice[:100]!r} twice in one object.")
    return made


def _fraction(text: str) -> float | Decimal:
    if len(text) <= EXACT_LENGTH and "e" not in text and "E" not in text:
        return float(text)
    exact, rounded = Decimal(text), float(text)
    return rounded if rounded not in (float("inf"), float("-inf")) and Decimal(repr(rounded)) == exact else exact


def _constant(name: str) -> Any:
    raise PayloadUnreadable(f"The body has {name}, which is not a JSON number.")


def _may_be_deep(body: bytes) -> bool:
    return body.count(b"[") + body.count(b"{") > MAX_DEPTH


def _is_shallow(payload: Any) -> bool:
    level = [payload] if isinstance(payload, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            for child in (value.values() if type(value) is dict else value)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return True
    return False


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_fraction)
