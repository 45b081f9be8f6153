"""How many rows of a list its reader does not see yet."""

from uuid import UUID

from portal.db.paging import DEFAULT_LIMIT
from portal.web.fresh import count_unseen


def ids(first: int, last: int) -> list[UUID]:
    return [UUID(int=number) for number in range(last, first - 1, -1)]


def test_only_what_is_not_shown_counts() -> None:
    assert count_unseen(ids(1, 3), ids(1, 3)) == ""
    assert count_unseen(ids(1, 5), ids(1, 3)) == "2"
    assert count_unseen(ids(1, 3), ids(2, 3)) == "1", "an older one that came into the state, where all were shown"
    assert count_unseen(ids(1, 2), []) == "2"


def test_what_moved_up_from_a_later_page_is_not_new() -> None:
    shown = ids(100, 100 + DEFAULT_LIMIT - 1)
    after_two_left = [*ids(102, 100 + DEFAULT_LIMIT - 1), *ids(98, 99)]
    assert count_unseen(after_two_left, shown) == ""


def test_a_page_full_of_new_ones_may_be_more() -> None:
    shown = ids(1, DEFAULT_LIMIT)
    assert count_unseen(ids(1000, 999 + DEFAULT_LIMIT), shown) == f"{DEFAULT_LIMIT}+"
