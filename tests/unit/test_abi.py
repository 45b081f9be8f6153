"""Calls to bytes and back: what is not exactly right is refused with its place, the rest survives the round trip."""

import json
import re
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.abi import (
    MAX_REASON,
    PLAIN_ADDRESS,
    RECEIVE,
    decode_call,
    decode_revert,
    elements_by_selector,
    encode_call,
    encode_constructor,
    function_inputs,
    functions,
    parse_abi,
    signature,
)
from portal.errors import InputInvalid

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


def function_of(*types: str, name: str = "f", **more: Any) -> list[dict[str, Any]]:
    inputs = [{"name": f"a{place}", "type": kind} for place, kind in enumerate(types)]
    return [{"type": "function", "name": name, "inputs": inputs, "outputs": [], **more}]


MINT = [
    {
        "type": "function",
        "name": "mint",
        "stateMutability": "nonpayable",
        "inputs": [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}],
    },
    {"type": "function", "name": "name", "stateMutability": "view", "inputs": []},
    {"type": "function", "name": "deposit", "stateMutability": "payable", "inputs": [{"name": "", "type": "bool"}]},
    {
        "type": "error",
        "name": "TooMuch",
        "inputs": [{"name": "asked", "type": "uint256"}, {"name": "by", "type": "address"}],
    },
]
ORDER = {
    "name": "order",
    "type": "tuple[]",
    "components": [{"name": "id", "type": "uint64"}, {"name": "tag", "type": "string"}],
}
ORDERS = [{"type": "function", "name": "fill", "inputs": [ORDER]}]


def refused(abi: Any, function: str, values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InputInvalid) as caught:
        encode_call(abi, function, values)
    return {field.path: field.message for field in caught.value.fields}


def test_mint_is_encoded_as_every_other_tool_does() -> None:
    call = encode_call(MINT, "mint(address,uint256)", {"to": ADDRESS, "amount": "5"})
    assert call.calldata.hex() == "40c10f19" + "00" * 12 + ADDRESS[2:].lower() + f"{5:064x}"
    assert call.arguments == [
        {"name": "to", "type": "address", "value": ADDRESS},
        {"name": "amount", "type": "uint256", "value": "5"},
    ]


def test_every_wrong_argument_is_named() -> None:
    problems = refused(MINT, "mint(address,uint256)", {"amount": 1.5, "memo": "x"})
    assert set(problems) == {"/arguments/to", "/arguments/amount", "/arguments/memo"}
    assert "missing" in problems["/arguments/to"]
    assert "whole number" in problems["/arguments/amount"]


def test_unknown_function_names_those_that_exist() -> None:
    problems = refused(MINT, "burn(uint256)", {})
    assert "mint(address,uint256)" in problems["/function"]


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("uint8", 0, 255), ("uint256", 0, 2**256 - 1), ("int8", -128, 127), ("int256", -(2**255), 2**255 - 1)],
)
def test_integers_to_the_exact_edge(kind: str, least: int, most: int) -> None:
    abi, call = function_of(kind), f"f({kind})"
    for value in (least, most, str(least), str(most)):
        assert encode_call(abi, call, {"a0": value}).arguments[0]["value"] == str(value)
    for value in (least - 1, most + 1, str(least - 1), str(most + 1)):
        assert f"between {least} and {most}" in refused(abi, call, {"a0": value})["/arguments/a0"]


@pytest.mark.parametrize(
    "value", [True, None, 1.0, 1e30, "", " 1", "1.0", "0x10", "1e3", "٣", "-0", "007", "9" * 5000, [1], {}]
)
def test_what_is_not_an_integer(value: Any) -> None:
    assert "whole number" in refused(function_of("uint256"), "f(uint256)", {"a0": value})["/arguments/a0"]


def test_address_with_a_wrong_digit_is_refused_by_its_checksum() -> None:
    wrong = ADDRESS.replace("5aAeb6", "5aAeb7")
    assert "EIP-55" in refused(function_of("address"), "f(address)", {"a0": wrong})["/arguments/a0"]


@pytest.mark.parametrize("value", ["", "0x12", ADDRESS[2:], ADDRESS + "00", "alice.eth", 0, None, ADDRESS + "\n"])
def test_what_is_not_an_address(value: Any) -> None:
    assert "address" in refused(function_of("address"), "f(address)", {"a0": value})["/arguments/a0"]


