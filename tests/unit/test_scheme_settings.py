"""Senders that settings describe: what may be said, what is refused and where, and texts cut up in one way only."""

import hmac
from typing import Any

import pytest

from portal.errors import InputInvalid
from portal.signals.errors import HeadersInvalid, SignatureInvalid
from portal.signals.schemes import SCHEMES, Verified, claimed_id, headers_of, verify
from portal.signals.source_input import normal_networks, settings_from
from tests.schemes import SENT_AT
from tests.signals import Headers, sign

SECRET = "It's a Secret to Everybody"


def settings_of(scheme: str, given: dict[str, Any]) -> Any:
    kind = SCHEMES[scheme].settings_type
    assert kind
    return SCHEMES[scheme].check_settings(settings_from(kind, given))


def paths_of(scheme: str, given: dict[str, Any]) -> list[str]:
    with pytest.raises(InputInvalid) as refused:
        settings_of(scheme, given)
    assert all(field.message.endswith(".") and "`" not in field.message for field in refused.value.fields)
    return [field.path for field in refused.value.fields]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "/settings/header"),
        ({"header": ""}, "/settings/header"),
        ({"header": "X Signature"}, "/settings/header"),
        ({"header": "x" * 101}, "/settings/header"),
        ({"header": "x", "algorithm": "sha1"}, "/settings/algorithm"),
        ({"header": "x", "encoding": "HEX"}, "/settings/encoding"),
        ({"header": "x", "key_encoding": "utf-8"}, "/settings/key_encoding"),
        ({"header": "x", "prefix": "ü"}, "/settings/prefix"),
        ({"header": "x", "tolerance_seconds": 0}, "/settings/tolerance_seconds"),
        ({"header": "x", "tolerance_seconds": 3601}, "/settings/tolerance_seconds"),
        ({"header": "x", "timestamp_unit": "minutes"}, "/settings/timestamp_unit"),
        ({"header": "x", "id_pointer": "id"}, "/settings/id_pointer"),
        ({"header": "x", "id_pointer": "/a~2"}, "/settings/id_pointer"),
        ({"header": "x", "id_pointer": ""}, "/settings/id_pointer"),
        ({"header": "x", "id_pointer": "/id", "id_header": "x-id"}, "/settings/id_pointer"),
        ({"header": "x", "type_pointer": "/t", "type_header": "x-type"}, "/settings/type_pointer"),
        ({"header": "x", "colour": "grey"}, "/settings/colour"),
        ({"header": "x", "a/b~": 1}, "/settings/a~1b~0"),
        ({"header": "x", "signed": ""}, "/settings/signed"),
        ({"header": "x", "signed": "{url}"}, "/settings/signed"),
        ({"header": "x", "signed": "{body}{body}"}, "/settings/signed"),
        ({"header": "x", "signed": "{body"}, "/settings/signed"),
        ({"header": "x", "signed": "{body}}"}, "/settings/signed"),
        ({"header": "x", "signed": "{method}{body}"}, "/settings/signed"),
        ({"header": "x", "signed": "{header:}{body}"}, "/settings/signed"),
        ({"header": "x", "signed": "{header:x-a}{body}"}, "/settings/signed"),
        ({"header": "x", "signed": "{body}{header:x-a}"}, "/settings/signed"),
        ({"header": "x", "signed": "{id}{body}", "id_header": "x-id"}, "/settings/signed"),
        ({"header": "x", "signed": "{id}.{body}"}, "/settings/id_header"),
        ({"header": "x", "signed": "{timestamp}.{body}"}, "/settings/timestamp_header"),
        ({"header": "x", "timestamp_header": "x-time"}, "/settings/signed"),
        ({"header": "x", "signed": "{timestamp}{body}", "timestamp_part": "t"}, "/settings/signature_part"),
        (
            {
                "header": "x",
                "signed": "{timestamp}{body}",
                "signature_part": "s",
                "timestamp_part": "t",
                "timestamp_header": "y",
            },
            "/settings/timestamp_part",
        ),
    ],
)
def test_a_description_that_fits_no_sender_is_refused_at_its_place(given: dict[str, Any], path: str) -> None:
    assert paths_of("hmac", given) == [path]


def test_all_that_is_wrong_is_said_at_once() -> None:
    given = {"algorithm": "md5", "tolerance_seconds": "5", "x": 1}
    wrong = ["/settings/algorithm", "/settings/header", "/settings/tolerance_seconds", "/settings/x"]
    assert sorted(paths_of("hmac", given)) == wrong
    assert paths_of("basic", {"username": "a:b"}) == ["/settings/username"]
    assert paths_of("bearer", {"header": "a b"}) == ["/settings/header"]


def test_choices_are_listed() -> None:
    with pytest.raises(InputInvalid) as refused:
        settings_of("hmac", {"header": "x", "algorithm": "md5"})
    assert str(refused.value) == "This must be one of: sha256, sha512."


def test_names_of_headers_are_kept_in_lower_case() -> None:
    settings = settings_of(
        "hmac",
        {
            "header": "X-Signature",
            "signed": "{timestamp}.{header:X-Nonce}.{body}",
            "timestamp_header": "X-Time",
            "id_header": "X-Id",
            "type_header": "X-Type",
        },
    )
    assert headers_of("hmac", settings) == {b"x-signature", b"x-time", b"x-id", b"x-type", b"x-nonce"}


def attempt(given: dict[str, Any], headers: Headers, body: bytes) -> Verified:
    return verify("hmac", settings_of("hmac", given), headers, body, [SECRET], now=SENT_AT)


