"""How forms ask for the settings of each scheme: one description for each setting."""

from typing import Literal

import msgspec

from portal.signals.pulls import KINDS
from portal.signals.schemes import SCHEMES

LABELS = {name: kind.label for name, kind in (SCHEMES | KINDS).items()}
"""Of all schemes and kinds of pulling."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as a form asks for it."""

    name: str
    """Its path below `settings/`."""
    label: str
    hint: str = ""
    kind: Literal["text", "number", "choice"] = "text"
    choices: tuple[tuple[str, str], ...] = ()
    required: bool = False
    default: str = ""
    """What a new form holds."""
    fact: str = ""
    """What it is called where it stands alone, if not as in the form."""
    only: str = ""
    """The way of paging that it belongs to."""


class Section(msgspec.Struct, frozen=True):
    """Settings that belong together."""

    title: str
    settings: tuple[Setting, ...]
    text: str = ""


def _signature(*more: Setting) -> Section:
    return Section(
        "The signature",
        (
            Setting(
                name="header",
                label="Header of the signature",
                hint="Such as X-Signature; case does not matter.",
                required=True,
            ),
            Setting(
                name="prefix",
                label="What stands before it",
                fact="Before the signature",
                hint="Such as sha256= or v0=; nothing for most.",
            ),
            Setting(
                name="encoding",
                label="How it is written",
                kind="choice",
                default="hex",
                choices=(("hex", "Hex, lower case"), ("base64", "Base64")),
            ),
            *more,
            Setting(
                name="signature_part",
                fact="Name of the signature within it",
                label="Its name within the header",
                hint="Only where the header holds pairs: v1 in t=1700000000,v1=52a8…",
            ),
            Setting(
                name="signed",
                label="What is signed",
                default="{body}",
                hint="{body} and, as the sender has it, {timestamp}, {id}, {url} (this source's address) or "
                "{header:x-name}, with what stands between them.",
                required=True,
            ),
        ),
    )


