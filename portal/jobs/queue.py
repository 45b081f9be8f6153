"""The doorbell: wakes a worker for rows that wait. Losing a ring costs only the time until a sweeper rings again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from prometheus_client import Counter
from saq import Job, Queue

from portal.logging import correlation_id, get_logger
from portal.settings import get_settings

log = get_logger(__name__)
RINGS = Counter("portal_doorbell_rings_total", "Doorbell rings by job and result", ["job", "result"])

PAUSE_SECONDS = 0.1
"""Between two rings of one job: a ring costs a web process as much as twenty deliveries."""
RETRY_DELAY_SECONDS = 1.0
"""Between two attempts at what was rung for; what the clock asked for waits for its next turn."""


class JobPolicy(msgspec.Struct, frozen=True):
    """How and when SAQ runs a job. SAQ's own defaults (10 s, one attempt) lose work, so every job states its own."""

    timeout_seconds: int
    retries: int
    heartbeat_seconds: int
    cron: str | None = None
    """When the clock asks for it; None where rings alone do."""
    swept: bool = False
    """Whether the sweeper rings for it: what waits may have been left behind."""


EVERY_SECOND = "* * * * * *"
EVERY_FIVE_SECONDS = "* * * * * */5"
EVERY_QUARTER_MINUTE = "* * * * * */15"
EVERY_MINUTE = "* * * * *"
EVERY_HOUR = "17 * * * *"

POLICIES: dict[str, JobPolicy] = {
    "assess_signals": JobPolicy(timeout_seconds=120, retries=3, heartbeat_seconds=30, swept=True),
    "simulate_actions": JobPolicy(timeout_seconds=120, retries=3, heartbeat_seconds=30, swept=True),
    "make_signer_keys": JobPolicy(timeout_seconds=30, retries=3, heartbeat_seconds=15, swept=True),
    "check_signers": JobPolicy(timeout_seconds=60, retries=1, heartbeat_seconds=30, cron=EVERY_FIVE_SECONDS),
    "reseal_signer_keys": JobPolicy(timeout_seconds=120, retries=1, heartbeat_seconds=60, cron=EVERY_MINUTE),
    "run_lanes": JobPolicy(timeout_seconds=120, retries=3, heartbeat_seconds=30, swept=True),
    "watch_chains": JobPolicy(timeout_seconds=60, retries=1, heartbeat_seconds=30, cron=EVERY_SECOND),
    "read_signers": JobPolicy(timeout_seconds=60, retries=1, heartbeat_seconds=50, cron=EVERY_MINUTE),
    "watch_lanes": JobPolicy(timeout_seconds=60, retries=1, heartbeat_seconds=30, cron=EVERY_QUARTER_MINUTE),
    "publish_events": JobPolicy(timeout_seconds=60, retries=3, heartbeat_seconds=30, swept=True),
    "deliver_events": JobPolicy(timeout_seconds=90, retries=1, heartbeat_seconds=80, swept=True),
    "prune_events": JobPolicy(timeout_seconds=60, retries=1, heartbeat_seconds=30, cron=EVERY_HOUR),
    "expire_actions": JobPolicy(timeout_seconds=60, retries=3, heartbeat_seconds=30, cron=EVERY_MINUTE),
    "prune_accounts": JobPolicy(timeout_seconds=60, retries=3, heartbeat_seconds=30, cron=EVERY_HOUR),
    "pull_sources": JobPolicy(timeout_seconds=150, retries=1, heartbeat_seconds=120, cron=EVERY_SECOND),
    "run_batches": JobPolicy(timeout_seconds=120, retries=3, heartbeat_seconds=30, swept=True),
    "run_replays": JobPolicy(timeout_seconds=120, retries=3, heartbeat_seconds=30, swept=True),
    "expire_bodies": JobPolicy(timeout_seconds=120, retries=1, heartbeat_seconds=30, cron=EVERY_HOUR),
    "prune_batches": JobPolicy(timeout_seconds=120, retries=1, heartbeat_seconds=30, cron=EVERY_HOUR),
    "tally_signals": JobPolicy(timeout_seconds=120, retries=1, heartbeat_seconds=30, cron=EVERY_FIVE_SECONDS),
    "watch_sources": JobPolicy(timeout_seconds=60, retries=1, heartbeat_seconds=30, cron=EVERY_QUARTER_MINUTE),
    "sweep": JobPolicy(timeout_seconds=60, retries=1, heartbeat_seconds=30, cron=EVERY_FIVE_SECONDS),
}


