"""A call as one sentence that a person can decide about."""

from typing import Any

import pytest

from portal.actions.effects import Effect, addresses_in, parse_units, plain, summarize, summarize_batch, units

ADA = "0x52908400098527886E0F7030069857D2E4169EE7"
OTHER = "0x8617E340B3D01FA5F11F306F4090FD50E238070D"


def call(function: str, *arguments: tuple[str, str, Any], **more: Any) -> str:
    given = {"contract_name": "Acme Points", "symbol": "PTS", "decimals": 18, "names": {ADA.lower(): "Ada Park"}}
    listed = [{"name": name, "type": type, "value": value} for name, type, value in arguments]
    return summarize(Effect(function=function, arguments=listed, **{**given, **more}))


def mint(amount: str, to: str = ADA, **more: Any) -> str:
    return call("mint(address,uint256)", ("to", "address", to), ("amount", "uint256", amount), **more)


def test_minting_names_the_amount_the_symbol_and_the_person() -> None:
    assert mint("50000000000000000000") == "Mint 50 PTS to Ada Park"


def test_a_stranger_is_shown_by_address() -> None:
    assert mint("1", to=OTHER) == "Mint 0.000000000000000001 PTS to 0x8617…070D"


def test_without_decimals_the_number_is_that_of_a_token() -> None:
    assert mint("7", decimals=None, symbol="CERT") == "Mint CERT number 7 to Ada Park"


def test_transfers_say_from_whom_to_whom() -> None:
    sentence = call(
        "transferFrom(address,address,uint256)",
        ("from", "address", OTHER),
        ("to", "address", ADA),
        ("amount", "uint256", "1500000000000000000"),
    )
    assert sentence == "Transfer 1.5 PTS from 0x8617…070D to Ada Park"


def test_certificates_and_records_have_sentences_of_their_own() -> None:
    certificate = call(
        "mint(address,string)", ("to", "address", ADA), ("uri", "string", "ipfs://x"), symbol="CERT", decimals=None
    )
    record = call(
        "append(bytes32,string)",
        ("key", "bytes32", "0x" + "00" * 32),
        ("content", "string", "Batch 7\nleft"),
        contract_name="Log",
    )
    assert certificate == "Issue a CERT certificate to Ada Park"
    assert record == "Append “Batch 7 left” to Log"


def test_a_deployment_names_the_contract() -> None:
    assert call("constructor(string,string)", ("name", "string", "x")) == "Deploy Acme Points (PTS)"
    assert call("constructor(string)", ("name", "string", "x"), symbol=None) == "Deploy Acme Points"


def test_an_unknown_function_is_shown_with_its_values() -> None:
    sentence = call(
        "set_fee(uint256,address,bool,uint256[])",
        ("fee", "uint256", "5"),
        ("payee", "address", ADA),
        ("", "bool", True),
        ("steps", "uint256[]", ["1", "2"]),
    )
    assert sentence == 'Call set_fee(fee: 5, payee: Ada Park, bool: true, steps: ["1","2"]) of Acme Points'


def test_money_that_goes_along_is_said() -> None:
    assert mint("0", value_wei=10**17, currency="POL").endswith(", sending 0.1 POL")
    assert call("receive()", value_wei=5 * 10**17) == "Send 0.5 ETH to Acme Points"


def test_a_name_cannot_turn_the_sentence_around() -> None:
    hostile = "Ada\u202e kraP\n\nto nobody\x00\u200b"
    assert mint("50000000000000000000", names={ADA.lower(): hostile}) == "Mint 50 PTS to Ada kraP to nobody"


def test_a_name_of_nothing_visible_falls_back_to_the_address() -> None:
    assert mint("0", names={ADA.lower(): "\u200b\u202e"}) == "Mint 0 PTS to 0x5290…9EE7"


def test_a_long_name_is_cut() -> None:
    assert len(plain("a" * 500)) == 80


@pytest.mark.parametrize(
    ("amount", "decimals", "text"),
    [
        (0, 18, "0"),
        (1, 0, "1"),
        (1234500, 3, "1,234.5"),
        (10**18, 18, "1"),
        (
            2**256 - 1,
            18,
            "115,792,089,237,316,195,423,570,985,008,687,907,853,269,984,665,640,564,039,457.584007913129639935",
        ),
        (-1500, 3, "-1.5"),
    ],
)
def test_units_are_exact(amount: int, decimals: int, text: str) -> None:
    assert units(amount, decimals) == text


def test_addresses_are_found_inside_arrays_and_structs() -> None:
    arguments = [
        {"name": "a", "type": "address", "value": ADA},
        {"name": "b", "type": "(address,uint256)[]", "value": [{"who": OTHER, "n": "1"}, {"who": ADA, "n": "2"}]},
        {"name": "c", "type": "bytes20", "value": "0x" + "11" * 20},
    ]
    assert addresses_in(arguments) == [ADA, OTHER]


@pytest.mark.parametrize(
    ("text", "decimals", "wei"),
    [
        ("1.5", 18, 1_500_000_000_000_000_000),
        ("0.000000000000000001", 18, 1),
        (" 007.50 ", 2, 750),
        ("3", 0, 3),
        ("3.00", 0, 3),
        ("1" + "0" * 77, 0, 10**77),
        ("0", 9, 0),
    ],
)
def test_an_amount_that_a_person_typed_is_exact_in_the_smallest_unit(text: str, decimals: int, wei: int) -> None:
    assert parse_units(text, decimals) == wei
    assert parse_units(units(wei, decimals).replace(",", ""), decimals) == wei


@pytest.mark.parametrize("text", ["", "1,5", "1e18", "-1", "+1", "0x10", ".5", "5.", "1_000", "\u0661", "nan", "1 2"])
def test_what_could_be_read_in_two_ways_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        parse_units(text, 18)


def test_an_amount_finer_than_the_smallest_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 6 decimals"):
        parse_units("1.0000001", 6)
    with pytest.raises(ValueError, match="whole number"):
        parse_units("1.5", 0)


def test_calls_that_have_sentences_are_told_together_and_others_by_name() -> None:
    known = Effect(
        contract_name="Acme Points",
        function="burn(uint256)",
        arguments=[{"name": "amount", "type": "uint256", "value": "5"}],
        symbol="PTS",
        decimals=0,
    )
    other = Effect(contract_name="Acme Points", function="pause()", arguments=[])
    assert summarize_batch([known, known]) == "All or nothing: Burn 5 PTS; Burn 5 PTS"
    assert summarize_batch([known] * 5).endswith("; Burn 5 PTS; and 2 more")
    assert summarize_batch([known, other]) == "2 calls of Acme Points, all or nothing: burn, pause"


def test_long_bytes_and_numbers_are_made_readable() -> None:
    sentence = call("put(bytes32,uint256)", ("key", "bytes32", "0x" + "ab" * 32), ("n", "uint256", "1234567"))
    assert sentence == "Call put(key: 0xabab…abab, n: 1,234,567) of Acme Points"
