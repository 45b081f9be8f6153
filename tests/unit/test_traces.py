"""What nodes say that a call does: read from their traces, added up, and put into words."""

from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from portal.actions.outcomes import KnownContract, measure, read_decimals, read_symbol
from portal.actions.schemas import SimulatedEffects
from portal.actions.simulated import with_names
from portal.chain.logs import Emitted
from portal.chain.traces import Payment, Trace, read_call_trace, read_simulation

ADA, BOB, TOKEN, SPENDER = ("0x" + digit * 40 for digit in "abcd")
NAMES = {ADA: "Ada", BOB: "Bob", TOKEN: "Points"}
KNOWN = {TOKEN: KnownContract([], "PTS", 2)}


def frame(kind: str = "CALL", value: int = 0, sender: str = ADA, to: str = BOB, **more: Any) -> dict[str, Any]:
    return {"type": kind, "from": sender, "to": to, "value": hex(value), **more}


def traced(root: dict[str, Any]) -> Trace:
    found = read_call_trace(root)
    assert found is not None
    return found


def entry(number: int, **more: Any) -> dict[str, Any]:
    return {"address": TOKEN, "topics": ["0x" + f"{number:064x}"], "data": "0x", **more}


def word(value: int | str) -> bytes:
    return int(value, 16).to_bytes(32) if isinstance(value, str) else value.to_bytes(32)


def emitted(event: str, *indexed: int | str, data: bytes = b"", address: str = TOKEN) -> Emitted:
    return Emitted(address, [keccak(text=event), *map(word, indexed)], data)


def effects(*logs: Emitted, payments: list[Payment] | None = None) -> SimulatedEffects:
    return with_names(measure(Trace("test", payments or [], list(logs), None), KNOWN), NAMES, "ETH")


def test_money_counts_once_wherever_code_is_borrowed() -> None:
    borrowed = [frame(kind, 5) for kind in ("DELEGATECALL", "CALLCODE", "STATICCALL")]
    trace = traced(frame(value=5, calls=[*borrowed, frame("SELFDESTRUCT", 2, BOB, ADA)]))
    assert trace.payments == [Payment(ADA, BOB, 5), Payment(BOB, ADA, 2)]


def test_what_an_inner_call_did_before_it_failed_did_not_happen() -> None:
    failed = frame(value=3, error="execution reverted", logs=[entry(1)], calls=[frame(value=1, logs=[entry(2)])])
    assert traced(frame(calls=[failed, frame(value=4)])).payments == [Payment(ADA, BOB, 4)]
    assert traced(frame(calls=[failed])).logs == []
    assert read_call_trace(frame(value=1, error="out of gas")) is None


def test_events_come_in_the_order_in_which_they_are_emitted() -> None:
    inner = frame(logs=[entry(2, position="0x0")], calls=[])
    root = frame(logs=[entry(1, position="0x0"), entry(3, position="0x1"), entry(5, position="0x2")])
    root["calls"] = [inner, frame(logs=[entry(4, position="0x0")])]
    assert [int.from_bytes(log.topics[0]) for log in traced(root).logs] == [1, 2, 3, 4, 5]


def test_a_deployment_says_which_contract_it_makes() -> None:
    assert traced(frame("CREATE", 7, to=TOKEN.upper().replace("X", "x"))).created == TOKEN
    assert traced(frame()).created is None


def test_calls_may_nest_as_deep_as_the_chain_allows() -> None:
    root = frame(value=1)
    for _ in range(5000):
        root = frame(calls=[root])
    assert traced(root).payments == [Payment(ADA, BOB, 1)]


def test_a_simulation_that_reverts_says_nothing() -> None:
    assert read_simulation([{"calls": [{"status": "0x0", "logs": []}]}]) is None


@pytest.mark.parametrize("result", [[], [{}], [{"calls": []}], [{"calls": [{"status": "yes"}]}], {}])
def test_a_simulation_without_sense_is_none(result: Any) -> None:
    with pytest.raises((KeyError, ValueError, IndexError)):
        read_simulation(result)


def test_tokens_that_only_pass_through_are_nobodys_gain() -> None:
    there = emitted("Transfer(address,address,uint256)", ADA, BOB, data=word(150))
    back = emitted("Transfer(address,address,uint256)", BOB, SPENDER, data=word(150))
    assert [each.text for each in effects(there, back).changes] == ["Ada loses 1.5 PTS", "0xDDdD…DDDd gets 1.5 PTS"]


