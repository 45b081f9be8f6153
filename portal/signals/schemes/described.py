"""Signatures that settings describe: where the signature is, how it is written and what it covers. Pure.

The text that is signed must be readable in one way only, or a signature could be moved to another delivery: there is
something between any two parts of it, and a part that a sender chooses does not hold what comes after it.
"""

import re
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from portal.errors import InputInvalid
from portal.signals.errors import SignatureInvalid
from portal.signals.schemes.base import TOLERANCE_SECONDS, Delivery, skew_of
from portal.signals.schemes.naming import Ascii, HeaderName, Naming, checked_naming, headers_of_naming, lower

PART = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,20}$", description="a name such as t in the header t=1700000000,v1=52a8."),
]
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
SEPARATOR = re.compile(rb"[,;]")
OPENING = re.compile(rb"[\[{]")
MAX_PARTS = 50
SIGNED = re.compile(r"body|timestamp|id|url|header:[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


class Signed(Naming, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a sender signs."""

    header: HeaderName
    """The header of the signature."""
    encoding: Literal["hex", "base64"] = "hex"
    """How the signature is written; hex in lower case."""
    prefix: Ascii = ""
    """What stands before the signature, such as `sha256=`."""
    signed: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=500, pattern=r"^[\x20-\x7e\n]*$", description="ASCII text such as {id}.{body}."
        ),
    ] = "{body}"
    """What is signed: a text with `{body}` and, as the sender has it, `{timestamp}`, `{id}` (of `id_header`), `{url}`
    (the source's address) and `{header:x-name}`."""
    signature_part: PART | None = None
    """The signature's name, where the header holds pairs separated by commas or semicolons."""
    timestamp_header: HeaderName | None = None
    timestamp_part: PART | None = None
    """The timestamp's name within the signature's header."""
    timestamp_unit: Literal["seconds", "milliseconds"] = "seconds"
    tolerance_seconds: Annotated[int, msgspec.Meta(ge=1, le=3600)] = TOLERANCE_SECONDS
    """By how much the sender's clock may differ from ours, either way."""


S = TypeVar("S", bound=Signed)


class Piece(msgspec.Struct, frozen=True):
    """A part of the signed text: `text` as it stands, or what `name` stands for."""

    text: bytes = b""
    name: str = ""
    before: bytes = b""
    """What the value must not run into on its left, for a part after the body."""
    after: bytes = b""
    """The same on its right, for a part before the body."""
    ends_at_body: bool = False


def signs_time(settings: Signed) -> bool:
    return bool(settings.timestamp_header or settings.timestamp_part)


def headers_of(settings: Signed) -> frozenset[bytes]:
    names = {settings.header, settings.timestamp_header or settings.header}
    names |= {name.removeprefix("header:").lower() for name in PLACEHOLDER.findall(settings.signed) if ":" in name}
    return headers_of_naming(settings) | {name.encode() for name in names}


def checked(settings: S) -> S:
    """The settings as they are kept, names of headers in lower case.

    Raises `InputInvalid` below `/settings` for a description that fits no sender or protects nothing.
    """
    settings = checked_naming(settings)
    settings = replace(settings, header=settings.header.lower(), timestamp_header=lower(settings.timestamp_header))
    names = PLACEHOLDER.findall(settings.signed)
    if settings.timestamp_header and settings.timestamp_part:
        raise InputInvalid.at("/settings/timestamp_part", "The timestamp is in one place only.")
    if settings.timestamp_part and not settings.signature_part:
        raise InputInvalid.at("/settings/signature_part", "Say which part of the header is the signature, too.")
    if signs_time(settings) and "timestamp" not in names:
        raise InputInvalid.at("/settings/signed", "A timestamp that is not signed proves nothing: add {timestamp}.")
    if "timestamp" in names and not signs_time(settings):
        raise InputInvalid.at("/settings/timestamp_header", "Say in which header the {timestamp} is.")
    if "id" in names and not settings.id_header:
        raise InputInvalid.at("/settings/id_header", "Say in which header the {id} is.")
    try:
        _pieces(settings.signed)
    except ValueError as error:
        raise InputInvalid.at("/settings/signed", str(error)) from None
    return settings


@lru_cache(maxsize=1024)
def _pieces(template: str) -> tuple[Piece, ...]:
    """The template, taken apart. Raises `ValueError` with a sentence where its text could be read in two ways."""
    split = PLACEHOLDER.split(template)
    texts, names = split[::2], split[1::2]
    if any("{" in text or "}" in text for text in texts):
        raise ValueError("A brace may only stand around a name.")
    for name in names:
        if not SIGNED.fullmatch(name):
            raise ValueError(
                f"There is no {{{name}}}; there are {{body}}, {{timestamp}}, {{id}}, {{url}}, {{header:...}}."
            )
    if names.count("body") != 1:
        raise ValueError("The signed text holds {body} once: a signature without it protects nothing.")
    middle, pieces = names.index("body"), [Piece(text=texts[0].encode())]
    for place, name in enumerate(names):
        left, right = texts[place].encode(), texts[place + 1].encode()
        loose = name == "id" or name.startswith("header:")
        if loose and not (right if place < middle else left):
            raise ValueError(f"Between {{{name}}} and what is next to it must be a separator.")
        value = Piece(name=name.lower())
        if loose and place < middle:
            value = replace(value, after=right, ends_at_body=place == middle - 1)
        elif loose:
            value = replace(value, before=left)
        pieces += [value, Piece(text=right)]
    return tuple(piece for piece in pieces if piece.name or piece.text)


def signed_text(delivery: Delivery, settings: Signed, stamp: bytes) -> bytes:
    """What the sender signed. Raises `SignatureInvalid` where a part of it is missing or could be read in two ways."""
    return b"".join(piece.text or _value(piece, delivery, settings, stamp) for piece in _pieces(settings.signed))


def _value(piece: Piece, delivery: Delivery, settings: Signed, stamp: bytes) -> bytes:
    if piece.name == "body":
        return delivery.body
    if piece.name == "timestamp":
        return stamp
    if piece.name == "url":
        return delivery.url.encode()
    name = settings.id_header or "" if piece.name == "id" else piece.name.removeprefix("header:")
    value = delivery.required(name.encode())
    if piece.ends_at_body and name != settings.id_header:
        # Types have dots, and so have templates: here the brace that a body begins with is what separates.
        if OPENING.search(value) or not OPENING.match(delivery.body):
            raise SignatureInvalid(f"after the header {name} the signed text must go on with a JSON object or array")
    elif _runs_on(piece, value):
        raise SignatureInvalid(f"the header {name} holds the separator of the signed text")
    return value


def _runs_on(piece: Piece, value: bytes) -> bool:
    """Whether the value, or its end together with the separator, could be read as ending earlier."""
    if piece.after:
        return (value + piece.after).index(piece.after) < len(value)
    return (piece.before + value).rindex(piece.before) > 0


def signatures_and_time(delivery: Delivery, settings: Signed) -> tuple[list[bytes], bytes, int | None]:
    """The signatures that are given, the timestamp as it was sent, and the skew. Raises `SignatureInvalid`."""
    given, stamps = [delivery.required(settings.header.encode())], list[bytes]()
    if settings.signature_part:
        pairs = [pair.strip().partition(b"=") for pair in SEPARATOR.split(given[0], MAX_PARTS)]
        given = [value for name, _, value in pairs if name == settings.signature_part.encode()]
        stamps = [value for name, _, value in pairs if name == (settings.timestamp_part or "").encode()]
        if not given:
            raise SignatureInvalid(f"the header {settings.header} has no part {settings.signature_part}=")
    if settings.timestamp_header:
        stamps = [delivery.required(settings.timestamp_header.encode())]
    if not signs_time(settings):
        return given, b"", None
    if len(stamps) != 1:
        raise SignatureInvalid(f"the header {settings.header} must have one part {settings.timestamp_part}=")
    unit, tolerance = settings.timestamp_unit, settings.tolerance_seconds
    return given, stamps[0], skew_of(stamps[0], delivery.now, unit=unit, tolerance_seconds=tolerance)
