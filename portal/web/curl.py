"""A line for a shell that sends one correctly signed delivery: the quickest proof that a source works. Pure."""

import json
import re
import shlex
from typing import Any

from portal.signals.schemes import SCHEMES, read_settings
from portal.signals.schemes.custom_ed25519 import Ed25519Settings
from portal.signals.schemes.custom_hmac import HmacSettings
from portal.signals.schemes.described import PLACEHOLDER, Signed, signs_time
from portal.signals.schemes.naming import Naming

PRIVATE_KEY = "# key.pem is the sender's private key: nobody can sign with the public one.\n"
NAMES = {"body": "body", "timestamp": "at", "id": "id", "url": "url"}
TO_HEX = "od -An -v -tx1 | tr -d ' \\n'"
TO_BASE64 = "openssl base64 -A"
PAYLOADS: dict[str, dict[str, Any]] = {
    "stripe": {"id": "%s", "type": "ping"},
    "slack": {"type": "event_callback", "event_id": "%s", "event": {"type": "ping"}},
}


def curl_line(scheme: str, settings: dict[str, Any], url: str, secret: str | None) -> str:
    """Needs `bash`, `openssl` and `curl`; holds the secret, so it is shown only where the secret is.

    `secret` is None where the sender has a private key, which the line then reads from `key.pem`.
    """
    read = read_settings(scheme, json.dumps(settings))
    start = f'url={shlex.quote(url)}; at=$(date +%s); id="try-$at"\n'
    if scheme in ("standard_webhooks", "svix"):
        return start + _standard("webhook-" if scheme == "standard_webhooks" else "svix-", secret)
    if scheme == "twilio":
        return start + _twilio(secret or "")
    if scheme in ("bearer", "basic"):
        return start + _token(scheme, read, secret or "")
    described = SCHEMES[scheme].preset or read
    assert isinstance(described, Signed), "all other schemes are described by settings"
    return start + _described(described, secret, PAYLOADS.get(scheme, {"type": "ping"}))


def _standard(prefix: str, secret: str | None) -> str:
    lines = """body='{"type":"ping","data":{}}'\n"""
    if secret is None:
        lines += PRIVATE_KEY + _private_signature('"$id.$at.$body"', TO_BASE64)
    else:
        encoded = secret.removeprefix("whsec_")
        lines += _key(encoded + "=" * (-len(encoded) % 4))
        lines += _signature('"$id.$at.$body"', "-sha256", '-mac HMAC -macopt "hexkey:$key"', "base64")
    version = "v1a" if secret is None else "v1"
    return lines + _curl(
        [f"{prefix}id: $id", f"{prefix}timestamp: $at", f"{prefix}signature: {version},$signature"],
    )


def _twilio(secret: str) -> str:
    lines = 'body="MessageSid=SM$at&MessageStatus=delivered"\n'
    lines += _signature(
        '"${url}MessageSidSM${at}MessageStatusdelivered"', "-sha1", f"-hmac {shlex.quote(secret)}", "base64"
    )
    return lines + _curl(["X-Twilio-Signature: $signature"], "application/x-www-form-urlencoded")


def _token(scheme: str, settings: Any, secret: str) -> str:
    lines, named = _body(settings, {"type": "ping"})
    if scheme == "bearer":
        return lines + _curl([*named, f"{settings.header}: {_literal(settings.prefix + secret)}"])
    lines += f"login=$(printf '%s' {shlex.quote(f'{settings.username}:{secret}')} | {TO_BASE64})\n"
    return lines + _curl([*named, "Authorization: Basic $login"])


