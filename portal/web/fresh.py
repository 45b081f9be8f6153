"""Lists that do not move under their reader: the rows that are shown change where they are, and a bar says how many
more there are, which come when the reader asks for them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from litestar import Response

from portal.db.paging import DEFAULT_LIMIT
from portal.errors import InputInvalid
from portal.web.desk import Desk
from portal.web.render import AnyRequest, fragment, query

MAX_IDS = 200


def read_ids(text: str, name: str) -> list[UUID]:
    """The ids in an address, which separates them by commas. Raises `InputInvalid`."""
    try:
        return [UUID(each) for each in text.split(",")[:MAX_IDS] if each]
    except ValueError:
        raise InputInvalid.at(f"/{name}", "These are no ids of what is shown. Open the list again.") from None


def in_address(ids: Sequence[UUID]) -> str:
    return ",".join(map(str, ids))


def count_unseen(newest: Sequence[UUID], shown: Sequence[UUID]) -> str:
    """How many of the newest page of a list are not among the ids `shown`, as the bar says it; empty for none.

    What is older than all that is shown is on a later page, unless those shown were all there was.
    """
    oldest = min(shown) if len(shown) >= DEFAULT_LIMIT else UUID(int=0)
    unseen = len({each for each in newest if each > oldest} - set(shown))
    return f"{unseen}+" if unseen == DEFAULT_LIMIT else str(unseen or "")


def fresh_address(desk: Desk, room: str, ids: Sequence[UUID], *, status: str | None, older: bool) -> str:
    """Where the list of a `room` asks what became of those it shows; one of `older` ones has nothing more above it."""
    return desk.url(f"{room}/fresh") + query(status=status, shown=in_address(ids), older="true" if older else None)


def fresh_rows(
    request: AnyRequest,
    desk: Desk,
    room: str,
    *,
    newest: Sequence[UUID],
    shown: Sequence[UUID],
    rows: list[dict[str, Any]],
    choices: list[Any],
    status: str | None,
) -> Response[str]:
    """The rows `shown` as they are now, the counts of all states, and how many more are among the `newest`."""
    context = {
        "desk": desk,
        "path": desk.url(room),
        "number": count_unseen(newest, shown),
        "rows": rows,
        "row_template": f"{room}/_row.html",
        "choices": choices,
        "status": status,
    }
    return fragment(request, "_fresh.html", context)
