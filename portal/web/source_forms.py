"""The form of a source: between its fields and the Structs of the signals room.

A setting is a field `settings/<name>`, as its errors are named; what an API pages by is `settings/paging/<name>`. The
contract and its event are one choice, `settings/event`. Networks are one field with a line for each.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from portal.errors import FieldError, InputInvalid, PortalError
from portal.signals.errors import SourceNameTaken
from portal.signals.health.judgement import in_words
from portal.signals.pulls.events import ReadableEvent
from portal.signals.pulls.poll import Cursor, Etag, Since
from portal.signals.schemas import DEFAULT_BODY_BYTES, SourceChange, SourceInput, SourceView
from portal.signals.source_input import settings_from
from portal.web.forms import to_input
from portal.web.setting_fields import SECTIONS, settings_of

SETTINGS, PAGING = "settings/", "paging/"
CAPS = {
    65536: "64 KB",
    262144: "256 KB",
    DEFAULT_BODY_BYTES: "1 MB",
    5 * 1024 * 1024: "5 MB",
    25 * 1024 * 1024: "25 MB",
}
CADENCES = (300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 7 * 86400, 30 * 86400)
ON_FAILURE = [
    ("quarantine", "Keep it in quarantine, where it waits for you"),
    ("refuse", "Refuse it, so that the sender hears of it"),
]
LIMITS = ("body_cap_bytes", "allowed_networks", "rate_limit_per_minute", "on_schema_failure", "expected_every_seconds")
PAGINGS: dict[str, type[msgspec.Struct]] = {"cursor": Cursor, "since": Since, "etag": Etag}


def new_values(scheme: str) -> dict[str, str]:
    """The fields of an empty form."""
    return {
        "name": "",
        "secret": "",
        "body_cap_bytes": str(DEFAULT_BODY_BYTES),
        "allowed_networks": "",
        "rate_limit_per_minute": "",
        "on_schema_failure": "quarantine",
        "expected_every_seconds": "",
        f"{SETTINGS}event": "",
        **{SETTINGS + setting.name: setting.default for setting in settings_of(scheme)},
    }


def values_of(source: SourceView, events: list[ReadableEvent]) -> dict[str, str]:
    """The fields of the form that changes a source."""
    return {
        **new_values(source.scheme),
        **setting_values(source.scheme, source.settings, events),
        "name": source.name,
        "version": source.updated_at.isoformat(),
        "allowed_networks": "\n".join(source.allowed_networks),
        **{name: str(getattr(source, name) or "") for name in LIMITS if name != "allowed_networks"},
    }


def setting_values(
    scheme: str, settings: Mapping[str, Any], events: list[ReadableEvent] | None = None
) -> dict[str, str]:
    """Settings as the fields of a form."""
    paging = settings.get("paging") or {}
    flat = {**settings, **{PAGING + name: value for name, value in paging.items()}}
    values = {
        SETTINGS + setting.name: _text(flat[setting.name]) for setting in settings_of(scheme) if setting.name in flat
    }
    for event in events or []:
        if str(event.contract_id) == settings.get("contract_id") and settings.get("event") in (
            event.name,
            event.signature,
        ):
            values[f"{SETTINGS}event"] = event_key(event)
    return values


def event_key(event: ReadableEvent) -> str:
    return f"{event.contract_id} {event.signature}"


def _text(value: Any) -> str:
    return "" if value is None or value is False else "true" if value is True else str(value)


def source_input(values: dict[str, str]) -> SourceInput:
    """The whole form of a new source. Raises `InputInvalid`."""
    scheme = values.get("scheme", "")
    plain = {name: values.get(name, "") for name in ("name", "scheme", "secret", *LIMITS) if name in values}
    return to_input({**plain, **_nested(scheme, values)}, SourceInput)


def source_change(source: SourceView, values: dict[str, str]) -> SourceChange:
    """The form that changes `source`; a limit that is left empty ends. Raises `InputInvalid`."""
    plain = {name: values.get(name, "") for name in ("name", *LIMITS)}
    change = to_input({**plain, **_nested(source.scheme, values)}, SourceChange)
    ended = {name: None for name in ("rate_limit_per_minute", "expected_every_seconds") if not values.get(name)}
    return msgspec.structs.replace(change, **ended)


def _nested(scheme: str, values: dict[str, str]) -> dict[str, Any]:
    networks = [line.strip() for line in values.get("allowed_networks", "").splitlines() if line.strip()]
    settings = {"settings": _settings(scheme, values)} if scheme in SECTIONS else {}
    return {"allowed_networks": networks, **settings}


def _settings(scheme: str, values: dict[str, str]) -> dict[str, Any]:
    """Raises `InputInvalid` for a number that is none, and for what is wrong with the paging."""
    made: dict[str, Any] = {}
    for setting in settings_of(scheme):
        text = values.get(SETTINGS + setting.name, "").replace("\r\n", "\n")
        if setting.name.startswith(PAGING):
            continue
        # Nothing before a token is not what the scheme takes where nothing is said.
        if text or setting.name == "prefix":
            made[setting.name] = _number(setting.name, text) if setting.kind == "number" else text
    if scheme == "poll" and (by := values.get(f"{SETTINGS}{PAGING}by")):
        made["paging"] = _paging(by, values)
    if scheme == "evm_logs":
        made |= _event(values.get(f"{SETTINGS}event", ""))
    return made


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InputInvalid.at(f"/{SETTINGS}{name}", "This must be a whole number.")
    return int(text)


def _paging(by: str, values: dict[str, str]) -> dict[str, Any]:
    if by not in PAGINGS:
        raise InputInvalid.at(f"/{SETTINGS}{PAGING}by", "Choose one of these ways.")
    kind = PAGINGS[by]
    given: dict[str, Any] = {
        field.name: text
        for field in msgspec.structs.fields(kind)
        if (text := values.get(f"{SETTINGS}{PAGING}{field.name}", ""))
    }
    if "newest_first" in given:
        given["newest_first"] = given["newest_first"] == "true"
    try:
        settings_from(kind, given)
    except InputInvalid as error:
        begin = f"/{SETTINGS}{PAGING}"
        error.fields = [
            FieldError(begin + field.path.removeprefix("/settings/"), field.message) for field in error.fields
        ]
        raise
    return {"by": by, **given}


def _event(text: str) -> dict[str, str]:
    contract_id, _, event = text.partition(" ")
    try:
        return {"contract_id": str(UUID(contract_id)), "event": event}
    except ValueError:
        raise InputInvalid.at(f"/{SETTINGS}event", "Choose an event of a contract.") from None


def at_our_fields(error: PortalError) -> PortalError:
    """The same error with its paths as our fields are named."""
    ours = {f"/{SETTINGS}contract_id": f"/{SETTINGS}event"}
    error.fields = [
        FieldError(
            "/allowed_networks" if field.path.startswith("/allowed_networks") else ours.get(field.path, field.path),
            field.message,
        )
        for field in error.fields
    ]
    if isinstance(error, SourceNameTaken):
        error.fields = [FieldError("/name", error.detail)]
    return error


def cap_choices(current: int | None) -> list[tuple[int, str]]:
    """How large a delivery may be; what it is now is always among them."""
    own = {current: f"{current:,} bytes"} if current and current not in CAPS else {}
    return sorted((CAPS | own).items())


def cadence_choices(current: int | None) -> list[tuple[str, str]]:
    """For how long a source may be silent before that is an alarm."""
    seconds = sorted({*CADENCES, *([current] if current else [])})
    return [("", "Silence is no alarm"), *((str(each), f"Silence of {in_words(each)} is an alarm") for each in seconds)]
