"""What of a payload expressions are given: never less than they read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.rules.conditions import Facts, compile_condition
from portal.rules.errors import RuleFailed
from portal.rules.fields import fields_read, pick
from tests.signals import sponsorship


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("true", {}),
        ('signal.type == "push"', {}),
        ('payload.action == "created"', {"action": None}),
        ('payload["action"] == "x" && payload[\'b-c\'].d > 1', {"action": None, "b-c": {"d": None}}),
        ("payload.a.b == 1 && payload.a.c == 2", {"a": {"b": None, "c": None}}),
        ("payload.a.b == 1 && payload.a == {}", {"a": None}),
        ("payload.a == {} && payload.a.b == 1", {"a": None}),
        ("has(payload.a.b) && payload.list[0].x == 1", {"a": {"b": None}, "list": None}),
        ("payload.list.exists(x, x.y == 1)", {"list": None}),
        ("payload.list.size() > 2 && payload.text.contains('payload.b')", {"list": None, "text": None, "b": None}),
        ("payload.list.size // why\n () > 2", {"list": None}),
        ("payload['it\\'s'].a == 1", None),
        ("payload[signal.type] == 1", None),
        ("payload.size() > 1", None),
        ("'x' in payload", None),
        ("payload .a == 1", None),
        ("payload == {}", None),
        ("payload.a == 1 && size(payload) > 1", None),
    ],
)
def test_what_an_expression_reads(text, wanted):
    assert fields_read([text]) == wanted


def test_what_several_read_is_what_any_of_them_reads():
    assert fields_read(["payload.a.b == 1", "payload.c", "payload.a.d"]) == {"a": {"b": None, "d": None}, "c": None}
    assert fields_read(["payload.a == 1", "size(payload) == 1"]) is None


def test_only_what_is_wanted_is_picked():
    payload = {"a": {"b": 1, "z": 2}, "list": [{"x": 1, "y": 2}], "z": 3}
    picked = pick(payload, {"a": {"b": None, "missing": None}, "list": {"x": None}, "none": None}, lambda value: value)
    assert picked == {"a": {"b": 1}, "list": [{"x": 1, "y": 2}]}
    assert pick([1], {"a": None}, lambda value: value) == [1]


NAMES = st.sampled_from(["a", "b", "size", "payload"])
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "b"])
PAYLOADS = st.recursive(
    LEAVES, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(NAMES, inside), max_leaves=8
)
STEPS = st.sampled_from([".a", ".b", '["a"]', "['b']", ".size", "[0]", "[signal.type]", ".size()", " .a"])
PATHS = st.lists(STEPS, max_size=3).map(lambda steps: "payload" + "".join(steps))
EXPRESSIONS = st.one_of(
    PATHS,
    PATHS.map(lambda path: f"type({path}) == type(1)"),
    st.tuples(PATHS, PATHS).map(lambda pair: f"{pair[0]} == {pair[1]}"),
    PATHS.map(lambda path: f"size({path}) > 1"),
    PATHS.map(lambda path: f"'a' in {path}"),
    PATHS.map(lambda path: f"{path}.exists(payload, payload == 1)"),
    PATHS.filter(lambda path: path.endswith((".a", ".b", ".size")) and path.count(".") > 1).map("has({})".format),
)


def outcome(text: str, payload: Any, wanted: Any) -> Any:
    try:
        facts = Facts({"type": "a"}, payload, payload_bytes=10, wanted=wanted)
        value = facts.evaluate(compile_condition(text))
    except RuleFailed as failure:
        return "failed", str(failure)
    return type(value), value


@given(PAYLOADS, st.lists(EXPRESSIONS, min_size=1, max_size=3))
def test_an_expression_comes_to_the_same_with_what_it_reads_as_with_everything(payload, texts):
    wanted = fields_read(texts)
    for text in texts:
        assert outcome(text, payload, wanted) == outcome(text, payload, None)


def test_the_quickstarts_rule_reads_a_little_of_a_long_payload():
    wanted = fields_read(['payload.action == "created"', "payload.sponsorship.sponsor.login"])
    assert pick(sponsorship(), wanted, lambda value: value) == {
        "action": "created",
        "sponsorship": {"sponsor": {"login": "monalisa"}},
    }
