"""Slack: `X-Slack-Signature: v0=` over `v0:timestamp:body` in hex.

Before Slack uses an address it sends a `url_verification`, signed like everything else, whose `challenge` must come
back: `challenge_in` is for whoever answers. It is stored as a signal, too: a first proof that all is well.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from portal.signals.pointers import find
from portal.signals.schemes.base import Delivery, Headers, Verified, type_of
from portal.signals.schemes.custom_hmac import HmacSettings, preset, prove
from portal.signals.schemes.naming import id_or_digest, read

SETTINGS = HmacSettings(
    header="x-slack-signature",
    prefix="v0=",
    signed="v0:{timestamp}:{body}",
    timestamp_header="x-slack-request-timestamp",
)


def verify(delivery: Delivery, secrets: Sequence[str], _settings: Any) -> Verified:
    """An event is of the type of what happened, not of its envelope; a slash command has neither id nor type."""
    index, skew_ms = prove(delivery, secrets, SETTINGS)
    payload = read(delivery.body)
    within = find(payload, "/event/type") if find(payload, "/type") == "event_callback" else find(payload, "/type")
    kind = "slash_command" if within is None and find(payload, "/command") else type_of(within)
    return Verified(id_or_digest(find(payload, "/event_id"), delivery.body), kind, index, skew_ms)


def challenge_in(headers: Headers, body: bytes) -> str | None:
    """What an authentic `url_verification` wants to hear back; None for every other delivery."""
    if b"url_verification" not in body or SETTINGS.header.encode() not in dict(headers):
        return None
    payload = read(body)
    challenge = find(payload, "/challenge") if find(payload, "/type") == "url_verification" else None
    return challenge if isinstance(challenge, str) else None


SCHEME = msgspec.structs.replace(
    preset(
        "slack",
        "Slack",
        "Slack apps: events, slash commands, buttons.",
        "The app's signing secret, shown by Slack under Basic Information.",
        settings=SETTINGS,
    ),
    verify=verify,
)
