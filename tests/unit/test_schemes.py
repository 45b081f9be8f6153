"""The two signature schemes against their official vectors, bit flips and whatever strangers send."""

import base64
import contextlib
import hmac
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from portal.errors import InputInvalid, PortalError
from portal.signals.errors import HeadersInvalid, SignatureInvalid
from portal.signals.schemes import SCHEMES, UNKNOWN_TYPE, check_headers, likely_scheme, verify

# Vectors published by Standard Webhooks (in all of its libraries' suites) and by GitHub's documentation.
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_HEADERS = [
    (b"webhook-id", b"msg_p5jXN8AQM9LWM0D4loKWxJek"),
    (b"webhook-timestamp", b"1614265330"),
    (b"webhook-signature", b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
]
SENT_AT = datetime.fromtimestamp(1614265330, UTC)
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_HEADERS = [
    (b"x-hub-signature-256", b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
    (b"x-github-delivery", b"72d3162e-cc78-11e3-81ab-4c9367dc0958"),
    (b"x-github-event", b"sponsorship"),
]
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret, 32 bytes long...").decode()


def replaced(headers: list[tuple[bytes, bytes]], name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, value if key == name else old) for key, old in headers]


def without(headers: list[tuple[bytes, bytes]], name: bytes) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0] != name]


