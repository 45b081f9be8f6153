"""`portal up`: the whole portal as separate processes of one terminal, started, watched and stopped together."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from importlib import import_module
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from portal.errors import SettingInvalid
from portal.local.chain import CHAIN_ID, LocalChain
from portal.local.folder import hold, keep, make_key, write_private
from portal.local.postgres import Postgres
from portal.local.process import Child, Part, PartFailed, end_leftovers, kill_group
from portal.server import LISTENER_VARIABLE, listen
from portal.settings import Settings, get_settings

START_SECONDS = 60.0
POLL_SECONDS = 0.05
SETTING_EXIT_CODE = 2
"""With which our commands end where a setting is wrong."""
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 10.0
ENVIRONMENT_FILE = "run/environment"
SIGNER_VARIABLES = tuple(
    variable + suffix
    for variable in ("PORTAL_SIGNER_KEY", "PORTAL_SIGNER_KEY_PREVIOUS", "PORTAL_KMS_KEYS", "PORTAL_WEB3SIGNER_URLS")
    for suffix in ("", "_FILE")
)
"""What is the worker's alone."""
START_ORDER = ("postgres", "chain", "web", "worker")
STOP_ORDER = (("web", "worker"), ("chain", "postgres"))
"""Those that use come before those that are used; the parts of one step are stopped together."""


def run_up(settings: Settings, *, example_approvals: int | None) -> None:
    """Run the portal until SIGINT or SIGTERM; leaves nothing running.

    With `example_approvals` it then makes the quickstart's organisation, whose actions need so many approvals.

    Raises `SettingInvalid` (data folder in use, port taken, a part not installed) or `PartFailed`.
    """
    data = settings.data.absolute()
    with listen(settings.host, settings.port) as listener, hold(data):
        asyncio.run(Supervisor(settings.model_copy(update={"data": data}), listener).run(example_approvals))


class FreshChain(SettingInvalid):
    title = "The database and the chain do not belong together"


