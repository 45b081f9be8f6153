"""What a source may be set to, checked beyond its types: every error names its place. Pure."""

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any, TypeVar

import msgspec

from portal.errors import FieldError, InputInvalid
from portal.signals.pointers import escaped

S = TypeVar("S", bound=msgspec.Struct)


def settings_from(kind: type[S], given: dict[str, Any]) -> S:
    """`given` as settings of this kind. Raises `InputInvalid` naming all that is wrong, below `/settings`."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    wrong = [_at(name, f"There is no setting {name[:40]!r} here.") for name in given if name not in fields]
    for name, field in fields.items():
        if name not in given:
            if field.required:
                wrong.append(_at(name, "This setting is needed."))
            continue
        try:
            msgspec.convert(given[name], field.type)
        except msgspec.ValidationError as error:
            wrong.append(_at(name, _sentence(str(error), field.type)))
    if wrong:
        raise InputInvalid(wrong[0].message, fields=wrong)
    return msgspec.convert(given, kind)


def no_settings(given: dict[str, Any]) -> None:
    """Raises `InputInvalid` for settings where there are none to make."""
    if given:
        raise InputInvalid.at("/settings", "This scheme has no settings.")


def _at(name: str, message: str) -> FieldError:
    return FieldError(f"/settings/{escaped(name)}", message)


def _sentence(message: str, kind: Any) -> str:
    """What msgspec says of a value, for people."""
    info = msgspec.inspect.type_info(kind)
    options = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    for option in options:
        if isinstance(option, msgspec.inspect.LiteralType) and message.startswith("Invalid enum value"):
            return f"This must be one of: {', '.join(map(str, option.values))}."
        if isinstance(option, msgspec.inspect.Metadata) and "matching regex" in message:
            return f"Expected {(option.extra_json_schema or {}).get('description', 'another form.')}"
    return message.partition(" - at ")[0].replace("`", "") + "."


def normal_networks(given: Iterable[str]) -> list[str]:
    """CIDR blocks in their usual form, each once; an address is a block of one.

    Raises `InputInvalid` below `/allowed_networks`.
    """
    found, wrong = dict[str, None](), []
    for place, text in enumerate(given):
        try:
            found[str(ip_network(text.strip(), strict=False))] = None
        except ValueError:
            message = f"{text[:50]!r} is no address or network such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32."
            wrong.append(FieldError(f"/allowed_networks/{place}", message))
    if wrong:
        raise InputInvalid(wrong[0].message, fields=wrong)
    return list(found)
