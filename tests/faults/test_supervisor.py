"""`portal up` and the commands around it: real processes on a data folder of their own, killed at every part."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg
import pytest

from portal.local import chain
from portal.local.chain import NoAnswer, ask_node
from portal.local.folder import keep, keep_port
from portal.local.process import end_leftovers
from tests.anvil import running_anvil

START_SECONDS = 90
T = TypeVar("T")
PARTS = ("postgres", "chain", "web", "worker")


def clean_environment(**settings: str) -> dict[str, str]:
    """Without the settings of the tests' own database."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")} | settings


def run_portal(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portal.cli", *arguments],
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(look: Callable[[], T], seconds: float = 30) -> T:
    """What `look` returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)
    return found


class Up:
    """A running `portal up`."""

    def __init__(self, data: Path, **settings: str) -> None:
        self.data = data
        self.settings = settings
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = data.with_suffix(".out")
        self.start()

    def start(self) -> None:
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "portal.cli", "up", "--port", str(self.port), "--data", str(self.data)],
                env=clean_environment(**self.settings),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        until(lambda: "Healthy" in self.said() or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self.output.read_text()

    def pid(self, part: str) -> int:
        return int((self.data / "run" / f"{part}.pid").read_text())

    def get(self, path: str, timeout: float = 30) -> int:
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def is_ready(self) -> bool:
        try:
            return self.get("/health/ready") == 200
        except OSError:
            return False

    def environment(self) -> dict[str, str]:
        lines = (self.data / "run" / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def ask_chain(self, method: str, *parameters: Any) -> Any:
        return ask_node(self.environment()["PORTAL_CHAIN_RPC_URLS"].partition("=")[2], method, *parameters)

    def block_number(self) -> int:
        """Of the newest block; -1 while the chain does not answer."""
        try:
            return int(self.ask_chain("eth_blockNumber"), 16)
        except NoAnswer:
            return -1

    def portal(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_portal(*arguments, PORTAL_DATA=str(self.data))

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


def processes_of(data: Path) -> list[str]:
    """Commands of running processes that name the data folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(data) in argument for argument in process.info["cmdline"] or ()):
            found.append(" ".join(process.info["cmdline"]))
    return found


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    # Not pytest's own folder: every run of pytest closes that to the system user that PostgreSQL runs as under root.
    with tempfile.TemporaryDirectory(prefix="portal-up-") as folder:
        running = Up(Path(folder) / "data")
        try:
            yield running
        finally:
            running.stop()


def test_says_in_one_table_what_runs_and_where_to_begin(up: Up) -> None:
    said = up.said()
    assert said.count("╭") == 1
    assert all(part in said for part in PARTS)
    assert up.url in said
    link = re.search(r"http://\S+/setup/\S+", said)
    assert link, "there is no organisation yet, so the link to make one is shown"
    assert up.get(link.group().removeprefix(up.url)) == 200
    for part in PARTS:
        assert psutil.pid_exists(up.pid(part))
        assert (up.data / "log" / f"{part}.log").exists()


def test_keys_are_private_and_only_the_worker_has_the_signers(up: Up) -> None:
    assert (up.data / "keys").stat().st_mode & 0o777 == 0o700
    for key in (up.data / "keys").iterdir():
        assert key.stat().st_mode & 0o777 == 0o600, key
    assert (up.data / "run" / "environment").stat().st_mode & 0o777 == 0o600
    variables = {part: psutil.Process(up.pid(part)).environ() for part in ("web", "worker")}
    assert not [name for name in variables["web"] if "SIGNER" in name]
    assert Path(variables["worker"]["PORTAL_SIGNER_KEY_FILE"]).read_text()
    assert not [name for name in up.environment() if "SIGNER" in name]


