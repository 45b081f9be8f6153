"""The digest that approvals bind to: exact, recomputable by others, and different for every different call."""

import hashlib
import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.actions.digest import CanonicalCall, canonical_bytes, digest_of, equals, fingerprint

ADA = "0x52908400098527886E0F7030069857D2E4169EE7"
TOKEN = "0x8617E340B3D01FA5F11F306F4090FD50E238070D"
SIGNER = "0xde709f2102306220921060314715629080e2fb77"

MINT = CanonicalCall(
    organization_id=uuid.UUID("0193579e-0000-7000-8000-000000000001"),
    chain_id=31337,
    to=TOKEN,
    function="mint(address,uint256)",
    arguments=[
        {"name": "to", "type": "address", "value": ADA},
        {"name": "amount", "type": "uint256", "value": "50000000000000000000"},
    ],
    calldata=bytes.fromhex("40c10f19"),
    value_wei=0,
    policy_version_id=uuid.UUID("0193579e-0000-7000-8000-000000000002"),
    policy_version_number=3,
    signer=SIGNER,
)

WRITTEN_OUT = (
    '{"arguments":[{"name":"to","type":"address","value":"0x52908400098527886E0F7030069857D2E4169EE7"},'
    '{"name":"amount","type":"uint256","value":"50000000000000000000"}],"calldata":"0x40c10f19","chain_id":"31337",'
    '"function":"mint(address,uint256)","organization_id":"0193579e-0000-7000-8000-000000000001",'
    '"policy":{"number":"3","version_id":"0193579e-0000-7000-8000-000000000002"},'
    '"signer":"0xde709f2102306220921060314715629080e2fb77","to":"0x8617E340B3D01FA5F11F306F4090FD50E238070D",'
    '"value_wei":"0","version":"1"}'
)


def test_the_bytes_are_those_that_the_docstring_promises() -> None:
    assert canonical_bytes(MINT).decode() == WRITTEN_OUT
    assert digest_of(MINT) == hashlib.sha256(WRITTEN_OUT.encode()).digest()


def test_a_deployment_has_a_null_target() -> None:
    assert json.loads(canonical_bytes(msgspec.structs.replace(MINT, to=None)))["to"] is None


def test_text_is_utf8_and_only_what_json_must_escape_is_escaped() -> None:
    call = msgspec.structs.replace(MINT, arguments=[{"name": "note", "type": "string", "value": 'é "\\\n\x01/'}])
    assert '"value":"é \\"\\\\\\n\\u0001/"'.encode() in canonical_bytes(call)


def test_names_are_sorted_as_rfc_8785_says_by_their_utf_16_code_units() -> None:
    names = ["\ufb33", "\N{GRINNING FACE}", "\N{EURO SIGN}", "1", "\N{LATIN SMALL LETTER O WITH DIAERESIS}"]
    call = msgspec.structs.replace(MINT, arguments=[{"name": "a", "type": "tuple", "value": dict.fromkeys(names, "x")}])
    value = json.loads(canonical_bytes(call))["arguments"][0]["value"]
    assert list(value) == ["1", "\xf6", "\u20ac", "\U0001f600", "\ufb33"], "the example of its section 3.2.3"


def test_an_integer_and_its_decimal_string_are_the_same_call() -> None:
    as_integer = [{"name": "amount", "type": "uint256", "value": 2**255}]
    as_text = [{"name": "amount", "type": "uint256", "value": str(2**255)}]
    assert digest_of(msgspec.structs.replace(MINT, arguments=as_integer)) == digest_of(
        msgspec.structs.replace(MINT, arguments=as_text)
    )


def test_a_boolean_is_not_the_integer_one() -> None:
    flag = [{"name": "on", "type": "bool", "value": True}]
    number = [{"name": "on", "type": "bool", "value": 1}]
    assert digest_of(msgspec.structs.replace(MINT, arguments=flag)) != digest_of(
        msgspec.structs.replace(MINT, arguments=number)
    )


def test_a_float_is_refused_since_it_has_no_exact_form() -> None:
    with pytest.raises(TypeError, match="float"):
        digest_of(msgspec.structs.replace(MINT, arguments=[{"name": "a", "type": "uint256", "value": 1.0}]))


values = st.recursive(
    st.text() | st.booleans() | st.integers().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
calls = st.builds(
    CanonicalCall,
    organization_id=st.uuids(),
    chain_id=st.integers(1, 2**53),
    to=st.none() | st.sampled_from([ADA, TOKEN]),
    function=st.sampled_from(["mint(address,uint256)", "burn(uint256)", "constructor()"]),
    arguments=st.lists(
        st.fixed_dictionaries({"name": st.text(max_size=5), "type": st.sampled_from(["string"]), "value": values}),
        max_size=3,
    ),
    calldata=st.binary(max_size=40),
    value_wei=st.integers(0, 2**256 - 1),
    policy_version_id=st.uuids(),
    policy_version_number=st.integers(1, 1000),
    signer=st.sampled_from([SIGNER, ADA]),
)


@given(calls, calls, st.sampled_from(CanonicalCall.__struct_fields__))
@settings(max_examples=300, deadline=None)
def test_changing_any_field_changes_the_digest(call: CanonicalCall, other: CanonicalCall, field: str) -> None:
    new: Any = getattr(other, field)
    changed = msgspec.structs.replace(call, **{field: new})
    assert (digest_of(changed) == digest_of(call)) == (changed == call)


@given(calls)
@settings(deadline=None)
def test_what_the_database_gives_back_has_the_same_digest(call: CanonicalCall) -> None:
    # JSONB reorders keys; here the keys come back in another order, too.
    stored = json.loads(json.dumps(call.arguments, sort_keys=True))
    reordered = [dict(reversed(list(argument.items()))) for argument in stored]
    assert digest_of(msgspec.structs.replace(call, arguments=reordered)) == digest_of(call)


def test_a_digest_is_compared_whatever_its_case_and_prefix() -> None:
    digest = digest_of(MINT)
    assert equals(digest, digest.hex())
    assert equals(digest, "0x" + digest.hex().upper())


@pytest.mark.parametrize("given", ["", "0x", digest_of(MINT).hex()[:-1], digest_of(MINT).hex() + "0", "é", "\ud800"])
def test_anything_else_is_not_the_digest(given: str) -> None:
    assert not equals(digest_of(MINT), given)


def test_the_fingerprint_is_the_first_eight_bytes_in_groups_of_four_digits() -> None:
    assert fingerprint(bytes.fromhex("a1b2c3d4e5f60718" + "00" * 24)) == "a1b2 c3d4 e5f6 0718"
