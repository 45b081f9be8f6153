"""Recognises a sender by one request of its own: which scheme, with which settings, and whether the signature is right.

Known senders are known by the name of their header. For any other, whoever has the secret can be told exactly what is
signed: the likely texts, encodings and keys are tried until the signature comes out. Pure.
"""

import base64
import binascii
import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, product
from typing import Any

import msgspec

from portal.errors import InputInvalid, PortalError
from portal.signals.errors import SignatureInvalid
from portal.signals.pasted import Pasted, read_pasted
from portal.signals.pointers import find
from portal.signals.schemes import QUERY, SCHEMES, SIGNATURES, UNKNOWN_TYPE, Verified, headers_of, verify
from portal.signals.schemes.base import is_id, type_of
from portal.signals.schemes.naming import Naming, read
from portal.signals.source_input import settings_from

MAX_CHARACTERS = 1024 * 1024
MAX_GUESSES = 500
MAX_HEADERS = 100
MAX_STAMPS = 10
"""Moments that are tried for each guess."""
MAX_BYTES = 50_000_000
"""That are hashed for one request: a fraction of a second."""
SIGNATURE_NAME = re.compile(rb"sign|hmac|digest|hash|(^|-)sig($|-)")
ID_NAME = re.compile(rb"(^|[a-z-])(id|uuid|idempotency-key)$")
ID_WORDS = (b"delivery", b"event", b"webhook", b"message", b"notification", b"idempotency", b"request")
TYPE_NAME = re.compile(rb"(event|topic|type|action|kind)$")
TOKEN_NAME = re.compile(rb"api-?key|token|secret")
PAIRS = re.compile(r"[A-Za-z0-9_-]{1,20}=[^,;]+([,;] ?[A-Za-z0-9_-]{1,20}=[^,;]+)+")
DIGEST = re.compile(
    r"(?P<prefix>(?:[A-Za-z0-9_-]{1,20}[=:, ])?)(?:(?P<hex>[0-9a-f]{64}|[0-9a-f]{128})|"
    r"(?P<base64>[A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==))"
)
STAMP = re.compile(rb"[1-9](\d{9}|\d{12})")
STAMP_WITHIN = re.compile(rb"(?<![0-9A-Za-z])[1-9](\d{9}|\d{12})(?![0-9A-Za-z])")
TEMPLATES = (
    "{body}",
    "{timestamp}.{body}",
    "{id}.{timestamp}.{body}",
    "{timestamp}{body}",
    "{timestamp}:{body}",
    "{prefix}:{timestamp}:{body}",
    "v0:{timestamp}:{body}",
    "{timestamp}|{body}",
    "{timestamp}\n{body}",
    "{body}{timestamp}",
    "{body}.{timestamp}",
    "{id}.{body}",
    "{url}{body}",
    "{url}.{body}",
    "{timestamp}{url}{body}",
    "{timestamp}.{url}.{body}",
    "POST{url}{body}{timestamp}",
)
ID_POINTERS = ("/id", "/event_id", "/eventId", "/uuid", "/webhook_id", "/data/id")
TYPE_POINTERS = ("/event", "/event_type", "/eventType", "/event_name", "/topic", "/action", "/name")

GUESSED = "What exactly is signed is a guess. Give the secret, and it is found out."
UNTIMED = "The sender signs no time: a captured request can be sent again for ever."


class Recognition(msgspec.Struct, frozen=True, kw_only=True):
    """What one request tells about its sender."""

    scheme: str | None
    """None where nothing in it proves who sends."""
    settings: dict[str, Any]
    """To make a source with."""
    verified: bool | None
    """Whether the secret made the signature, however old it is; None where no secret was given."""
    skew_seconds: int | None
    """How long ago the sender signed, by our clock; None where there is no time."""
    external_id: str | None
    type: str | None
    headers: list[tuple[str, str]]
    body: str
    payload: Any
    """The body as JSON; None where it cannot be read."""
    notes: list[str]
    """What was assumed, and what is in the way, as sentences."""


class Guess(msgspec.Struct, frozen=True):
    scheme: str
    settings: dict[str, Any] = {}

    def read_settings(self) -> msgspec.Struct | None:
        """Raises `InputInvalid`."""
        kind = SCHEMES[self.scheme]
        if kind.settings_type is None:
            return None
        checked: msgspec.Struct = kind.check_settings(settings_from(kind.settings_type, self.settings))
        return checked

    def is_possible(self) -> bool:
        """Whether a source could have these settings: strangers name their headers as they like."""
        try:
            self.read_settings()
        except InputInvalid:
            return False
        return True


class Proof(msgspec.Struct, frozen=True):
    """A guess that came out, with the body that was signed and when."""

    guess: Guess
    body: str
    verified: Verified
    signed_at: datetime | None


