"""What holds for every scheme: the right delivery is accepted, and nothing else is, whatever strangers send."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from portal.errors import InputInvalid
from portal.signals.errors import HeadersInvalid, SignatureInvalid
from portal.signals.payloads import read_form
from portal.signals.schemas import SchemeName
from portal.signals.schemes import SCHEMES, TYPE, check_headers, claimed_id, headers_of, likely_scheme
from tests.schemes import CASES, SENT, URL, Case
from tests.signals import Headers

SIGNED_TOO = (b"webhook-id", b"svix-id", b"x-event-id", b"x-event-type", b"x-nonce")
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
timed_case = pytest.mark.parametrize("case", [case for case in CASES if case.timestamp], ids=lambda case: case.name)


def replaced(headers: Headers, name: bytes, value: bytes) -> Headers:
    return [(key, value if key == name else old) for key, old in headers]


def flip(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(SENT + seconds, UTC)


def test_there_is_a_sender_of_every_scheme() -> None:
    assert {case.scheme for case in CASES} == set(SCHEMES)
    assert set(SchemeName.__args__) >= set(SCHEMES)  # type: ignore[attr-defined]


@each_case
def test_what_the_sender_signs_is_accepted(case: Case) -> None:
    headers, body = case.delivery("evt_7", "order.paid")
    check_headers(headers)
    verified = case.verify(headers, body, now=at(2))
    if case.has_id:
        assert verified.external_id == "evt_7"
    else:
        fields = "Bodya b&cüEmptyMessageSidevt_7StatusCallbackEventorder.paid".encode()
        signed = fields if case.scheme == "twilio" else body
        assert verified.external_id == "sha256:" + hashlib.sha256(signed).hexdigest()
    assert verified.type in ("order.paid", None)
    if verified.type is None:
        assert json.loads(body)["type"] == "order.paid", "then it is the type in the body"
    assert verified.skew_ms == (2000 if case.timestamp else None)


@each_case
def test_each_of_several_secrets_is_accepted_and_named(case: Case) -> None:
    headers, body = case.delivery()
    assert case.verify(headers, body, secrets=[case.secret, case.other_secret]).secret_index == 0
    assert case.verify(headers, body, secrets=[case.other_secret, case.secret]).secret_index == 1


@each_case
def test_another_secret_none_or_a_broken_one_is_refused(case: Case) -> None:
    headers, body = case.delivery()
    for secrets in ([case.other_secret], [], ["whsec_not base64"], [""]):
        with pytest.raises(SignatureInvalid):
            case.verify(headers, body, secrets=secrets)


@each_case
def test_a_body_written_anew_with_the_same_meaning_is_refused(case: Case) -> None:
    headers, body = case.delivery()
    changed = body + b" " if body.startswith(b"{") else body.replace(b"+", b"%20")
    if case.signs_body and case.scheme != "twilio":
        with pytest.raises(SignatureInvalid):
            case.verify(headers, changed)
    else:
        # A token vouches for no body, and Twilio signs the fields of a form, not how they are written.
        assert case.verify(headers, changed)


@each_case
@given(st.data())
def test_no_bit_of_what_is_signed_can_be_flipped(case: Case, data: st.DataObject) -> None:
    headers, body = case.delivery()
    signed = [case.signature, *([case.timestamp] if case.timestamp else [])]
    signed += [
        name
        for name in (b"webhook-id", b"svix-id", b"x-event-id", b"x-event-type", b"x-nonce")
        if name in dict(headers)
    ]
    part = data.draw(st.sampled_from([*signed, *([b""] if case.signs_body else [])]))
    bit = data.draw(st.integers(min_value=0, max_value=10**6))
    if part:
        headers = replaced(headers, part, flip(dict(headers)[part], bit))
    else:
        body = flip(body, bit)
        assume(case.scheme != "twilio" or read_form(body) != read_form(case.delivery()[1]))
    with pytest.raises(SignatureInvalid):
        case.verify(headers, body)


@each_case
def test_every_header_that_proves_something_is_needed(case: Case) -> None:
    headers, body = case.delivery()
    for name in {case.signature, case.timestamp or case.signature}:
        for broken in ([pair for pair in headers if pair[0] != name], replaced(headers, name, b"")):
            with pytest.raises(SignatureInvalid) as refused:
                case.verify(broken, body)
            assert name.decode() in refused.value.reason


@each_case
def test_what_is_needed_to_verify_it_again_is_known(case: Case) -> None:
    headers, body = case.delivery()
    read = headers_of(case.scheme, case.read_settings())
    assert case.verify([pair for pair in headers if pair[0] in read], body) == case.verify(headers, body)


@timed_case
@pytest.mark.parametrize(
    ("seconds", "accepted"), [(300, True), (301, False), (-300, True), (-301, False), (300.5, False)]
)
def test_clocks_may_differ_by_five_minutes_either_way(case: Case, seconds: float, accepted: bool) -> None:
    headers, body = case.delivery()
    if accepted:
        assert case.verify(headers, body, now=at(seconds)).skew_ms == seconds * 1000
    else:
        with pytest.raises(SignatureInvalid) as refused:
            case.verify(headers, body, now=at(seconds))
        assert ("too old" if seconds > 0 else "far in the future") in refused.value.reason


@each_case
def test_without_a_timestamp_the_clock_does_not_matter(case: Case) -> None:
    if not case.timestamp:
        headers, body = case.delivery()
        assert case.verify(headers, body, now=at(10**8)).skew_ms is None


JUNK = [b"", b" ", b"=", b",", b"v1,", b"\xff\xfe", "ü".encode(), b"x" * 1_000_000, b"v1=a," * 9999, b"v1,a " * 9999]


@each_case
@pytest.mark.parametrize("junk", JUNK)
def test_any_other_signature_is_refused(case: Case, junk: bytes) -> None:
    headers, body = case.delivery()
    good = dict(headers)[case.signature]
    for value in (junk, good + b"0", good[:-1], good.upper()):
        with pytest.raises(SignatureInvalid):
            case.verify(replaced(headers, case.signature, value), body)


@each_case
def test_a_header_that_matters_may_not_be_there_twice(case: Case) -> None:
    headers, body = case.delivery()
    for name in headers_of(case.scheme, case.read_settings()) & set(dict(headers)):
        doubled = [*headers, (name, dict(headers)[name])]
        refusals = []
        for check in (partial(check_headers, doubled), partial(case.verify, doubled, body)):
            with contextlib.suppress(HeadersInvalid):
                check()
                refusals.append(check)
        assert len(refusals) < 2, "either before the source is known or after"


@each_case
@pytest.mark.parametrize("body", [b"\xff\x00\xfe", b"", b"null", b'{"a":1,"a":2}', b"NaN", b"[" * 5000, b"1" * 5000])
def test_a_body_that_cannot_be_read_is_authentic_all_the_same(case: Case, body: bytes) -> None:
    if case.any_body:
        verified = case.verify(case.sign(body, id="evt_7"), body)
        in_header = any(value == b"evt_7" for _, value in case.sign(body, id="evt_7"))
        assert verified.external_id == ("evt_7" if in_header else "sha256:" + hashlib.sha256(body).hexdigest())


NAMES = st.sampled_from(sorted({name for case in CASES for name, _ in case.delivery()[0]})) | st.binary(max_size=20)
VALUES = st.binary(max_size=80) | st.sampled_from([b"v1,", b"t=1614265330,v1=", b"1614265330", b"sha256=", b"Basic "])


@each_case
@given(headers=st.lists(st.tuples(NAMES, VALUES)), body=st.binary(max_size=80))
def test_whatever_strangers_send_gets_a_refusal_that_we_can_explain(case: Case, headers: Headers, body: bytes) -> None:
    assert SCHEMES[likely_scheme(headers)].new_secret
    with contextlib.suppress(HeadersInvalid):
        check_headers(headers)
    assert claimed_id(headers) is None or len(claimed_id(headers) or "") <= 256
    with pytest.raises(SignatureInvalid):
        case.verify(headers, body)


@each_case
@given(changes=st.lists(st.tuples(NAMES, VALUES), max_size=3), body=st.binary(max_size=80))
def test_whatever_an_authentic_sender_signs_is_accepted_or_refused_with_a_reason(
    case: Case, changes: Headers, body: bytes
) -> None:
    if case.scheme == "twilio":
        body = body.hex().encode() + b"=1"
    headers = [pair for pair in case.sign(body) if pair[0] not in dict(changes)] + changes
    with contextlib.suppress(SignatureInvalid, HeadersInvalid):
        verified = case.verify(headers, body)
        assert 0 < len(verified.external_id) <= 256
        assert verified.type is None or TYPE.fullmatch(verified.type)


@each_case
def test_secrets_are_made_or_asked_for(case: Case) -> None:
    scheme, settings = SCHEMES[case.scheme], case.read_settings()
    assert scheme.check_secret(case.secret, settings) == case.secret
    assert scheme.is_public_key(case.secret) == (case.key != case.secret)
    if scheme.new_secret:
        made = scheme.new_secret(settings)
        assert scheme.check_secret(made, settings) == made != scheme.new_secret(settings)
        assert not scheme.is_public_key(made)
    for weak in ("", "short", "x" * 2000, "sixteen chars\nand", "\0" * 20):
        with pytest.raises(InputInvalid) as refused:
            scheme.check_secret(weak, settings)
        assert refused.value.fields[0].path == "/secret"


@each_case
def test_it_is_known_whether_a_captured_delivery_grows_old(case: Case) -> None:
    assert SCHEMES[case.scheme].signs_time(case.read_settings()) == (case.timestamp is not None)


def test_the_address_is_the_configured_one_whatever_the_host_header_says() -> None:
    case = next(case for case in CASES if case.scheme == "twilio")
    headers, body = case.delivery()
    assert case.verify([(b"host", b"evil.example"), *headers], body)
    assert URL.startswith("https://portal.example.org")
