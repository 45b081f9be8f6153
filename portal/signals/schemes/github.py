"""GitHub: `X-Hub-Signature-256: sha256=` and the HMAC-SHA256 of the body in hex.

GitHub signs the body alone: neither the delivery id, nor the event's name, nor a time. A rule that decides about value
should therefore look at the payload, not only at the type.
"""

from portal.signals.schemes.custom_hmac import HmacSettings, preset

SCHEME = preset(
    "github",
    "GitHub",
    "GitHub, and what signs like it: the body, in X-Hub-Signature-256.",
    "Made here, for the field Secret of the webhook.",
    settings=HmacSettings(
        header="x-hub-signature-256", prefix="sha256=", id_header="x-github-delivery", type_header="x-github-event"
    ),
)
