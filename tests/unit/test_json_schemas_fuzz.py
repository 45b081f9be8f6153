"""Whatever is given as a schema and as a payload, there is an answer, and soon."""

import json
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from portal.errors import InputInvalid
from portal.signals.json_schemas.validation import Validator, compile_schema, failures, infer_schema
from portal.signals.payloads import PayloadUnreadable, parse_payload

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**300), 2**300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", "a", "~/", "#", "#/$defs/a", "1e400"]),
)
NAMES = st.sampled_from(["a", "b", "c", "a/b", "~", ""]) | st.text(max_size=4)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))
REFERENCE = st.sampled_from(["#", *["#/$defs/a", "#/$defs/b"] * 4, "#x", "http://127.0.0.1:9/"])


def subschemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas that are mostly right, and now and then hold anything at all."""
    named, some = st.dictionaries(NAMES, inner, max_size=3), st.lists(inner, min_size=1, max_size=3)
    right: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("properties", "$defs", "dependentSchemas"), named),
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), some),
        **dict.fromkeys(("not", "if", "then", "else", "items", "contains", "additionalProperties"), inner),
        **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems", "propertyNames"), inner),
        **dict.fromkeys(("$ref", "$dynamicRef"), REFERENCE),
        **dict.fromkeys(("$anchor", "$dynamicAnchor"), st.just("x")),
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum"), st.integers() | st.floats(-9, 9)),
        "multipleOf": st.sampled_from([0.1, 1, 7, 10**30]),
        "type": st.sampled_from(["object", "array", "string", "integer", "number", ["null", "boolean"]]),
        "enum": st.lists(JSON, min_size=1, max_size=3),
        "const": JSON,
        "required": st.lists(NAMES, unique=True, max_size=3),
        "pattern": st.sampled_from(["^(a+)+$", "a", "^b?$", "(?!a)", "\\p{L}"]),
        "format": st.sampled_from(["email", "date-time", "uuid", "regex", "unknown"]),
        "uniqueItems": st.booleans(),
    }
    keyword = st.sampled_from(sorted(right)).flatmap(lambda name: st.tuples(st.just(name), right[name]))
    anything = st.tuples(st.sampled_from(sorted(right)), JSON)
    return st.lists(st.one_of(*[keyword] * 15, anything), max_size=4).map(dict)


PARTS = st.recursive(st.booleans() | subschemas(st.booleans()), subschemas, max_leaves=12)
SCHEMAS = st.builds(
    lambda part, a, b: {**(part if isinstance(part, dict) else {}), "$defs": {"a": a, "b": b}}, PARTS, PARTS, PARTS
)
FUZZING = settings(deadline=3000, suppress_health_check=list(HealthCheck), database=None, derandomize=True)


def compiled(schema: dict[str, Any]) -> Validator | None:
    """The schema, or None where it is refused as it should be."""
    try:
        return compile_schema(schema)
    except InputInvalid as error:
        refusal = error
    assert len(refusal.fields) == 1
    assert refusal.detail.isprintable()
    return None


@settings(FUZZING, max_examples=500)
@given(SCHEMAS, st.lists(JSON, max_size=5))
def test_whatever_the_schema_and_the_payload_it_ends_well(schema: dict[str, Any], values: list[Any]) -> None:
    validator = compiled(schema)
    for value in values if validator else []:
        try:
            payload = parse_payload(json.dumps(value).encode())
        except PayloadUnreadable:
            continue
        assert validator
        found = failures(validator, payload)
        assert (found == []) == validator.compiled.is_valid(payload)
        for failure in found:
            path = str(failure["path"])
            assert path == "" or path.startswith("/")
            assert failure["message"]
            assert str(failure["message"]).isprintable()


@settings(FUZZING, max_examples=200)
@given(JSON)
def test_whatever_is_called_a_schema_is_one_or_is_refused(document: Any) -> None:
    compiled(document if isinstance(document, dict) else {"a": document})


@settings(FUZZING, max_examples=200)
@given(st.lists(JSON, min_size=1, max_size=6))
def test_whatever_arrived_passes_what_is_inferred_from_it(values: list[Any]) -> None:
    assume("\\u0000" not in json.dumps(values))
    payloads = [parse_payload(json.dumps(value).encode()) for value in values]
    validator = compile_schema(infer_schema(payloads))
    assert [failures(validator, payload) for payload in payloads] == [[]] * len(payloads)
