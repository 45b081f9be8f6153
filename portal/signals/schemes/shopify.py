"""Shopify: HMAC-SHA256 of the body in base64, with the app's client secret; the topic is the type.

Like GitHub, Shopify signs neither id nor topic nor time. The id stays the same when a delivery is repeated.
"""

from portal.signals.schemes.custom_hmac import HmacSettings, preset

SCHEME = preset(
    "shopify",
    "Shopify",
    "Shopify apps and shops: orders, customers, payments.",
    "The client secret of the app, or what the shop shows below its webhooks.",
    settings=HmacSettings(
        header="x-shopify-hmac-sha256",
        encoding="base64",
        id_header="x-shopify-webhook-id",
        type_header="x-shopify-topic",
    ),
)
