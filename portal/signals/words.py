"""The words by which a signal is found, and what a search for them asks of PostgreSQL. Pure.

Words are made of the parsed payload, so it does not matter how the sender escaped them. A whole such as
`ada@example.org` is a word, and so is each of its parts, so that both `example.org` and `ada` find it. A part that
mixes letters and digits is none: it is a piece of an id, which is found by its beginning, and ids fill an index.
"""

import re
from decimal import Decimal
from itertools import chain
from typing import Any

MAX_WORDS = 300
MAX_LETTERS = 100
"""Longer words are cut here, in payloads and in searches alike; the longest that matter are hashes in hex."""
MAX_TEXT = 200_000
"""Letters of one payload that are read."""
MAX_WANTED = 20
MIN_PREFIX = 3
"""A shorter beginning would find nearly everything, and slowly."""

WHOLE = re.compile(r"[^\W_]+(?:[-_.@:+]+[^\W_]+)*")
JOINT = re.compile(r"[-_.@:+]")
# Dates, decimals, addresses of machines and UUIDs: nobody looks for what stands between their joints.
SOLID = re.compile(r"\d[\d.:+tz-]*|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DIGIT, LETTER = re.compile(r"\d"), re.compile(r"[^\W\d_]")
LEVELS = (re.compile(r"[@:+]+"), re.compile(r"[.@:+]+"), re.compile(r"[-_.@:+]+"))


def words_of(payload: Any) -> list[str]:
    """The distinct words of all values in a parsed payload, in lower case, at most `MAX_WORDS`, none of them empty.

    Wholes come before parts, so that parts are what is left out of a payload with too many. Names of fields are no
    words, and neither are `true`, `false` and `null`.
    """
    wholes = dict.fromkeys(_wholes("\n".join(_texts(payload))))
    parts = chain.from_iterable(_parts(whole) for whole in wholes if JOINT.search(whole))
    return list(dict.fromkeys(word[:MAX_LETTERS] for word in chain(wholes, parts)))[:MAX_WORDS]


def query_of(text: str) -> str | None:
    """A `tsquery` that all words of `text` must match, the last one also as a beginning; None if it has no word.

    Whatever `text` is, PostgreSQL can read the answer: a word holds letters, digits and joints only, and is quoted.
    """
    wanted = [word[:MAX_LETTERS] for word in _wholes(text)][:MAX_WANTED]
    if not wanted:
        return None
    prefix = ":*" if len(wanted[-1]) >= MIN_PREFIX else ""
    return " & ".join(f"'{word}'" for word in wanted) + prefix


def _wholes(text: str) -> list[str]:
    return WHOLE.findall(text.lower())


def _parts(whole: str) -> list[str]:
    if SOLID.fullmatch(whole):
        return []
    pieces = (piece for level in LEVELS for piece in level.split(whole))
    return [piece for piece in pieces if not (DIGIT.search(piece) and LETTER.search(piece))]


def _texts(payload: Any) -> list[str]:
    """The values of the payload as text, in its order, until there is enough."""
    texts: list[str] = []
    waiting, letters = [payload], 0
    while waiting and letters < MAX_TEXT:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, str | int | float | Decimal) and not isinstance(value, bool):
            texts.append(str(value)[: MAX_TEXT - letters])
            letters += len(texts[-1])
    return texts
