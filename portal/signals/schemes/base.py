"""What every scheme is made of: the delivery it looks at, what it proves, and the checks that they share. Pure."""

import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from portal.errors import InputInvalid
from portal.signals.errors import HeadersInvalid, SignatureInvalid

Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI gives them, names in lower case; the query of the address, where it has one, as `QUERY`."""

QUERY = b":query"
"""No header that can be sent has a colon in its name."""
TOLERANCE_SECONDS = 300
MAX_SIGNATURES = 10
ID = re.compile(rb"[\x21-\x7e]{1,256}")
TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
UNKNOWN_TYPE = "unknown"
STAMPS = {"seconds": re.compile(rb"[1-9][0-9]{9}"), "milliseconds": re.compile(rb"[1-9][0-9]{12}")}


class Delivery(msgspec.Struct, frozen=True):
    """What came, and when by our clock."""

    headers: Headers
    body: bytes
    now: datetime
    url: str
    """The public address of the source, without a query: never what the Host header says."""

    def header(self, name: bytes) -> bytes | None:
        for key, value in self.headers:  # half the time of a generator, several times a delivery
            if key == name:
                return value
        return None

    def required(self, name: bytes) -> bytes:
        """Raises `SignatureInvalid` where the header is missing or empty."""
        value = self.header(name)
        if not value:
            raise SignatureInvalid(f"the header {name.decode()} is missing")
        return value


class Verified(msgspec.Struct, frozen=True):
    """What a right signature proves, and with which of the secrets it was made."""

    external_id: str
    """The sender's id of the delivery."""
    type: str | None
    """None where it is the `type` in the body."""
    secret_index: int
    skew_ms: int | None
    """Our clock minus the sender's; None where the scheme signs no time."""


class Scheme(msgspec.Struct, frozen=True, kw_only=True):
    """One way to sign. `settings` below are of `settings_type`, or None where the scheme has none."""

    name: str
    label: str
    used_by: str
    """Whom it is for, in a plain sentence."""
    key_from: str
    """Where the secret comes from, in a plain sentence."""
    verify: Callable[[Delivery, Sequence[str], Any], Verified]
    """Raises `SignatureInvalid`; `HeadersInvalid` for what is signed rightly but has no id."""
    headers: Callable[[Any], frozenset[bytes]]
    """The headers that it reads, given the settings."""
    check_secret: Callable[[str, Any], str]
    """The secret in the form that is kept. Raises `InputInvalid` at `/secret`."""
    new_secret: Callable[[Any], str] | None
    """None where the sender has a private key, and its public key must be given."""
    settings_type: type[msgspec.Struct] | None = None
    check_settings: Callable[[Any], Any] = lambda settings: settings
    """The settings in the form that is kept. Raises `InputInvalid` below `/settings` for what types cannot say."""
    signature_header: bytes | None = None
    """Where it is the same for all senders: only such senders are recognised."""
    id_header: bytes | None = None
    """The same, for a header that holds the delivery's id."""
    id_is_signed: bool = False
    """Then it must not hold the dot that separates it from what is signed with it."""
    is_public_key: Callable[[str], bool] = lambda _secret: False
    """Whether a secret in the form that is kept is no secret: then nothing is shown to the sender."""
    preset: msgspec.Struct | None = None
    """The settings of the scheme `hmac` that say the same."""
    signs_time: Callable[[Any], bool] = lambda _settings: False
    """Whether a captured delivery is refused once it is older than the tolerance."""


def skew_of(stamp: bytes, now: datetime, *, unit: str = "seconds", tolerance_seconds: int = TOLERANCE_SECONDS) -> int:
    """How many milliseconds our clock is ahead of `stamp`, which has one spelling only.

    Raises `SignatureInvalid` for any other spelling, and where the clocks differ by more than the tolerance.
    """
    if not STAMPS[unit].fullmatch(stamp):
        raise SignatureInvalid(f"the timestamp is not in whole {unit} since 1970")
    skew_ms = round(now.timestamp() * 1000) - int(stamp) * (1000 if unit == "seconds" else 1)
    if abs(skew_ms) > tolerance_seconds * 1000:
        side = "old" if skew_ms > 0 else "far in the future"
        raise SignatureInvalid(f"the timestamp is too {side}: {abs(skew_ms) // 1000} s from our clock")
    return skew_ms


def matching(expected: Iterable[bytes], given: Sequence[bytes]) -> int:
    """The first place in `expected`, one for each secret, that is among the given signatures.

    All are compared, each in constant time. Raises `SignatureInvalid` where none is equal.
    """
    if len(given) > MAX_SIGNATURES:
        raise SignatureInvalid(f"there are more than {MAX_SIGNATURES} signatures")
    found = None
    for index, right in enumerate(expected):
        for signature in given:
            if hmac.compare_digest(right, signature) and found is None:
                found = index
    if found is None:
        raise SignatureInvalid("the signature was made with another secret or for another body")
    return found


def is_id(value: bytes) -> bool:
    """1 to 256 visible ASCII characters."""
    return ID.fullmatch(value) is not None


def id_in_header(delivery: Delivery, name: bytes) -> str:
    """Raises `HeadersInvalid` where it is missing or cannot be an id."""
    value = delivery.header(name)
    label = name.decode()
    if value is None:
        raise HeadersInvalid.at(f"/headers/{label}", f"The header {label} is missing.")
    if not is_id(value):
        raise HeadersInvalid.at(f"/headers/{label}", f"{label} must have 1 to 256 visible ASCII characters.")
    return value.decode()


def type_of(value: Any) -> str:
    """A type as it is kept: what cannot be one is `unknown`."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and TYPE.fullmatch(text) else UNKNOWN_TYPE


def check_text_secret(secret: str, _settings: Any = None) -> str:
    """A secret whose characters are the key."""
    if not 16 <= len(secret) <= 256 or not secret.isprintable():
        raise InputInvalid.at("/secret", "The secret must have 16 to 256 printable characters.")
    return secret
