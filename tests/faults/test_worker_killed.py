"""The whole portal, its worker killed two seconds after each start: every signal is executed exactly once all the same.

`make soak` sends a thousand signals.
"""

import copy
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from signal import SIGKILL

from eth_utils.crypto import keccak

from portal.local.chain import ask_node
from tests.browser.stack import Stack, running_stack
from tests.signals import sponsorship

SIGNALS = int(os.environ.get("SOAK_SIGNALS", "40"))
KILL_SECONDS = 2.0
PATIENCE_SECONDS = 120 + SIGNALS
TRANSFER = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
STARTED = b'"event": "worker.started"'
NOBODY = "0x" + "0" * 64


@contextmanager
def killing_the_worker(stack: Stack) -> Iterator[list[int]]:
    """Two seconds after it has begun to work, each time; the process ids that were killed."""
    over, killed = threading.Event(), list[int]()
    log = stack.data / "log" / "worker.log"

    def kill() -> None:
        while not over.wait(0.05):
            if log.read_bytes().count(STARTED) > len(killed) and not over.wait(KILL_SECONDS):
                worker = int((stack.data / "run" / "worker.pid").read_text())
                with suppress(ProcessLookupError):
                    os.kill(worker, SIGKILL)
                killed.append(worker)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def deliver(stack: Stack, number: int) -> None:
    payload = copy.deepcopy(sponsorship())
    payload["sponsorship"]["sponsor"]["login"] = f"sponsor-{number}"
    assert stack.deliver(payload, event="sponsorship").status_code == 202


def executions(stack: Stack) -> Counter[str]:
    """How often points were minted on the chain, by whom they went to."""
    wanted = {"address": stack.example["contract"]["address"], "topics": [TRANSFER, NOBODY], "fromBlock": "0x0"}
    return Counter(event["topics"][2] for event in ask_node(stack.example["chain"]["rpc_url"], "eth_getLogs", wanted))


def test_each_signal_is_executed_once_however_often_the_worker_dies() -> None:
    with running_stack(approvals=0) as stack:
        with killing_the_worker(stack) as killed:
            with ThreadPoolExecutor(4) as senders:
                list(senders.map(lambda number: deliver(stack, number), range(SIGNALS)))
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (executions(stack).total() <= SIGNALS or len(killed) < 2) and time.monotonic() < deadline:
                time.sleep(0.2)
        assert len(set(killed)) >= 2, "the worker was hardly killed at all"
        while stack.api("transactions?status=queued&limit=1")["items"] and time.monotonic() < deadline:
            time.sleep(0.2)
        # One more than we sent: the quickstart's own.
        assert executions(stack).total() == len(executions(stack)) == SIGNALS + 1