TIME = Section(
    "The time",
    (
        Setting(name="timestamp_header", label="Header of the timestamp", hint="Where it is in one of its own."),
        Setting(
            name="timestamp_part",
            fact="Name of the timestamp in the header",
            label="Or its name within the signature's header",
            hint="Where the header holds pairs: t in t=1700000000,v1=52a8…",
        ),
        Setting(
            name="timestamp_unit",
            label="It counts",
            kind="choice",
            default="seconds",
            choices=(("seconds", "Seconds (10 digits)"), ("milliseconds", "Milliseconds (13 digits)")),
        ),
        Setting(
            name="tolerance_seconds",
            label="Clocks may differ by",
            kind="number",
            default="300",
            hint="In seconds, either way; 1 to 3,600.",
        ),
    ),
    "A signed timestamp keeps anybody from sending a captured delivery again later. Leave it empty if the sender signs "
    "none.",
)
NAMING = Section(
    "Id and type",
    (
        Setting(name="id_header", label="Header of the id", hint="Such as X-Request-Id."),
        Setting(
            name="id_pointer",
            fact="Id in the body",
            label="Or where it is in the body",
            hint="A JSON Pointer such as /data/id.",
        ),
        Setting(name="type_header", label="Header of the type", hint="Such as X-Event-Type."),
        Setting(
            name="type_pointer",
            fact="Type in the body",
            label="Or where that is in the body",
            hint="A JSON Pointer such as /event. If both are empty: /type.",
        ),
    ),
    "The same id is stored once, however often it is sent. Without one, the same body is the same fact.",
)
SECTIONS: dict[str, tuple[Section, ...]] = {
    "hmac": (
        _signature(
            Setting(
                name="algorithm",
                label="Algorithm",
                kind="choice",
                default="sha256",
                choices=(("sha256", "HMAC-SHA256"), ("sha512", "HMAC-SHA512")),
            ),
            Setting(
                name="key_encoding",
                label="The key is",
                kind="choice",
                default="text",
                choices=(
                    ("text", "The secret's characters"),
                    ("hex", "The bytes it stands for in hex"),
                    ("base64", "The bytes it stands for in base64"),
                ),
            ),
        ),
        TIME,
        NAMING,
    ),
    "ed25519": (_signature(), TIME, NAMING),
    "bearer": (
        Section(
            "The token",
            (
                Setting(
                    name="header",
                    label="Header of the token",
                    default="Authorization",
                    required=True,
                    hint="Authorization, or one of its own such as X-API-Key.",
                ),
                Setting(
                    name="prefix",
                    label="What stands before it",
                    default="Bearer ",
                    hint="With its space at the end; nothing for most API keys.",
                ),
            ),
        ),
        NAMING,
    ),
    "basic": (
        Section("The login", (Setting(name="username", label="User name", required=True),)),
        NAMING,
    ),
    "poll": (
        Section(
            "The API",
            (
                Setting(
                    name="url",
                    label="Address",
                    required=True,
                    hint="Asked with GET over HTTPS; it answers with JSON, such as https://api.example.org/orders",
                ),
                Setting(
                    name="header",
                    label="Header of the secret",
                    hint="Empty sends it as Authorization: Bearer. Without a secret nothing is sent.",
                ),
                Setting(
                    name="interval_seconds",
                    label="Asked every",
                    kind="number",
                    default="60",
                    hint="In seconds; 5 to 86,400 (a day).",
                ),
            ),
        ),
        Section(
            "The items",
            (
                Setting(
                    name="items",
                    label="Where the list is",
                    hint="A JSON Pointer such as /data. Empty: the answer is it.",
                ),
                Setting(
                    name="id",
                    label="Where an item's id is",
                    hint="A JSON Pointer such as /id. An id is stored once. Empty: each new form of an item is new.",
                ),
                Setting(name="type", label="Their type", hint="One for all, such as order.paid."),
                Setting(
                    name="type_at",
                    fact="Type in an item",
                    label="Or where the type is in an item",
                    hint="A JSON Pointer. If both are empty: /type.",
                ),
            ),
        ),
        Section(
            "How it goes on",
            (
                Setting(
                    name="paging/by",
                    label="New items are found",
                    kind="choice",
                    choices=(
                        ("", "In the whole list, each time"),
                        ("cursor", "By a cursor that each answer gives"),
                        ("since", "From the last item's value on"),
                        ("etag", "By reading the whole list when its ETag has changed"),
                    ),
                ),
                Setting(
                    name="paging/next",
                    label="Where the next cursor is",
                    only="cursor",
                    hint="A JSON Pointer such as /next_cursor; missing, null or empty on the last page.",
                ),
                Setting(
                    name="paging/newest_first",
                    label="New items come",
                    kind="choice",
                    only="cursor",
                    choices=(("", "At the end, on the last page"), ("true", "First, on the first page")),
                ),
                Setting(
                    name="paging/value",
                    label="Where the value is in an item",
                    only="since",
                    hint="A JSON Pointer such as /updated_at; it must grow with every item, the oldest first.",
                ),
                Setting(
                    name="paging/parameter",
                    label="Sent as the parameter",
                    only="cursor since",
                    hint="Of the address. Empty: cursor, or since.",
                ),
            ),
        ),
    ),
    "evm_logs": (
        Section(
            "Where to read",
            (
                Setting(
                    name="from_block",
                    label="From block",
                    kind="number",
                    hint="Empty: from the next block on. An old block reads all that happened since.",
                ),
                Setting(
                    name="confirmations",
                    label="Blocks deep",
                    kind="number",
                    hint="How many blocks, its own included, before an event counts. Empty: as the chain has it.",
                ),
                Setting(
                    name="interval_seconds",
                    label="Looked at every",
                    kind="number",
                    default="10",
                    hint="In seconds; 1 to 86,400 (a day).",
                ),
            ),
        ),
    ),
}
"""By scheme; a sender that always signs alike has none. The event of `evm_logs` is a choice of its own."""


def settings_of(scheme: str) -> list[Setting]:
    """All settings that a form asks for, in their order."""
    return [setting for section in SECTIONS.get(scheme, ()) for setting in section.settings]
