"""Prometheus metrics: response times measured here, states read from the rows at each scrape."""

import time
from functools import cache

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import Gauge, Histogram, generate_latest

from portal import clock
from portal.jobs.queue import queue_state
from portal.logging import get_logger
from portal.notify import metrics as notify
from portal.ops import readings
from portal.transactions import metrics as transactions
from portal.transactions.lanes import watchdog
from portal.transactions.signers import top_ups

log = get_logger(__name__)
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REQUEST_SECONDS = Histogram(
    "portal_http_request_seconds",
    "Time from the first byte of a request to the start of its answer",
    ["method", "route", "status"],
    buckets=BUCKETS,
)
SIGNALS = Gauge(
    "portal_signals_by_status",
    "Signals that wait (received) and, by outcome, those of the last five minutes",
    ["status"],
)
STAGE_SECONDS = Gauge("portal_stage_seconds", "Time in each stage over the last five minutes", ["stage", "quantile"])
SOURCE_SILENCE_SECONDS = Gauge(
    "portal_source_silence_seconds", "Since the last signal of an active source, of at most 500 sources", ["source"]
)
SOURCE_QUIET = Gauge("portal_source_quiet", "1 while a source is silent for longer than it should be", ["source"])
QUEUE_JOBS = Gauge("portal_queue_jobs", "Jobs in the queue by state", ["state"])
QUEUE_WORKERS = Gauge("portal_queue_workers", "Workers that report to the queue")


class MetricsMiddleware(ASGIMiddleware):
    """Observes every answer by the template of its route, so that ids never become labels."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        started = time.perf_counter()
        method = str(scope.get("method"))

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                observe_request(method, scope["path_template"], message["status"], time.perf_counter() - started)
            await send(message)

        await next_app(scope, receive, observe)


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request by the template of its route."""
    _request_seconds(method, route, status).observe(seconds)


@cache
def _request_seconds(method: str, route: str, status: int) -> Histogram:
    return REQUEST_SECONDS.labels(method, route, str(status))


async def exposition() -> bytes:
    """All metrics in the text format of Prometheus. Where the rows cannot be read, those of this process alone."""
    try:
        await _read_rows()
    except Exception as error:
        log.warning("metrics.rows_unreadable", error=type(error).__name__)
    return generate_latest()


async def _read_rows() -> None:
    SIGNALS.clear()
    for row in await readings.read_signals():
        SIGNALS.labels(row["status"]).set(row["count"])
    STAGE_SECONDS.clear()
    for row in await readings.read_stages():
        if row["median"] is not None:
            STAGE_SECONDS.labels(row["stage"], "0.5").set(row["median"])
            STAGE_SECONDS.labels(row["stage"], "0.95").set(row["p95"])
    SOURCE_SILENCE_SECONDS.clear()
    SOURCE_QUIET.clear()
    for row in await readings.read_silences():
        SOURCE_QUIET.labels(str(row["id"])).set(row["quiet_since"] is not None)
        if row["last_signal_at"]:
            silence = (clock.now() - row["last_signal_at"]).total_seconds()
            SOURCE_SILENCE_SECONDS.labels(str(row["id"])).set(silence)
    await transactions.refresh()
    await notify.refresh()
    await watchdog.refresh()
    await top_ups.refresh()
    if queue := await queue_state():
        QUEUE_JOBS.labels("queued").set(queue.queued)
        QUEUE_JOBS.labels("active").set(queue.active)
        QUEUE_WORKERS.set(queue.workers)
