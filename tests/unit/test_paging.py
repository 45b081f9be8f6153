"""Cursors lead to the next page and nothing a stranger sends breaks them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.db.columns import new_id
from portal.db.paging import check_limit, decode_cursor, encode_cursor, page_of
from portal.errors import InputInvalid


@given(st.uuids())
def test_a_cursor_leads_back_to_its_row(id: object) -> None:
    assert decode_cursor(encode_cursor(id)) == id  # type: ignore[arg-type]


@given(st.text())
def test_anything_else_is_refused_politely(cursor: str) -> None:
    with contextlib.suppress(InputInvalid):
        decode_cursor(cursor)


def test_a_further_row_makes_a_cursor_and_is_not_shown() -> None:
    rows = [{"id": new_id()} for _ in range(3)]
    page = page_of(rows, 2, lambda row: row["id"])
    assert page.items == [rows[0]["id"], rows[1]["id"]]
    assert decode_cursor(page.next_cursor or "") == rows[1]["id"]
    assert page_of(rows, 3, lambda row: row["id"]).next_cursor is None


@pytest.mark.parametrize("limit", [0, -1, 201])
def test_a_limit_outside_the_range_is_refused(limit: int) -> None:
    with pytest.raises(InputInvalid, match="between 1 and 200"):
        check_limit(limit)


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
