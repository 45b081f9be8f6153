"""Signals as lines of a file. Pure.

NDJSON holds each signal exactly. CSV is for spreadsheets (RFC 4180): a text that a spreadsheet would take for a formula
gets an apostrophe before it, so its bodies are not to be verified against their digests.
"""

import base64
import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from portal.signals.payloads import PayloadUnreadable, parse_payload, read_form
from portal.signals.tables import SignalStatus

MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8; header=present"}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What spreadsheets take for the beginning of a formula, as OWASP lists it; the last four are the wide forms."""
CSV_COLUMNS = (
    "id",
    "received_at",
    "source_id",
    "source_name",
    "scheme",
    "external_id",
    "type",
    "status",
    "reasons",
    "content_type",
    "body_bytes",
    "body_digest",
    "body_expired",
    "schema_id",
    "secret_id",
    "skew_ms",
    "correlation_id",
    "assessed_at",
    "body",
    "body_base64",
)


def compressed(rows: list[dict[str, Any]], format: str, *, first: bool) -> bytes:
    """A gzip member with these signals, and before the first of them with what begins the file."""
    member = io.BytesIO()
    with gzip.GzipFile(fileobj=member, mode="wb", compresslevel=6, mtime=0) as file:
        for line in ndjson_lines(rows) if format == "ndjson" else csv_lines(rows, header=first):
            file.write(line)
    return member.getvalue()


def ndjson_lines(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """One JSON object a line: every field, the payload digit by digit, the body as text or, if it is none, base64."""
    for row in rows:
        fields = _fields(row)
        fields["reasons"] = msgspec.Raw(row["reasons"].encode())
        yield msgspec.json.encode({**fields, "payload": _payload(row)}) + b"\n"


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    body = bytes(row["body"]) if row["body"] is not None else None
    text = _text(body)
    return {
        **row,
        "body_digest": bytes(row["body_digest"]).hex(),
        "body_expired": body is None,
        "body": text,
        "body_base64": base64.b64encode(body).decode() if body is not None and text is None else None,
    }


def _text(body: bytes | None) -> str | None:
    try:
        return body.decode() if body is not None else None
    except UnicodeDecodeError:
        return None


def _payload(row: dict[str, Any]) -> msgspec.Raw | None:
    """The body itself where it is JSON, on one line: in JSON, a line break can only stand between values.

    Of a form, what was read from it.
    """
    if row["body"] is None:
        return None
    body = bytes(row["body"])
    if row["status"] == SignalStatus.QUARANTINED:  # all others were read when they came
        try:
            parse_payload(body)
        except PayloadUnreadable:
            return None
    if read_form(body) is not None:
        return msgspec.Raw(msgspec.json.encode(parse_payload(body)))
    return msgspec.Raw(body.replace(b"\n", b" ").replace(b"\r", b" "))


def csv_lines(rows: Iterable[dict[str, Any]], *, header: bool) -> Iterator[bytes]:
    """Lines of CSV with one row a signal, safe to open in a spreadsheet."""
    if header:
        yield (",".join(CSV_COLUMNS) + "\r\n").encode()
    for row in rows:
        fields = _fields(row)
        fields["reasons"] = "; ".join(
            f"{reason.get('path') or ''} {reason['message']}".strip() for reason in msgspec.json.decode(row["reasons"])
        )
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(_cell(fields[column]) for column in CSV_COLUMNS)
        yield line.getvalue().encode()


def _cell(value: Any) -> Any:
    """Text, made harmless; numbers, which are ours, as they are."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