def flip(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(1614265330 + seconds, UTC)


def verify_standard(headers=STANDARD_HEADERS, body=STANDARD_BODY, secrets=(STANDARD_SECRET,), now=SENT_AT):
    return verify("standard_webhooks", None, headers, body, secrets, now=now)


def verify_github(headers=GITHUB_HEADERS, body=GITHUB_BODY, secrets=(GITHUB_SECRET,)):
    return verify("github", None, headers, body, secrets, now=SENT_AT)


def test_the_official_standard_webhooks_vector_is_accepted():
    verified = verify_standard(now=at(2))
    assert verified.external_id == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert verified.type is None
    assert verified.skew_ms == 2000


def test_the_official_github_vector_is_accepted():
    verified = verify_github()
    assert verified.external_id == "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    assert verified.type == "sponsorship"
    assert verified.skew_ms is None


@given(
    st.binary(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True), st.binary(min_size=24, max_size=64)
)
def test_what_the_reference_library_signs_is_accepted(body, id, key):
    body = body.decode("latin-1").encode()  # the library signs text only
    secret = "whsec_" + base64.b64encode(key).decode()
    signature = Webhook(secret).sign(id, SENT_AT, body.decode())
    headers = [(b"webhook-id", id.encode()), STANDARD_HEADERS[1], (b"webhook-signature", signature.encode())]
    assert verify_standard(headers, body, [secret]).external_id == id


def test_bodies_that_are_not_text_are_verified_as_bytes():
    body = b"\xff\x00\xfe"
    key = base64.b64decode(STANDARD_SECRET.removeprefix("whsec_"))
    mac = hmac.digest(key, b"msg_1.1614265330." + body, "sha256")
    headers = [
        (b"webhook-id", b"msg_1"),
        (b"webhook-timestamp", b"1614265330"),
        (b"webhook-signature", b"v1," + base64.b64encode(mac)),
    ]
    assert verify_standard(headers, body).external_id == "msg_1"


@given(
    st.sampled_from(["body", *(name.decode() for name, _ in STANDARD_HEADERS)]),
    st.integers(min_value=0, max_value=10**6),
)
def test_no_bit_of_a_standard_delivery_can_be_flipped(part, bit):
    headers, body = STANDARD_HEADERS, STANDARD_BODY
    if part == "body":
        body = flip(body, bit)
    else:
        name = part.encode()
        headers = replaced(headers, name, flip(dict(headers)[name], bit))
    with pytest.raises(SignatureInvalid):
        verify_standard(headers, body)


@given(st.booleans(), st.integers(min_value=0, max_value=10**6))
def test_no_bit_of_a_github_body_or_signature_can_be_flipped(in_body, bit):
    body = flip(GITHUB_BODY, bit) if in_body else GITHUB_BODY
    signature = GITHUB_HEADERS[0][1] if in_body else flip(GITHUB_HEADERS[0][1], bit)
    with pytest.raises(SignatureInvalid):
        verify_github(replaced(GITHUB_HEADERS, b"x-hub-signature-256", signature), body)


@pytest.mark.parametrize(
    ("seconds", "accepted"), [(300, True), (301, False), (-300, True), (-301, False), (300.5, False)]
)
def test_clocks_may_differ_by_five_minutes_either_way(seconds, accepted):
    if accepted:
        assert verify_standard(now=at(seconds)).skew_ms == seconds * 1000
    else:
        with pytest.raises(SignatureInvalid) as refused:
            verify_standard(now=at(seconds))
        assert ("too old" if seconds > 0 else "far in the future") in refused.value.reason


@pytest.mark.parametrize(
    "stamp",
    [
        b"1.614265330e9",
        b"1_614_265_330",
        b"+1614265330",
        b" 1614265330 ",
        b"01614265330",
        b"1614265330.0",
        b"nan",
        b"inf",
        b"1" + b"0" * 30,
        b"-1614265330",
        b"",
        b"0",
        b"\xd9\xa1" * 10,
    ],
)
def test_a_timestamp_has_one_spelling(stamp):
    # Signed with that very spelling, so that only the spelling can be the reason.
    key = base64.b64decode(STANDARD_SECRET.removeprefix("whsec_"))
    mac = hmac.digest(key, b"msg_1." + stamp + b"." + STANDARD_BODY, "sha256")
    headers = [
        (b"webhook-id", b"msg_1"),
        (b"webhook-timestamp", stamp),
        (b"webhook-signature", b"v1," + base64.b64encode(mac)),
    ]
    with pytest.raises(SignatureInvalid):
        verify_standard(headers)


GOOD = STANDARD_HEADERS[2][1]


@pytest.mark.parametrize(
    "value", [b"v1a,xyz " + GOOD, b"v2," + GOOD[3:] + b" " + GOOD, GOOD + b" v1,AAAA", b"junk " * 9 + GOOD]
)
def test_one_right_signature_among_others_is_enough(value):
    assert verify_standard(replaced(STANDARD_HEADERS, b"webhook-signature", value))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"v1,",
        b"v1",
        GOOD[3:],
        b"v1," + GOOD,
        GOOD.replace(b",", b",,"),
        b"v2," + GOOD[3:],
        GOOD.rstrip(b"="),
        GOOD + b"=",
        b"v1,\xff\xfe",
        b"v1,!!!!",
        "v1,ü".encode(),
        b"x" * 1_000_000,
        b"v1,AAAA " * 1000 + GOOD,
        b"junk " * 10 + GOOD,
    ],
)
def test_any_other_signature_header_is_refused(value):
    with pytest.raises(SignatureInvalid):
        verify_standard(replaced(STANDARD_HEADERS, b"webhook-signature", value))


@pytest.mark.parametrize("name", [name for name, _ in STANDARD_HEADERS])
def test_every_standard_header_is_needed(name):
    with pytest.raises(SignatureInvalid) as refused:
        verify_standard(without(STANDARD_HEADERS, name))
    assert name.decode() in refused.value.reason


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"sha256=",
        b"757107ea",
        GITHUB_HEADERS[0][1].upper(),
        GITHUB_HEADERS[0][1].replace(b"sha256", b"sha1"),
        GITHUB_HEADERS[0][1] + b" ",
        b"\xff" * 71,
    ],
)
def test_any_other_github_signature_is_refused(value):
    with pytest.raises(SignatureInvalid):
        verify_github(replaced(GITHUB_HEADERS, b"x-hub-signature-256", value))


def test_each_of_several_secrets_is_accepted_and_named():
    assert verify_standard(secrets=[OTHER_SECRET, STANDARD_SECRET]).secret_index == 1
    assert verify_github(secrets=[GITHUB_SECRET, "some other secret"]).secret_index == 0


