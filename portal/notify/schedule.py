"""When a delivery is tried again. Pure.

The waits are those that Standard Webhooks 1.0 gives as its example ("Retry schedule"): ten attempts in 75 h 35 min 5 s.
"""

from datetime import timedelta

WAITS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
MOST_ATTEMPTS = len(WAITS) + 1
FAILING_LIMIT = timedelta(days=5)
"""A webhook to which nothing could be delivered for so long is disabled."""
OUTAGE = timedelta(minutes=5)
"""Once a receiver that took nothing for so long takes something again, all that waits for it is due at once."""
SHORTEST_REST, LONGEST_REST = timedelta(seconds=5), timedelta(seconds=60)


def wait_after(attempts: int, chance: float) -> timedelta | None:
    """How long to wait after so many failed attempts; None where none is left.

    Up to a tenth more by `chance` (0 to 1), so that what failed together does not return together.
    """
    return WAITS[attempts - 1] * (1 + chance / 10) if attempts < MOST_ATTEMPTS else None


def rest_after(rests: int) -> timedelta:
    """How long to send nothing at all to a receiver that was not there so often in a row: doubled each time, at most a
    minute, so that what waits is not spent on it."""
    return min(LONGEST_REST, SHORTEST_REST * (1 << min(rests - 1, 10)))
