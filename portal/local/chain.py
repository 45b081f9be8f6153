"""The embedded chain: `anvil` from npm, one block a second, its state kept under the data folder.

Anvil writes its own state file in place, so that a kill in the middle spoils it. We ask for the state instead and
replace our snapshot at once. A kill loses the blocks since the last snapshot; to the portal that is a reorganisation,
far younger than what it takes for final.
"""

import asyncio
import gzip
import json
import os
import platform
import shutil
import threading
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from portal.errors import SettingInvalid
from portal.local.folder import keep_port
from portal.local.process import Part
from portal.settings import ROOT

CHAIN_ID = 31337
SNAPSHOT_SECONDS = 2.0
MOST_SHARE = 0.02
"""Of the time, for snapshots: a long history takes longer to write, so it is written less often."""


class NoAnswer(Exception):
    """The node does not answer, or not what was asked."""


class LocalChain:
    """A node whose state is under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "chain"
        self.snapshot = self.folder / "state.json.gz"
        self.folder.mkdir(exist_ok=True)
        self.port = keep_port(self.folder / "port")
        self._writing = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rpc_urls(self) -> str:
        """The value for `PORTAL_CHAIN_RPC_URLS`."""
        return f"{CHAIN_ID}={self.url}"

    def prepare(self) -> Part:
        """The process to run, from the last snapshot on. Raises `SettingInvalid` where there is no `anvil`."""
        # Of the states of old blocks, it removes those of its own run at most, and none if it is killed.
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        state = ["--load-state", str(self._unpack())] if self.snapshot.exists() else []
        return Part(
            name="chain",
            command=[
                *(str(find_anvil()), "--quiet", "--port", str(self.port), "--chain-id", str(CHAIN_ID)),
                *("--block-time", "1", "--cache-path", str(self.folder / "cache"), *state),
            ],
            environment={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        )

    async def is_ready(self) -> bool:
        try:
            return bool(int(str(await self.ask("eth_chainId")), 16) == CHAIN_ID)
        except NoAnswer:
            return False

    async def begin(self) -> None:
        """See that there is a second block, and a snapshot of it, before anybody refers to the chain.

        Anvil makes a new first block each time it loads its state; the chain is known by the parent of the second.
        """
        if await self.ask("eth_blockNumber") == "0x0":
            await self.ask("evm_mine")
        await self.take_snapshot()

    async def first_hash(self) -> str:
        """The hash of the first block, as the second one says it."""
        return str((await self.ask("eth_getBlockByNumber", "0x1", False))["parentHash"])

    async def keep_snapshots(self) -> None:
        """Take snapshots for ever, the first at once."""
        while True:
            started = time.monotonic()
            await self.take_snapshot()
            await asyncio.sleep(max(SNAPSHOT_SECONDS, (time.monotonic() - started) / MOST_SHARE))

    async def take_snapshot(self) -> None:
        """Replace the snapshot by the present state; leaves the old one where the node does not answer."""
        await asyncio.to_thread(self._write_snapshot)

    def _write_snapshot(self) -> None:
        with self._writing:
            try:
                state = str(ask_node(self.url, "anvil_dumpState"))
            except NoAnswer:
                return
            replace_file(self.snapshot, bytes.fromhex(state.removeprefix("0x")))

    async def ask(self, method: str, *parameters: Any) -> Any:
        """One JSON-RPC call. Raises `NoAnswer`."""
        return await asyncio.to_thread(ask_node, self.url, method, *parameters)

    def _unpack(self) -> Path:
        unpacked = self.folder / "state.json"
        try:
            unpacked.write_bytes(gzip.decompress(self.snapshot.read_bytes()))
        except (OSError, EOFError, zlib.error) as error:
            raise SettingInvalid(
                f"The local chain's state {self.snapshot} cannot be read ({error}), and the database refers to it: put "
                f"the file back, or move {self.folder.parent} away to begin with a new database and a new chain."
            ) from error
        return unpacked


def ask_node(url: str, method: str, *parameters: Any) -> Any:
    """One JSON-RPC call to a local node, for what only such a node can do. Raises `NoAnswer`."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - checked by settings
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            answered = json.load(answer)
    except (OSError, ValueError) as error:
        raise NoAnswer(str(error)) from error
    if "error" in answered:
        raise NoAnswer(str(answered["error"].get("message")))
    return answered["result"]


def replace_file(path: Path, content: bytes) -> None:
    """Replace `path` so that a crash leaves the old content or the new."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def find_anvil() -> Path:
    """The binary in npm's platform package, which needs no install script. Raises `SettingInvalid` if it is missing."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = f"anvil-{platform.system().lower()}-{machine}"
    binary = ROOT / "node_modules" / "@foundry-rs" / package / "bin" / "anvil"
    if not binary.exists():
        raise SettingInvalid(
            "The local chain `anvil` is not installed; run `make install`, or give a node with PORTAL_CHAIN_RPC_URLS."
        )
    return binary
