"""Stripe: `Stripe-Signature: t=...,v1=...` over `t.body` in hex. Id and type are the event's own, in the body.

Stripe's library refuses only timestamps that are too old; here one too far in the future is refused as well.
"""

from portal.signals.schemes.custom_hmac import HmacSettings, preset

SCHEME = preset(
    "stripe",
    "Stripe",
    "Stripe: payments, subscriptions, invoices.",
    "The endpoint's signing secret whsec_..., shown by Stripe.",
    settings=HmacSettings(
        header="stripe-signature",
        signature_part="v1",
        timestamp_part="t",
        signed="{timestamp}.{body}",
        id_pointer="/id",
    ),
)
