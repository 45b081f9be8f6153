"""The lock files: every package pinned by hash, no registry named, and what the project asks for is in them."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "tests/requirements.lock")
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]+\])?==([^ \\;]+)", re.M)


def read_lock(name: str) -> dict[str, str]:
    return {found[1].lower(): found[2] for found in PINNED.finditer((ROOT / name).read_text())}


def asked_for(group: list[Any]) -> set[str]:
    return {re.split(r"[\[<>=~! ;]", requirement)[0].lower() for requirement in group}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_by_hash(name: str) -> None:
    for block in re.split(r"\n(?=[A-Za-z])", (ROOT / name).read_text().strip()):
        assert PINNED.match(block), block[:80]
        assert "--hash=sha256:" in block, block[:80]


@pytest.mark.parametrize("name", LOCKS)
def test_no_registry_is_named(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()
    assert "index-url" not in (ROOT / name).read_text()


def test_what_the_project_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    assert asked_for(project["project"]["dependencies"] + groups["build"]) <= read_lock("requirements.lock").keys()
    assert asked_for(groups["test"]) <= read_lock("tests/requirements.lock").keys()


def test_both_locks_agree() -> None:
    portal, tests = (read_lock(name) for name in LOCKS)
    assert {name: tests[name] for name in tests.keys() & portal.keys()} == {
        name: portal[name] for name in tests.keys() & portal.keys()
    }


def test_every_npm_package_is_pinned_by_hash_and_is_what_the_project_asks_for() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    root = packages.pop("")
    for kind in ("dependencies", "devDependencies"):
        assert root[kind] == package[kind]
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name
