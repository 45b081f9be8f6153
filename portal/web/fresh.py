"""Lists that do not move under their reader: the rows that are shown change where they are, and a bar says how many
more there are, which come when the reader asks for them."""

from collections.abc import Sequence
from uuid import UUID

from portal.db.paging import DEFAULT_LIMIT
from portal.errors import InputInvalid

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