def test_address_without_a_checksum_is_written_with_one() -> None:
    assert encode_call(function_of("address"), "f(address)", {"a0": ADDRESS.lower()}).arguments[0]["value"] == ADDRESS


@pytest.mark.parametrize("value", [0, 1, "yes", None, [], "True"])
def test_what_is_not_a_bool(value: Any) -> None:
    assert "true or false" in refused(function_of("bool"), "f(bool)", {"a0": value})["/arguments/a0"]


@pytest.mark.parametrize(
    ("kind", "value"), [("bytes", "0x1"), ("bytes", "12"), ("bytes32", "0x12"), ("bytes4", b"1234"), ("bytes", 5)]
)
def test_what_is_not_bytes(kind: str, value: Any) -> None:
    assert "hex digits" in refused(function_of(kind), f"f({kind})", {"a0": value})["/arguments/a0"]


@pytest.mark.parametrize("value", [5, None, "half \ud800", "nul \0", ["a"]])
def test_what_is_not_a_text(value: Any) -> None:
    assert "/arguments/a0" in refused(function_of("string"), "f(string)", {"a0": value})


def test_text_longer_than_the_contract_takes() -> None:
    abi = [{"type": "function", "name": "f", "inputs": [{"name": "uri", "type": "string", "maxLength": 4}]}]
    assert encode_call(abi, "f(string)", {"uri": "éé"}).arguments[0]["value"] == "éé"
    assert "at most 4 bytes" in refused(abi, "f(string)", {"uri": "ééé"})["/arguments/uri"]


def test_the_place_inside_arrays_and_tuples_is_named() -> None:
    call = "fill((uint64,string)[])"
    assert "/arguments/order/1/id" in refused(ORDERS, call, {"order": [{"id": 1, "tag": ""}, {"id": -1, "tag": ""}]})
    assert "exactly: id, tag" in refused(ORDERS, call, {"order": [{"id": 1}]})["/arguments/order/0"]
    assert "3 elements" in refused(function_of("uint8[3]"), "f(uint8[3])", {"a0": [1, 2]})["/arguments/a0"]
    assert "array" in refused(function_of("uint8[]"), "f(uint8[])", {"a0": "1,2"})["/arguments/a0"]


def test_a_call_that_no_transaction_can_hold() -> None:
    assert "/arguments" in refused(function_of("string"), "f(string)", {"a0": "x" * 100_001})
    assert "/arguments/a0" in refused(function_of("uint8[]"), "f(uint8[])", {"a0": [1] * 5000})


def test_names_with_slashes_are_escaped_in_the_pointer() -> None:
    assert "/arguments/a~1b~0" in refused(function_of(), "f()", {"a/b~": 1})


integers = st.integers(0, 2**256 - 1).map(str)
addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "uint256": integers,
    "uint8": st.integers(0, 255).map(str),
    "int128": st.integers(-(2**127), 2**127 - 1).map(str),
    "address": addresses,
    "bool": st.booleans(),
    "string": texts,
    "bytes": st.binary(max_size=70).map(lambda raw: "0x" + raw.hex()),
    "bytes32": st.binary(min_size=32, max_size=32).map(lambda raw: "0x" + raw.hex()),
    "uint256[]": st.lists(integers, max_size=4),
    "string[2]": st.lists(texts, min_size=2, max_size=2),
    "address[][2]": st.lists(st.lists(addresses, max_size=3), min_size=2, max_size=2),
}


@given(
    st.lists(st.sampled_from(sorted(VALUES)), max_size=5).flatmap(
        lambda kinds: st.tuples(st.just(kinds), st.tuples(*(VALUES[kind] for kind in kinds)))
    )
)
def test_every_call_survives_the_round_trip(case: tuple[list[str], tuple[Any, ...]]) -> None:
    kinds, values = case
    abi = function_of(*kinds)
    call = encode_call(abi, signature(abi[0]), {f"a{place}": value for place, value in enumerate(values)})
    assert [argument["value"] for argument in call.arguments] == list(values)
    assert decode_call(elements_by_selector(abi), call.calldata) == call


