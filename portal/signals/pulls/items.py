"""The items of an answer, each read and as the bytes that were sent. Pure."""

from typing import Any

import msgspec

from portal.signals.payloads import PayloadUnreadable, parse_payload, read_form
from portal.signals.pointers import find, names_in
from portal.signals.pulls.kinds import PullFailed

MOST_ITEMS = 10_000


def read_answer(body: bytes) -> Any:
    """The whole answer. Raises `PullFailed` unless it is JSON that can be read in one way only."""
    if read_form(body) is not None:
        raise PullFailed("The answer cannot be read. It is a form, not JSON.")
    try:
        return parse_payload(body)
    except PayloadUnreadable as error:
        raise PullFailed(f"The answer cannot be read. {error}") from None


def list_items(body: bytes, answer: Any, pointer: str | None) -> list[tuple[Any, bytes]]:
    """The items of the array at `pointer`, None being the answer itself, each with its own bytes.

    Raises `PullFailed` where there is no array, or more than 10,000 items.
    """
    items = answer if pointer is None else find(answer, pointer)
    if not isinstance(items, list):
        raise PullFailed(f"The answer has no list at {pointer}." if pointer else "The answer is not a list.")
    if len(items) > MOST_ITEMS:
        raise PullFailed(f"The answer has {len(items)} items; at most {MOST_ITEMS} are taken at once. Ask for fewer.")
    return list(zip(items, _raw_items(body, pointer), strict=True))


def _raw_items(body: bytes, pointer: str | None) -> list[bytes]:
    for name in names_in(pointer or ""):
        if body.lstrip()[:1] == b"{":
            body = bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw])[name])
        else:
            body = bytes(msgspec.json.decode(body, type=list[msgspec.Raw])[int(name)])
    return [bytes(item) for item in msgspec.json.decode(body, type=list[msgspec.Raw])]
