"""How senders sign: pure verifiers over raw bytes, by the name that a source carries.

Guarantees, for every scheme: the bytes are verified as they came; comparison takes the same time for every wrong
signature; several secrets may be active; whatever goes wrong inside a verifier is `SignatureInvalid`.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from portal.errors import InputInvalid, PortalError
from portal.signals.errors import HeadersInvalid, SignatureInvalid

Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case."""

TOLERANCE_SECONDS = 300
MAX_SIGNATURES = 10
TIMESTAMP = re.compile(rb"[1-9][0-9]{9}")
TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
UNKNOWN_TYPE = "unknown"

GITHUB_SIGNATURE, GITHUB_ID, GITHUB_EVENT = b"x-hub-signature-256", b"x-github-delivery", b"x-github-event"
STANDARD_SIGNATURE, STANDARD_ID, STANDARD_TIMESTAMP = b"webhook-signature", b"webhook-id", b"webhook-timestamp"
SINGLE = frozenset(
    {GITHUB_SIGNATURE, GITHUB_ID, GITHUB_EVENT, STANDARD_SIGNATURE, STANDARD_ID, STANDARD_TIMESTAMP, b"content-type"}
)


class Verified(msgspec.Struct, frozen=True):
    """What a right signature proves, and with which of the secrets it was made."""

    external_id: str
    """The sender's id of the delivery."""
    type: str | None
    """None where the type is in the body."""
    secret_index: int
    skew_ms: int | None


class Scheme(msgspec.Struct, frozen=True):
    """One way to sign.

    `verify(headers, body, secrets, now)` raises `SignatureInvalid`, and `HeadersInvalid` for what is signed rightly but
    has no id.
    """

    name: str
    label: str
    verify: Callable[[Headers, bytes, Sequence[str], datetime], Verified]
    new_secret: Callable[[], str]
    check_secret: Callable[[str], str]
    """The secret in the form that is kept. Raises `InputInvalid` at `/secret`."""


def verify(scheme: str, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime) -> Verified:
    """Verify with the scheme of this name. Any failure is `SignatureInvalid`, but a missing id is `HeadersInvalid`."""
    try:
        return SCHEMES[scheme].verify(headers, body, secrets, now)
    except PortalError:
        raise
    except Exception as error:
        raise SignatureInvalid(f"the signature could not be read ({type(error).__name__})") from error


def check_headers(headers: Headers) -> None:
    """Refuse what no honest sender sends, whatever the source: doubled headers and ids that cannot be ids.

    Raises `HeadersInvalid`. Called before the source is looked up, so that its answer reveals nothing about sources.
    """
    seen: set[bytes] = set()
    for name, value in headers:
        if name not in SINGLE:
            continue
        label = name.decode()
        if name in seen:
            raise HeadersInvalid.at(f"/headers/{label}", f"The header {label} is there more than once.")
        seen.add(name)
        if name in (STANDARD_ID, GITHUB_ID):
            _check_id(label, value, allow_dot=name == GITHUB_ID)


def claimed_id(headers: Headers) -> str | None:
    """The id that an unverified delivery claims, if it is a well-formed one: for the list of rejections."""
    for name, value in headers:
        if name in (STANDARD_ID, GITHUB_ID) and 0 < len(value) <= 256 and _is_visible(value):
            return value.decode()
    return None


def likely_scheme(headers: Headers) -> str:
    """The scheme to spend a dummy verification with where the source is unknown."""
    return "standard_webhooks" if any(name == STANDARD_SIGNATURE for name, _ in headers) else "github"


def _check_id(label: str, value: bytes, *, allow_dot: bool) -> None:
    if not value or len(value) > 256 or not _is_visible(value):
        raise HeadersInvalid.at(f"/headers/{label}", f"{label} must have 1 to 256 visible ASCII characters.")
    if b"." in value and not allow_dot:
        # The signed text is id.timestamp.body: with dots in the id, two deliveries could share one signature.
        raise HeadersInvalid.at(f"/headers/{label}", f"{label} must not contain a dot.")


def _is_visible(value: bytes) -> bool:
    return all(0x21 <= byte <= 0x7E for byte in value)