@given(st.lists(st.fixed_dictionaries({"id": st.integers(0, 2**64 - 1).map(str), "tag": texts}), max_size=4))
def test_tuples_survive_the_round_trip(orders: list[dict[str, str]]) -> None:
    call = encode_call(ORDERS, "fill((uint64,string)[])", {"order": orders})
    assert decode_call(elements_by_selector(ORDERS), call.calldata).arguments[0]["value"] == orders


@given(st.binary(max_size=200))
def test_any_bytes_are_a_call_or_refused(data: bytes) -> None:
    calldata = function_signature_to_4byte_selector("f(string,uint256[])") + data
    try:
        call = decode_call(elements_by_selector(function_of("string", "uint256[]")), calldata)
    except InputInvalid:
        return
    assert (
        encode_call(
            function_of("string", "uint256[]"), call.function, {a["name"]: a["value"] for a in call.arguments}
        ).calldata
        == calldata
    )


def test_calldata_with_something_behind_it_is_refused() -> None:
    calldata = encode_call(MINT, "mint(address,uint256)", {"to": ADDRESS, "amount": 1}).calldata
    for changed in (calldata + b"\0", calldata[:-1], b"\1" * 4 + calldata[4:], b""):
        with pytest.raises(InputInvalid):
            decode_call(elements_by_selector(MINT), changed)


def test_constructor() -> None:
    abi = [{"type": "constructor", "inputs": [{"name": "title", "type": "string"}]}]
    call = encode_constructor(abi, b"\xfe\xed", {"title": "A"})
    assert call.function == "constructor(string)"
    assert call.calldata == b"\xfe\xed" + encode(["string"], ["A"])
    assert encode_constructor(MINT, b"\xfe", {}).calldata == b"\xfe"
    assert function_inputs(abi, "constructor(string)")[0].name == "title"
    assert function_inputs(MINT, "constructor()") == []


def test_functions_for_people() -> None:
    mint, deposit = functions(MINT, ["mint(address,uint256)"])
    assert (mint.signature, mint.label) == ("mint(address,uint256)", "mint(to: address, amount: uint256)")
    assert (mint.allowed, mint.payable, deposit.allowed, deposit.payable) == (True, False, False, True)
    assert deposit.inputs[0].name == "argument1"


def test_reasons_of_a_revert() -> None:
    error = "0x08c379a0" + encode(["string"], ["ownable: caller is not the owner"]).hex()
    assert decode_revert(error) == "ownable: caller is not the owner"
    assert "overflow" in decode_revert("0x4e487b71" + encode(["uint256"], [0x11]).hex())
    assert "0x99" in decode_revert("0x4e487b71" + encode(["uint256"], [0x99]).hex())
    custom = function_signature_to_4byte_selector("TooMuch(uint256,address)") + encode(
        ["uint256", "address"], [7, ADDRESS]
    )
    assert decode_revert(custom, MINT) == f"TooMuch(asked: 7, by: {ADDRESS})"
    assert decode_revert(custom).startswith("The contract reverted with 0x")
    assert decode_revert(b"") == decode_revert("0x") == decode_revert("nonsense")


@given(
    st.sampled_from(
        [
            b"",
            bytes.fromhex("08c379a0"),
            bytes.fromhex("4e487b71"),
            function_signature_to_4byte_selector("TooMuch(uint256,address)"),
        ]
    ),
    st.binary(max_size=300),
)
def test_whatever_a_contract_returns_gives_one_bounded_line(selector: bytes, body: bytes) -> None:
    reason = decode_revert(selector + body, MINT)
    assert 0 < len(reason) <= MAX_REASON
    assert reason.isprintable()


