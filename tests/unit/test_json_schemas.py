"""Schemas hold payloads to what they say, refuse with the place, and neither hang, crash nor fetch anything."""

import json
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from portal.errors import InputInvalid
from portal.signals.json_schemas.validation import (
    MAX_FAILURES,
    MAX_MESSAGE_LENGTH,
    MAX_SCHEMA_BYTES,
    compile_schema,
    failures,
    infer_schema,
)
from portal.signals.payloads import parse_payload
from tests.signals import github_examples

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
UINT256 = 2**256 - 1


def passes(schema: dict[str, Any], body: str) -> bool:
    """Whether a body passes, read as the intake reads it."""
    return not failures(compile_schema(schema), parse_payload(body.encode()))


def refused(schema: Any) -> tuple[str, str]:
    """The place and the reason for which there is no such schema."""
    with pytest.raises(InputInvalid) as refusal:
        compile_schema(schema)
    return refusal.value.fields[0].path, refusal.value.fields[0].message


@pytest.mark.parametrize(
    ("schema", "passing", "failing"),
    [
        ({"type": "integer"}, str(UINT256), f"{UINT256}.5"),
        ({"type": "integer"}, "1.0", "1.00000000000000000000000001"),
        ({"type": "integer"}, "1e400", "1e-400"),
        ({"type": "integer"}, "-0", '"1"'),
        ({"type": "number"}, "1e400", "true"),
        ({"maximum": UINT256}, str(UINT256), str(UINT256 + 1)),
        ({"exclusiveMinimum": UINT256}, str(UINT256 + 1), str(UINT256)),
        ({"minimum": 0}, "0", "-1e-400"),
        ({"maximum": 0.1}, "0.1", "0.10000000000000000000000000001"),
        ({"maximum": 1e308}, "1e308", "1e400"),
        ({"const": UINT256}, str(UINT256), str(UINT256 - 1)),
        ({"enum": [UINT256, 0.5]}, str(UINT256), str(UINT256 - 1)),
        ({"enum": [UINT256, 0.5]}, "0.50", "0.5000000000000000000000000000001"),
        ({"const": 1}, "1.0", "true"),
        ({"multipleOf": 0.1}, "0.3", "0.35"),
        ({"multipleOf": 0.01}, "19.99", "19.999"),
        ({"multipleOf": 0.1}, "10000000000000000000000.1", "10000000000000000000000.11"),
        ({"multipleOf": 10**18}, "1e30", str(10**30 + 1)),
        ({"multipleOf": 7}, str(7 * 10**70), str(7 * 10**70 + 1)),
        ({"uniqueItems": True}, f"[{UINT256}, {UINT256 - 1}]", f"[{UINT256}, {UINT256}]"),
        ({"uniqueItems": True}, "[1, true, 1.5]", "[1, 1.0]"),
    ],
)
def test_numbers_are_compared_exactly(schema: dict[str, Any], passing: str, failing: str) -> None:
    assert passes(schema, passing)
    assert not passes(schema, failing)


@pytest.mark.parametrize(
    ("format", "passing", "failing"),
    [
        ("email", "a@example.com", "a"),
        ("date-time", "2026-05-03T09:30:00Z", "2026-13-03T09:30:00Z"),
        ("date", "2024-02-29", "2023-02-29"),
        ("uuid", "0199c3a4-6f2e-7b1d-9c57-2f8e4a1b3c5d", "0199c3a4"),
        ("uri", "https://example.com/a?b", "a b"),
        ("ipv4", "192.0.2.1", "192.0.2.256"),
    ],
)
def test_formats_are_asserted(format: str, passing: str, failing: str) -> None:
    assert passes({"format": format}, json.dumps(passing))
    assert not passes({"format": format}, json.dumps(failing))


def test_the_dialect_is_the_one_that_is_named() -> None:
    items = {"items": [{"type": "string"}], "additionalItems": False}
    assert not passes({"$schema": DRAFT_7, **items}, '["a", 1]')
    assert refused(items)[0] == "/items"
    assert not passes({"prefixItems": [{"type": "string"}], "items": False}, '["a", 1]')
    assert "meta-schema" in refused({"$schema": "https://example.com/own"})[1]
    assert passes({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 5, "exclusiveMaximum": True}, "4.9")


