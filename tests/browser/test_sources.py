"""A source from one pasted request to its first signal, and its pages in every state, as a browser shows them."""

import asyncio
import json
import subprocess
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.stack import Stack
from tests.browser.test_pages import LOOKS, PICTURES, Visit
from tests.signals import github_headers, sign

pytestmark = pytest.mark.browser
SECRET = "a secret of thirty-one letters."
BODY = json.dumps({"action": "created", "sponsorship": {"sponsor": {"login": "monalisa"}, "tier": {"name": "$5"}}})
SOON_MS = 3000
"""By polling alone it would take half a minute."""


def desk_of(stack: Stack) -> str:
    return f"/orgs/{stack.example['organization']['slug']}"


def github_request() -> str:
    headers = github_headers(BODY.encode(), SECRET, id=str(uuid4()))
    options = " ".join(f"-H '{name.decode()}: {value.decode()}'" for name, value in headers)
    return f"curl -X POST https://hooks.example.org/github {options} -d '{BODY}'"


async def paste(page: Page, stack: Stack, text: str, secret: str = "") -> None:
    await page.goto(f"{desk_of(stack)}/sources/new")
    await page.get_by_role("textbox", name="One real request").fill(text)
    await page.get_by_label("Secret, if you have it").fill(secret)
    await page.get_by_role("button", name="Look at it").click()


async def test_from_a_pasted_request_to_the_first_signal(
    stack: Stack, browser: Browser, member: dict[str, Any]
) -> None:
    context = await browser.new_context(base_url=stack.base_url, storage_state=member)
    page = await context.new_page()
    await paste(page, stack, github_request(), SECRET)
    await expect(page.get_by_text("The signature is right.")).to_be_visible()
    await expect(page.get_by_role("heading", name="GitHub", exact=True)).to_be_visible()
    await page.get_by_role("textbox", name="Name", exact=True).fill(f"Sponsors {uuid4().hex[:6]}")
    await page.get_by_role("button", name="Connect").click()
    await expect(page.get_by_text("Waiting for the first delivery.")).to_be_visible()
    line = await page.get_by_label("A command that sends one delivery").inner_text()
    await asyncio.to_thread(subprocess.run, ["bash", "-c", line.replace("openssl", "false; openssl", 1)], check=False)
    await expect(page.get_by_text("A delivery was refused")).to_be_visible(timeout=SOON_MS)
    sent = await asyncio.to_thread(subprocess.run, ["bash", "-c", line], capture_output=True, check=True, text=True)
    assert "202" in sent.stdout.splitlines()[0]
    await expect(page.get_by_text("A signal of type ping arrived")).to_be_visible(timeout=SOON_MS)
    await page.get_by_role("link", name="Set a schema").click()
    await page.get_by_role("button", name="Propose from the newest signals").click()
    await expect(page.get_by_text("Proposed from 1 signal")).to_be_visible()
    await page.get_by_role("button", name="Put in force").click()
    await expect(page.get_by_text("In force", exact=True)).to_be_visible()
    await context.close()


def sources_in_trouble(stack: Stack) -> dict[str, str]:
    """Pages of sources with long texts, quarantined signals, refusals, a failing pull; by names for their pictures."""
    settings = {"header": "X-Signature", "signed": "{timestamp}.{body}", "timestamp_header": "X-Time"}
    name = f"Orders of the shop, its branches and all that it once was {uuid4().hex[:6]}"
    shop = stack.api_post(
        "sources",
        {"name": name, "scheme": "hmac", "settings": settings, "allowed_networks": ["127.0.0.0/8", "2001:db8::/32"]},
    )
    long_type = "orders/refunded.with-a-name-that-goes-on-and-on/and-on"
    stack.api_put(f"sources/{shop['id']}/schema?type={long_type}", {"required": ["total"]})
    stack.api_put(f"sources/{shop['id']}/schema?type={long_type}", {"required": ["total", "currency"]})
    for number, secret in enumerate([shop["secret"], shop["secret"], "somebody else's secret"]):
        body = json.dumps({"type": long_type, "number": number}).encode()
        stack.post(shop["url"], sign("hmac", settings, secret, body, id=""), body)
    poll = stack.api_post(
        "sources",
        {"name": f"ERP {uuid4().hex[:6]}", "scheme": "poll", "settings": {"url": "https://erp.invalid/invoices"}},
    )
    evm = {"contract_id": stack.example["contract"]["id"], "event": "Transfer", "from_block": 0}
    events = stack.api_post("sources", {"name": f"Moved {uuid4().hex[:6]}", "scheme": "evm_logs", "settings": evm})
    home = f"{desk_of(stack)}/sources"
    return {
        "sources-trouble": f"{home}/{shop['id']}",
        "sources-edit": f"{home}/{shop['id']}/edit",
        "sources-schema": f"{home}/{shop['id']}/schemas/{long_type}",
        "sources-schema-none": f"{home}/{shop['id']}/schemas/other",
        "sources-poll": f"{home}/{poll['id']}",
        "sources-events": f"{home}/{events['id']}",
        **{f"sources-new-{scheme}": f"{home}/new?scheme={scheme}" for scheme in ("github", "hmac", "poll", "evm_logs")},
    }


