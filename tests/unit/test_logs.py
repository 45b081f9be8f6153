"""Events: found in an ABI, and read from logs as exactly as calls are."""

from contextlib import suppress
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.logs import Event, Log, LogUnreadable, decode_log, find_event
from portal.errors import InputInvalid

ADA = "0x52908400098527886E0F7030069857D2E4169EE7"


def component(name: str, type: str, *, indexed: bool = False, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type, "indexed": indexed, **more}


def element(name: str, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "event", "name": name, "inputs": list(inputs), **more}


TRANSFER = element(
    "Transfer",
    component("from", "address", indexed=True),
    component("to", "address", indexed=True),
    component("value", "uint256"),
)


def log(event: Event, topics: list[bytes], data: bytes) -> Log:
    return Log(
        address=ADA.lower(),
        topics=[bytes.fromhex(event.topic[2:]), *topics],
        data=data,
        block_number=1,
        block_hash="0x" + "aa" * 32,
        transaction_hash="0x" + "bb" * 32,
        index=0,
    )


def test_the_topic_is_the_one_that_the_whole_world_knows() -> None:
    event = find_event([TRANSFER], "Transfer", "/settings/event")
    assert event.topic == "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


@given(st.integers(0, 2**256 - 1))
def test_amounts_keep_every_digit(value: int) -> None:
    event = find_event([TRANSFER], "Transfer", "/")
    topics = [encode(["address"], [ADA]), encode(["address"], ["0x" + "00" * 20])]
    assert decode_log(event, log(event, topics, encode(["uint256"], [value]))) == {
        "from": ADA,
        "to": "0x" + "00" * 20,
        "value": str(value),
    }


def test_every_kind_of_value_is_written_as_in_calls() -> None:
    event = find_event(
        [
            element(
                "Everything",
                component("flag", "bool", indexed=True),
                component("small", "int8"),
                component("text", "string"),
                component("hashed", "string", indexed=True),
                component("raw", "bytes"),
                component("fixed", "bytes4", indexed=True),
                component("list", "uint16[]"),
                component(
                    "pair", "tuple", components=[{"name": "who", "type": "address"}, {"name": "", "type": "uint8"}]
                ),
                component("", "uint256"),
            )
        ],
        "Everything",
        "/",
    )
    data = encode(
        ["int8", "string", "bytes", "uint16[]", "(address,uint8)", "uint256"],
        [-1, "grüße", b"\x00\xff", [1, 65535], (ADA, 7), 9],
    )
    topics = [encode(["bool"], [True]), keccak(text="grüße"), encode(["bytes4"], [b"\x01\x02\x03\x04"])]
    assert decode_log(event, log(event, topics, data)) == {
        "flag": True,
        "small": "-1",
        "text": "grüße",
        "hashed": "0x" + keccak(text="grüße").hex(),
        "raw": "0x00ff",
        "fixed": "0x01020304",
        "list": ["1", "65535"],
        "pair": {"who": ADA, "argument2": "7"},
        "argument9": "9",
    }


@given(st.lists(st.binary(max_size=40), max_size=5), st.binary(max_size=200))
def test_whatever_a_log_holds_it_is_read_or_said_to_be_unreadable(topics: list[bytes], data: bytes) -> None:
    event = find_event(
        [element("Odd", component("a", "string"), component("b", "address", indexed=True), component("c", "uint8[]"))],
        "Odd",
        "/",
    )
    with suppress(LogUnreadable):
        decode_log(event, log(event, topics, data))


def test_an_event_is_found_by_its_name_or_signature() -> None:
    other = element("Transfer", component("value", "uint256"))
    assert find_event([TRANSFER, element("Other")], "Other", "/").signature == "Other()"
    assert find_event([TRANSFER, other], "Transfer(uint256)", "/").inputs == other["inputs"]
    for abi, wanted, says in (
        ([TRANSFER, other], "Transfer", "several events Transfer"),
        ([TRANSFER], "Transfer(uint256)", "no event Transfer(uint256)"),
        ([TRANSFER], "Nothing", "Name one of: Transfer"),
        ([], "Nothing", "it has none"),
        ([element("Hidden", anonymous=True)], "Hidden", "anonymous"),
        ([element("Broken", {"name": "x", "type": "fixed128x18"})], "Broken", "not supported"),
        ([{"type": "event", "name": "Bare"}], "Bare", "must be an array"),
    ):
        with pytest.raises(InputInvalid) as refused:
            find_event(abi, wanted, "/settings/event")
        assert says in refused.value.detail
        assert refused.value.fields[0].path.startswith("/settings/event")
