"""A real EVM node for tests: each `Anvil` is a chain of its own, on a free port, in memory."""

import json
import platform
import re
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")


def anvil_binary() -> Path:
    """The binary that npm's platform package carries; it needs no install script."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return ROOT / "node_modules" / "@foundry-rs" / f"anvil-{platform.system().lower()}-{machine}" / "bin" / "anvil"


class NodeError(Exception):
    """The JSON-RPC error object that the node answered."""


class Anvil:
    """A running node. By default it mines at once; `block_time=1` gives a block a second, `mining=False` none.

    `options` are more arguments of the command, such as `["--load-state", path]`.
    `anvil` binds a free port itself (`--port 0`) and says which, so that parallel tests cannot collide.
    """

    def __init__(
        self,
        *,
        block_time: float | None = None,
        mining: bool = True,
        chain_id: int = 31337,
        port: int = 0,
        options: Sequence[str] = (),
    ) -> None:
        pace = ["--block-time", str(block_time)] if block_time else []
        if not mining:
            pace.append("--no-mining")
        self.chain_id = chain_id
        # By itself it keeps states of old blocks in the home folder, and leaves them there when it is killed.
        self._cache = tempfile.TemporaryDirectory(prefix="portal-anvil-")
        self._process = subprocess.Popen(
            [
                *(str(anvil_binary()), "--port", str(port), "--chain-id", str(chain_id)),
                *("--cache-path", self._cache.name, *pace, *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.port = self._read_port()
        # Anvil logs every request: an unread pipe would fill up and stop it.
        threading.Thread(target=self._drain, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rpc_urls(self) -> str:
        """The value for `PORTAL_CHAIN_RPC_URLS`."""
        return f"{self.chain_id}={self.url}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read_port(self) -> int:
        said = []
        assert self._process.stdout
        for line in self._process.stdout:
            if found := LISTENING.search(line):
                return int(found[1])
            said.append(line)
        raise RuntimeError(f"anvil did not start: {''.join(said)[-500:]}")

    def _drain(self) -> None:
        assert self._process.stdout
        for _ in self._process.stdout:
            pass

    def rpc(self, method: str, *params: Any) -> Any:
        """The result of one JSON-RPC call; raises `NodeError` with the node's error object."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)
        if "error" in answer:
            raise NodeError(answer["error"])
        return answer["result"]

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def fund(self, address: str, wei: int = 10**21) -> None:
        self.rpc("anvil_setBalance", address, hex(wei))

    def accounts(self) -> list[str]:
        """The ten unlocked accounts that can send without a key of ours (`eth_sendTransaction`)."""
        return list(self.rpc("eth_accounts"))

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._cache.cleanup()


@contextmanager
def running_anvil(**options: Any) -> Iterator[Anvil]:
    """An `Anvil` for the length of a `with` block or of a fixture."""
    node = Anvil(**options)
    try:
        yield node
    finally:
        node.stop()
