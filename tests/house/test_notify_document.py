"""docs/webhooks.md lists the events that there are, and no other."""

from portal.notify.event_types import EVENT_TYPES, forms_of, is_wanted, unknown_forms
from portal.notify.schedule import MOST_ATTEMPTS, WAITS
from tests.events import DOCUMENT, documented

from .test_structure import SOURCES


def test_every_type_is_documented_with_an_example_and_no_other() -> None:
    assert documented().keys() == EVENT_TYPES.keys()


def test_every_documented_type_is_told_somewhere() -> None:
    sources = "".join(path.read_text() for path in SOURCES if path.name not in ("event_types.py", "states.py"))
    statuses = {"proposed", "approved", "rejected", "cancelled", "expired"}
    for type in EVENT_TYPES:
        noun, _, verb = type.partition(".")
        told = (
            f'"{type}"' in sources or f'"{verb}"' in sources or (verb in statuses and noun in ("action", "transaction"))
        )
        assert told or type == "webhook.test", type


def test_a_subscription_names_types_exactly_by_noun_or_all() -> None:
    for type in EVENT_TYPES.keys() - {"webhook.test"}:
        assert all(is_wanted(type, [form]) for form in forms_of(type))
        assert not is_wanted(type, ["webhook.*", f"{type}x", type[:-1], ""])
        assert unknown_forms([*forms_of(type), "nobody.*"]) == ["nobody.*"]
    assert not is_wanted("webhook.test", ["*", "webhook.*", "webhook.test"]), "it goes to the one that was asked for"
    assert unknown_forms(["webhook.test"]) == ["webhook.test"]


def test_the_document_says_the_schedule_as_it_is() -> None:
    text = " ".join(DOCUMENT.read_text().split())
    units = ((3600, "h"), (60, "min"), (1, "s"))
    words = []
    for wait in WAITS:
        size, unit = next((size, unit) for size, unit in units if wait.total_seconds() >= size)
        words.append(f"{wait.total_seconds() / size:g} {unit}")
    assert f"tried ten times, with waits of {', '.join(words[:-1])} and {words[-1]}" in text
    assert MOST_ATTEMPTS == 10
