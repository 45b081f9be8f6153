"""What the lists have in common: cursor, limit and filters by the values of an enum."""

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from litestar.params import QueryParameter

from portal.db.paging import DEFAULT_LIMIT, MAX_LIMIT
from portal.errors import InputInvalid

Cursor = Annotated[
    str | None, QueryParameter(description="`next_cursor` of the page before; without it the newest come first.")
]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="The most items of one page.")]
Since = Annotated[datetime | None, QueryParameter(description="Not older than this, such as `2026-05-03T09:30:00Z`.")]
Until = Annotated[datetime | None, QueryParameter(description="Older than this.")]

__all__ = ["DEFAULT_LIMIT", "Cursor", "Limit", "Since", "Until", "choice", "choices"]


def choices(view: type[msgspec.Struct], field: str) -> list[str]:
    """The values of the enum that `field` of `view` holds: what a filter on it may be."""
    return [str(value.value) for value in _enum_of(view, field)]


def choice(view: type[msgspec.Struct], field: str, value: str | None) -> Any:
    """`value` as the enum that `field` of `view` holds. Raises `InputInvalid` naming the values there are."""
    if value is None:
        return None
    try:
        return _enum_of(view, field)(value)
    except ValueError:
        known = ", ".join(choices(view, field))
        raise InputInvalid.at(f"/{field}", f"This must be one of {known}.") from None


def _enum_of(view: type[msgspec.Struct], field: str) -> type[Enum]:
    hint = get_type_hints(view)[field]
    found: type[Enum] = next(
        kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, Enum)
    )
    return found