def _header(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def _required(headers: Headers, name: bytes) -> bytes:
    value = _header(headers, name)
    if not value:
        raise SignatureInvalid(f"the header {name.decode()} is missing")
    return value


def _verify_github(headers: Headers, body: bytes, secrets: Sequence[str], _now: datetime) -> Verified:
    """`X-Hub-Signature-256: sha256=` and the HMAC-SHA256 of the body in hex.

    GitHub signs the body alone: neither the delivery id, nor the event's name, nor a time. A rule that decides about
    value should therefore look at the payload, not only at the type.
    """
    given = _required(headers, GITHUB_SIGNATURE)
    matching = None
    for index, secret in enumerate(secrets):
        expected = b"sha256=" + hmac.digest(secret.encode(), body, "sha256").hex().encode()
        if hmac.compare_digest(expected, given) and matching is None:
            matching = index
    if matching is None:
        raise SignatureInvalid("the signature was made with another secret or for another body")
    delivery = _header(headers, GITHUB_ID)
    if delivery is None:
        raise HeadersInvalid.at("/headers/x-github-delivery", "The header x-github-delivery is missing.")
    event = (_header(headers, GITHUB_EVENT) or b"").decode("latin-1")
    return Verified(
        external_id=delivery.decode(),
        type=event if TYPE.fullmatch(event) else UNKNOWN_TYPE,
        secret_index=matching,
        skew_ms=None,
    )


def _verify_standard(headers: Headers, body: bytes, secrets: Sequence[str], now: datetime) -> Verified:
    """Standard Webhooks 1.0, symmetric (`v1`). The library decodes the body as text, so it cannot see raw bytes."""
    id, stamp = _required(headers, STANDARD_ID), _required(headers, STANDARD_TIMESTAMP)
    signatures = _required(headers, STANDARD_SIGNATURE).split(b" ")
    if not TIMESTAMP.fullmatch(stamp):
        raise SignatureInvalid("the timestamp is not in whole seconds since 1970")
    skew_ms = round((now.timestamp() - int(stamp)) * 1000)
    if abs(skew_ms) > TOLERANCE_SECONDS * 1000:
        side = "old" if skew_ms > 0 else "far in the future"
        raise SignatureInvalid(f"the timestamp is too {side}: {abs(skew_ms) // 1000} s from our clock")
    if len(signatures) > MAX_SIGNATURES:
        raise SignatureInvalid(f"there are more than {MAX_SIGNATURES} signatures")
    signed = b".".join((id, stamp, body))
    matching = None
    for index, secret in enumerate(secrets):
        # Compared as base64 text: decoding would let several spellings of one signature pass.
        expected = b"v1," + base64.b64encode(hmac.digest(_standard_key(secret), signed, "sha256"))
        for given in signatures:
            if hmac.compare_digest(expected, given) and matching is None:
                matching = index
    if matching is None:
        raise SignatureInvalid("the signature was made with another secret or for another body")
    return Verified(external_id=id.decode(), type=None, secret_index=matching, skew_ms=skew_ms)


def _standard_key(secret: str) -> bytes:
    encoded = secret.removeprefix("whsec_")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _check_standard_secret(secret: str) -> str:
    try:
        size = len(_standard_key(secret))
    except ValueError:
        size = 0
    if not 24 <= size <= 64:
        raise InputInvalid.at("/secret", "The secret must be whsec_ and 24 to 64 bytes in base64.")
    return "whsec_" + secret.removeprefix("whsec_")


def _check_github_secret(secret: str) -> str:
    if not 16 <= len(secret) <= 256 or not secret.isprintable():
        raise InputInvalid.at("/secret", "The secret must have 16 to 256 printable characters.")
    return secret


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="github",
            label="GitHub",
            verify=_verify_github,
            new_secret=lambda: secrets.token_hex(32),
            check_secret=_check_github_secret,
        ),
        Scheme(
            name="standard_webhooks",
            label="Standard Webhooks",
            verify=_verify_standard,
            new_secret=lambda: "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
            check_secret=_check_standard_secret,
        ),
    )
}
