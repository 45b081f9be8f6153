"""A sender is recognised by one pasted request, and with its secret what exactly it signs."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from portal.errors import InputInvalid
from portal.signals.recognition import Recognition, recognise
from tests.schemes import CASES, SENT, URL, Case
from tests.signals import Headers, sign

NOW = datetime.fromtimestamp(SENT, UTC) + timedelta(days=3)


def raw(headers: Headers, body: bytes, *, line: str = "POST /hook HTTP/1.1") -> str:
    lines = [line, *(f"{name.decode().title()}: {value.decode()}" for name, value in headers)]
    return "\r\n".join([*lines, "", body.decode()])


def curl(headers: Headers, body: bytes) -> str:
    options = " \\\n  ".join(f"-H '{name.decode()}: {value.decode()}'" for name, value in headers)
    return f"curl -X POST '{URL}' \\\n  {options} \\\n  --data-raw '{body.decode()}' --compressed"


def look(text: str, secret: str | None = None) -> Recognition:
    return recognise(text, secret, URL, now=NOW)


SIGNED = [case for case in CASES if case.signs_body and "everything" not in case.name and "Hook0" not in case.name]


@pytest.mark.parametrize("case", SIGNED, ids=lambda case: case.name)
@pytest.mark.parametrize("write", [raw, curl])
def test_with_its_secret_a_sender_is_recognised_for_certain(case: Case, write: Any) -> None:
    headers, body = case.delivery("evt_7", "paid")
    found = look(write(headers, body), case.secret)
    assert (found.scheme, found.verified) == (case.scheme, True), found.notes
    assert found.skew_seconds == (3 * 86400 if case.timestamp else None)
    assert found.body.encode() == body
    if "without" not in case.name and case.scheme not in ("twilio", "ed25519"):
        assert (found.external_id, found.type) == ("evt_7", "paid") or case.name == "hmac like thirdweb"
    assert look(write(headers, body), case.other_secret).verified is False


@pytest.mark.parametrize("case", SIGNED, ids=lambda case: case.name)
def test_the_proposed_settings_verify_the_next_delivery(case: Case) -> None:
    headers, body = case.delivery("evt_7", "paid")
    found = look(raw(headers, body), case.secret)
    proposed = Case(case.name, found.scheme or "", case.signature, case.key, case.secret, settings=found.settings)
    headers, body = case.delivery("evt_8", "paid", at=SENT + 60)
    assert proposed.verify(headers, body)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "header": "x-sig",
            "signed": "{id}.{timestamp}.{body}",
            "timestamp_header": "x-time",
            "id_header": "x-event-id",
        },
        {"header": "x-sig", "signed": "{timestamp}:{body}", "signature_part": "h1", "timestamp_part": "ts"},
        {"header": "x-zm-signature", "signed": "v0:{timestamp}:{body}", "timestamp_header": "x-t", "prefix": "v0="},
        {"header": "x-signature", "algorithm": "sha512", "encoding": "base64", "prefix": "sha512="},
        {"header": "x-signature", "signed": "{url}{body}", "encoding": "base64"},
        {
            "header": "x-hmac",
            "signed": "{body}{timestamp}",
            "timestamp_header": "x-time",
            "timestamp_unit": "milliseconds",
        },
    ],
    ids=lambda settings: settings.get("signed", "{body}"),
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_what_an_unknown_sender_signs_is_found_out(settings: dict[str, Any], end: str) -> None:
    body = b'{"id":"evt_1","event":"paid"}'
    headers = sign("hmac", settings, "a secret of some length", body, id="evt_1", at=SENT, url=URL)
    found = look(raw(headers, body) + end, "a secret of some length")
    assert found.verified
    assert found.body.encode() == body, "the line's end that was pasted with it is not part of it"
    assert settings.items() <= found.settings.items()
    assert (found.external_id, found.type) == ("evt_1", "paid")


@pytest.mark.parametrize(("encoding", "secret"), [("hex", "ab" * 32), ("base64", "c2VjcmV0IG9mIHNvbWUgbGVuZ3Ro")])
def test_how_the_key_is_written_is_found_out(encoding: str, secret: str) -> None:
    settings = {"header": "x-signature", "key_encoding": encoding}
    found = look(raw(sign("hmac", settings, secret, b"{}", id=""), b"{}"), secret)
    assert found.settings["key_encoding"] == encoding


def test_without_a_secret_the_likeliest_is_proposed_and_said_to_be_a_guess() -> None:
    headers = [(b"x-acme-signature", b"ab" * 32), (b"x-acme-timestamp", b"1614265330"), (b"x-acme-event", b"paid")]
    found = look(raw(headers, b'{"id":"evt_1"}'))
    assert (found.scheme, found.verified) == ("hmac", None)
    assert found.settings == {
        "header": "x-acme-signature",
        "encoding": "hex",
        "timestamp_header": "x-acme-timestamp",
        "signed": "{timestamp}.{body}",
        "id_pointer": "/id",
        "type_header": "x-acme-event",
    }
    assert (found.external_id, found.type, found.skew_seconds) == ("evt_1", "paid", 3 * 86400)
    assert found.payload == {"id": "evt_1"}
    assert found.notes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_known_headers_tell_the_scheme(case: Case) -> None:
    headers, body = case.delivery()
    assert look(raw(headers, body)).scheme == case.scheme


def test_who_signs_as_github_does_without_its_ids_is_another_sender() -> None:
    headers = [(b"x-hub-signature-256", b"sha256=" + b"ab" * 32), (b"x-request-uuid", b"7f")]
    found = look(raw(headers, b"{}"))
    assert (found.scheme, found.settings["prefix"], found.settings["id_header"]) == (
        "hmac",
        "sha256=",
        "x-request-uuid",
    )


def test_a_curl_command_is_read_as_the_shell_would() -> None:
    text = r"""$ curl --location 'https://example.com/in?x=1' -u 'ann:a password of 20' -H$'x-note: caf\u00e9' \
      --json $'{"a":"it\'s \\"\\u00fc\\""}'"""
    found = look(text)
    assert found.scheme == "basic"
    assert found.settings["username"] == "ann"
    assert found.payload == {"a": 'it\'s "ü"'}
    assert ("content-type", "application/json") in found.headers


def test_headers_and_a_body_are_enough() -> None:
    found = look('X-Api-Key: a-key-of-some-length\nX-Request-Id: r1\n{"type":"paid"}', "a-key-of-some-length")
    assert (found.scheme, found.verified, found.external_id, found.type) == ("bearer", True, "r1", "paid")
    assert found.settings == {"header": "x-api-key", "prefix": "", "id_header": "x-request-id"}


def test_a_request_without_a_proof_is_said_to_have_none() -> None:
    for text in ("", '{"a":1}', "POST / HTTP/1.1\nHost: example.com\n\n{}"):
        found = look(text, "a secret of some length")
        assert (found.scheme, found.verified) == (None, None)
        assert found.notes


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputInvalid):
        look("x" * 1024 * 1024 + "x")


PIECES = st.sampled_from(
    [
        *("curl ", "-H ", "'", '"', "$'", "\\u", "\\ud800", "--data ", "\n", "\r\n", ": ", "POST / HTTP/1.1\n", "-u"),
        *(
            "x-signature: ",
            "ab" * 32,
            "t=1614265330,v1=",
            "1614265330",
            "Authorization: Basic ",
            "Bearer ",
            "{}",
            "x-id:",
        ),
        *("x-" + "y" * 120 + "-signature: ", "http://[", "webhook-signature: v1,", "authorization: Basic Og=="),
    ]
)


@given(st.lists(PIECES | st.text(max_size=10), max_size=15), st.none() | st.text(max_size=40))
def test_whatever_is_pasted_gets_an_answer(pieces: list[str], secret: str | None) -> None:
    found = look("".join(pieces), secret)
    assert found.verified in (None, False) or secret
    json.dumps([found.settings, found.notes])


def test_a_long_request_with_many_headers_is_looked_at_in_no_time() -> None:
    headers = [(f"x-signature-{n}".encode(), b"ab" * 32) for n in range(500)]
    headers += [(f"x-time-{n}".encode(), b"1614265330") for n in range(500)]
    before = time.thread_time()
    assert look(raw(headers, b'"' + b"x" * 900_000 + b'"'), "a secret of some length").verified is False
    assert time.thread_time() - before < 10


def test_a_header_full_of_moments_is_looked_at_in_no_time() -> None:
    """Each moment costs a verification of the whole body: a person who pastes must not keep the process busy."""
    moments = " ".join(str(1614265330 + second) for second in range(2000)).encode()
    headers = [(b"stripe-signature", b"t=1614265330,v1=" + b"ab" * 32 + b",x=" + moments)]
    before = time.thread_time()
    assert look(raw(headers, b'"' + b"x" * 100_000 + b'"'), "a secret of some length").verified is False
    assert time.thread_time() - before < 5


@pytest.mark.parametrize("secret", [None, "a secret of some length"])
def test_headers_without_end_are_looked_at_in_no_time(secret: str | None) -> None:
    headers = [(f"x-sign-{n}".encode(), b"no digest") for n in range(2000)]
    body = json.dumps({str(n): n for n in range(30_000)}).encode()
    before = time.thread_time()
    assert look(raw(headers, body), secret).scheme is None
    assert time.thread_time() - before < 10


def test_a_private_key_is_recognised_by_its_public_one() -> None:
    key = Ed25519PrivateKey.generate()
    settings = {"header": "x-sig", "signed": "{timestamp}.{body}", "timestamp_header": "x-time"}
    found = look(raw(sign("ed25519", settings, key, b"{}", id=""), b"{}"), key.public_key().public_bytes_raw().hex())
    assert (found.scheme, found.verified) == ("ed25519", True)