@pytest.mark.parametrize("secrets", [[], [OTHER_SECRET]])
def test_another_secret_or_none_is_refused(secrets):
    with pytest.raises(SignatureInvalid):
        verify_standard(secrets=secrets)
    with pytest.raises(SignatureInvalid):
        verify_github(secrets=secrets)


def test_a_broken_stored_secret_is_a_refusal_not_a_crash():
    with pytest.raises(SignatureInvalid):
        verify_standard(secrets=["whsec_not base64"])


@pytest.mark.parametrize("event", [None, b"", b"a b", b"\xff", b"x" * 200, b"-x"])
def test_an_unusable_github_event_is_of_unknown_type(event):
    headers = without(GITHUB_HEADERS, b"x-github-event")
    if event is not None:
        headers = [*headers, (b"x-github-event", event)]
    assert verify_github(headers).type == UNKNOWN_TYPE


@pytest.mark.parametrize("name", sorted({*dict(STANDARD_HEADERS), *dict(GITHUB_HEADERS), b"content-type"}))
def test_a_doubled_header_is_refused(name):
    with pytest.raises(HeadersInvalid) as refused:
        check_headers([(name, b"a"), (b"accept", b"x"), (name, b"a")])
    assert refused.value.status == 400
    assert name.decode() in refused.value.detail


@pytest.mark.parametrize("id", [b"", b"a" * 257, b"a b", b"a\x00", b"a\n", b"\x7f", b"\xc3\xbc", b"a.b"])
def test_an_id_that_cannot_be_one_is_refused(id):
    with pytest.raises(HeadersInvalid):
        check_headers([(b"webhook-id", id)])


def test_ordinary_headers_pass():
    check_headers([*STANDARD_HEADERS, (b"accept", b"a"), (b"accept", b"b"), (b"webhook-id-2", b"x.y")])
    check_headers([*GITHUB_HEADERS, (b"content-type", b"application/json")])
    check_headers([(b"webhook-id", b"a" * 256)])


NAMES = st.sampled_from([name for name, _ in STANDARD_HEADERS + GITHUB_HEADERS]) | st.binary(max_size=20)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=80))), st.binary(max_size=80), st.sampled_from(sorted(SCHEMES)))
def test_whatever_strangers_send_gets_a_refusal_that_we_can_explain(headers, body, scheme):
    assert likely_scheme(headers) in SCHEMES
    with contextlib.suppress(PortalError):
        check_headers(headers)
    with pytest.raises(SignatureInvalid):
        verify(scheme, None, headers, body, [OTHER_SECRET], now=SENT_AT)


@pytest.mark.parametrize("scheme", ["github", "standard_webhooks"])
def test_a_new_secret_is_one_that_the_scheme_accepts(scheme):
    secret = SCHEMES[scheme].new_secret(None)
    assert SCHEMES[scheme].check_secret(secret, None) == secret
    assert SCHEMES[scheme].new_secret(None) != secret


@pytest.mark.parametrize(
    ("scheme", "secret"),
    [
        ("github", "short"),
        ("github", "x" * 257),
        ("github", "sixteen chars\nand"),
        ("standard_webhooks", "whsec_AAAA"),
        ("standard_webhooks", "whsec_" + "A" * 100),
        ("standard_webhooks", "whsec_" + "?" * 40),
        ("standard_webhooks", ""),
    ],
)
def test_a_secret_that_is_no_secret_is_refused(scheme, secret):
    with pytest.raises(InputInvalid) as refused:
        SCHEMES[scheme].check_secret(secret, None)
    assert refused.value.fields[0].path == "/secret"


def test_a_standard_secret_may_come_without_its_prefix():
    bare = STANDARD_SECRET.removeprefix("whsec_")
    assert SCHEMES["standard_webhooks"].check_secret(bare, None) == STANDARD_SECRET
