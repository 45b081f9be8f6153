"""Which fact a delivery is, and of which type, where settings say where to look. Pure."""

import hashlib
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.structs import replace

from portal.errors import InputInvalid
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.pointers import Pointer, find
from portal.signals.schemes.base import Delivery, id_in_header, is_id, type_of

HeaderName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=100, description="the name of a header, in any case."
    ),
]

Ascii = Annotated[
    str, msgspec.Meta(max_length=40, pattern=r"^[\x20-\x7e]*$", description="up to 40 printable ASCII characters.")
]


class Naming(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where id and type are; each in a header or in the body.

    Without an id the delivery's id is the SHA-256 of its body: the same body again is the same fact.
    """

    id_header: HeaderName | None = None
    id_pointer: Pointer | None = None
    type_header: HeaderName | None = None
    type_pointer: Pointer | None = None
    """Where neither is given, the type is the body's `type`."""


N = TypeVar("N", bound=Naming)


def checked_naming(settings: N) -> N:
    """The settings with the names of headers in lower case. Raises `InputInvalid` for one thing in two places."""
    if settings.id_header and settings.id_pointer:
        raise InputInvalid.at("/settings/id_pointer", "The id is in a header or in the body, not in both.")
    if settings.type_header and settings.type_pointer:
        raise InputInvalid.at("/settings/type_pointer", "The type is in a header or in the body, not in both.")
    return replace(settings, id_header=lower(settings.id_header), type_header=lower(settings.type_header))


def lower(name: str | None) -> str | None:
    return name and name.lower()


def headers_of_naming(settings: Naming) -> frozenset[bytes]:
    return frozenset(name.encode() for name in (settings.id_header, settings.type_header) if name)


def named(delivery: Delivery, settings: Naming) -> tuple[str, str | None]:
    """The id and the type of an authentic delivery. Raises `HeadersInvalid` for an id that should be in a header."""
    payload = read(delivery.body) if settings.id_pointer or settings.type_pointer else None
    if settings.id_header:
        id = id_in_header(delivery, settings.id_header.encode())
    else:
        id = id_or_digest(find(payload, settings.id_pointer) if settings.id_pointer else None, delivery.body)
    if settings.type_header:
        return id, type_of(delivery.header(settings.type_header.encode()))
    return id, type_of(find(payload, settings.type_pointer)) if settings.type_pointer else None


def id_or_digest(value: Any, body: bytes) -> str:
    """`value` where it can be an id, else the body's SHA-256: no authentic delivery is lost for want of an id."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if is_id(text.encode(errors="replace")) else f"sha256:{hashlib.sha256(body).hexdigest()}"


def read(body: bytes) -> Any:
    """The payload; None where it cannot be read."""
    try:
        return parse_payload(body)
    except PayloadUnreadable:
        return None
