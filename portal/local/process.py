"""One supervised process: its own process group, pid file and log; it ends with us however we end."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec
import psutil

from portal.errors import PortalError
from portal.local.folder import Account, write_private

PR_SET_PDEATHSIG = 1
MAX_LOG_BYTES = 20_000_000
LEFTOVER_SECONDS = 15.0
# Loaded before any fork: between fork and exec only a system call is safe.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class PartFailed(PortalError):
    """A process that the portal needs ended, or does not get ready."""

    title = "A part of the portal does not run"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, as whom, and how to stop it."""

    name: str
    command: list[str]
    environment: dict[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    grace_seconds: float = 15.0
    files: tuple[int, ...] = ()
    """Open files that the process inherits, such as the socket it listens on."""

    def popen(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start it; both its outputs go to `log`. On Linux the kernel stops it when our process is gone."""
        account = self.account
        return subprocess.Popen(  # noqa: S603 - commands are ours
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A terminal's Ctrl-C must reach the supervisor alone, which stops its parts in order.
            start_new_session=True,
            pass_fds=self.files,
            preexec_fn=_end_with(os.getpid(), self.stop_signal),  # noqa: PLW1509 - one system call
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


def _end_with(parent: int, stop_signal: signal.Signals) -> Callable[[], None] | None:
    libc = _LIBC
    if libc is None:
        return None

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:
            os._exit(1)

    return arrange


class Child:
    """A running part, with `<data>/run/<name>.pid` and `<data>/log/<name>.log`."""

    def __init__(self, part: Part, data: Path) -> None:
        self.part = part
        self.log = data / "log" / f"{part.name}.log"
        self._pid_file = data / "run" / f"{part.name}.pid"
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = part.popen(log)
        write_private(self._pid_file, f"{self._process.pid}\n")
        self._ended = _watch(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, once it ends; negative for a signal."""
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Ask it to end; after its grace end its whole group. Returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self.part.stop_signal)
        try:
            await asyncio.wait_for(self.wait(), self.part.grace_seconds)
        except TimeoutError:
            kill_group(self._process.pid)
            await self.wait()
        kill_group(self._process.pid)
        self._pid_file.unlink(missing_ok=True)

    def last_words(self) -> str:
        """The sentence it said since its start, as our commands print it; else the last line of its log."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read()[-20_000:].decode(errors="replace").strip().splitlines()
        said = [line.removeprefix("portal: ") for line in lines if line.startswith("portal: ")]
        return (said or lines or ["It said nothing."])[-1]


def _watch(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """The exit code to come; a daemon thread waits for it, so that a failure of ours never hangs on a running part."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def wait() -> None:
        code = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set_result, code)

    threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()
    return ended


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_leftovers(data: Path) -> list[str]:
    """End what a killed `portal up` left running in `data`; the names of those parts.

    A pid may belong to somebody else by now: only a process whose command names `data` is ours.
    """
    found: dict[str, psutil.Process] = {}
    for file in (data / "run").glob("*.pid"):
        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(file.read_text()))
            if any(str(data) in argument for argument in process.cmdline()):
                found[file.stem] = process
        file.unlink()
    for name, process in found.items():
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs(found.values(), timeout=LEFTOVER_SECONDS)
    for process in alive:
        kill_group(process.pid)
    psutil.wait_procs(alive, timeout=LEFTOVER_SECONDS)
    return list(found)