class Supervisor:
    """Starts the parts in order, restarts what dies, stops all in order."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.data = settings.data
        self.listener = listener
        self.console = Console(highlight=False)
        self.children: dict[str, Child] = {}
        self.keepers: list[asyncio.Task[None]] = []
        self.chain: LocalChain | None = None
        self.postgres: Postgres | None = None
        self.healthy = False
        self.stopping = False

    async def run(self, example_approvals: int | None) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        work = asyncio.create_task(self._work(example_approvals))
        asked = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((work, asked, self.failed), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                await (self.failed if self.failed.done() else work)
        finally:
            for task in (work, asked):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            await self._stop_all()
        self.console.print("Stopped.")

    async def _work(self, example_approvals: int | None) -> None:
        started = time.monotonic()
        for name in await asyncio.to_thread(end_leftovers, self.data):
            self.console.print(f"Ended {name}, which an earlier start had left running.")
        await self._start_embedded()
        # Imported while the parts start: it takes most of a second.
        await asyncio.gather(asyncio.to_thread(import_module, "portal.db.migrations"), self._until_embedded_answer())
        await self._prepare_database()
        common = {name: value for name, value in os.environ.items() if name not in SIGNER_VARIABLES}
        worker_only = {name: os.environ[name] for name in SIGNER_VARIABLES if name in os.environ}
        self._start("web", lambda: self._portal_part("web", common, listening=True))
        self._start("worker", lambda: self._portal_part("worker", common | worker_only))
        await self._until("The portal", self._is_healthy)
        self.healthy = True
        seconds = time.monotonic() - started
        if example_approvals is None:
            await self._show(seconds, link=await find_setup_link(self.settings))
        else:
            await self._show(seconds, link=None)
            await self._quickstart(common, example_approvals)
        await asyncio.Event().wait()

    async def _start_embedded(self) -> None:
        """Start what no setting names, and settle the settings of the portal's own processes."""
        keys = self.data / "keys"
        environment = {
            "PORTAL_HOST": self.settings.host,
            "PORTAL_PORT": str(self.settings.port),
            "PORTAL_DATA": str(self.data),
        }
        for setting in ("secret_key", "signer_key"):
            if not getattr(self.settings, setting):
                keep(keys / setting, make_key)
                environment[f"PORTAL_{setting.upper()}_FILE"] = str(keys / setting)
        if not self.settings.chain_rpc_urls:
            self.chain = LocalChain(self.data)
            environment["PORTAL_CHAIN_RPC_URLS"] = self.chain.rpc_urls
            self._start("chain", self.chain.prepare)
        if not self.settings.database_url:
            self.postgres = Postgres(self.data)
            part = await asyncio.to_thread(self.postgres.prepare)
            environment["PORTAL_DATABASE_URL"] = self.postgres.database_url
            self._start("postgres", lambda: part)
        os.environ.update(environment)
        get_settings.cache_clear()
        write_private(
            self.data / ENVIRONMENT_FILE,
            "".join(
                f"{name}={value}\n"
                for name, value in os.environ.items()
                if name.startswith("PORTAL_") and name not in SIGNER_VARIABLES
            ),
        )

    async def _until_embedded_answer(self) -> None:
        if self.chain:
            await self._until("The local chain", self.chain.is_ready)
            await self.chain.begin()
            self.keepers.append(asyncio.create_task(self.chain.keep_snapshots()))
        if self.postgres:
            postgres = self.postgres
            await self._until("PostgreSQL", lambda: asyncio.to_thread(postgres.make_database))

    async def _prepare_database(self) -> None:
        """Bring the tables up to date, and see that the embedded chain is the one that the database knows.

        The worker verifies every chain by itself; asked here, a wrong one is said before anything uses it.
        """
        from portal.db.engine import open_pool, run_sql
        from portal.db.migrations import migrate

        await migrate()
        if not self.chain:
            return
        first = await self.chain.first_hash()
        async with open_pool():
            known = await run_sql("SELECT genesis_hash FROM chain WHERE id = {}", CHAIN_ID)
        if known and known[0]["genesis_hash"] != first:
            raise FreshChain(
                f"The database in {self.data} was used with another local chain than the one in {self.chain.folder}: "
                f"restore that folder, or move {self.data} away to begin with a new database and a new chain."
            )

    def _portal_part(self, name: str, environment: dict[str, str], *, listening: bool = False) -> Part:
        descriptor = self.listener.fileno()
        return Part(
            name=name,
            command=[sys.executable, "-m", "portal.cli", name, "--data", str(self.data)],
            environment=environment | ({LISTENER_VARIABLE: str(descriptor)} if listening else {}),
            files=(descriptor,) if listening else (),
        )

    def _start(self, name: str, prepare: Callable[[], Part]) -> None:
        """Start the part that `prepare` describes, now and whenever it ends."""
        self.children[name] = Child(prepare(), self.data)
        self.keepers.append(asyncio.create_task(self._keep(name, prepare)))

    async def _keep(self, name: str, prepare: Callable[[], Part]) -> None:
        """Start `name` again whenever it ends; an end is a failure while the portal is not up yet, or for a setting."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            child, started = self.children[name], time.monotonic()
            code = await child.wait()
            if self.stopping:
                return
            if not self.healthy or code == SETTING_EXIT_CODE:
                failure = SettingInvalid if code == SETTING_EXIT_CODE else PartFailed
                if not self.failed.done():
                    self.failed.set_exception(failure(f"{name} ended. {child.last_words()} (Its log: {child.log})"))
                return
            kill_group(child.pid)
            # Killed from outside, it is no more likely to end soon again than it was before.
            if code == -signal.SIGKILL or time.monotonic() - started > LONGEST_BACKOFF_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self.console.print(f"{name} ended ({describe_end(code)}); starting it again. Its log: {child.log}")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            self.children[name] = Child(prepare(), self.data)

    async def _until(self, what: str, is_ready: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not await is_ready():
            if time.monotonic() > deadline:
                raise PartFailed(f"{what} is not ready after {START_SECONDS:.0f} seconds; see {self.data / 'log'}.")
            await asyncio.sleep(POLL_SECONDS)

    async def _is_healthy(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.settings.host, self.settings.host)  # noqa: S104 - compared
        return await asyncio.to_thread(answers, f"http://{host}:{self.settings.port}/health/ready")

    async def _show(self, seconds: float, *, link: str | None) -> None:
        table = Table(box=box.ROUNDED, title="Signal Portal", title_justify="left", title_style="bold")
        for column in ("Part", "State", "Where"):
            table.add_column(column)
        where = {
            "postgres": without_password(os.environ["PORTAL_DATABASE_URL"]),
            "chain": ", ".join(os.environ["PORTAL_CHAIN_RPC_URLS"].split(",")),
            "web": self.settings.public_url,
            "worker": f"logs in {self.data / 'log'}",
        }
        for name in START_ORDER:
            child = self.children.get(name)
            table.add_row(name, f"[green]✓[/] process {child.pid}" if child else "[green]✓[/] by setting", where[name])
        self.console.print(table)
        if link:
            self.console.print(f"There is no organisation yet. Make the first one at {link}", soft_wrap=True)
        self.console.print(f"Healthy after {seconds:.1f} s. Open {self.settings.public_url} — Ctrl-C stops everything.")

    async def _quickstart(self, environment: dict[str, str], approvals: int) -> None:
        """Run `portal quickstart` in this terminal; the portal runs on if it fails."""
        command = [sys.executable, "-m", "portal.cli", "quickstart", "--approvals", str(approvals)]
        process = await asyncio.create_subprocess_exec(
            *(*command, "--data", str(self.data)),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    async def _stop_all(self) -> None:
        self.stopping = True
        for keeper in self.keepers:
            keeper.cancel()
        await asyncio.gather(*self.keepers, return_exceptions=True)
        for step in STOP_ORDER:
            if self.chain and "chain" in step:
                await self.chain.take_snapshot()
            await asyncio.gather(*(self.children[name].stop() for name in step if name in self.children))
        (self.data / ENVIRONMENT_FILE).unlink(missing_ok=True)


async def find_setup_link(settings: Settings) -> str | None:
    """The one-time link by which the first owner begins; None once there is an organisation."""
    from portal.db.engine import open_pool, run_sql

    async with open_pool():
        if (await run_sql("SELECT EXISTS (SELECT FROM organization) AS made"))[0]["made"]:
            return None
        from portal.accounts.service import invite_owner

        return f"{settings.public_url}/setup/{await invite_owner()}"


def answers(url: str) -> bool:
    """Whether `url` answers 200 now."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 5432}{parts.path}"


def describe_end(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
