"""The words by which a signal is found, and what a search for them asks of PostgreSQL. Pure.

Words are made of the parsed payload, so it does not matter how the sender escaped them. A whole such as
`ada@example.org` is a word, and so is each of its parts, so that both `example.org` and `ada` find it. A part that
mixes letters and digits is none: it is a piece of an id, which is found by its beginning, and ids fill an index.
"""

import re
from collections.abc import Iterable
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
JOINTS = "-_.@:+"
GAPS = {code: " " for code in range(128) if not chr(code).isalnum() and chr(code) not in JOINTS}
# Dates, decimals, addresses of machines and UUIDs: nobody looks for what stands between their joints.
SOLID = re.compile(r"\d[\d.:+tz-]*|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Of a moment only its day is a word: payloads are full of moments, and nobody searches for a second.
MOMENT = re.compile(r"\d{4}-\d\d-\d\dt[\d:.]+(?:z|[+-][\d:]+)?")
DIGIT, LETTER = re.compile(r"\d"), re.compile(r"[^\W\d_]")
LEVELS = (re.compile(r"[@:+]+"), re.compile(r"[.@:+]+"), re.compile(r"[-_.@:+]+"))


def words_of(payload: Any) -> list[str]:
    """The distinct words of all values in a parsed payload, in lower case, at most `MAX_WORDS`, none of them empty.

    Wholes come before parts, so that parts are what is left out of a payload with too many. Names of fields are no
    words, and neither are `true`, `false` and `null`.
    """
    # Texts come twice in many payloads: leaving those out before they are read saves half of the time.
    text = "\n".join(dict.fromkeys(_texts([payload], [])))[:MAX_TEXT]
    wholes = dict.fromkeys(_whole(run) for run in dict.fromkeys(_runs(text)))
    wholes.pop("", None)
    parts = chain.from_iterable(_parts(whole) for whole in wholes if not whole.isalnum())
    return list(dict.fromkeys(word[:MAX_LETTERS] for word in chain(wholes, parts)))[:MAX_WORDS]


def query_of(text: str) -> str | None:
    """A `tsquery` that all words of `text` must match, the last one also as a beginning; None if it has no word.

    Whatever `text` is, PostgreSQL can read the answer: a word holds letters, digits and joints only, and is quoted.
    """
    return " & ".join(f"'{word}'{star}" for word, star in terms_of(text)) or None


def terms_of(text: str) -> list[tuple[str, str]]:
    """The words of `text`, each with what stands behind it in a `tsquery`: `:*` where it may be a beginning."""
    wanted = [whole[:MAX_LETTERS] for run in _runs(text) if (whole := _whole(run))][:MAX_WANTED]
    last = len(wanted) - 1
    return [(word, ":*" if at == last and len(word) >= MIN_PREFIX else "") for at, word in enumerate(wanted)]


def _runs(text: str) -> list[str]:
    """The wholes of a text in lower case, perhaps with joints at their ends."""
    text = text.lower()
    return text.translate(GAPS).split() if text.isascii() else WHOLE.findall(text)  # three times as fast


def _whole(run: str) -> str:
    whole = run.strip(JOINTS)
    return whole[:10] if MOMENT.fullmatch(whole) else whole


def _parts(whole: str) -> list[str]:
    if SOLID.fullmatch(whole):
        return []
    pieces = [piece for level in LEVELS for piece in level.split(whole)]
    if not DIGIT.search(whole):
        return pieces
    return [piece for piece in pieces if not (DIGIT.search(piece) and LETTER.search(piece))]


def _texts(values: Iterable[Any], texts: list[str]) -> list[str]:
    """`texts` with the values of payloads as text, in their order."""
    for value in values:
        kind = type(value)  # many times faster than isinstance, and a parsed payload has no other types
        if kind is str:
            texts.append(value)
        elif kind is dict:
            _texts(value.values(), texts)
        elif kind is list:
            _texts(value, texts)
        elif kind is int or kind is float or kind is Decimal:
            texts.append(str(value))
    return texts
