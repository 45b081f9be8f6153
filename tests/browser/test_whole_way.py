"""From a signed delivery to what the chain says, as two members and one end user live it."""

import re
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.stack import Stack, codes_of

pytestmark = pytest.mark.browser
UNTIL_CONFIRMED_MS = 30_000


class Member:
    """A member at a browser of their own."""

    def __init__(self, stack: Stack, number: int) -> None:
        self.stack = stack
        self.account = stack.example["members"][number]
        self.codes = codes_of(self.account["totp_secret"])

    async def sign_in(self, browser: Browser, **options: Any) -> Page:
        context = await browser.new_context(base_url=self.stack.base_url, **options)
        page = await context.new_page()
        await page.goto("/login")
        await page.get_by_label("E-mail address").fill(self.account["email"])
        await page.get_by_label("Password").fill(self.account["password"])
        await page.get_by_role("button", name="Continue").click()
        await page.get_by_label("Six digits").fill(self.codes.next())
        await page.get_by_role("button", name="Sign in").click()
        await expect(page).to_have_url(re.compile("/inbox"))
        return page

    async def approve(self, page: Page, summary: str) -> None:
        await page.get_by_role("link", name=re.compile(re.escape(summary))).first.click()
        await page.get_by_label("Code from your authenticator").fill(self.codes.next())
        await page.get_by_role("button", name="Approve", exact=True).click()


@pytest.fixture(scope="session")
def members(stack: Stack) -> list[Member]:
    """Both members, once: their one-time codes must not be used twice by two tests."""
    return [Member(stack, 0), Member(stack, 1)]


async def test_two_people_approve_and_the_chain_has_it(stack: Stack, browser: Browser, members: list[Member]) -> None:
    signal = stack.api(f"signals/{stack.example['signal_id']}")
    action = stack.api(f"actions/{signal['action_ids'][0]}")
    recipient = next(argument["value"] for argument in action["arguments"] if argument["type"] == "address")
    amount = int(next(argument["value"] for argument in action["arguments"] if argument["type"] == "uint256"))
    assert action["status"] == "proposed"
    assert stack.balance(recipient) == 0

    first = await members[0].sign_in(browser)
    second = await members[1].sign_in(browser)
    row = first.locator(f"#action-{action['id']}")
    await expect(row.get_by_text("Because GitHub Sponsors reported sponsorship")).to_be_visible()
    await members[0].approve(first, action["summary"])
    await expect(first.get_by_text("approved", exact=False).first).to_be_visible()
    assert stack.balance(recipient) == 0, "one approval of two must not be enough"

    await members[1].approve(second, action["summary"])
    await expect(second.get_by_text("Confirmed by the blocks after it")).to_be_visible(timeout=UNTIL_CONFIRMED_MS)
    assert stack.balance(recipient) == amount

    done = stack.api(f"actions/{action['id']}")
    assert done["status"] == "approved"
    assert done["transaction"]["outcome"] == "ok"
    assert stack.run("audit", "verify")
    await close(first, second)


async def test_the_person_it_was_for_sees_it_and_why(stack: Stack, browser: Browser) -> None:
    end_user = stack.api("end-users")["items"][0]
    invitation = stack.api_post(f"end-users/{end_user['id']}/invitations")
    context = await browser.new_context(base_url=stack.base_url)
    page = await context.new_page()
    await page.goto(invitation["url"])
    email = page.get_by_label("E-mail address")
    if await email.is_editable():
        await email.fill("ada@example.org")
    if await page.get_by_label("Your name").count():
        await page.get_by_label("Your name").fill("Ada Park")
    await page.get_by_label("Choose a password").fill("a long walk on the beach")
    await page.get_by_role("button", name="Open my page").click()
    await expect(page).to_have_url(re.compile("/my"))
    await expect(page.get_by_text(stack.example["organization"]["slug"], exact=False).first).to_be_attached()
    assert "0x" not in await page.inner_text("main"), "no hex unless asked"
    await context.close()


async def test_it_works_without_javascript(stack: Stack, browser: Browser, members: list[Member]) -> None:
    page = await members[0].sign_in(browser, java_script_enabled=False)
    await page.goto(f"/orgs/{stack.example['organization']['slug']}/actions")
    await page.get_by_role("link", name=re.compile("Mint")).first.click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Mint")
    await close(page)


async def close(*pages: Page) -> None:
    contexts: set[BrowserContext] = {page.context for page in pages}
    for context in contexts:
        await context.close()
