"""What pages say about each kind of sender: whom it is for, where its address goes, how it signs. Pure."""

from typing import Any

from portal.signals.schemes import SCHEMES

GROUPS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "A sender that we know",
        "Nothing to describe: choose it, and it works.",
        (
            ("github", "brand-github"),
            ("stripe", "brand-stripe"),
            ("shopify", "shopping-bag"),
            ("slack", "brand-slack"),
            ("twilio", "message-circle"),
            ("standard_webhooks", "webhook"),
            ("svix", "webhook"),
        ),
    ),
    (
        "Any other sender",
        "You say how it proves who it is. Its documentation for webhooks has it.",
        (("hmac", "signature"), ("ed25519", "certificate"), ("bearer", "key"), ("basic", "lock")),
    ),
    (
        "Nobody sends: ask instead",
        "The portal looks by itself, again and again.",
        (("poll", "cloud-download"), ("evm_logs", "cube")),
    ),
)
"""The choices of the wizard: title, text, and (name, icon) of each."""
PULLED = {
    "poll": "An API that answers with a list as JSON. Each item becomes a signal once.",
    "evm_logs": "Events that a contract of yours emits on its chain, once they are deep enough.",
}
MAKES_ITS_SECRET = frozenset({"standard_webhooks", "stripe", "shopify", "slack", "twilio", "svix"})
"""Senders that make their secret by themselves, often only once they have the address."""
INSTRUCTIONS = {
    "github": "On GitHub: Settings → Webhooks → Add webhook, of the repository or organisation. Payload URL is the "
    "address, content type application/json, and its secret as here.",
    "stripe": "On Stripe: Developers → Webhooks → Add destination, with the address and the events you want.",
    "shopify": "On Shopify: Settings → Notifications → Webhooks → Create webhook, with the address, format JSON. The "
    "secret is shown below the list; for an app it is its client secret.",
    "slack": "On Slack: first copy the signing secret, under Basic Information. Then give the address under Event "
    "Subscriptions → Request URL; Slack tries it at once.",
    "twilio": "On Twilio: the address as webhook or status callback, with method POST. The auth token is on the "
    "account's first page.",
    "standard_webhooks": "The sender's page for webhooks takes the address and shows the signing secret, whsec_….",
    "svix": "The sender's page for webhooks takes the address and shows the signing secret, whsec_….",
}
"""Where the address goes, for the senders that we know."""
MADE = "Leave it empty and a strong one is made, to give to the sender."


def used_by(scheme: str) -> str:
    """Whom it is for, below its name."""
    if scheme in PULLED:
        return PULLED[scheme]
    text = SCHEMES[scheme].used_by.removeprefix(f"{SCHEMES[scheme].label}: ")
    return text[:1].upper() + text[1:]


def secret_hint(scheme: str) -> str:
    """Where the secret comes from, for this sender."""
    if scheme in PULLED:
        return "What the API asks for, such as a token. Leave it empty if it asks for nothing."
    kind = SCHEMES[scheme]
    if scheme in MAKES_ITS_SECRET:
        return f"{kind.key_from} If you do not have it yet, leave this empty and add it afterwards."
    return kind.key_from if kind.new_secret is None else f"{kind.key_from} {MADE}"


def how_it_signs(scheme: str, settings: dict[str, Any]) -> str:
    """How a sender that was recognised proves who it is, in a sentence."""
    kind = SCHEMES[scheme]
    if kind.signature_header:
        return f"It has the header {kind.signature_header.decode()}, as every delivery of this kind has."
    if scheme == "basic":
        return f"It logs in with a password, as {settings['username']}."
    if scheme == "bearer":
        return f"It shows a token in the header {settings.get('header', 'authorization')}."
    maker = "Ed25519" if scheme == "ed25519" else f"HMAC-{settings.get('algorithm', 'sha256').upper()}"
    signed = settings.get("signed", "{body}").replace("\n", "⏎")
    return f"Its header {settings['header']} holds {maker} of {signed}, in {settings.get('encoding', 'hex')}."


def roughly(seconds: float) -> str:
    """`45 seconds`, `4 minutes`, `3 hours`: in whole numbers, as people say it."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}s"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"


def rhythm(gap_seconds: float) -> str:
    """How often something comes: `every 4 minutes`, and `every second` at most."""
    return f"every {roughly(gap_seconds)}" if gap_seconds >= 1.5 else "every second"
