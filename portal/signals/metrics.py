"""What is counted and timed on the way of a signal."""

from functools import cache

from prometheus_client import Counter, Histogram

DELIVERIES = Counter(
    "portal_signals_total", "Deliveries, and later their assessments, by scheme and outcome", ["scheme", "outcome"]
)
STAGE_SECONDS = Histogram(
    "portal_signal_stage_seconds",
    "Time a signal spends in a stage: receive (request to commit), wait (commit to assessment), assess (evaluation)",
    ["stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
RECEIVE_SECONDS = STAGE_SECONDS.labels("receive")


def count_delivery(scheme: str, outcome: str, number: int = 1) -> None:
    """Count deliveries that ended in one way."""
    _deliveries(scheme, outcome).inc(number)


@cache
def _deliveries(scheme: str, outcome: str) -> Counter:
    return DELIVERIES.labels(scheme, outcome)
