"""Every line that documents and pages give for a shell delivers to a real server, as it stands."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from portal.db.engine import run_sql
from portal.signals.schemes import SCHEMES
from portal.web.curl import curl_line
from portal.web.pages.refused import CAUSES
from tests.conftest import free_port
from tests.http.api import key_of
from tests.people import Cast
from tests.schemes import CASES, Case

DOCUMENT = Path(__file__).parents[2] / "docs/sources.md"
BLOCK = re.compile(r"^```(json|bash)\n(.*?)^```$", re.M | re.S)


@dataclass
class Example:
    """A source as the document makes it, what it runs before, and the lines that deliver to it."""

    source: dict[str, Any]
    before: str = ""
    lines: list[str] = field(default_factory=list)


def examples() -> list[Example]:
    found: list[Example] = []
    for section in re.split(r"^##+ ", DOCUMENT.read_text(), flags=re.M):
        before, here = "", list[Example]()
        for kind, text in BLOCK.findall(section):
            if kind == "json":
                here.append(Example(json.loads(text), before))
            elif here:
                here[-1].lines.append(text)
            else:
                before = text
        found += here
    return found


@pytest_asyncio.fixture
async def port(app: Any, database: None) -> AsyncIterator[int]:
    """The real application behind a real socket."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_config=None))
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  it has no event for that
        await asyncio.sleep(0.02)
    yield port
    server.should_exit = True
    await running


async def run(line: str, port: int, folder: Path, **variables: str) -> str:
    """What `bash` prints; `curl` finds the address of the settings at the port of the test."""
    curl = f'curl() {{ command curl -sS --connect-to 127.0.0.1:8000:127.0.0.1:{port} "$@"; }}\n'
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", curl + line],
        capture_output=True,
        check=False,
        text=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def make(http: httpx.AsyncClient, cast: Cast, source: dict[str, Any]) -> dict[str, Any]:
    made = await http.post("/api/v1/sources", json=source, headers=await key_of(cast.alice))
    assert made.status_code == 201, made.text
    answer: dict[str, Any] = made.json()
    return answer


def test_the_document_shows_every_scheme_and_a_line_for_each() -> None:
    assert {example.source["scheme"] for example in examples()} == set(SCHEMES)
    assert len(examples()) == DOCUMENT.read_text().count("```json")
    assert all(example.lines for example in examples())


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.source["name"])
async def test_every_line_of_the_document_delivers(
    http: httpx.AsyncClient, cast: Cast, port: int, tmp_path: Path, example: Example
) -> None:
    source = dict(example.source)
    if example.before:
        public_key = await run(example.before, port, tmp_path)
        source["secret"] = source["secret"].replace("PUBLIC_KEY", public_key.strip())
    made = await make(http, cast, source)
    for line in example.lines:
        answer = await run(line, port, tmp_path, SOURCE_URL=made["url"], SECRET=made["secret"] or "")
        assert "202 Accepted" in answer, answer
    rows = await run_sql("SELECT external_id, type, status FROM signal")
    assert len(rows) == len(example.lines)
    assert all(row["status"] == "received" and row["type"] != "unknown" for row in rows)
    has_id = source["scheme"] != "twilio"
    assert all(row["external_id"].startswith("sha256:") != has_id for row in rows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_line_that_a_new_source_shows_delivers(
    http: httpx.AsyncClient, cast: Cast, port: int, tmp_path: Path, case: Case
) -> None:
    source = {"name": "Tried", "scheme": case.scheme, "secret": case.secret, "settings": case.settings}
    made = await make(http, cast, source)
    if isinstance(case.key, Ed25519PrivateKey):
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / "key.pem").write_bytes(case.key.private_bytes(*pem))
    line = curl_line(made["scheme"], made["settings"], made["url"], made["secret"])
    answer = await run(line, port, tmp_path)
    assert "202 Accepted" in answer, f"{line}\n{answer}"
    rows = await run_sql("SELECT external_id, type FROM signal")
    assert [row["type"] for row in rows] == ["message.delivered" if case.scheme == "twilio" else "ping"]
    assert rows[0]["external_id"].startswith("try-" if case.has_id else "sha256:")


def test_every_refusal_has_its_words_on_the_page() -> None:
    told = re.findall(r"^\| \d{3} \| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert len(told) > 10
    assert set(told) - {"unavailable"} == set(CAUSES), "what is unavailable cannot be kept"