@given(st.text(max_size=6000))
def test_whatever_a_contract_says_is_one_bounded_line(text: str) -> None:
    said = text.encode(errors="replace").decode()
    reason = decode_revert(bytes.fromhex("08c379a0") + encode(["string"], [said]))
    assert 0 < len(reason) <= MAX_REASON
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("[]", "/abi"),
        ([], "/abi"),
        ([1], "/abi/0"),
        ([{"type": "function", "inputs": []}], "/abi/0"),
        ([{"type": "function", "name": "f"}], "/abi/0/inputs"),
        (function_of("uint7"), "/abi/0/inputs/0"),
        (function_of("uint"), "/abi/0/inputs/0"),
        (function_of("uint256["), "/abi/0/inputs/0"),
        (function_of("fixed128x18"), "/abi/0/inputs/0"),
        (function_of("tuple"), "/abi/0/inputs/0/components"),
        ([{"type": "function", "name": "f", "inputs": [{"type": "tuple[2]", "components": []}]}], "/abi/0/inputs/0"),
        ([{"type": "receive", "inputs": [{"name": "to", "type": "address"}]}], "/abi/0"),
        ([{"type": "function", "name": "f", "inputs": [{"name": 5, "type": "bool"}]}], "/abi/0/inputs/0"),
        ([{"type": "function", "name": "mint(address)\n", "inputs": []}], "/abi/0"),
        ([{"type": "function", "name": "f", "inputs": [{"name": "a\u202e", "type": "bool"}]}], "/abi/0/inputs/0"),
        ([{"type": "function", "name": "f", "inputs": [{"name": "a", "type": "bool"}] * 2}], "/abi/0/inputs/1"),
    ],
)
def test_what_is_not_an_abi(value: Any, path: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        parse_abi(value)
    assert caught.value.fields[0].path == path


@pytest.mark.parametrize(
    "abi",
    [
        function_of("uint256[100000][100000]"),  # its example alone would take the memory of the process
        function_of(*["uint256[1000]"] * 5),
        function_of("uint256" + "[]" * 17),
        function_of("uint256[" + "9" * 5000 + "]"),
        [{"type": "function", "name": "f", "inputs": [{"type": "tuple[9999]", "name": "x", "components": []}]}],
        [{"type": "error", "name": f"e{place}", "inputs": [{"type": "uint256[4000]"}]} for place in range(17)],
        json.loads(
            '[{"type": "function", "name": "f", "inputs": '
            + '[{"type": "tuple", "components": ' * 200
            + "[]"
            + "}]" * 200
            + "}]"
        ),
    ],
)
def test_abis_that_are_too_much(abi: Any) -> None:
    with pytest.raises(InputInvalid):
        parse_abi(abi)


def test_two_functions_that_the_bytes_of_a_call_could_not_tell_apart() -> None:
    burn = {"type": "function", "name": "burn", "inputs": [{"type": "uint256", "name": "amount"}]}
    other = {"type": "function", "name": "collate_propagate_storage", "inputs": [{"type": "bytes16", "name": "x"}]}
    assert parse_abi([burn, burn]) == [burn, burn]
    with pytest.raises(InputInvalid, match="same selector"):
        parse_abi([burn, other])


def test_a_plain_transfer_is_a_call_without_data() -> None:
    [received] = functions(PLAIN_ADDRESS, [RECEIVE])
    assert (received.signature, received.inputs, received.payable, received.allowed) == (RECEIVE, [], True, True)
    call = encode_call(PLAIN_ADDRESS, RECEIVE, {})
    assert (call.calldata, call.arguments) == (b"", [])
    assert decode_call(elements_by_selector(PLAIN_ADDRESS), b"") == call
    with pytest.raises(InputInvalid):
        encode_call(MINT, RECEIVE, {})
    with pytest.raises(InputInvalid):
        decode_call(elements_by_selector(MINT), b"")


def test_abis_that_are_fine() -> None:
    for abi in (MINT, ORDERS, function_of("uint8[2][]", "bytes32"), [{"type": "fallback"}, {"type": "constructor"}]):
        assert parse_abi(abi) is abi


def test_panics_name_their_code() -> None:
    assert re.search(r"division by zero \(code 0x12\)", decode_revert("0x4e487b71" + f"{0x12:064x}"))


def test_an_error_of_the_standards_is_named_without_an_abi() -> None:
    """Selectors as EIP-6093 and OpenZeppelin publish them."""
    who = "52908400098527886e0f7030069857d2e4169ee7".rjust(64, "0")
    assert decode_revert("0xe450d38c" + who + f"{5:064x}" + f"{7:064x}") == (
        "ERC20InsufficientBalance(sender: 0x52908400098527886E0F7030069857D2E4169EE7, balance: 5, needed: 7)"
    )
    assert decode_revert("0x118cdaa7" + who).startswith("OwnableUnauthorizedAccount(account: 0x5290")
    assert decode_revert("0xd93c0665") == "EnforcedPause()"
