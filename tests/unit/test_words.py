"""The words of a payload, and what a search for them asks for."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from portal.signals.payloads import parse_payload
from portal.signals.words import MAX_LETTERS, MAX_WORDS, query_of, words_of

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
PAYLOADS = st.recursive(LEAVES, lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside))


def test_words_are_values_in_lower_case_and_no_names_of_fields():
    assert words_of({"Customer": {"name": "Ada LOVELACE"}, "tags": ["Ada", "vip"]}) == ["ada", "lovelace", "vip"]


def test_numbers_are_words_and_constants_are_none():
    assert words_of([1200, -7, 12.5, Decimal("0.10"), True, False, None, 2**200]) == [
        *("1200", "7", "12.5", "0.10", str(2**200)),
    ]


def test_wholes_stay_whole_and_their_parts_are_words_too():
    found = words_of({"by": "Ada.King@mail.example.org", "id": "evt_1N_ab", "type": "payment_intent.succeeded"})
    assert {"ada.king@mail.example.org", "ada.king", "mail.example.org", "ada", "example"} <= set(found)
    assert "1n" not in found
    assert {"evt_1n_ab", "evt", "ab", "payment_intent.succeeded", "payment_intent", "intent", "succeeded"} <= set(found)


def test_what_nobody_takes_apart_has_no_parts():
    solid = ["0190a1b2-c3d4-7000-8000-000000000001", "2026-05-03", "192.0.2.7", "12.50", "0x" + "ab" * 20]
    assert words_of(solid) == solid


def test_a_moment_is_found_by_its_day():
    assert words_of(["2026-05-03T09:30:00Z", "2026-05-03T09:30:00.123456+02:00", "2026-05-03 09:30"]) == [
        *("2026-05-03", "09:30"),
    ]
    assert query_of("2026-05-03T09:30:00Z") == query_of("2026-05-03") == "'2026-05-03':*"


def test_a_number_within_an_id_is_a_word():
    assert words_of(["INV-00417"]) == ["inv-00417", "inv", "00417"]


def test_it_does_not_matter_how_the_sender_escaped_the_text():
    escaped = parse_payload(rb'{"name": "Ren\u00e9e", "url": "https:\/\/example.org\/shop"}')
    assert {"renée", "example.org", "shop"} <= set(words_of(escaped))


def test_a_large_payload_has_a_bounded_number_of_bounded_words():
    found = words_of([f"word{number}" for number in range(100_000)] + ["x" * 10_000])
    assert (len(found), found[0]) == (MAX_WORDS, "word0")
    assert [len(word) for word in words_of("y" * 10_000)] == [MAX_LETTERS]
    wholes_first = words_of([f"a{number}.b{number}" for number in range(MAX_WORDS)])
    assert all("." in word for word in wholes_first)


def test_all_words_are_wanted_and_the_last_also_as_a_beginning():
    assert query_of("Ada  Love") == "'ada' & 'love':*"
    assert query_of("evt_1N_ab") == "'evt_1n_ab':*"
    assert query_of("Ada K") == "'ada' & 'k'"
    assert query_of("z" * 1000) == f"'{'z' * MAX_LETTERS}':*"


def test_a_text_without_a_word_asks_for_nothing():
    assert query_of(" '&|!():* \\ ") is None


@given(PAYLOADS)
def test_words_can_be_stored_whatever_the_payload(payload):
    found = words_of(payload)
    assert len(found) == len(set(found)) <= MAX_WORDS
    for word in found:
        assert 0 < len(word) <= MAX_LETTERS
        assert "\0" not in word
        word.encode()


@given(st.text())
def test_every_word_of_a_text_is_found_by_itself(text):
    for word in words_of(text):
        assert query_of(word) in (f"'{word}'", f"'{word}':*")


@given(st.text())
def test_a_search_is_quoted_whatever_the_text(text):
    query = query_of(text)
    if query is not None:
        for term in query.split(" & "):
            word = term.removesuffix(":*")
            assert word[0] == word[-1] == "'"
            assert not set(word[1:-1]) & set("'\\\0 ")
