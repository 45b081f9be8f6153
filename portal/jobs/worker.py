"""The worker process: runs jobs and crons, and alone can decrypt signers' keys."""

from typing import Any

from saq import Worker

from portal.chain.rpc import close_nodes
from portal.chain.service import register_chains
from portal.db.engine import open_pool
from portal.jobs.queue import make_queue, open_doorbell
from portal.jobs.registry import saq_crons, saq_functions
from portal.logging import get_logger
from portal.settings import get_settings

log = get_logger(__name__)
CONCURRENCY = 8
GRACE_SECONDS = 10
IDLE_SECONDS = 1.0
"""How long an idle runner waits for a job before it looks whether it should stop."""


class PromptWorker(Worker[Any]):
    """Stops as soon as no job runs; SAQ's own waits its whole grace for its timers and for idle runners."""

    async def stop(self) -> None:
        for task in self.tasks:
            if task.get_name() != "process":
                task.cancel()
        await super().stop()


async def run_worker() -> None:
    """Serve the queue until SIGTERM or SIGINT; jobs under way get 10 seconds to end.

    Raises `SettingInvalid` where a setting is missing or a chain is not the one the database knows.
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
            log.info("worker.started")
            await worker.start()
        await queue.disconnect()
    await close_nodes()
