"""Reads posted forms into the input Structs that services take; what is wrong is said at its field."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from portal import clock
from portal.actions.checks import plainly
from portal.errors import InputInvalid
from portal.web.render import AnyRequest

T = TypeVar("T", bound=msgspec.Struct)
OURS = ("csrf_token", "next")
AS_TYPED = re.compile(r"password|^settings/(prefix|signed)$")
"""Fields in which a space at the end means something."""
AT = re.compile(r" - at `\$\.?([^`]*)`")
MISSING = re.compile(r"missing required field `([^`]+)`")


async def read_values(request: AnyRequest) -> dict[str, str]:
    """The form's text fields, without surrounding white space where it means nothing; files are not taken."""
    form = await request.form()
    return {
        name: value if AS_TYPED.search(name) else value.replace("\x00", "").strip()
        for name, value in form.items()
        if isinstance(value, str)
    }


async def read_list(request: AnyRequest, name: str) -> list[str]:
    """All values of a field that may be chosen several times."""
    form = await request.form()
    return [value.replace("\x00", "") for value in form.getall(name, []) if isinstance(value, str)]


def to_input(values: Mapping[str, Any], kind: type[T]) -> T:
    """The values as `kind`, empty optional fields left out. Raises `InputInvalid` that names the field."""
    given = {name: value for name, value in values.items() if name not in OURS and value != ""}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _as_input_invalid(str(error)) from None


def version_of(text: str) -> datetime:
    """The version that the form was made from, as it says in a hidden field. Raises `InputInvalid`."""
    try:
        return clock.in_utc(datetime.fromisoformat(text), path="/version")
    except ValueError:
        raise InputInvalid.at("/version", "The form is not whole. Open it again.") from None


def _as_input_invalid(message: str) -> InputInvalid:
    if missing := MISSING.search(message):
        return InputInvalid.at(f"/{missing[1]}", "Please fill this in.")
    at = AT.search(message)
    return InputInvalid.at(f"/{at[1].replace('.', '/')}" if at else "/", plainly(AT.sub("", message)))
