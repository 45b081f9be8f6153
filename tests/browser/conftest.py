"""A whole portal and a Chromium, once for all browser tests (they share a test process by their group)."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.stack import Stack
from tests.conftest import free_port

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def find_chromium() -> str | None:
    """The system's Chromium; None lets Playwright use its own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="portal-up-") as folder:
        os.chmod(folder, 0o755)  # PostgreSQL drops root and must reach its own folder
        stack = Stack(Path(folder) / "var", free_port())
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()