@pytest.mark.parametrize(
    ("schema", "body", "path", "message"),
    [
        ({"type": ["string", "null"]}, "1", "", "This must be of type null or string."),
        ({"required": ["a"]}, "{}", "", "The field a is missing."),
        ({"properties": {"a/b": {"minimum": 5}}}, '{"a/b": 4}', "/a~1b", "This must be at least 5."),
        ({"properties": {"a~": {"items": {"const": "x"}}}}, '{"a~": ["x", 1]}', "/a~0/1", "This must be x."),
        ({"enum": ["a", 1]}, '"b"', "", "This must be one of a or 1."),
        (
            {"properties": {"a": {}}, "additionalProperties": False},
            '{"b": 1}',
            "",
            "The field 'b' is not allowed here.",
        ),
        ({"pattern": "^a$"}, '"b"', "", "This must match the pattern ^a$."),
        ({"format": "email"}, '"b"', "", "This must be of the format email."),
        (
            {"properties": {"a": {"anyOf": [{"type": "null"}, {"properties": {"b": {"type": "string"}}}]}}},
            '{"a": {"b": 1}}',
            "/a",
            "This fits none of the alternatives. The nearest says of /b: This must be of type string.",
        ),
        (
            {"oneOf": [{}, {}]},
            "1",
            "",
            "This fits more than one of the alternatives, and only one is allowed.",
        ),
        (
            {"propertyNames": {"maxLength": 1}},
            '{"ab": 1}',
            "",
            "The name of a field is not allowed: This must have at most 1 characters.",
        ),
    ],
)
def test_a_failure_says_where_and_why(schema: dict[str, Any], body: str, path: str, message: str) -> None:
    assert failures(compile_schema(schema), parse_payload(body.encode())) == [
        {"rule_id": None, "path": path, "message": message}
    ]


def test_the_place_of_a_failure_can_be_stored_whatever_the_names() -> None:
    validator = compile_schema({"additionalProperties": {"additionalProperties": {"type": "string"}}})
    [failure] = failures(validator, {"a\0b": {"n" * 5000: 1}})
    assert failure["path"] == "/a\ufffdb"


def test_failures_are_few_short_and_printable() -> None:
    many = failures(compile_schema({"items": {"type": "string"}}), list(range(1000)))
    assert [failure["path"] for failure in many] == [f"/{index}" for index in range(MAX_FAILURES)]
    for size in (1, 100_000):  # in detail, and by the places alone
        wide = failures(compile_schema({"enum": ["\u202e\x07" + "x" * 1000] * 2}), "y" * size)
        deep = failures(compile_schema({"items": {"type": "null"}}), ["\n\x1b[31m" * 200] * size)
        for failure in wide + deep:
            assert len(str(failure["message"])) <= MAX_MESSAGE_LENGTH
            assert str(failure["message"]).isprintable()


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "int"}, "/type"),
        ({"properties": {"a": {"items": {"minimum": "1"}}}}, "/properties/a/items/minimum"),
        ({"properties": {"a/b": {"required": "x"}}}, "/properties/a~1b/required"),
        ({"allOf": []}, "/allOf"),
        ({"properties": {"a": {"pattern": "("}}}, "/properties/a/pattern"),
        ({"properties": {"a": {"pattern": "(?=a)a"}}}, "/properties/a/pattern"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}, "/$defs/a/$ref"),
        ({"properties": {"a": {"$ref": "other.json"}}}, "/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "http://[/"}}}, "/properties/a/$ref"),
        ({"properties": {"a": {"const": "\0"}}}, "/properties/a/const"),
        ({"$schema": 5}, "/$schema"),
        ({"const": "\ud800"}, ""),
        ({"const": Decimal("0.1")}, ""),
        ({"const": float("nan")}, ""),
        ({"description": "x" * MAX_SCHEMA_BYTES}, ""),
        ({"allOf": [{"pattern": f"^{number}$"} for number in range(51)]}, ""),
    ],
)
def test_a_bad_schema_is_refused_with_its_place(schema: dict[str, Any], path: str) -> None:
    assert refused(schema)[0] == path


def test_a_schema_is_nested_only_so_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"not": deep}
    compile_schema(deep)
    path, message = refused({"not": deep})
    assert path == "/not" * 51
    assert "50 levels" in message
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    assert "50 levels" in refused({"const": endless})[1]


@pytest.fixture
def listening() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that would gladly give out a schema, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "string"}')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_nothing_is_fetched(listening: tuple[str, list[str]]) -> None:
    address, asked = listening
    for target in (f"{address}/schema.json", f"{address}/schema.json#/a", "file:///etc/passwd", "/etc/passwd"):
        for schema in (
            {"$ref": target},
            {"$dynamicRef": target},
            {"properties": {"a": {"allOf": [{"$ref": target}]}}},
            {"$id": target, "$ref": "passwd"},
            {"$id": address, "properties": {"a": {"$ref": "schema.json"}}},
            {"$id": "file:///etc/", "properties": {"a": {"$ref": "passwd"}}},
            {"$schema": target},
            {"$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveRef": target},
            {"$schema": DRAFT_7, "definitions": {"a": {"$ref": target}}, "$ref": "#/definitions/a"},
        ):
            _, message = refused(schema)
            assert "root:" not in message
    # A name is no address: what is in the schema itself is found without asking anybody for it.
    own = {"$id": f"{address}/a", "$defs": {"b": {"$id": "b", "type": "string"}}, "$ref": f"{address}/b"}
    assert passes(own, '"x"')
    assert not passes(own, "1")
    assert asked == []


