"""All jobs and all crons there are. A feature's job is a plain function; here it becomes a SAQ function."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import Counter, Histogram
from saq import CronJob

from portal.accounts.jobs import prune_accounts
from portal.actions.jobs import expire_actions, simulate_actions
from portal.chain.jobs import check_signers, make_signer_keys, reseal_signer_keys
from portal.chain.service import register_chains
from portal.jobs.queue import POLICIES, is_turn, ring, saq_options
from portal.logging import bind_correlation_id, get_logger
from portal.notify.jobs import deliver_events, prune_events, publish_events
from portal.rules.jobs import assess_signals, run_replays
from portal.signals.jobs import expire_bodies, prune_batches, run_batches, tally_signals, watch_sources
from portal.signals.pulls.jobs import pull_sources
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes.watchdog import watch_lanes
from portal.transactions.signers.top_ups import read_signers

log = get_logger(__name__)
JOBS = Counter("portal_jobs_total", "Jobs run, by name and result", ["job", "result"])
JOB_SECONDS = Histogram("portal_job_seconds", "Run time of jobs", ["job"])

Work = Callable[[], Awaitable[int]]
SaqFunction = Callable[..., Awaitable[int]]


async def sweep() -> int:
    """Ring for everything that may have been left behind: a lost doorbell costs five seconds, nothing else.

    Also registers a chain whose node was away when the worker started.
    """
    swept = [name for name, policy in POLICIES.items() if policy.swept]
    for job in swept:
        ring(job)
    await register_chains()  # last, since a node that hangs may take long to be given up
    return len(swept)


WORK: dict[str, Work] = {
    work.__name__: work
    for work in (
        assess_signals,
        simulate_actions,
        make_signer_keys,
        check_signers,
        reseal_signer_keys,
        run_lanes,
        watch_chains,
        watch_lanes,
        read_signers,
        publish_events,
        deliver_events,
        prune_events,
        expire_actions,
        prune_accounts,
        pull_sources,
        run_batches,
        run_replays,
        expire_bodies,
        prune_batches,
        tally_signals,
        watch_sources,
        sweep,
    )
}


def saq_functions() -> list[tuple[str, SaqFunction]]:
    """Every job as the worker registers it."""
    assert WORK.keys() == POLICIES.keys(), "every job has its policy"
    return [(name, _as_job(name, work)) for name, work in WORK.items()]


def saq_crons() -> list[CronJob[Any]]:
    """The clock: what runs by itself."""
    return [
        CronJob(_as_job(name, WORK[name]), policy.cron, **saq_options(name))
        for name, policy in POLICIES.items()
        if policy.cron
    ]


_turns: set[str] = set()
"""The crons that this process is running: where one takes longer than its interval, its next ticks are skipped."""


def _as_job(name: str, work: Work) -> SaqFunction:
    async def job(context: Any, *, correlation_id: str | None = None) -> int:
        bind_correlation_id(correlation_id)
        if not is_turn(context["job"]):
            return await _run(name, work)
        if name in _turns:
            return 0
        _turns.add(name)
        try:
            return await _run(name, work)
        finally:
            _turns.remove(name)

    job.__name__ = job.__qualname__ = name
    return job


async def _run(name: str, work: Work) -> int:
    started = time.perf_counter()
    try:
        done = await work()
    except Exception as error:
        JOBS.labels(name, "failed").inc()
        log.error("job.failed", job=name, error=type(error).__name__, exc_info=True)
        raise
    JOBS.labels(name, "done").inc()
    JOB_SECONDS.labels(name).observe(time.perf_counter() - started)
    if done:
        log.info("job.done", job=name, count=done)
    return done
