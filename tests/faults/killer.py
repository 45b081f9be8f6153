"""Real worker processes that end themselves with SIGKILL (or stop with SIGSTOP) at a point that a test names.

`python -m tests.faults.killer` imports the portal once and then forks a process for each order on its input, so that
a hundred deaths cost seconds. Each is either the `portal worker` itself, with its clock ringing for lanes and chains
every second, or just a few jobs, one after the other. The product knows nothing of this: its waits are wrapped from
here.

A point is one of the engine's waits, `before` or `after` it is carried out:

    query    a statement; its label is the SQL and its arguments
    commit   the end of a db transaction; its label is all that was said in it, such as `transaction.signed`
    ask      a request to a node; its label is its methods, such as `eth_sendRawTransaction`
    effect   any of these that may change something for good: a commit, a lone statement that writes, bytes that go out

Between two effects it makes no difference where a process dies, so that killing it before and after each is enough.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE)\b")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Point:
    """Where to die: at the `nth` wait of this kind whose label holds `label`."""

    when: Literal["before", "after"]
    what: Literal["query", "commit", "ask", "effect"]
    label: str = ""
    nth: int = 1
    act: Literal["kill", "stop", "term"] = "kill"


@dataclass(frozen=True)
class Order:
    """What the process is to do: be the whole worker, or run `jobs`, one after the other."""

    point: Point | None = None
    worker: bool = False
    jobs: Sequence[str] = ("run_lanes", "watch_chains")
    ahead_seconds: float = 0
    """How far its clock is ahead of the real one."""


@dataclass
class Worker:
    """A process that the killer has forked."""

    killer: "Killer"
    pid: int

    def poll(self) -> int | None:
        """What it ended with, or None: 0, an exit code, or the negative number of a signal."""
        ended: int | None = self.killer.say({"poll": self.pid})["ended"]
        return ended

    async def ends(self, seconds: float = 20) -> int:
        """Wait until it has ended; what with."""
        deadline = time.monotonic() + seconds
        while (ended := self.poll()) is None:
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                raise AssertionError(f"the worker lived on:\n{self.killer.log()}")
            await asyncio.sleep(0.02)
        return ended

    async def dies(self) -> None:
        """Wait for its own SIGKILL."""
        ended = await self.ends()
        assert ended == -signal.SIGKILL, f"it ended with {ended} before it came to its point:\n{self.killer.log()}"

    async def stops(self, seconds: float = 20) -> None:
        """Wait until it has stopped itself."""
        deadline = time.monotonic() + seconds
        while self._state() != "T":
            assert time.monotonic() < deadline, f"it did not come to its point:\n{self.killer.log()}"
            await asyncio.sleep(0.02)

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


class Killer:
    """The process that forks, started with the settings of this one."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            text=True,
        )

    def start(self, order: Order) -> Worker:
        return Worker(self, self.say(asdict(order))["pid"])

    def say(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def log(self) -> str:
        return self._log.read_text()[-3000:]

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)
        if self._process.stdout:
            self._process.stdout.close()


def process(killer: Killer, ahead: timedelta, point: Point | None = None, **order: Any) -> Worker:
    """Start what `order` says, with a clock that is so far before the real one."""
    return killer.start(Order(point=point, ahead_seconds=ahead.total_seconds(), **order))


@contextmanager
def running_killer(folder: Path) -> Iterator[Killer]:
    killer = Killer(folder / "workers.log")
    try:
        yield killer
    finally:
        killer.stop()


# In the forking process and its children


class Doom:
    """Counts the waits, and strikes at the one that was named."""

    def __init__(self, point: Point) -> None:
        self._point = point
        self._left = point.nth

    def at(self, when: str, what: str, label: str, *, effect: bool = True) -> None:
        kind = self._point.what == what or (self._point.what == "effect" and effect)
        if not kind or when != self._point.when or self._point.label not in label or self._left <= 0:
            return
        self._left -= 1
        if self._left == 0:
            strikes = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
            os.kill(os.getpid(), strikes[self._point.act])

    def wrap(self) -> None:
        """From now on every wait for the database or a node passes through here."""
        from portal.chain.endpoint import Endpoint
        from portal.db.engine import Engine, Transaction, get_engine

        run, leave, post = Engine.run_querystring, Transaction.__aexit__, Endpoint._post

        async def query(engine: Any, querystring: Any, in_pool: bool = True) -> Any:
            sql, arguments = querystring.compile_string()
            label = f"{sql} {arguments}"
            effect = bool(WRITES.search(sql))
            if current := get_engine().current_transaction.get():
                current.__dict__.setdefault("said", []).append(label)
                effect = False
            self.at("before", "query", label, effect=effect)
            rows = await run(engine, querystring, in_pool)
            self.at("after", "query", label, effect=effect)
            return rows

        async def end(db_transaction: Any, kind: Any, error: Any, trace: Any) -> Any:
            label = "\n".join(db_transaction.__dict__.get("said", []))
            self.at("before", "commit", label)
            left = await leave(db_transaction, kind, error, trace)
            self.at("after", "commit", label)
            return left

        async def ask(endpoint: Any, asked: Any, *more: Any, **others: Any) -> Any:
            label = " ".join(method for method, _ in asked)
            effect = "eth_sendRawTransaction" in label
            self.at("before", "ask", label, effect=effect)
            answers = await post(endpoint, asked, *more, **others)
            self.at("after", "ask", label, effect=effect)
            return answers

        for owner, name, wrapped in (
            (Engine, "run_querystring", query),
            (Transaction, "__aexit__", end),
            (Endpoint, "_post", ask),
        ):
            setattr(owner, name, wrapped)


async def _work(order: Order) -> None:
    """Waits count from the first job on."""
    from portal.chain.rpc import close_nodes
    from portal.db.engine import open_pool
    from portal.jobs.registry import WORK

    async with open_pool():
        if order.point:
            Doom(order.point).wrap()
        for job in order.jobs:
            await WORK[job]()
        await close_nodes()


def _live(order: Order) -> None:
    """The life of a child."""
    from portal import clock

    sys.stdin.close()
    os.dup2(2, 1)
    clock.now = lambda: datetime.now(UTC) + timedelta(seconds=order.ahead_seconds)
    if not order.worker:
        asyncio.run(_work(order))
        return
    from portal.cli import main
    from portal.jobs.queue import EVERY_SECOND, POLICIES

    POLICIES["run_lanes"] = msgspec.structs.replace(POLICIES["run_lanes"], cron=EVERY_SECOND)
    if order.point:
        Doom(order.point).wrap()
    main(["worker"], standalone_mode=False)


def _fork(order: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        point = order.pop("point")
        _live(Order(**order, point=Point(**point) if point else None))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Fork as told until the input ends, then end what still lives."""
    import portal.cli
    import portal.jobs.registry
    import portal.jobs.worker  # noqa: F401

    ended: dict[int, int | None] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            child = order["poll"]
            if ended[child] is None:
                pid, status = os.waitpid(child, os.WNOHANG)
                ended[child] = os.waitstatus_to_exitcode(status) if pid else None
            answer: dict[str, Any] = {"ended": ended[child]}
        else:
            child = _fork(order)
            ended[child] = None
            answer = {"pid": child}
        print(json.dumps(answer), flush=True)
    for child in (child for child, status in ended.items() if status is None):
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    serve()
