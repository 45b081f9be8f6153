"""The worker process: runs jobs and crons, and alone can decrypt signers' keys."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import start_http_server
from psycopg.errors import UndefinedTable
from saq import Worker

from portal.chain.rpc import close_nodes
from portal.chain.service import register_chains
from portal.db import notices
from portal.db.engine import open_pool
from portal.errors import Unavailable
from portal.jobs.queue import begin_no_more, make_queue, open_doorbell, ring
from portal.jobs.registry import saq_crons, saq_functions
from portal.logging import get_logger
from portal.settings import get_settings

log = get_logger(__name__)
CONCURRENCY = 8
GRACE_SECONDS = 10
IDLE_SECONDS = 1.0
"""How long an idle runner waits for a job before it looks whether it should stop."""
LOW_PRIORITY = 10
"""As of nice(1): a tenth of what another process gets that wants the processor, too; all of it where none does."""


class QueueLost(Unavailable):
    """The queue's own tables are gone."""


class PromptWorker(Worker[Any]):
    """Stops as soon as no job runs; SAQ's own waits its whole grace for its timers and for idle runners."""

    queue_lost = False

    async def schedule(self, lock: int = 1) -> None:
        try:
            await super().schedule(lock)
        except UndefinedTable:
            # SAQ makes its tables only when it connects. Without them no clock would ever ring again.
            self.queue_lost = True
            self.event.set()

    async def stop(self) -> None:
        begin_no_more()
        for task in self.tasks:
            if task.get_name() != "process":
                task.cancel()
        await super().stop()


async def run_worker() -> None:
    """Serve the queue until SIGTERM or SIGINT; jobs under way get 10 seconds to end.

    Raises `SettingInvalid` where a setting is missing or a chain is not the one the database knows, and `QueueLost`.
    """
    get_settings().require("database_url", "secret_key", "signer_key", "chain_rpc_urls")
    queue = make_queue(max_connections=CONCURRENCY + 4)
    worker = PromptWorker(
        queue,
        functions=saq_functions(),
        concurrency=CONCURRENCY,
        cron_jobs=saq_crons(),
        dequeue_timeout=IDLE_SECONDS,
        shutdown_grace_period_s=GRACE_SECONDS,
    )
    async with open_pool():
        await register_chains()
        await queue.connect()
        async with open_doorbell(queue):
            if port := get_settings().worker_metrics_port:
                start_http_server(port, get_settings().host)
            give_way()
            log.info("worker.started")
            ring("sweep")  # what a worker that was killed had begun is not left for the clock
            await worker.start()
        await notices.settle()
        await queue.disconnect()
    await close_nodes()
    if worker.queue_lost:
        raise QueueLost("The tables of the queue are gone; the worker makes them again when it starts.")


def give_way() -> None:
    """Let others of this machine come first: they answer somebody who waits, and what we do is safe in rows."""
    os.nice(LOW_PRIORITY)
    # Linux may share the processors out among sessions first (sched(7), autogroup); a shell's is not ours to slow down.
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(LOW_PRIORITY))
