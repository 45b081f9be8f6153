"""Checks of input that every caller goes through, whatever face it came in by. Pure."""

import re
from typing import TypeVar

import msgspec

from portal.errors import InputInvalid

T = TypeVar("T", bound=msgspec.Struct)
WHERE = re.compile(r"^(?P<message>.*?)(?: - at `\$(?P<path>.*)`)?$", re.S)
BOUND = re.compile(r"Expected (?P<kind>int|str|array)(?P<length> of length)? (?P<side><=|>=) (?P<number>\d+)")
UNITS = {("str", True): " characters", ("array", True): " of them"}


def checked(given: T) -> T:
    """`given` with the limits of its schema enforced, which making it in Python does not. Raises `InputInvalid`."""
    try:
        return msgspec.convert(msgspec.to_builtins(given), type(given))
    except msgspec.ValidationError as error:
        found = WHERE.match(str(error))
        assert found
        path = re.sub(r"\[(\w+)\]|\.", lambda part: f"/{part[1] or ''}", found["path"] or "")
        raise InputInvalid.at(path, plainly(found["message"])) from None


def plainly(message: str) -> str:
    """What msgspec says of a value, as a person would say it; what is not known here stays as it is."""
    sentence = message.replace("`", "")
    if bound := BOUND.fullmatch(sentence):
        side = "At most" if bound["side"] == "<=" else "At least"
        unit = UNITS.get((bound["kind"], bool(bound["length"])), "")
        return f"{side} {int(bound['number']):,}{unit}, please."
    if sentence.startswith(("Expected int, got", "Expected int | null, got")):
        return "This must be a whole number."
    return f"{sentence}."


def checked_text(text: str, path: str) -> str:
    """`text` without spaces around it. Raises `InputInvalid` unless it has 1 to 80 printable characters."""
    text = text.strip()
    if not 1 <= len(text) <= 80 or not text.isprintable():
        raise InputInvalid.at(path, "Give a text of 1 to 80 printable characters.")
    return text


def checked_reason(reason: str) -> str:
    """`reason` without spaces around it. Raises `InputInvalid` unless it has 3 to 500 characters that can be stored."""
    reason = reason.strip()
    if not 3 <= len(reason) <= 500 or "\0" in reason:
        raise InputInvalid.at("/reason", "Give a reason of 3 to 500 characters.")
    return reason
