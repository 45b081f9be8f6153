"""Twilio: HMAC-SHA1 in base64 over the public address and the sorted fields of the form, with the auth token.

A JSON body is not in the signed text; its SHA-256 is, as `bodySHA256` in the address. Twilio signs no time, and writes
names and values of a form without anything between them: that is its format, not ours to mend. SHA-1 is broken for
collisions, not within HMAC (RFC 6194, section 3.3).
"""

import base64
import hashlib
import hmac
import secrets as randomness
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from portal.signals.errors import SignatureInvalid
from portal.signals.payloads import read_form
from portal.signals.schemes.base import QUERY, Delivery, Scheme, Verified, check_text_secret, matching, type_of
from portal.signals.schemes.naming import id_or_digest, read

SIGNATURE = b"x-twilio-signature"
PORTS = {"http": 80, "https": 443}
TYPES = (
    ("EventType", ""),
    ("StatusCallbackEvent", ""),
    ("MessageStatus", "message."),
    ("SmsStatus", "message."),
    ("CallStatus", "call."),
)
"""The field of a form that says what happened, and what to put before it."""


def verify(delivery: Delivery, secrets: Sequence[str], _settings: Any) -> Verified:
    """There is no id: what is signed the same is the same fact. Not the same bytes: of a form in another order, with a
    field twice or one more letter escaped, Twilio's signature says just as much."""
    given = delivery.required(SIGNATURE)
    query = delivery.header(QUERY) or b""
    fields = _fields(delivery.body, query)
    for place, url in enumerate(addresses := _addresses(delivery.url, query)):
        try:
            index = matching((_signature(secret, url + fields) for secret in secrets), [given])
            break
        except SignatureInvalid:
            if place == len(addresses) - 1:
                raise
    return Verified(id_or_digest(None, fields or delivery.body), _type_in(read(delivery.body)), index, None)


def _signature(secret: str, signed: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), signed, "sha1"))


def _fields(body: bytes, query: bytes) -> bytes:
    """What is signed after the address. Raises `SignatureInvalid` for a body that the signature does not cover."""
    named = parse_qs(query.decode("latin-1")).get("bodySHA256")
    if named:
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), named[0].encode()):
            raise SignatureInvalid("the body has another SHA-256 than bodySHA256 says")
        return b""
    fields = read_form(body)
    if fields is None and body:
        raise SignatureInvalid("the body is no form, and the address has no bodySHA256")
    return "".join(name + value for name, value in sorted(set(fields or []))).encode()


def _addresses(url: str, query: bytes) -> list[bytes]:
    """The address as Twilio may have signed it: with its port and without (Twilio leaves it to the kind of message)."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
    after = parts.path.encode() + (b"?" + query if query else b"")
    return [f"{parts.scheme}://{place}".encode() + after for place in (parts.netloc, host, f"{host}:{port}")]


def _type_in(payload: Any) -> str | None:
    """None leaves it to the `type` in a JSON body."""
    if not isinstance(payload, dict):
        return None
    named: Iterable[str] = (before + payload[name] for name, before in TYPES if isinstance(payload.get(name), str))
    found = next(iter(named), None)
    return found and type_of(found)


SCHEME = Scheme(
    name="twilio",
    label="Twilio",
    used_by="Twilio: text messages, calls, and what becomes of them.",
    key_from="The account's auth token, shown by Twilio.",
    verify=verify,
    headers=lambda _settings: frozenset({SIGNATURE, QUERY}),
    check_secret=check_text_secret,
    new_secret=lambda _settings: randomness.token_hex(16),
    signature_header=SIGNATURE,
)
