"""JSON Pointers (RFC 6901): where in a payload something is. Pure."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

Pointer = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(/([^~/\x00-\x1f]|~[01])*)+$",
        max_length=200,
        description="a JSON Pointer (RFC 6901) such as /event/id.",
    ),
]
INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def find(payload: Any, pointer: str) -> Any:
    """The value at `pointer`; None where there is none, too."""
    for name in names_in(pointer):
        if isinstance(payload, dict):
            payload = payload.get(name)
        elif isinstance(payload, list) and INDEX.fullmatch(name) and int(name) < len(payload):
            payload = payload[int(name)]
        else:
            return None
    return payload


def names_in(pointer: str) -> Iterator[str]:
    """The names of fields and the indexes that a pointer goes through."""
    return (step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def escaped(name: str) -> str:
    """A name as a step of a pointer."""
    return name.replace("~", "~0").replace("/", "~1")