@pytest.mark.parametrize(
    ("schema", "passing", "failing"),
    [
        ({"$defs": {"a b/%": {"type": "string"}}, "$ref": "#/$defs/a%20b~1%25"}, '"x"', "1"),
        ({"$defs": {"a": {"$anchor": "text", "type": "string"}}, "$ref": "#text"}, '"x"', "1"),
        ({"$id": "urn:example:a", "$defs": {"b": {"type": "string"}}, "$ref": "urn:example:a#/$defs/b"}, '"x"', "1"),
        ({"$schema": DRAFT_7, "definitions": {"a": {"$id": "#a", "type": "string"}}, "$ref": "#a"}, '"x"', "1"),
        (
            {"$dynamicAnchor": "node", "type": "object", "additionalProperties": {"$dynamicRef": "#node"}},
            '{"a": {"b": {}}}',
            '{"a": {"b": 1}}',
        ),
        (
            {"properties": {"id": {"type": "string"}, "$id": {}}, "$defs": {"a": {"id": "x"}}, "$ref": "#/$defs/a"},
            '{"id": "x"}',
            '{"id": 1}',
        ),
        ({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "type": "object"}, "{}", '{"left": 1}'),
    ],
)
def test_what_a_schema_refers_to_within_itself_is_found(schema: dict[str, Any], passing: str, failing: str) -> None:
    assert passes(schema, passing)
    assert not passes(schema, failing)


def within(seconds: float, schema: dict[str, Any], payload: Any) -> list[dict[str, str | None]]:
    """The failures, which must be found in time, whatever the schema multiplies."""
    started = time.process_time()
    found = failures(compile_schema(schema), payload)
    assert time.process_time() - started < seconds
    return found


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", "(x+x+)+y", "^(([a-z])+.)+[A-Z]([a-z])+$", "(.*a.{100}b){3}$"]
)
def test_no_pattern_is_slow(pattern: str) -> None:
    assert within(2, {"pattern": pattern}, "a" * 200_000 + "!")
    assert within(2, {"patternProperties": {pattern: {}}, "additionalProperties": False}, {"a" * 200_000 + "!": 1})


@pytest.mark.parametrize("pattern", ["(a{1000}){1000}", "\\p{L}{1,1000}"])
def test_no_pattern_takes_much_memory(pattern: str) -> None:
    assert refused({"pattern": pattern})[0] == "/pattern"


def doubled(keyword: str, times: int) -> dict[str, Any]:
    """Definitions each of which names the next one twice."""
    definitions: dict[str, Any] = {
        f"a{number}": {keyword: [{"$ref": f"#/$defs/a{number + 1}"}] * 2} for number in range(times)
    }
    return {"$defs": {**definitions, f"a{times}": {"type": "integer"}}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_what_multiplies_by_references_is_refused(keyword: str) -> None:
    assert "checked" in refused(doubled(keyword, 20))[1]
    assert within(1, doubled(keyword, 8), "x")


def test_what_multiplies_by_what_is_left_unevaluated_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(20):
        schema = {"unevaluatedProperties": False, "anyOf": [schema]}
    assert "checked" in refused(schema)[1]


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#"}, {"allOf": [{"not": {"$ref": "#"}}]}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}],
)
def test_a_circle_is_refused(schema: dict[str, Any]) -> None:
    assert "circle" in refused(schema)[1]


def test_what_multiplies_with_each_level_is_checked_as_deep_as_it_can_be() -> None:
    part = {"type": "object", "properties": {"parts": {"items": {"$ref": "#"}}}}
    schema = {"anyOf": [{**part, "required": [name]} for name in ("a", "b", "c")]}

    def nested(levels: int) -> Any:
        made: Any = {"c": 1}
        for _ in range(levels):
            made = {"c": 1, "parts": [made]}
        return made

    assert within(1, schema, nested(5)) == []
    assert within(1, schema, nested(45)) == [
        {
            "rule_id": None,
            "path": "",
            "message": "The schema has too many alternatives for a body of this size or depth to be checked.",
        }
    ]


def test_many_alternatives_for_many_items_end_in_time() -> None:
    schema = {"items": {"anyOf": [{"const": f"v{number}"} for number in range(3000)]}}
    assert within(2, schema, ["v2999"] * 300) == []
    for items in (1, 30, 3000):
        assert within(2, schema, ["x"] * items) != []
    assert within(2, {"items": {"enum": [{"v": number} for number in range(9000)]}}, [{"v": -1}] * 5000) != []


def test_a_large_body_fails_in_time() -> None:
    for schema in ({"items": {"type": "string"}}, {"anyOf": [{"items": {"type": "string"}}, {"type": "null"}]}):
        assert within(2, schema, list(range(300_000))) != []
        places = within(2, schema, list(range(30_000)))
        assert {"/0", "/1"} <= {failure["path"] for failure in places}


def test_what_is_inferred_says_types_and_what_is_always_there() -> None:
    assert infer_schema([{"a": 1, "b": "x"}, {"a": Decimal("0.10000000000000000000001"), "c": [None]}]) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "string"},
            "c": {"type": "array", "items": {"type": "null"}},
        },
        "required": ["a"],
    }


def test_what_is_inferred_from_real_deliveries_passes_them() -> None:
    by_event: dict[str, list[Any]] = {}
    for event, body in github_examples():
        by_event.setdefault(event, []).append(parse_payload(body))
    assert len(by_event) > 30
    for payloads in by_event.values():
        validator = compile_schema(infer_schema(payloads))
        assert all(failures(validator, payload) == [] for payload in payloads)
        assert failures(validator, {}) != []
