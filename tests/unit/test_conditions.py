"""Expressions: what they see, how they fail, and what they cannot do to us."""

import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.errors import InputInvalid
from portal.rules.conditions import (
    ARGUMENT_VARIABLES,
    Facts,
    Subject,
    check_condition,
    compile_condition,
    evaluate_argument,
    evaluate_condition,
    evaluate_subject,
    to_units,
)
from portal.rules.errors import RuleFailed
from portal.signals.payloads import parse_payload
from tests.signals import sponsorship

SIGNAL = {
    "id": "0190a7c0-0000-7000-8000-000000000001",
    "type": "sponsorship",
    "external_id": "72d3162e",
    "received_at": datetime(2026, 5, 3, 12, tzinfo=UTC),
    "source": "GitHub",
}


def facts_of(payload: Any) -> Facts:
    body = json.dumps(payload).encode()
    return Facts(SIGNAL, parse_payload(body), payload_bytes=len(body))


def holds(text: str, payload: Any = None) -> bool:
    return evaluate_condition(facts_of(payload or {}), compile_condition(text))


def argument(text: str, payload: Any = None, facts: Facts | None = None) -> Any:
    return evaluate_argument(facts or facts_of(payload or {}), compile_condition(text, ARGUMENT_VARIABLES))


def reason(text: str, payload: Any = None) -> str:
    with pytest.raises(RuleFailed) as failed:
        holds(text, payload)
    return str(failed.value)


def test_a_condition_reads_the_signal_and_its_payload():
    payload = sponsorship()
    assert holds('signal.type == "sponsorship" && payload.action == "created"', payload)
    assert not holds('payload.action == "cancelled"', payload)
    assert holds("payload.sponsorship.tier.monthly_price_in_dollars >= 5", payload)
    assert holds('signal.received_at > timestamp("2026-01-01T00:00:00Z") && signal.source == "GitHub"')
    assert holds("has(payload.sponsorship) && !has(payload.refund)", payload)


@pytest.mark.parametrize(
    ("text", "payload", "expected"),
    [
        ("payload.sponsorship.tier == 1", {}, "payload has no field `sponsorship`."),
        ("payload.sponsorship.tier == 1", {"sponsorship": {}}, "payload.sponsorship has no field `tier`."),
        ('payload["a"]["b-c"] == 1', {"a": {}}, "payload.a has no field `b-c`."),
        ("has(payload.a.b)", {}, "payload has no field `a`."),
        ("payload.items.exists(x, x.id == 1)", {"items": [{}]}, "There is no field `id`."),
        ("payload.items[3] == 1", {"items": []}, "A list is shorter than the expression expects."),
        ("payload.n / 0 == 1", {"n": 1}, "The expression divides by zero."),
        (
            "payload.n + 1 > 0",
            {"n": 2**63 - 1},
            "A number does not fit into 64 bits; amounts are texts: use units(amount, decimals).",
        ),
        ("payload.n", {"n": 1}, "The condition must be true or false; it is a number."),
        ("payload.n", {"n": "x"}, "The condition must be true or false; it is a text."),
    ],
)
def test_a_failure_has_a_reason_that_says_where(text, payload, expected):
    assert reason(text, payload) == expected


def test_a_type_mismatch_names_the_types():
    assert "string + int" in reason("payload.s + 1 == 2", {"s": "x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("1 +", "line 1, column 4"),
        ("payload.a == ", "not well formed"),
        ("true" + " || true" * 300, "at most 2000"),
        ("sender.login == 'x'", "There is no `sender` here; there are: payload, signal."),
        ("subject.id == 'x'", "There is no `subject` here"),
        ("payload.s.lowerAscii() == 'x'", "There is no function `lowerAscii()`."),
        ("payload.a\0 == 1", "U+0000"),
        ("(" * 900 + "1" + ")" * 900, "not well formed"),
        ("payload.l.all(x, payload.l.exists(y, x == y))", "Only one of"),
        ("payload.l.exists(x, x == 1) || payload.l.exists(x, x == 2)", "Only one of"),
        ("payload.l//\n.all//\n(x, [1].map // b\n (y, y) == [x])", "Only one of"),
        ("payload.l.filter(x, x == payload) == []", "Inside filter() only its own variable `x`"),
        ("payload.l.map(x, [')', payload.l]) == []", "Inside map() only its own variable `x`"),
    ],
)
def test_an_expression_that_cannot_work_is_refused_when_it_is_written(text, expected):
    with pytest.raises(InputInvalid) as refused:
        check_condition(text, path="/condition")
    assert expected in refused.value.detail
    assert refused.value.fields[0].path == "/condition"


def test_one_comprehension_is_allowed():
    payload = {"labels": [{"name": "bug"}, {"name": "paid"}], "n": 2}
    assert holds('payload.labels.exists(label, label.name == "paid")', payload)
    assert holds("payload.n == size(payload.labels.filter(label, has(label.name)))", payload)
    assert argument("payload.labels.map(label, label.name)", payload) == ["bug", "paid"]
    assert holds("payload.labels.all(label, size(label.name) > payload.n)", payload)


def test_a_long_list_is_refused_before_it_can_block_the_worker():
    started = time.thread_time()
    payload = {"items": [{"n": n, "text": "x" * 100} for n in range(1000)]}
    assert holds("payload.items.exists(item, item.n == 999)", payload)
    assert "too large for filter()" in reason("size(payload.items.filter(item, true)) > 0", payload)
    assert "takes 1000 at most" in reason("payload.items.exists(item, item == 0)", {"items": list(range(1001))})
    assert holds("payload.items.size() == 1001", {"items": list(range(1001))})
    assert time.thread_time() - started < 1