class Doorbell:
    """Rings at most once per job at a time: rings that arrive while one is on its way are answered by one more."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._wanted: dict[str, str] = {}
        self._ringing: dict[str, asyncio.Task[None]] = {}

    def ring(self, job: str, after: float) -> None:
        self._wanted[job] = correlation_id()
        if job not in self._ringing:
            self._ringing[job] = asyncio.get_running_loop().create_task(self._ring(job, after))

    async def _ring(self, job: str, after: float) -> None:
        try:
            await asyncio.sleep(after)
            while wanted := self._wanted.pop(job, None):
                await self._enqueue(job, wanted)
                # A job does all that waits, so under load a few rings a second wake it as well as one for each row.
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            del self._ringing[job]

    async def _enqueue(self, job: str, correlation: str) -> None:
        try:
            asked = self.queue.enqueue(
                job, correlation_id=correlation, retry_delay=RETRY_DELAY_SECONDS, **saq_options(job)
            )
            await asyncio.wait_for(asked, timeout=5)
            RINGS.labels(job, "rung").inc()
        except Exception as error:
            # The row is committed; the sweeper rings again.
            RINGS.labels(job, "lost").inc()
            log.warning("doorbell.lost", job=job, error=type(error).__name__)

    async def settle(self) -> None:
        """Wait for rings that are on their way."""
        while self._ringing:
            await asyncio.gather(*self._ringing.values(), return_exceptions=True)


class QueueState(msgspec.Struct, frozen=True):
    """Jobs that wait and run, and workers that have reported within the last minute."""

    queued: int
    active: int
    workers: int


def saq_options(job: str) -> dict[str, Any]:
    """The SAQ arguments that `POLICIES` states for `job`."""
    policy = POLICIES[job]
    return {
        "timeout": policy.timeout_seconds,
        "retries": policy.retries,
        "heartbeat": policy.heartbeat_seconds,
        "ttl": 60,
    }


def make_queue(*, max_connections: int = 4) -> Queue:
    """The SAQ queue that the settings name: PostgreSQL by default, Redis by `PORTAL_QUEUE_URL`."""
    settings = get_settings()
    url = settings.queue_url or settings.database_url
    sizes = {} if url.startswith("redis") else {"min_size": 1, "max_size": max_connections}
    queue = Queue.from_url(url, **sizes)
    queue.register_before_enqueue(_name_turn)
    return queue


async def _name_turn(job: Job) -> None:
    """Give each tick of a cron a key of its own, the same in every worker, so that it runs once.

    SAQ's own key names the cron alone: a run whose worker was killed would count as active, and keep the next ones from
    running until SAQ's sweep finds it a minute later.
    """
    if is_turn(job):
        job.key = f"{job.key}@{job.scheduled}"


def is_turn(job: Job) -> bool:
    """Whether the clock has asked for it, not a ring."""
    return bool(job.key.startswith("cron:"))


_doorbells: list[Doorbell] = []  # of this process; empty where nothing is to be woken, as in a command


@asynccontextmanager
async def open_doorbell(queue: Queue) -> AsyncIterator[None]:
    """Make `ring` reach `queue` while the process serves; a queue that is down does not keep it from serving."""
    doorbell = Doorbell(queue)
    _doorbells.append(doorbell)
    try:
        yield
    finally:
        _doorbells.remove(doorbell)
        await doorbell.settle()


def ring(job: str, *, after: float = 0.0) -> None:
    """Wake a worker to run `job`, in so many seconds. Call it after the commit; returns at once and never raises.

    A ring that is on its way already answers this one, too.
    """
    if job not in POLICIES:
        raise KeyError(job)
    for doorbell in _doorbells:
        doorbell.ring(job, after)


_ending = asyncio.Event()


def begin_no_more() -> None:
    """Let jobs that run end what they have begun, and begin nothing new: the process is about to end."""
    _ending.set()


def may_begin() -> bool:
    """Whether a job may begin something new, as until its process is about to end."""
    return not _ending.is_set()


async def queue_state() -> QueueState | None:
    """What the queue says of itself; None in a process without a doorbell. Raises what the queue's driver raises."""
    if not _doorbells:
        return None
    info = await _doorbells[0].queue.info()
    return QueueState(queued=info["queued"], active=info["active"], workers=len(info["workers"]))
