"""The whole portal as `make up` starts it, in processes of its own, for tests that look at it from outside."""

import contextlib
import hmac
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pyotp

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
PORTAL = [sys.executable, "-m", "portal.cli"]


class Stack:
    """`portal up --quickstart` on a free port and a fresh data folder, and the quickstart's own description of it."""

    def __init__(self, data: Path, port: int, *, approvals: int = 2, **settings: str) -> None:
        self.data = data
        self.approvals = str(approvals)
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        self.environment |= {"PORTAL_DATA": str(data), "PORTAL_PORT": str(port), **settings}
        self.log = data.with_suffix(".log")

    def start(self) -> None:
        """Start it and wait for the quickstart. Raises with the log's end if that takes over 90 seconds."""
        with self.log.open("w") as log:
            command = [*PORTAL, "up", "--quickstart", "--approvals", self.approvals]
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the portal did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)
        self.example: dict[str, Any] = json.loads(self.run("quickstart", "--json", "--approvals", self.approvals))

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.base_url}/health/ready", timeout=2).status_code == 200
        return False

    def run(self, *arguments: str) -> str:
        """Run a `portal` command against this stack; its standard output."""
        done = subprocess.run(
            [*PORTAL, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def settings(self) -> dict[str, str]:
        """What its own processes were given."""
        lines = (self.data / "run" / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def api(self, path: str) -> Any:
        """GET with the quickstart's API key."""
        answer = httpx.get(
            f"{self.base_url}/api/v1/{path}", headers={"Authorization": f"Bearer {self.example['api_key']}"}, timeout=10
        )
        answer.raise_for_status()
        return answer.json()

    def api_post(self, path: str, body: Any = None) -> Any:
        """POST with the quickstart's API key."""
        return self._send("POST", path, body)

    def api_put(self, path: str, body: Any) -> Any:
        """PUT with the quickstart's API key, whatever was there."""
        return self._send("PUT", path, body)

    def _send(self, method: str, path: str, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.example['api_key']}", "If-Match": "*"}
        given = {} if body is None else {"json": body}
        answer = httpx.request(method, f"{self.base_url}/api/v1/{path}", headers=headers, timeout=10, **given)
        answer.raise_for_status()
        return answer.json()

    def deliver(self, payload: Any, *, event: str, secret: str | None = None) -> httpx.Response:
        """One delivery to the quickstart's source, signed as GitHub signs."""
        source, body = self.example["source"], json.dumps(payload).encode()
        signature = hmac.digest((secret or source["secret"]).encode(), body, "sha256").hex()
        headers = {
            "content-type": "application/json",
            "x-github-event": event,
            "x-github-delivery": str(uuid4()),
            "x-hub-signature-256": f"sha256={signature}",
        }
        return httpx.post(source["url"], content=body, headers=headers, timeout=10)

    def post(self, url: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> httpx.Response:
        """One delivery, as its sender has signed it."""
        return httpx.post(url, content=body, headers=dict(headers), timeout=10)

    def web_process(self) -> int:
        """The process id of the web server that `portal up` runs now."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                status, command = (folder / "status").read_text(), (folder / "cmdline").read_bytes().split(b"\0")
                if f"PPid:\t{self.process.pid}\n" in status and b"web" in command:
                    return int(folder.name)
        raise AssertionError("there is no web process")

    def balance(self, address: str) -> int:
        """What `address` owns of the quickstart's contract, asked of the chain itself."""
        call = {
            "to": self.example["contract"]["address"],
            "data": "0x70a08231" + address.removeprefix("0x").lower().rjust(64, "0"),
        }
        return int(self.rpc("eth_call", call, "latest"), 16)

    def rpc(self, method: str, *params: Any) -> Any:
        """What the chain's node answers."""
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return httpx.post(self.example["chain"]["rpc_url"], json=asked, timeout=10).json()["result"]


@contextmanager
def running_stack(*, approvals: int = 2, **settings: str) -> Iterator[Stack]:
    """A `Stack` in a folder of its own, for the length of a `with` block or of a fixture."""
    # Not pytest's own folder: every run of pytest closes that to the system user that PostgreSQL runs as under root.
    with tempfile.TemporaryDirectory(prefix="portal-stack-") as folder:
        os.chmod(folder, 0o755)
        stack = Stack(Path(folder) / "var", free_port(), approvals=approvals, **settings)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


class Codes:
    """One-time codes of one person, each used once: the next time step where the current one is spent."""

    def __init__(self, secret: str) -> None:
        self.totp = pyotp.TOTP(secret)
        self.last_step = 0

    def next(self) -> str:
        """A code the server has not seen from us; waits where even the next step's is spent."""
        while True:
            now = int(time.time()) // 30
            step = max(now, self.last_step + 1)
            if step <= now + 1:
                self.last_step = step
                return self.totp.generate_otp(step)
            time.sleep(0.5)


@cache
def codes_of(secret: str) -> Codes:
    """The codes of one person, the same for every test of the run: two that count by themselves would use one twice."""
    return Codes(secret)
