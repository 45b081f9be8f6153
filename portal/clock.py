"""The one place that reads the wall clock."""

from datetime import UTC, datetime

from portal.errors import InputInvalid


def now() -> datetime:
    """The current time, timezone-aware, in UTC."""
    return datetime.now(UTC)


def in_utc(given: datetime, *, path: str) -> datetime:
    """A time that somebody gave, in UTC. Raises `InputInvalid` at `path` for one without an offset or out of range."""
    if given.tzinfo is None:
        raise InputInvalid.at(path, "Give the time with its offset, such as 2026-05-03T09:30:00Z.")
    try:
        return given.astimezone(UTC)
    except OverflowError:
        raise InputInvalid.at(path, "The time is beyond the years 1 to 9999 in UTC.") from None
