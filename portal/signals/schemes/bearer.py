"""A secret token in a header: `Authorization: Bearer ...`, or an API key.

The token goes over the wire with every delivery and proves who sends, not what: nothing vouches for the body.
"""

import secrets as randomness
from collections.abc import Sequence

from msgspec.structs import replace

from portal.errors import InputInvalid
from portal.signals.schemes.base import Delivery, Scheme, Verified, check_text_secret, matching
from portal.signals.schemes.naming import Ascii, HeaderName, Naming, checked_naming, headers_of_naming, named


class BearerSettings(Naming, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the token is."""

    header: HeaderName = "authorization"
    prefix: Ascii = "Bearer "
    """What stands before the token; nothing for most API keys."""


def verify(delivery: Delivery, secrets: Sequence[str], settings: BearerSettings) -> Verified:
    given = delivery.required(settings.header.encode())
    index = matching(((settings.prefix + secret).encode() for secret in secrets), [given])
    return Verified(*named(delivery, settings), index, None)


def check_secret(secret: str, _settings: BearerSettings) -> str:
    if not secret.isascii() or " " in check_text_secret(secret):
        raise InputInvalid.at("/secret", "A token has 16 to 256 visible ASCII characters.")
    return secret


SCHEME = Scheme(
    name="bearer",
    label="Token in a header",
    used_by="Senders that cannot sign, and send a token or an API key. Anybody who sees it can send, too.",
    key_from="The token that the sender puts into its header.",
    verify=verify,
    headers=lambda settings: headers_of_naming(settings) | {settings.header.encode()},
    check_secret=check_secret,
    new_secret=lambda _settings: randomness.token_urlsafe(32),
    settings_type=BearerSettings,
    check_settings=lambda settings: replace(checked_naming(settings), header=settings.header.lower()),
)