def test_only_the_worker_gives_way(up: Up) -> None:
    worker = psutil.Process(up.pid("worker"))
    until(lambda: worker.nice() > psutil.Process(up.pid("web")).nice())
    assert len({psutil.Process(up.pid(part)).nice() for part in PARTS}) == 2
    if (shares := Path(f"/proc/{worker.pid}/autogroup")).exists():
        until(lambda: shares.read_text().endswith("nice 10\n"))


def test_the_folder_is_held_by_one(up: Up) -> None:
    second = run_portal("up", "--port", str(free_port()), "--data", str(up.data))
    assert second.returncode == 2
    assert "in use" in second.stderr
    assert second.stderr.count("\n") == 1
    assert up.is_ready()


def test_a_taken_port_is_said_before_anything_is_made(up: Up, tmp_path: Path) -> None:
    second = run_portal("up", "--port", str(up.port), "--data", str(tmp_path / "other"))
    assert second.returncode == 2
    assert f"Port {up.port}" in second.stderr
    assert second.stderr.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_headers_without_end_get_431(up: Up) -> None:
    with socket.create_connection(("127.0.0.1", up.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        for _ in range(64):
            connection.sendall(b"a" * 16_384)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"Traceback" not in answer


def test_the_quickstart_makes_everything_once(up: Up) -> None:
    first = up.portal("quickstart", "--json")
    assert first.returncode == 0, first.stderr
    again = up.portal("quickstart", "--json")
    assert again.stdout == first.stdout
    made = json.loads(first.stdout)
    assert [member["role"] for member in made["members"]] == ["owner", "approver"]
    assert len(up.ask_chain("eth_getCode", made["contract"]["address"], "latest")) > 100
    request = urllib.request.Request(
        f"{up.url}/api/v1/signals/{made['signal_id']}", headers={"Authorization": f"Bearer {made['api_key']}"}
    )

    def proposed() -> list[str]:
        with urllib.request.urlopen(request) as answer:
            return list(json.load(answer)["action_ids"])

    assert len(until(proposed)) == 1
    shown = up.portal("quickstart")
    assert all(member["password"] in shown.stdout for member in made["members"])


def test_the_quickstart_without_approvals_runs_by_itself(up: Up) -> None:
    made = json.loads(up.portal("quickstart", "--json", "--approvals", "0", "--organization", "Robots").stdout)
    total_supply = "0x18160ddd"

    def minted() -> bool:
        call = {"to": made["contract"]["address"], "data": total_supply}
        return int(up.ask_chain("eth_call", call, "latest"), 16) == 25 * 10**18

    until(minted)


def test_the_quickstart_does_not_touch_an_organization_of_others(up: Up) -> None:
    assert up.portal("member", "add", "--organization", "theirs", "--email", "a@example.org", "--name", "A",
                     "--role", "owner").returncode == 0  # fmt: skip
    refused = up.portal("quickstart", "--organization", "Theirs")
    assert refused.returncode == 1
    assert "did not make" in refused.stderr


def test_a_member_is_added_by_password_or_by_invitation(up: Up, tmp_path: Path) -> None:
    common = ("member", "add", "--organization", "crew", "--name", "Eve", "--role", "admin", "--email")
    invited = up.portal(*common, "eve@example.org")
    assert invited.returncode == 0, invited.stderr
    assert up.get(invited.stdout.strip().removeprefix(up.url)) == 200
    password = tmp_path / "password"
    password.write_text("correct horse battery staple\n")
    assert up.portal(*common, "eve2@example.org", "--password-file", str(password)).returncode == 0
    password.write_text("short")
    short = up.portal("member", "add", "--organization", "void", "--name", "Eve", "--role", "admin", "--email",
                      "eve3@example.org", "--password-file", str(password))  # fmt: skip
    assert short.returncode == 1
    assert "12" in short.stderr
    assert "void" not in up.portal("audit", "verify").stdout, "nothing is made for a member who cannot be"


def test_the_audit_names_the_first_broken_entry(up: Up) -> None:
    for slug in ("forged", "honest"):
        up.portal("member", "add", "--organization", slug, "--email", "f@example.org", "--name", "F", "--role", "owner")
    assert up.portal("audit", "verify").returncode == 0
    with psycopg.connect(up.environment()["PORTAL_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # past the trigger that refuses changes
        connection.execute(
            """UPDATE audit_entry SET actor_label = 'nobody' WHERE sequence = 2
               AND organization = (SELECT id FROM organization WHERE slug = 'forged')"""
        )
    broken = up.portal("audit", "verify")
    assert broken.returncode == 1
    assert "forged: entry 2 is the first that is broken" in broken.stdout
    assert up.portal("audit", "verify", "--organization", "honest").returncode == 0
    unknown = up.portal("audit", "verify", "--organization", "unknown")
    assert unknown.returncode == 1
    assert "Traceback" not in unknown.stderr


def test_the_doctor_finds_nothing_wrong(up: Up) -> None:
    found = up.portal("doctor")
    assert found.returncode == 0, found.stdout
    assert all(word in found.stdout for word in ("settings", "database", "migrations", "queue", "chain 31337"))
    assert up.portal("migrate").stdout == "Nothing to migrate.\n"
    assert up.portal("seed").returncode == 0


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_is_started_again(up: Up, part: str) -> None:
    before = up.pid(part)
    block = up.block_number()
    os.kill(before, signal.SIGKILL)
    until(lambda: up.pid(part) != before)
    assert f"{part} ended (by SIGKILL)" in until(up.said)
    until(up.is_ready)
    if part == "chain":
        until(lambda: up.block_number() >= block)
        assert up.portal("seed").returncode == 0, "it is still the chain that the database knows"


def test_callers_wait_while_the_web_process_starts_again(up: Up) -> None:
    before = up.pid("web")
    os.kill(before, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(before))
    assert up.get("/health/live") == 200


def test_a_stop_leaves_nothing_running_and_the_next_start_goes_on(up: Up) -> None:
    made = json.loads(up.portal("quickstart", "--json").stdout)
    code = up.ask_chain("eth_getCode", made["contract"]["address"], "latest")
    assert up.stop() == 0
    assert processes_of(up.data) == []
    assert list((up.data / "run").glob("*.pid")) == []
    assert not (up.data / "run" / "environment").exists()

    up.start()
    assert "/setup/" not in up.said(), "there are organisations"
    assert up.ask_chain("eth_getCode", made["contract"]["address"], "latest") == code
    assert json.loads(up.portal("quickstart", "--json").stdout) == made


def test_a_kill_of_the_supervisor_takes_its_parts_along(up: Up) -> None:
    up.process.kill()
    up.process.wait()
    until(lambda: processes_of(up.data) == [], 20)

    up.start()
    assert up.portal("seed").returncode == 0


def test_a_fresh_chain_under_an_old_database_is_said(up: Up) -> None:
    assert up.stop() == 0
    kept = (up.data / "chain").rename(up.data / "chain.kept")
    fresh = run_portal("up", "--port", str(up.port), "--data", str(up.data))
    assert fresh.returncode == 2
    assert "another local chain" in fresh.stderr
    assert fresh.stderr.count("\n") == 1
    assert processes_of(up.data) == []

    for file in (up.data / "chain").iterdir():
        file.unlink()
    (up.data / "chain").rmdir()
    kept.rename(up.data / "chain")
    (up.data / "chain" / "state.json.gz").write_bytes(b"spoilt")
    spoilt = run_portal("up", "--port", str(up.port), "--data", str(up.data))
    assert spoilt.returncode == 2
    assert "cannot be read" in spoilt.stderr


def test_what_an_earlier_start_left_running_is_ended_and_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*sleep, str(tmp_path)]) as ours, subprocess.Popen(sleep) as other:
        (tmp_path / "run" / "worker.pid").write_text(str(ours.pid))
        (tmp_path / "run" / "web.pid").write_text(str(other.pid))
        (tmp_path / "run" / "chain.pid").write_text("999999999")
        try:
            assert end_leftovers(tmp_path) == ["worker"]
            assert ours.poll() is not None
            assert other.poll() is None
        finally:
            other.kill()


def test_a_key_is_made_once_and_a_port_is_kept_while_it_is_free(tmp_path: Path) -> None:
    assert keep(tmp_path / "key", lambda: "first") == keep(tmp_path / "key", lambda: "second") == "first"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    port = keep_port(tmp_path / "port")
    assert keep_port(tmp_path / "port") == port
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", port))
        taker.listen()
        assert keep_port(tmp_path / "port") != port


def test_a_missing_anvil_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "ROOT", tmp_path)
    with pytest.raises(chain.SettingInvalid, match="`anvil` is not installed"):
        chain.find_anvil()


@pytest.mark.parametrize(
    ("command", "settings", "sentence"),
    [
        (("up",), {"PORTAL_PORT": "many"}, "PORTAL_PORT"),
        (("up",), {"PORTAL_SECRET_KEY": "short"}, "PORTAL_SECRET_KEY"),
        (("up", "--host", "192.0.2.1"), {"PORTAL_DATA": "/nonexistent"}, "192.0.2.1"),
        (("up",), {"PORTAL_PORT": "0", "PORTAL_DATA": "x"}, "PORTAL_PORT"),
        (("web",), {}, "PORTAL_DATABASE_URL is not set"),
        (("web",), {"PORTAL_DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "PORTAL_SECRET_KEY is not set"),
        (("worker",), {}, "PORTAL_DATABASE_URL is not set"),
        (("migrate",), {"PORTAL_DATA": "/nonexistent"}, "PORTAL_DATABASE_URL is not set"),
        (("migrate",), {"PORTAL_DATABASE_URL": "postgresql://a:hidden@127.0.0.1:1/x"}, "cannot be used"),
        (("migrate",), {"PORTAL_DATABASE_URL": "mysql://a:hidden@h/x"}, "postgresql://"),
        (("quickstart",), {"PORTAL_DATA": "/nonexistent"}, "PORTAL_DATABASE_URL is not set"),
    ],
)
def test_a_broken_setting_is_one_sentence(command: tuple[str, ...], settings: dict[str, str], sentence: str) -> None:
    ended = run_portal(*command, **settings)
    assert ended.returncode == 2, ended.stderr
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "hidden" not in ended.stderr


def test_a_database_given_by_setting_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    given = {"PORTAL_DATABASE_URL": "postgresql://a:hidden@127.0.0.1:1/x"}
    ended = run_portal("up", "--port", str(free_port()), "--data", str(tmp_path / "data"), **given)
    assert ended.returncode == 2
    assert "cannot be used" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hidden" not in ended.stderr
    assert processes_of(tmp_path) == []


def test_parts_given_by_setting_are_used_and_another_chain_is_refused(tmp_path: Path) -> None:
    server = os.environ["PORTAL_TEST_POSTGRES"]
    name = f"portal_given_{os.getpid()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            with running_anvil(block_time=1) as node:
                given = {"PORTAL_DATABASE_URL": f"{server}/{name}", "PORTAL_CHAIN_RPC_URLS": node.rpc_urls}
                running = Up(tmp_path / "data", **given)
                assert running.said().count("by setting") == 2
                assert not (tmp_path / "data" / "postgres").exists()
            with running_anvil(block_time=1, port=node.port):
                os.kill(running.pid("worker"), signal.SIGKILL)
                assert running.process.wait(60) == 2
                assert "another chain" in " ".join(running.said().split())
                refused = run_portal("up", "--port", str(free_port()), "--data", str(tmp_path / "data"), **given)
            assert refused.returncode == 2
            assert "another chain" in refused.stderr
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_the_doctor_says_what_is_missing() -> None:
    found = run_portal("doctor", PORTAL_DATA="/nonexistent")
    assert found.returncode == 1
    assert "PORTAL_DATABASE_URL is not set" in " ".join(found.stdout.split())