SEPARATED = {"header": "x", "signed": "{id}.{header:x-kind}.{body}.{header:x-end}", "id_header": "x-id"}


def moved(id: str, kind: str, body: str, end: str) -> tuple[Headers, bytes]:
    """A delivery whose signed text is always the same, however it is cut up."""
    text = f"{id}.{kind}.{body}.{end}"
    assert text == '7.a.b.{"n":1}.x.y'
    mac = hmac.digest(SECRET.encode(), text.encode(), "sha256").hex()
    given = {"x": mac, "x-id": id, "x-kind": kind, "x-end": end}
    return [(name.encode(), value.encode()) for name, value in given.items()], body.encode()


def test_a_signed_text_can_be_cut_up_in_one_way_only() -> None:
    assert attempt(SEPARATED, *moved("7", "a.b", '{"n":1}.x', "y")).external_id == "7"
    for parts in [
        ("7.a", "b", '{"n":1}.x', "y"),
        ("7", "a", 'b.{"n":1}.x', "y"),
        ("7", 'a.b.{"n":1}', "x", "y"),
        ("7", "a.b", '{"n":1}', "x.y"),
    ]:
        with pytest.raises(SignatureInvalid):
            attempt(SEPARATED, *moved(*parts))


def test_a_type_next_to_the_body_does_not_begin_a_body_of_its_own() -> None:
    given = {"header": "x", "signed": "{header:x-kind}.{body}"}
    mac = hmac.digest(SECRET.encode(), b'a.[1].{"n":1}', "sha256").hex().encode()
    assert attempt(given, [(b"x", mac), (b"x-kind", b"a")], b'[1].{"n":1}')
    with pytest.raises(SignatureInvalid):
        attempt(given, [(b"x", mac), (b"x-kind", b"a.[1]")], b'{"n":1}')


def test_a_separator_of_several_characters_ends_nothing_early() -> None:
    given = {"header": "x", "signed": "{id}--{body}", "id_header": "x-id"}
    mac = hmac.digest(SECRET.encode(), b"a---{}", "sha256").hex().encode()
    assert attempt(given, [(b"x", mac), (b"x-id", b"a")], b"-{}")
    with pytest.raises(SignatureInvalid):
        attempt(given, [(b"x", mac), (b"x-id", b"a-")], b"{}")


@pytest.mark.parametrize("id", [b"", b"a" * 257, b"a b", b"\x7f", b"\xc3\xbc"])
def test_an_authentic_delivery_without_a_proper_id_is_refused_as_such(id: bytes) -> None:
    given = {"header": "x-signature", "id_header": "x-id"}
    headers = sign("hmac", given, SECRET, b"{}", id="id")
    for bad in ([*headers[:1], *headers[2:]], [(key, id if key == b"x-id" else value) for key, value in headers]):
        with pytest.raises(HeadersInvalid) as refused:
            attempt(given, bad, b"{}")
        assert refused.value.fields[0].path == "/headers/x-id"


@pytest.mark.parametrize(
    ("body", "id"),
    [
        (b'{"id":"evt 1"}', None),
        (b'{"id":""}', None),
        (b'{"id":null}', None),
        (b'{"id":true}', None),
        (b'{"id":{"a":1}}', None),
        (b'{"id":1.5}', None),
        (b"[]", None),
        (b'{"id":"evt_1"}', "evt_1"),
        (b'{"id":820982911946154508}', "820982911946154508"),
        (b'{"id":' + b"9" * 300 + b"}", None),
    ],
)
def test_an_id_in_the_body_that_cannot_be_one_is_replaced_by_its_digest(body: bytes, id: str | None) -> None:
    given = {"header": "x-signature", "id_pointer": "/id"}
    found = attempt(given, sign("hmac", given, SECRET, body, id=""), body).external_id
    assert found == id or (id is None and found.startswith("sha256:") and len(found) == 71)


def test_a_token_must_be_one_that_a_header_can_hold() -> None:
    for token in ("sixteen chars or more", "ümlaute-sind-hier-nicht-erlaubt"):
        with pytest.raises(InputInvalid):
            SCHEMES["bearer"].check_secret(token, settings_of("bearer", {}))


@pytest.mark.parametrize(("encoding", "secret"), [("hex", "zz" * 16), ("hex", "ab" * 15), ("base64", "YWJj" * 5)])
def test_a_key_that_is_too_short_or_not_so_encoded_is_refused(encoding: str, secret: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        SCHEMES["hmac"].check_secret(secret, settings_of("hmac", {"header": "x", "key_encoding": encoding}))
    assert refused.value.fields[0].path == "/secret"


def test_ids_of_known_senders_are_claimed_before_anything_is_verified() -> None:
    assert claimed_id([(b"svix-id", b"msg_1")]) == "msg_1"
    assert claimed_id([(b"x-shopify-webhook-id", b"b545"), (b"x-other", b"1")]) == "b545"
    assert claimed_id([(b"x-other", b"1")]) is None


def test_networks_are_kept_in_their_usual_form() -> None:
    given = ["192.0.2.7", "10.1.2.3/8", " 2001:DB8::/32", "10.0.0.0/8", "::1"]
    assert normal_networks(given) == ["192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32", "::1/128"]
    with pytest.raises(InputInvalid) as refused:
        normal_networks(["10.0.0.0/8", "office", "10.0.0.0/33"])
    assert [field.path for field in refused.value.fields] == ["/allowed_networks/1", "/allowed_networks/2"]