def test_numbered_tokens_and_many_kinds_in_one_contract() -> None:
    one = emitted("Transfer(address,address,uint256)", 0, ADA, 12)
    single = emitted("TransferSingle(address,address,address,uint256,uint256)", BOB, 0, ADA, data=word(7) + word(3))
    batch = emitted(
        "TransferBatch(address,address,address,uint256[],uint256[])",
        *(BOB, ADA, BOB),
        data=encode(["uint256[]", "uint256[]"], [[7, 8], [1, 1000]]),
    )
    assert [each.text for each in effects(one, single, batch).changes] == [
        "Ada gets PTS number 12",
        "Ada gets 2 of PTS number 7",
        "Bob gets 1 of PTS number 7",
        "Ada loses 1,000 of PTS number 8",
        "Bob gets 1,000 of PTS number 8",
    ]


def test_what_others_may_take_from_now_on_is_said() -> None:
    approval, for_all = "Approval(address,address,uint256)", "ApprovalForAll(address,address,bool)"
    logs = [
        emitted(approval, ADA, SPENDER, data=word(250)),
        emitted(approval, ADA, SPENDER, data=word(2**256 - 1)),
        emitted(approval, ADA, SPENDER, data=word(0)),
        emitted(approval, ADA, BOB, 12),
        emitted(approval, ADA, 0, 12),
        emitted(for_all, ADA, SPENDER, data=word(1)),
        emitted(for_all, ADA, SPENDER, data=word(0)),
        emitted(approval, ADA, SPENDER, data=word(250), address=BOB),
    ]
    assert [event.text for event in effects(*logs).events] == [
        "Ada lets 0xDDdD…DDDd spend up to 2.5 PTS",
        "Ada lets 0xDDdD…DDDd spend all its PTS, without a limit",
        "Ada no longer lets 0xDDdD…DDDd spend PTS",
        "Ada lets Bob take number 12 of Points",
        "",
        "Ada lets 0xDDdD…DDDd take all its tokens of Points",
        "Ada no longer lets 0xDDdD…DDDd take all its tokens of Points",
        "Ada lets 0xDDdD…DDDd spend up to 250 of the smallest units of Bob",
    ]
    assert effects(*logs).changes == []


def test_a_log_that_is_not_what_its_topic_says_changes_nothing() -> None:
    transfer = "Transfer(address,address,uint256)"
    short = emitted(transfer, ADA, BOB, data=b"\1")
    bare = Emitted(TOKEN, [], b"\1\2")
    many = emitted(transfer, ADA, BOB, 1, data=word(5))
    found = effects(short, bare)
    assert found.changes == []
    assert [(event.event, event.data) for event in found.events] == [(None, "0x01"), (None, "0x0102")]
    assert [each.asset for each in effects(many).changes] == ["erc721", "erc721"]


def test_texts_of_contracts_are_stored_and_shown_without_tricks() -> None:
    abi = [{"type": "event", "name": "Said", "inputs": [{"name": "text", "type": "string"}]}]
    log = emitted("Said(string)", data=encode(["string"], ["a\0b\u202ec"]))
    [event] = measure(Trace("test", [], [log], None), {TOKEN: KnownContract(abi, None, None)}).events
    assert event.arguments == [{"name": "text", "type": "string", "value": "a\N{REPLACEMENT CHARACTER}b\ufffdc"}]


def test_a_call_that_does_too_much_to_list_says_how_much_more_there_is() -> None:
    logs = [emitted("Transfer(address,address,uint256)", 0, number, data=word(1)) for number in range(1, 121)]
    found = effects(*logs)
    assert (len(found.changes), found.more_changes) == (50, 70)
    assert (len(found.events), found.more_events) == (50, 70)
    large = effects(Emitted(TOKEN, [b"\7" * 32], b"\1" * 10_000)).events[0]
    assert (large.data_bytes, len(large.data)) == (10_000, 2 + 2 * 4096)


@pytest.mark.parametrize(
    ("data", "symbol"),
    [
        (encode(["string"], ["USDC"]), "USDC"),
        (b"MKR".ljust(32, b"\0"), "MKR"),
        (b"", None),
        (b"\xff" * 32, None),
        (b"\1" * 64, None),
        (encode(["string"], ["x" * 21]), None),
        (encode(["string"], [" \n "]), None),
    ],
)
def test_a_symbol_is_what_a_token_says_if_it_is_one(data: bytes, symbol: str | None) -> None:
    assert read_symbol(data) == symbol


def test_decimals_are_a_small_number_or_unknown() -> None:
    assert [read_decimals(data) for data in (word(6), word(78), b"", b"\6")] == [6, None, None, None]
