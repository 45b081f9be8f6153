"""A user name and a password (`Authorization: Basic`, RFC 7617). As with a token, nothing vouches for the body."""

import base64
import secrets as randomness
from collections.abc import Sequence
from typing import Annotated

import msgspec

from portal.signals.schemes.base import Delivery, Scheme, Verified, check_text_secret, matching
from portal.signals.schemes.naming import Naming, checked_naming, headers_of_naming, named

HEADER = b"authorization"


class BasicSettings(Naming, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who the sender says it is."""

    username: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=100, pattern=r"^[^:\x00-\x1f\x7f]+$", description="a name without a colon."
        ),
    ]


def verify(delivery: Delivery, secrets: Sequence[str], settings: BasicSettings) -> Verified:
    given = delivery.required(HEADER)
    pairs = (base64.b64encode(f"{settings.username}:{secret}".encode()) for secret in secrets)
    index = matching((b"Basic " + pair for pair in pairs), [given])
    return Verified(*named(delivery, settings), index, None)


SCHEME = Scheme(
    name="basic",
    label="User name and password",
    used_by="Senders that cannot sign, and log in. Anybody who sees the password can send, too.",
    key_from="The password that the sender logs in with.",
    verify=verify,
    headers=lambda settings: headers_of_naming(settings) | {HEADER},
    check_secret=check_text_secret,
    new_secret=lambda _settings: randomness.token_urlsafe(32),
    settings_type=BasicSettings,
    check_settings=checked_naming,
)