def _described(settings: Signed, secret: str | None, payload: dict[str, Any]) -> str:
    milliseconds = signs_time(settings) and settings.timestamp_unit == "milliseconds"
    lines, headers = _body(settings, payload)
    lines = ("at=${at}000\n" if milliseconds else "") + lines
    text = f'"{_signed(settings)}"'
    if isinstance(settings, HmacSettings):
        key = f"-hmac {shlex.quote(secret or '')}"
        if settings.key_encoding != "text":
            lines += _key(secret or "") if settings.key_encoding == "base64" else f"key={secret}\n"
            key = '-mac HMAC -macopt "hexkey:$key"'
        lines += _signature(text, f"-{settings.algorithm}", key, settings.encoding)
    else:
        assert isinstance(settings, Ed25519Settings), "the two kinds of described signatures"
        lines += PRIVATE_KEY + _private_signature(text, TO_HEX if settings.encoding == "hex" else TO_BASE64)
    value = _literal(settings.prefix) + "$signature"
    if settings.signature_part:
        value = f"{settings.signature_part}={value}"
    if settings.timestamp_part:
        value = f"{settings.timestamp_part}=$at,{value}"
    if settings.timestamp_header:
        headers.append(f"{settings.timestamp_header}: $at")
    return lines + _curl([*headers, *_other_headers(settings), f"{settings.header}: {value}"])


def _body(settings: Naming, payload: dict[str, Any]) -> tuple[str, list[str]]:
    """The line that makes the body, and the headers that name it."""
    for pointer, value in ((settings.type_pointer, "ping"), (settings.id_pointer, "%s")):
        if pointer:
            _put(payload := json.loads(json.dumps(payload)), pointer, value)
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=True)
    headers = [f"{settings.id_header}: $id"] if settings.id_header else []
    headers += [f"{settings.type_header}: ping"] if settings.type_header else []
    if "%s" in text:
        return f'body=$(printf {shlex.quote(text)} "$id")\n', headers
    return f"body={shlex.quote(text)}\n", headers


def _put(payload: dict[str, Any], pointer: str, value: str) -> None:
    *steps, last = [step.replace("~1", "/").replace("~0", "~").replace("%", "%%") for step in pointer.split("/")[1:]]
    for step in steps:
        inner = payload.get(step)
        payload[step] = payload = inner if isinstance(inner, dict) else {}
    payload[last] = value


def _signed(settings: Signed) -> str:
    """The signed text within double quotes of the shell."""
    parts = PLACEHOLDER.split(settings.signed)
    text = _literal(parts[0])
    for name, after in zip(parts[1::2], parts[2::2], strict=True):
        if name in NAMES:
            text += f"${{{NAMES[name]}}}" if re.match(r"\w", after) else f"${NAMES[name]}"
        else:
            text += _example(settings, name.removeprefix("header:").lower())
        text += _literal(after)
    return text


def _other_headers(settings: Signed) -> list[str]:
    """Those that are signed and have no other meaning."""
    known = {settings.id_header, settings.type_header, settings.timestamp_header}
    names = {name.removeprefix("header:").lower() for name in PLACEHOLDER.findall(settings.signed) if ":" in name}
    return [f"{name}: {_example(settings, name)}" for name in sorted(names - known)]


def _example(settings: Signed, header: str) -> str:
    meant = {settings.id_header: "${id}", settings.type_header: "ping", settings.timestamp_header: "${at}"}
    return meant.get(header, "example")


def _literal(text: str) -> str:
    """As it stands within double quotes of the shell."""
    return re.sub(r'([\\"$`])', r"\\\1", text)


def _key(encoded: str) -> str:
    return f"key=$(printf '%s' {shlex.quote(encoded)} | openssl base64 -d -A | {TO_HEX})\n"


def _signature(text: str, digest: str, key: str, encoding: str) -> str:
    end = f"-binary | {TO_BASE64}" if encoding == "base64" else "-r | cut -d' ' -f1"
    return f"signature=$(printf '%s' {text} |\n  openssl dgst {digest} {key} {end})\n"


def _private_signature(text: str, encode: str) -> str:
    # Ed25519 reads what it signs twice, so it cannot come through a pipe.
    return (
        f"printf '%s' {text} > signed.txt\n"
        f"signature=$(openssl pkeyutl -sign -inkey key.pem -rawin -in signed.txt | {encode})\n"
    )


def _curl(headers: list[str], content_type: str = "application/json") -> str:
    lines = [f"-H 'Content-Type: {content_type}'", *(f'-H "{header}"' for header in headers), '-d "$body"']
    return 'curl -i "$url" \\\n  ' + " \\\n  ".join(lines)
