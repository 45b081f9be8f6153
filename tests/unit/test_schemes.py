"""Schemes against their official vectors, and what is particular to each."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from portal.errors import InputInvalid
from portal.signals.errors import HeadersInvalid, SignatureInvalid
from portal.signals.payloads import parse_payload
from portal.signals.schemes import QUERY, SCHEMES, UNKNOWN_TYPE, check_headers, verify
from portal.signals.schemes.slack import challenge_in

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


PUBLISHED = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
WHPK = "whpk_" + base64.b64encode(PUBLISHED.public_key().public_bytes_raw()).decode()


def test_a_source_may_have_a_shared_secret_and_a_public_key_at_once():
    signature = b"v1a," + base64.b64encode(PUBLISHED.sign(b"msg_1.1614265330.{}"))
    headers = [(b"webhook-id", b"msg_1"), STANDARD_HEADERS[1], (b"webhook-signature", b"v1,AAAA " + signature)]
    assert verify_standard(headers, b"{}", [STANDARD_SECRET, WHPK]).secret_index == 1
    assert verify_standard(secrets=[WHPK, STANDARD_SECRET]).secret_index == 1
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    same_bytes = signature[:-3] + bytes([alphabet[alphabet.index(signature[-3]) + 1]]) + b"=="
    assert base64.b64decode(same_bytes[4:]) == base64.b64decode(signature[4:])
    for other in (b"v1," + signature[4:], signature[4:], signature.rstrip(b"="), same_bytes):
        with pytest.raises(SignatureInvalid):
            verify_standard(replaced(headers, b"webhook-signature", other), b"{}", [STANDARD_SECRET, WHPK])


def test_svix_reads_its_own_headers_only():
    svix = [(name.replace(b"webhook-", b"svix-"), value) for name, value in STANDARD_HEADERS]
    verified = verify("svix", None, svix, STANDARD_BODY, [STANDARD_SECRET], now=SENT_AT)
    assert verified.external_id == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    with pytest.raises(SignatureInvalid):
        verify("svix", None, STANDARD_HEADERS, STANDARD_BODY, [STANDARD_SECRET], now=SENT_AT)


# As Stripe's own suite makes its deliveries: it publishes none that is fixed.
STRIPE_SECRET = "whsec_test_secret"
STRIPE_BODY = b'{\n  "id": "evt_test_webhook",\n  "object": "event",\n  "type": "invoice.paid"\n}'


def stripe_header(body=STRIPE_BODY, *, scheme="v1", stamp="1614265330", secret=STRIPE_SECRET):
    mac = hmac.digest(secret.encode(), f"{stamp}.".encode() + body, "sha256").hex()
    return f"t={stamp},{scheme}={mac}"


def verify_stripe(header, body=STRIPE_BODY):
    return verify("stripe", None, [(b"stripe-signature", header.encode())], body, [STRIPE_SECRET], now=SENT_AT)


def test_a_stripe_event_is_named_by_itself():
    verified = verify_stripe(stripe_header())
    assert (verified.external_id, verified.type, verified.skew_ms) == ("evt_test_webhook", None, 0)


@pytest.mark.parametrize(
    "more", ["v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39", "v1=bad", "t2=1"]
)
def test_other_parts_of_a_stripe_signature_do_not_matter(more):
    assert verify_stripe(f"{stripe_header()},{more}")
    assert verify_stripe(stripe_header().replace(",", f",{more},"))
    assert verify_stripe(stripe_header().replace(",", ", "))


@pytest.mark.parametrize(
    "header",
    [
        "i'm not even a real signature header",
        stripe_header(scheme="v0"),
        "t=1614265330",
        stripe_header().partition(",")[2],
        stripe_header() + ",t=1614265330",
        stripe_header(secret="another"),
        stripe_header(stamp="+1614265330"),
        stripe_header().replace("t=", "t=0"),
        stripe_header().replace(",", ",v1=bad" * 10 + ","),
        stripe_header().replace(",", ",x=1" * 60 + ","),
    ],
)
def test_any_other_stripe_signature_is_refused(header):
    with pytest.raises(SignatureInvalid):
        verify_stripe(header)


# Slack's documentation, "Verifying requests from Slack".
SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
SLACK_HEADERS = [
    (b"x-slack-signature", b"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
    (b"x-slack-request-timestamp", b"1531420618"),
]


def verify_slack(body):
    mac = hmac.digest(SLACK_SECRET.encode(), b"v0:1614265330:" + body, "sha256").hex().encode()
    headers = [(b"x-slack-signature", b"v0=" + mac), (b"x-slack-request-timestamp", b"1614265330")]
    return verify("slack", None, headers, body, [SLACK_SECRET], now=SENT_AT)


def test_the_official_slack_vector_is_accepted():
    now = datetime.fromtimestamp(1531420618, UTC)
    verified = verify("slack", None, SLACK_HEADERS, SLACK_BODY, [SLACK_SECRET], now=now)
    assert verified.type == "slash_command"
    assert verified.external_id == "sha256:" + hashlib.sha256(SLACK_BODY).hexdigest()
    assert parse_payload(SLACK_BODY)["command"] == "/webhook-collect"


def test_a_slack_event_is_of_the_type_of_what_happened():
    event = b'{"type":"event_callback","event_id":"Ev1","event":{"type":"team_join"}}'
    assert (verify_slack(event).external_id, verify_slack(event).type) == ("Ev1", "team_join")
    assert verify_slack(b"payload=%7B%22type%22%3A%22block_actions%22%7D").type == "block_actions"
    assert verify_slack(b"not json").type == UNKNOWN_TYPE


@pytest.mark.parametrize(
    "key",
    [
        "00" * 32,
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ],
)
def test_a_key_with_which_anybody_can_sign_is_no_key(key: str) -> None:
    for name, secret in [
        ("ed25519", key),
        ("standard_webhooks", "whpk_" + base64.b64encode(bytes.fromhex(key)).decode()),
    ]:
        scheme = SCHEMES[name]
        with pytest.raises(InputInvalid):
            scheme.check_secret(secret, scheme.settings_type and scheme.settings_type(header="x-signature"))


def test_only_a_url_verification_wants_its_challenge_back():
    asked = b'{"type":"url_verification","challenge":"3eZbrw1aB"}'
    assert challenge_in(SLACK_HEADERS, asked) == "3eZbrw1aB"
    assert challenge_in(STANDARD_HEADERS, asked) is None
    assert challenge_in(SLACK_HEADERS, b'{"type":"url_verification","challenge":5}') is None
    assert challenge_in(SLACK_HEADERS, b'{"type":"message","challenge":"x","text":"url_verification"}') is None


# The test suite of Twilio's libraries; all of them have the same.
TWILIO_URL = "https://mycompany.com/myapp.php"
TWILIO_QUERY = b"foo=1&bar=2"
TWILIO_FORM = b"CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309"
TWILIO_JSON = b'{"property": "value", "boolean": true}'
TWILIO_HASH = b"&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"


def verify_twilio(signature, body=TWILIO_FORM, query=TWILIO_QUERY, url=TWILIO_URL):
    headers = [(b"x-twilio-signature", signature), (QUERY, query)]
    return verify("twilio", None, headers, body, ["12345"], now=SENT_AT, url=url)


def test_the_official_twilio_vectors_are_accepted():
    form = verify_twilio(b"RSOYDt4T1cUTdK1PDd93/VVr8B8=")
    assert form.external_id.startswith("sha256:")
    payload = verify_twilio(b"a9nBmqA0ju/hNViExpshrM61xv4=", TWILIO_JSON, TWILIO_QUERY + TWILIO_HASH)
    assert payload.external_id == "sha256:" + hashlib.sha256(TWILIO_JSON).hexdigest()


def test_a_twilio_form_that_is_signed_the_same_is_the_same_signal():
    signature = b"RSOYDt4T1cUTdK1PDd93/VVr8B8="
    fields = TWILIO_FORM.split(b"&")
    again = [b"&".join(reversed(fields)), b"&".join([*fields, fields[0]]), TWILIO_FORM.replace(b"Digits", b"%44igits")]
    ids = {verify_twilio(signature, body).external_id for body in [TWILIO_FORM, *again]}
    assert len(ids) == 1


@pytest.mark.parametrize("url", ["https://mycompany.com:443/myapp.php", "https://mycompany.com:8443/myapp.php"])
def test_twilio_may_leave_the_port_out(url):
    assert verify_twilio(b"RSOYDt4T1cUTdK1PDd93/VVr8B8=", url=url)
    with_port = base64.b64encode(hmac.digest(b"12345", b"https://mycompany.com:443/myapp.phpCallSidCA1", "sha1"))
    assert verify_twilio(with_port, b"CallSid=CA1", b"")


def test_a_twilio_body_that_the_signature_does_not_cover_is_refused():
    attempts = [
        (b"a9nBmqA0ju/hNViExpshrM61xv4=", TWILIO_JSON + b" ", TWILIO_QUERY + TWILIO_HASH),
        (b"a9nBmqA0ju/hNViExpshrM61xv4=", b"", TWILIO_QUERY + TWILIO_HASH),
        (b"a9nBmqA0ju/hNViExpshrM61xv4=", TWILIO_JSON, TWILIO_QUERY),
        (b"a9nBmqA0ju/hNViExpshrM61xv4=", TWILIO_JSON, TWILIO_QUERY + TWILIO_HASH + b"&x=1"),
        (b"RSOYDt4T1cUTdK1PDd93/VVr8B8=", TWILIO_FORM + b"&More=1", TWILIO_QUERY),
        (b"RSOYDt4T1cUTdK1PDd93/VVr8B8=", TWILIO_FORM, b"foo=1"),
        (base64.b64encode(hmac.digest(b"12345", TWILIO_URL.encode(), "sha1")), TWILIO_JSON, b""),
    ]
    for signature, body, query in attempts:
        with pytest.raises(SignatureInvalid):
            verify_twilio(signature, body, query)


@pytest.mark.parametrize(
    ("body", "type"),
    [
        (b"MessageSid=SM1&SmsStatus=received&Body=Hi", "message.received"),
        (b"MessageSid=SM1&MessageStatus=delivered&SmsStatus=delivered", "message.delivered"),
        (b"CallSid=CA1&CallStatus=ringing", "call.ringing"),
        (b"EventType=onMessageAdded", "onMessageAdded"),
        (b"StatusCallbackEvent=room-created", "room-created"),
        (b"CallSid=CA1", None),
        (b"EventType=%20", UNKNOWN_TYPE),
    ],
)
def test_a_twilio_form_says_what_happened(body, type):
    text = TWILIO_URL.encode() + b"".join(
        name.encode() + value.encode() for name, value in sorted(parse_qsl(body.decode(), keep_blank_values=True))
    )
    signature = base64.b64encode(hmac.digest(b"12345", text, "sha1"))
    assert verify_twilio(signature, body, b"").type == type


def test_shopify_is_named_by_headers_that_it_does_not_sign():
    body = b'{"id":820982911946154508}'
    headers = [
        (b"x-shopify-hmac-sha256", base64.b64encode(hmac.digest(b"hush hush hush hush", body, "sha256"))),
        (b"x-shopify-webhook-id", b"b54557e4-bdd9-4b37-8a5f-bf7d70bcd043"),
        (b"x-shopify-topic", b"orders/create"),
    ]
    verified = verify("shopify", None, headers, body, ["hush hush hush hush"], now=SENT_AT)
    assert (verified.external_id, verified.type) == ("b54557e4-bdd9-4b37-8a5f-bf7d70bcd043", "orders/create")