@pytest.fixture(scope="session")
def troubled(stack: Stack) -> dict[str, str]:
    return sources_in_trouble(stack)


@pytest.mark.parametrize("look", LOOKS)
async def test_every_page_of_a_source(
    stack: Stack, browser: Browser, member: dict[str, Any], troubled: dict[str, str], look: str
) -> None:
    context = await browser.new_context(base_url=stack.base_url, storage_state=member, **LOOKS[look])
    visit = Visit(await context.new_page(), look)
    problems: list[str] = []
    for name, path in troubled.items():
        problems += await visit.check(path, PICTURES / look / f"{name}.png")
    await context.close()
    assert problems == []


@pytest.mark.parametrize("look", LOOKS)
async def test_what_comes_of_a_form_is_as_sound_as_the_form(
    stack: Stack, browser: Browser, member: dict[str, Any], troubled: dict[str, str], look: str
) -> None:
    """Answers to what was posted: recognised or not, wrong, tried, made."""
    context = await browser.new_context(base_url=stack.base_url, storage_state=member, **LOOKS[look])
    page = await context.new_page()
    visit, problems = Visit(page, look), list[str]()

    async def look_at(name: str) -> None:
        await page.wait_for_load_state()
        problems.extend(f"{name}: {each}" for each in await visit.look(PICTURES / look / f"sources-{name}.png"))

    await paste(page, stack, github_request(), SECRET)
    await look_at("recognised")
    await paste(page, stack, github_request(), "another secret than that")
    await look_at("not-verified")
    await paste(page, stack, BODY)
    await look_at("not-recognised")
    await page.goto(troubled["sources-new-hmac"])
    await page.get_by_role("textbox", name="Name", exact=True).fill("X")
    await page.get_by_label("Header of the signature").fill("X Y")
    await page.get_by_role("button", name="Connect").click()
    await look_at("wrong")
    await page.goto(f"{desk_of(stack)}/sources/new?scheme=stripe")
    await page.get_by_role("textbox", name="Name", exact=True).fill(f"Stripe {uuid4().hex}")
    await page.get_by_role("button", name="Connect").click()
    await expect(page.get_by_text("Waiting for the first delivery.")).to_be_visible()
    await look_at("made")
    await page.goto(troubled["sources-schema"])
    await page.get_by_role("button", name="Try it").click()
    await look_at("schema-tried")
    await context.close()
    assert problems == []


async def test_ways_of_paging_show_only_their_own_fields(
    stack: Stack, browser: Browser, member: dict[str, Any]
) -> None:
    context = await browser.new_context(base_url=stack.base_url, storage_state=member, java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{desk_of(stack)}/sources/new?scheme=poll")
    cursor, value = page.get_by_label("Where the next cursor is"), page.get_by_label("Where the value is in an item")
    await expect(cursor).to_be_hidden()
    await page.get_by_label("New items are found").select_option("cursor")
    await expect(cursor).to_be_visible()
    await expect(value).to_be_hidden()
    await page.get_by_label("New items are found").select_option("since")
    await expect(value).to_be_visible()
    await expect(cursor).to_be_hidden()
    await context.close()
