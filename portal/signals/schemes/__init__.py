"""How senders sign: pure verifiers over raw bytes, by the name that a source carries.

Guarantees, for every scheme: the bytes are verified as they came; comparison takes the same time for every wrong
signature; several secrets may be active; whatever goes wrong inside a verifier is `SignatureInvalid`.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from portal.errors import PortalError
from portal.signals.errors import HeadersInvalid, SignatureInvalid
from portal.signals.schemes import (
    basic,
    bearer,
    custom_ed25519,
    custom_hmac,
    github,
    shopify,
    slack,
    standard_webhooks,
    stripe,
    svix,
    twilio,
)
from portal.signals.schemes.base import (
    QUERY,
    TYPE,
    UNKNOWN_TYPE,
    Delivery,
    Headers,
    Scheme,
    Verified,
    is_id,
)

__all__ = [
    "QUERY",
    "SCHEMES",
    "TYPE",
    "UNKNOWN_TYPE",
    "Headers",
    "Scheme",
    "Verified",
    "check_headers",
    "claimed_id",
    "headers_of",
    "likely_scheme",
    "read_settings",
    "verify",
]

SCHEMES: dict[str, Scheme] = {
    module.SCHEME.name: module.SCHEME
    for module in (
        standard_webhooks,
        github,
        stripe,
        shopify,
        slack,
        twilio,
        svix,
        custom_hmac,
        custom_ed25519,
        bearer,
        basic,
    )
}
"""In the order in which they are offered."""

IDS = {scheme.id_header: scheme.id_is_signed for scheme in SCHEMES.values() if scheme.id_header}
SIGNATURES = {scheme.signature_header: scheme.name for scheme in SCHEMES.values() if scheme.signature_header}
SINGLE = frozenset({b"authorization", b"content-type"}).union(
    *(scheme.headers(None) for scheme in SCHEMES.values() if not scheme.settings_type)
)


def verify(
    scheme: str,
    settings: msgspec.Struct | None,
    headers: Headers,
    body: bytes,
    secrets: Sequence[str],
    *,
    now: datetime,
    url: str = "",
) -> Verified:
    """Verify with the scheme of this name and the settings of its source.

    `url` is the public address of the source. Any failure is `SignatureInvalid`, but what is signed rightly and has no
    id, or has one of the headers that matter twice, is `HeadersInvalid`.
    """
    chosen = SCHEMES[scheme]
    try:
        verified = chosen.verify(Delivery(headers, body, now, url), secrets, settings)
    except PortalError:
        raise
    except Exception as error:
        raise SignatureInvalid(f"the signature could not be read ({type(error).__name__})") from error
    if chosen.settings_type:
        # Only now: what a source reads by its settings is nobody else's to know.
        _check_single(headers, chosen.headers(settings))
    return verified


def read_settings(scheme: str, stored: str | bytes) -> msgspec.Struct | None:
    """The settings of a source from the JSON that is kept with it; None where its scheme has none."""
    kind = SCHEMES[scheme].settings_type
    return msgspec.json.decode(stored, type=kind) if kind else None


def headers_of(scheme: str, settings: msgspec.Struct | None) -> frozenset[bytes]:
    """The headers that a delivery is verified by, in lower case: what must be kept to verify it again."""
    return SCHEMES[scheme].headers(settings)


def check_headers(headers: Headers) -> None:
    """Refuse what no honest sender sends, whatever the source: doubled headers and ids that cannot be ids.

    Raises `HeadersInvalid`. Called before the source is looked up, so that its answer reveals nothing about sources.
    """
    _check_single(headers, SINGLE)
    for name, value in headers:
        if name not in IDS:
            continue
        label = name.decode()
        if not is_id(value):
            raise HeadersInvalid.at(f"/headers/{label}", f"{label} must have 1 to 256 visible ASCII characters.")
        if b"." in value and IDS[name]:
            # The signed text is id.timestamp.body: with dots in the id, two deliveries could share one signature.
            raise HeadersInvalid.at(f"/headers/{label}", f"{label} must not contain a dot.")


def _check_single(headers: Headers, names: frozenset[bytes]) -> None:
    if len(dict(headers)) == len(headers):
        return
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in names and name in seen:
            raise HeadersInvalid.at(f"/headers/{name.decode()}", f"The header {name.decode()} is there more than once.")
        seen.add(name)


def claimed_id(headers: Headers) -> str | None:
    """The id that an unverified delivery claims, if it is a well-formed one: for the list of rejections."""
    return next((value.decode() for name, value in headers if name in IDS and is_id(value)), None)


def likely_scheme(headers: Headers) -> str:
    """The scheme to spend a dummy verification with where the source is unknown; none that has settings."""
    return next((SIGNATURES[name] for name, _ in headers if name in SIGNATURES), "github")