def test_integers_beyond_64_bits_stay_exact():
    payload = {"wei": 2**200, "least": -(2**63) - 1, "edge": 2**63 - 1}
    assert argument("payload.wei", payload) == str(2**200)
    assert argument("payload.least", payload) == str(-(2**63) - 1)
    assert argument("payload.edge", payload) == str(2**63 - 1)
    assert argument("units(payload.wei, 0)", payload) == str(2**200)


def test_fractions_are_no_arguments_but_units_are():
    assert argument("units(payload.amount, 18)", {"amount": 19.99}) == "19990000000000000000"
    assert argument('units("1.5", 18)') == "1500000000000000000"
    with pytest.raises(RuleFailed, match="units"):
        argument("payload.amount", {"amount": 19.99})


@given(st.decimals(min_value=0, max_value=10**50, allow_nan=False, allow_infinity=False, places=6), st.integers(6, 20))
def test_units_are_exact(amount, decimals):
    text = format(amount, "f")
    assert int(to_units(text, decimals)) == int(Decimal(text).scaleb(decimals)) if amount < 10**7 else True
    assert to_units(text, decimals) == str(int(text.replace(".", "") + "0" * (decimals - 6)))


@pytest.mark.parametrize(
    "amount",
    [
        "-1",
        "",
        "1,5",
        "1e3",
        " 1",
        "0x10",
        "٣",
        ".5",
        "5.",
        None,
        True,
        [],
        {},
        -1,
        -0.5,
        float("inf"),
        float("nan"),
        1e-20,
        "0.001",
        "1" * 90,
    ],
)
def test_units_refuses_what_it_cannot_give_exactly(amount):
    with pytest.raises(RuleFailed, match=r"units\(\)"):
        to_units(amount, 2)


@pytest.mark.parametrize("decimals", [-1, 78, "2", 2.0, None, True])
def test_units_needs_a_number_of_decimals(decimals):
    with pytest.raises(RuleFailed, match="decimals"):
        to_units("1", decimals)


def test_a_problem_in_units_is_the_reason_and_is_not_printed(capfd):
    assert "'free'" in reason('units(payload.amount, 18) == "1"', {"amount": "free"})
    assert capfd.readouterr() == ("", "")


def test_a_subject_is_read():
    payload = sponsorship()
    text = '{"id": "github:" + payload.sponsorship.sponsor.login, "name": payload.sponsorship.sponsor.login}'
    login = payload["sponsorship"]["sponsor"]["login"]
    subject = evaluate_subject(facts_of(payload), compile_condition(text))
    assert subject == Subject(f"github:{login}", login, None)
    assert evaluate_subject(facts_of({"n": 7}), compile_condition('{"id": payload.n, "email": "a@b.c"}')) == Subject(
        "7", "7", "a@b.c"
    )


@pytest.mark.parametrize(
    "text",
    [
        '"github:x"',
        "{}",
        '{"id": ""}',
        '{"id": null}',
        '{"id": true}',
        '{"id": "a\\u0000"}',
        '{"id": "a", "mail": "b"}',
        '{"id": "a", "name": 1}',
        '{"id": " "}',
    ],
)
def test_a_subject_that_names_nobody_is_a_reason(text):
    with pytest.raises(RuleFailed, match="subject"):
        evaluate_subject(facts_of({}), compile_condition(text))


def test_arguments_see_the_subject():
    facts = facts_of({})
    facts.set_subject(Subject("github:ada", "Ada", None), id="1", address="0x52908400098527886E0F7030069857D2E4169EE7")
    assert argument("subject.address", facts=facts) == "0x52908400098527886E0F7030069857D2E4169EE7"
    assert argument('subject.name + "!"', facts=facts) == "Ada!"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 + 1", "2"), ("true", True), ('b"ab"', "0x6162"), ('["a", 1]', ["a", "1"]), ('{"a": [false]}', {"a": [False]})],
)
def test_arguments_are_json_with_integers_as_text(text, value):
    assert argument(text) == value


@pytest.mark.parametrize("text", ["null", "1.5", 'timestamp("2026-01-01T00:00:00Z")', '"a\\u0000b"', 'duration("1h")'])
def test_a_value_that_no_contract_takes_is_a_reason(text):
    with pytest.raises(RuleFailed):
        argument(text)


PIECES = st.sampled_from(
    [
        "payload",
        "signal",
        ".a",
        ".b",
        "[0]",
        "[",
        "]",
        "(",
        ")",
        " + ",
        " == ",
        " && ",
        "!",
        "-",
        "1",
        "2.5",
        '"x"',
        "'",
        '"',
        "{",
        "}",
        ":",
        ",",
        "?",
        "units(",
        "size(",
        ".map(x, ",
        ".exists(x, ",
        "x",
        "null",
        "true",
        "has(",
        "matches(",
        "0u",
        "\n",
        "//",
        "é",
        " in ",
    ]
)


@given(
    st.lists(PIECES, max_size=15).map("".join) | st.text(max_size=40),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from("ab"), c),
        max_leaves=6,
    ),
)
def test_whatever_is_written_gives_a_value_or_a_sentence(text, payload):
    failure = "none"
    try:
        condition = compile_condition(text)
        facts = Facts(SIGNAL, payload, payload_bytes=100)
        evaluate_condition(facts, condition)
    except RuleFailed as error:
        failure = str(error)
    assert failure
    assert "\0" not in failure


def test_a_slow_expression_is_a_reason(monkeypatch):
    monkeypatch.setattr("portal.rules.conditions.SLOW_SECONDS", 0.0)
    assert "The expression took" in reason("true")
