"""Keyset paging over UUIDv7 keys: the newest first, stable while rows are added. And numbers counted up to a limit."""

import base64
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from portal.errors import InputInvalid

T = TypeVar("T")
MAX_LIMIT = 200
DEFAULT_LIMIT = 50


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list; `next_cursor` is None on the last one."""

    items: list[T]
    next_cursor: str | None = None


class Count(int):
    """A number that was counted no further than is worth the time; written `10,000+` where there may be more."""

    capped: bool

    def __new__(cls, number: int, *, capped: bool = False) -> "Count":
        count = super().__new__(cls, number)
        count.capped = capped
        return count

    @classmethod
    def up_to(cls, most: int, number: int) -> "Count":
        """`number`, of which nothing is said beyond `most`."""
        return cls(min(number, most), capped=number > most)

    def __add__(self, other: int) -> "Count":
        return Count(int(self) + int(other), capped=self.capped or getattr(other, "capped", False))

    __radd__ = __add__

    def __format__(self, spec: str) -> str:
        return int.__format__(self, spec) + ("+" if self.capped else "")


def page_of(rows: list[dict[str, Any]], limit: int, make: Callable[[dict[str, Any]], T]) -> Page[T]:
    """A page from up to `limit + 1` rows, newest first, each with an `id`: the extra row only says that more follow."""
    shown = rows[:limit]
    return Page([make(row) for row in shown], encode_cursor(shown[-1]["id"]) if len(rows) > limit else None)


def encode_cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> UUID:
    """The id after which the page begins. Raises `InputInvalid` for anything that is not a cursor of ours."""
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except ValueError:
        raise InputInvalid.at("/cursor", "This is not a cursor that a list returned.") from None


def check_limit(limit: int) -> int:
    """`limit` itself. Raises `InputInvalid` outside 1 to 200."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InputInvalid.at("/limit", f"The limit must be between 1 and {MAX_LIMIT}.")
    return limit