def recognise(text: str, secret: str | None, url: str | None, *, now: datetime) -> Recognition:
    """What the pasted text tells; with the secret (or the sender's public key) what is signed is found out, too.

    `url` is where the request was sent to, if the text does not say. Raises `InputInvalid` for a text over 1 MiB.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputInvalid.at("/text", "The request is too long to be looked at here. Paste a shorter one.")
    pasted = read_pasted(text)
    pasted = msgspec.structs.replace(pasted, headers=pasted.headers[:MAX_HEADERS], url=pasted.url or url)
    guesses = [guess for guess in islice(_guesses(pasted), MAX_GUESSES) if guess.is_possible()]
    if not guesses:
        return _unproved(pasted, None, now, ["Nothing in the request proves who sent it: no header is a signature."])
    if secret is None:
        return _unproved(pasted, guesses[0], now, [GUESSED] if guesses[0].scheme in ("hmac", "ed25519") else [])
    proof = _prove(guesses, pasted, secret.strip())
    if isinstance(proof, str):
        notes = [f"It could not be verified: {proof.rstrip('.')}."]
        return msgspec.structs.replace(_unproved(pasted, guesses[0], now, notes), verified=False)
    payload = read(proof.body.encode())
    return Recognition(
        scheme=proof.guess.scheme,
        settings=proof.guess.settings,
        verified=True,
        skew_seconds=round((now - proof.signed_at).total_seconds()) if proof.signed_at else None,
        external_id=proof.verified.external_id,
        type=proof.verified.type or type_of(find(payload, "/type")),
        headers=_shown(pasted),
        body=proof.body,
        payload=payload,
        notes=[] if proof.signed_at else [UNTIMED],
    )


def _unproved(pasted: Pasted, guess: Guess | None, now: datetime, notes: list[str]) -> Recognition:
    payload = read(pasted.body.encode())
    id, type = _claimed(guess, pasted, payload) if guess else (None, None)
    stamps = _stamps_of(guess, pasted) if guess else []
    return Recognition(
        scheme=guess.scheme if guess else None,
        settings=guess.settings if guess else {},
        verified=None,
        skew_seconds=round((now - stamps[0]).total_seconds()) if stamps else None,
        external_id=id,
        type=type,
        headers=_shown(pasted),
        body=pasted.body,
        payload=payload,
        notes=notes,
    )


def _prove(guesses: list[Guess], pasted: Pasted, secret: str) -> Proof | str:
    """The first guess by which the secret made the signature; else why the likeliest one failed."""
    reason, body = "", pasted.body
    # A request that was pasted may have lost or gained a line's end.
    bodies = list(dict.fromkeys([body, body.rstrip("\n"), f"{body}\n", body.replace("\n", "\r\n")]))
    keyed = (each for guess in guesses for each in _keyed(guess, secret))
    for guess, text in islice(product(keyed, bodies), max(100, MAX_BYTES // (len(body) + 1000))):
        try:
            return _verified(guess, pasted, text, secret)
        except SignatureInvalid as error:
            reason = reason or error.reason
        except PortalError as error:
            reason = reason or error.detail
    return reason


def _keyed(guess: Guess, secret: str) -> list[Guess]:
    """The guess with each way to read the key from the secret."""
    if guess.scheme != "hmac":
        return [guess]
    ways = [guess]
    if re.fullmatch(r"([0-9a-fA-F]{2}){16,}", secret):
        ways.append(Guess("hmac", {**guess.settings, "key_encoding": "hex"}))
    with contextlib.suppress(binascii.Error, ValueError):
        base64.b64decode(secret, validate=True)
        ways.append(Guess("hmac", {**guess.settings, "key_encoding": "base64"}))
    return ways


def _verified(guess: Guess, pasted: Pasted, body: str, secret: str) -> Proof:
    """Raises `PortalError` where the secret did not make the signature at the time that it claims."""
    settings = guess.read_settings()
    secret = SCHEMES[guess.scheme].check_secret(secret, settings)
    url, _, query = (pasted.url or "").partition("#")[0].partition("?")
    headers = [*pasted.headers, *([(QUERY, query.encode())] if query else [])]
    refusal = SignatureInvalid("there is no timestamp")
    for signed_at in _stamps_of(guess, pasted) or [datetime.fromtimestamp(0, UTC)]:
        try:
            verified = verify(guess.scheme, settings, headers, body.encode(), [secret], now=signed_at, url=url)
        except SignatureInvalid as error:
            refusal = error
        else:
            return Proof(guess, body, verified, signed_at if verified.skew_ms is not None else None)
    raise refusal


def _stamps_of(guess: Guess, pasted: Pasted) -> list[datetime]:
    """The moments that the headers of the scheme hold, the first few of them."""
    names = headers_of(guess.scheme, guess.read_settings())
    found = (each[0] for name, value in pasted.headers if name in names for each in STAMP_WITHIN.finditer(value))
    texts = list(dict.fromkeys(islice(found, MAX_STAMPS)))
    return [datetime.fromtimestamp(int(text) / (1000 if len(text) == 13 else 1), UTC) for text in texts]


def _claimed(guess: Guess, pasted: Pasted, payload: Any) -> tuple[str | None, str]:
    """Id and type that the request claims to have."""
    kind, headers = SCHEMES[guess.scheme], dict(pasted.headers)
    where = kind.preset or guess.read_settings()
    id, type = headers.get(kind.id_header or b""), find(payload, "/type")
    if isinstance(where, Naming):
        id = headers.get((where.id_header or "").encode(), id)
        id = _text(find(payload, where.id_pointer)) if where.id_pointer else id
        type = headers.get((where.type_header or "").encode(), type)
        type = find(payload, where.type_pointer) if where.type_pointer else type
    return id.decode("latin-1") if id and is_id(id) else None, type_of(type)


def _guesses(pasted: Pasted) -> Iterator[Guess]:
    """The likely schemes, the likeliest first."""
    headers = dict(pasted.headers)
    for name in headers:
        kind = SCHEMES.get(SIGNATURES.get(name, ""))
        # Others sign as GitHub and Shopify do, and name their deliveries in another way.
        if kind and (not kind.id_header or kind.id_header in headers):
            yield Guess(kind.name)
    for name, value in headers.items():
        if SIGNATURE_NAME.search(name):
            yield from _described(pasted, name.decode(), value.decode("latin-1"))
    for name, value in headers.items():
        if name == b"authorization" and value.startswith(b"Basic "):
            with contextlib.suppress(ValueError):
                username = base64.b64decode(value[6:]).decode().partition(":")[0]
                yield Guess("basic", {"username": username} | _names(pasted))
        elif name == b"authorization" and value.startswith(b"Bearer "):
            yield Guess("bearer", _names(pasted))
        elif TOKEN_NAME.search(name):
            yield Guess("bearer", {"header": name.decode(), "prefix": ""} | _names(pasted))


def _described(pasted: Pasted, header: str, value: str) -> Iterator[Guess]:
    """Every description of a sender whose signature is in this header, by what it may have signed."""
    pairs = [pair.strip().partition("=") for pair in re.split("[,;]", value)] if PAIRS.fullmatch(value) else []
    parts = [{"timestamp_part": name} for name, _, text in pairs if STAMP.fullmatch(text.encode())]
    stamps, named = [*parts, *_stamp_headers(pasted), {}], _names(pasted)
    for part, text in [(name, text) for name, _, text in reversed(pairs)] or [("", value)]:
        found = DIGEST.fullmatch(text)
        if not found:
            continue
        place = {"header": header, "prefix": found["prefix"], "encoding": "hex" if found["hex"] else "base64"}
        place = {name: given for name, given in (place | {"signature_part": part}).items() if given}
        word = found["prefix"].rstrip("=:, ")
        makers = _makers(header, len(found["hex"] or found["base64"]))
        for stamp, template, (scheme, extra) in product(stamps, TEMPLATES, makers):
            settings = {**place, **stamp, **extra, **named, "signed": template.replace("{prefix}", word)}
            is_timed, is_named = "{timestamp}" in template, "{id}" in template
            if is_timed == bool(stamp) and (not is_named or "id_header" in named):
                yield Guess(scheme, settings)


def _makers(header: str, characters: int) -> list[tuple[str, dict[str, Any]]]:
    """What makes signatures that are written so long."""
    if characters in (64, 44):  # 32 bytes
        return [("hmac", {})]
    makers: list[tuple[str, dict[str, Any]]] = [("hmac", {"algorithm": "sha512"}), ("ed25519", {})]
    return makers[::-1] if "ed25519" in header else makers


def _stamp_headers(pasted: Pasted) -> Iterator[dict[str, Any]]:
    for name, value in pasted.headers:
        if STAMP.fullmatch(value) and name != b"content-length":
            unit = {"timestamp_unit": "milliseconds"} if len(value) == 13 else {}
            yield {"timestamp_header": name.decode(), **unit}


def _names(pasted: Pasted) -> dict[str, Any]:
    """The settings that say where id and type seem to be."""
    payload, named = read(pasted.body.encode()), dict[str, Any]()
    ids = [name for name, value in pasted.headers if ID_NAME.search(name) and is_id(value)]
    pointers = [pointer for pointer in ID_POINTERS if is_id(_text(find(payload, pointer)))]
    if ids:
        named["id_header"] = min(ids, key=_rank_of_id).decode()
    elif pointers:
        named["id_pointer"] = pointers[0]
    types = [name for name, _ in pasted.headers if TYPE_NAME.search(name) and name != b"content-type"]
    pointers = [pointer for pointer in TYPE_POINTERS if type_of(find(payload, pointer)) != UNKNOWN_TYPE]
    if types:
        named["type_header"] = types[0].decode()
    elif type_of(find(payload, "/type")) == UNKNOWN_TYPE and pointers:
        named["type_pointer"] = pointers[0]
    return named


def _rank_of_id(name: bytes) -> int:
    return next((place for place, word in enumerate(ID_WORDS) if word in name), len(ID_WORDS))


def _text(value: Any) -> bytes:
    return str(value).encode() if isinstance(value, str | int) and not isinstance(value, bool) else b""


def _shown(pasted: Pasted) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode("latin-1")) for name, value in pasted.headers]
