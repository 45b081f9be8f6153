"""The data folder of `portal up`: one holder at a time, keys that are made once, who may enter it."""

import base64
import fcntl
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from portal.errors import SettingInvalid

SYSTEM_USER = "signal-portal"
"""Runs PostgreSQL, which refuses to run as root, where `portal up` itself is run as root."""


class DataFolderInUse(SettingInvalid):
    title = "The data folder is in use"


class Account(msgspec.Struct, frozen=True):
    """A system user to run a process as."""

    uid: int
    gid: int


@contextmanager
def hold(data: Path) -> Iterator[None]:
    """Make `data` and hold it alone; the lock ends with this process however it ends.

    Raises `DataFolderInUse` while another `portal up` holds it, `SettingInvalid` if it cannot be written.
    """
    try:
        for name in ("keys", "run", "log"):
            (data / name).mkdir(parents=True, exist_ok=True)
            (data / name).chmod(0o700)
        lock = os.open(data / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SettingInvalid(f"PORTAL_DATA: the folder {data} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 100).decode() or "another process"
        raise DataFolderInUse(
            f"The data folder {data} is in use by {holder}; stop that one, or give another folder with --data."
        ) from None
    else:
        os.ftruncate(lock, 0)
        os.write(lock, f"`portal up` (process {os.getpid()})".encode())
        yield
    finally:
        os.close(lock)


def make_key() -> str:
    """32 random bytes in base64."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def keep(path: Path, make: Callable[[], str]) -> str:
    """What `path` holds; the first time `make()`, written whole and durable, readable by the owner alone."""
    try:
        return path.read_text()
    except FileNotFoundError:
        write_private(path, made := make())
        return made


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once, mode 0600, so that a crash leaves the old content or the new, never a part."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, text.encode())
        os.fsync(file)
    finally:
        os.close(file)
    new.replace(path)


def keep_port(path: Path) -> int:
    """A free port of 127.0.0.1: the one of the last start if nothing took it, so that addresses stay."""
    kept = int(path.read_text()) if path.exists() else 0
    for port in (kept, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            free = int(probe.getsockname()[1])
            write_private(path, str(free))
            return free
    raise SettingInvalid("There is no free port on 127.0.0.1.")


def unprivileged_account() -> Account | None:
    """The system user for what must not run as root, made if need be; None where we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        if not (useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")):
            raise SettingInvalid(
                "PostgreSQL refuses to run as root and there is no `useradd`; run `portal up` as another user, "
                "or give a database with PORTAL_DATABASE_URL."
            ) from None
        subprocess.run(  # noqa: S603 - our own constant arguments
            [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],
            check=True,
            capture_output=True,
        )
        entry = pwd.getpwnam(SYSTEM_USER)
    return Account(entry.pw_uid, entry.pw_gid)


def let_pass(folder: Path) -> None:
    """Let other users walk through (not list) the folders above `folder`, such as a checkout under /root."""
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            sys.stderr.write(f"{parent} may now be walked through (not listed) by other users, as PostgreSQL must.\n")
            parent.chmod(mode & 0o7777 | 0o011)
