"""A whole portal and a Chromium, once for all browser tests (they share a test process)."""

import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.stack import Stack, running_stack

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def find_chromium() -> str | None:
    """The system's Chromium; None lets Playwright use its own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with running_stack() as stack:
        yield stack


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session")
async def member(stack: Stack, browser: Browser) -> dict[str, Any]:
    """The cookies of a signed-in owner: one sign-in for all tests, since a code works once."""
    from tests.browser.test_whole_way import Member

    page = await Member(stack, 0).sign_in(browser)
    state = await page.context.storage_state()
    await page.context.close()
    return dict(state)
