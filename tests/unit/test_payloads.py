"""Bodies become JSON exactly and in one way only, or not at all."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.signals import payloads
from portal.signals.payloads import MAX_DEPTH, PayloadUnreadable, parse_payload

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children, max_size=5)
    ),
    max_leaves=20,
)


@given(JSON)
def test_json_comes_out_as_it_went_in(value):
    assert parse_payload(json.dumps(value).encode()) == value


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_read_or_refused_with_a_sentence(body):
    refusal = "."
    try:
        parse_payload(body)
    except PayloadUnreadable as error:
        refusal = str(error)
    assert refusal.endswith((".", '".'))


@given(st.integers(min_value=-(2**300), max_value=2**300))
def test_integers_keep_every_digit(number):
    assert parse_payload(str(number).encode()) == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("1.50", 1.5),
        ("9007199254740993.0", Decimal("9007199254740993.0")),
        ("0.1000000000000000055511151231257827", Decimal("0.1000000000000000055511151231257827")),
        ("1e400", Decimal("1e400")),
    ],
)
def test_a_fraction_is_never_rounded(text, value):
    assert parse_payload(text.encode()) == value
    assert type(parse_payload(text.encode())) is type(value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'[{"b":{"a":1,"a":2}}]',
        b"Infinity",
        b"-NaN",
        b'"\\udc00"',
        b'{"\\ud800":1}',
        b"\xef\xbb\xbf{}",
        b"1e99999999999999999999",
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_not_read(body):
    with pytest.raises(PayloadUnreadable):
        parse_payload(body)


def test_nesting_ends_at_a_hundred_levels():
    assert parse_payload(b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH)
    with pytest.raises(PayloadUnreadable, match="100 levels"):
        parse_payload(b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1))


def test_a_whole_emoji_is_fine():
    assert parse_payload(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"MessageSid=SM1&Body=a+b%26c%C3%BC&Empty=", {"MessageSid": "SM1", "Body": "a b&cü", "Empty": ""}),
        (b"a%5Bb%5D=1&c[d]=2", {"a[b]": "1", "c[d]": "2"}),
        (b"payload=%7B%22n%22%3A12345678901234567890%7D", {"n": 12345678901234567890}),
        (b"payload=text", {"payload": "text"}),
        (b"payload=%7B%7D&more=1", {"payload": "{}", "more": "1"}),
    ],
)
def test_a_form_is_an_object_of_its_fields(body, value):
    assert parse_payload(body) == value


@pytest.mark.parametrize(
    "body", [b"a=1&a=2", b"a=1&b", b"a=%ff", b"a", b"payload=%7B%22a%22%3A1%2C%22a%22%3A2%7D", b"a=" + b"&b=" * 1001]
)
def test_a_form_that_two_readers_could_read_in_two_ways_is_not_read(body):
    with pytest.raises(PayloadUnreadable):
        parse_payload(body)


@given(JSON)
def test_json_without_spaces_is_read_quickly_and_the_same(value):
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    quick = payloads._read_canonical(body)
    if quick is not payloads.NOT_CANONICAL:
        assert repr(quick) == repr(payloads._read_carefully(body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":9007199254740993.0}',
        b'{"a":0.1000000000000000055}',
        b'{"a":-0}',
        b'{"a":1.50}',
        b'{"a": 1}',
        b'["\\ud800"]',
        b"[" * 101 + b"]" * 101,
    ],
)
def test_what_would_come_out_otherwise_is_looked_at_carefully(body):
    assert payloads._read_canonical(body) is payloads.NOT_CANONICAL


def test_a_body_as_a_shop_sends_it_needs_no_careful_look():
    body = '{"total":"12.50","price":19.95,"wei":115792089237316195423570985008687907853,"name":"Zoë","lines":[{}]}'
    assert payloads._read_canonical(body.encode()) is not payloads.NOT_CANONICAL
