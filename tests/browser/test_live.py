"""What changes shows by itself on an open page, after cuts and restarts too, and nothing moves under its reader."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from tests.browser.stack import Stack
from tests.browser.test_whole_way import Member

pytestmark = pytest.mark.browser
SOON_MS = 2000
"""By polling alone it would take a minute."""


class Wire:
    """A proxy between the browser and the portal, whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.cut = False
        self.open: set[asyncio.StreamWriter] = set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.close()
            return
        with suppress(OSError):
            back, forth = await asyncio.open_connection("127.0.0.1", self.upstream)
            both = {writer, forth}
            self.open |= both
            await asyncio.gather(self._pump(reader, forth), self._pump(back, writer))
            self.open -= both

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                sink.write(piece)
                await sink.drain()
        sink.close()

    def cut_all(self) -> None:
        self.cut = True
        for writer in self.open:
            writer.transport.abort()


@pytest_asyncio.fixture
async def wire(stack: Stack) -> AsyncIterator[tuple[Wire, str]]:
    wire = Wire(stack.port)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    yield wire, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    wire.cut_all()


@asynccontextmanager
async def opened(browser: Browser, state: dict[str, Any], base_url: str, path: str) -> AsyncIterator[Page]:
    """The page, once its stream is open."""
    async with await browser.new_context(base_url=base_url, storage_state=state) as context:
        yield await open_page(context, path)


async def open_page(context: BrowserContext, path: str) -> Page:
    page = await context.new_page()
    async with page.expect_response(re.compile("/live")) as stream:
        await page.goto(path)
    assert (await stream.value).status == 200
    await page.wait_for_timeout(200)
    return page


def history(stack: Stack) -> str:
    return f"/orgs/{stack.example['organization']['slug']}/signals"


async def deliver(stack: Stack, payload: Any, event: str, **more: Any) -> httpx.Response:
    return await asyncio.to_thread(stack.deliver, payload, event=event, **more)


async def test_a_new_signal_is_announced_and_shown_where_it_is_asked_for(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    await deliver(stack, {"n": 0}, "live")
    async with opened(browser, member, stack.base_url, f"{history(stack)}?type=live") as page:
        first = page.locator("tbody tr").first
        shown, place = await page.locator("tbody tr").count(), await first.bounding_box()
        await deliver(stack, {"n": 1}, "live")
        await expect(page.locator("#new-rows")).to_have_text("1 new", timeout=SOON_MS)
        assert await first.bounding_box() == place, "nothing moves under its reader"
        await deliver(stack, {"n": 2}, "live")
        await deliver(stack, {"n": 2}, "elsewhere")
        await expect(page.locator("#new-rows")).to_have_text("2 new", timeout=SOON_MS)
        assert await page.locator("tbody tr").count() == shown
        await page.get_by_text("2 new").click()
        await expect(page.locator("tbody tr")).to_have_count(shown + 2)
        await expect(page.locator("tbody tr a").first).to_be_focused()
        await expect(page.locator("#new-rows")).to_be_empty()
        await deliver(stack, {"n": 3}, "live")
        await expect(page.locator("#new-rows")).to_have_text("1 new", timeout=SOON_MS)


async def test_a_new_action_is_announced_and_moves_nothing(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    async with opened(browser, member, stack.base_url, history(stack).replace("signals", "actions")) as page:
        first = page.locator(".row-item").first
        shown, place = await page.locator(".row-item").count(), await first.bounding_box()
        sponsor = {"sponsor": {"login": "grace", "id": 11}, "tier": {"monthly_price_in_dollars": 5}}
        await deliver(stack, {"action": "created", "sponsorship": sponsor}, "sponsorship")
        await expect(page.locator("#new-rows")).to_have_text("1 new", timeout=3 * SOON_MS)
        assert await first.bounding_box() == place, "nothing moves under its reader"
        await page.get_by_text("1 new").click()
        await expect(page.locator(".row-item")).to_have_count(shown + 1)
        await expect(page.locator(".row-item a").first).to_be_focused()
        await expect(page.locator("#new-rows")).to_be_empty()


async def test_a_page_is_live_however_late_a_part_of_its_scripts_comes(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    async def late(route: Route) -> None:
        await asyncio.sleep(0.5)
        await route.continue_()

    async with await browser.new_context(base_url=stack.base_url, storage_state=member) as context:
        await context.route(re.compile("hx-sse"), late)
        await open_page(context, history(stack))


async def test_what_happened_while_the_connection_was_cut_is_shown(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
    wire: tuple[Wire, str],
) -> None:
    cable, url = wire
    async with opened(browser, member, url, f"{history(stack)}?type=cut") as page:
        cable.cut_all()
        await deliver(stack, {"n": 1}, "cut")
        await asyncio.sleep(1)
        await expect(page.locator("#new-rows")).to_be_empty()
        cable.cut = False
        await expect(page.locator("#new-rows")).to_have_text("1 new", timeout=15_000)
        await deliver(stack, {"n": 2}, "cut")
        await expect(page.locator("#new-rows")).to_have_text("2 new", timeout=SOON_MS)


def minted(stack: Stack) -> tuple[str, str]:
    """A proposed and simulated mint: its address, and what it is asked for at the API."""
    to, example = "0x52908400098527886E0F7030069857D2E4169EE7", stack.example
    call = {"function": "mint(address,uint256)", "arguments": {"to": to, "amount": str(10**18)}}
    policy = stack.api("policies")["items"][0]["id"]
    id = stack.api_post("actions", {**call, "contract_id": example["contract"]["id"], "policy_id": policy})["id"]
    stack.api_post(f"actions/{id}/simulations")
    return f"/orgs/{example['organization']['slug']}/actions/{id}", f"actions/{id}"


@pytest.mark.parametrize("scripts", [True, False])
async def test_another_outcome_than_the_page_showed_is_shown_before_it_is_approved(
    stack: Stack, browser: Browser, member: dict[str, Any], scripts: bool
) -> None:
    page_path, api_path = minted(stack)
    contract = stack.example["contract"]["address"]
    code = stack.rpc("eth_getCode", contract, "latest")
    phone = {"viewport": {"width": 390, "height": 844}, "java_script_enabled": scripts}
    async with await browser.new_context(base_url=stack.base_url, storage_state=member, **phone) as context:
        page = await (open_page(context, page_path) if scripts else context.new_page())
        if not scripts:
            await page.goto(page_path)
        await expect(page.locator("#effects")).to_contain_text("1 PTS")
        try:
            stack.rpc("anvil_setCode", contract, "0x00")
            stack.api_post(f"{api_path}/simulations")
            other = minted(stack)[1]
        finally:
            stack.rpc("anvil_setCode", contract, code)
        if scripts:  # the event of the other one refreshes the page under its reader
            await expect(page.locator("#effects")).to_contain_text("Nobody gains or loses", timeout=10_000)
        await page.get_by_label("Code from your authenticator").fill("123456")
        await page.get_by_role("button", name="Approve", exact=True).click()
        alert = page.get_by_role("alert")
        await expect(alert).to_contain_text("It would do something else now")
        await expect(alert).to_be_in_viewport()
        await alert.get_by_role("link", name="See what it would do now").click()
        await expect(page.get_by_text("Nobody gains or loses")).to_be_in_viewport()
        form = page.locator("[name=outcome_digest]")
        await expect(form).to_have_value(stack.api(api_path)["simulation"]["outcome_digest"])
    assert stack.api(api_path)["approvals"] == []
    for each in (api_path, other):
        stack.api_post(f"{each}/cancellations", {"reason": "Only a test"})


async def test_a_restart_does_not_wait_for_open_pages_and_they_go_on(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    async with opened(browser, member, stack.base_url, f"{history(stack)}?type=restart") as page:
        web = stack.web_process()
        began = time.monotonic()
        os.kill(web, signal.SIGTERM)
        while os.path.exists(f"/proc/{web}"):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
        assert time.monotonic() - began < 5, "uvicorn alone would wait its whole grace for the stream"
        await asyncio.to_thread(until_ready, stack)
        await deliver(stack, {"n": 1}, "restart")
        await expect(page.locator("#new-rows")).to_have_text("1 new", timeout=15_000)


def until_ready(stack: Stack) -> None:
    for _ in range(300):
        if stack._is_ready():
            return
        time.sleep(0.1)
    raise AssertionError("the web server did not come back")


def until_assessed(stack: Stack, signal_id: str) -> None:
    """Until its words are found by a search."""
    for _ in range(300):
        if stack.api(f"signals/{signal_id}")["status"] != "received":
            return
        time.sleep(0.1)
    raise AssertionError("the signal was not assessed")


async def test_the_list_narrows_as_one_types(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    await deliver(stack, {"word": "haystack"}, "typed")
    needle = (await deliver(stack, {"word": "needleworthy"}, "typed")).json()["signal_id"]
    await asyncio.to_thread(until_assessed, stack, needle)
    async with opened(browser, member, stack.base_url, f"{history(stack)}?type=typed") as page:
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.keyboard.press("/")
        await page.keyboard.type("needleworthy")
        await expect(page.locator("tbody tr")).to_have_count(1)
        assert await page.locator("#field-text").evaluate("field => field === document.activeElement")
        assert "text=needleworthy" in page.url
        assert "external_id" not in page.url, "what is not asked for is not in the address"
        await page.locator("tbody .tick input").check()
        await expect(page.get_by_text("1 chosen")).to_be_visible()
        await page.get_by_role("button", name="Replay…").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Replay signals")
        await page.get_by_role("button", name=re.compile("Replay 1 signal")).click()
        await expect(page.get_by_text("The signal is assessed again")).to_be_visible()


async def test_an_export_is_followed_to_its_file(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    await deliver(stack, {"n": 1}, "exported")
    async with opened(browser, member, stack.base_url, f"{history(stack)}?type=exported") as page:
        await page.get_by_text("All that match").click()
        await page.get_by_role("link", name="Export…").click()
        await page.get_by_role("button", name="Export", exact=True).click()
        await expect(page.get_by_role("link", name="Download NDJSON")).to_be_visible(timeout=10_000)
        async with page.expect_download() as download:
            await page.get_by_role("link", name="Download NDJSON").click()
        assert (await download.value).suggested_filename.endswith(".ndjson")


async def test_a_secret_that_was_shown_is_not_made_again_by_reloading(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    webhooks = f"/orgs/{stack.example['organization']['slug']}/webhooks"
    async with opened(browser, member, stack.base_url, f"{webhooks}/new") as page:
        await page.get_by_label("Name", exact=True).fill("Once only")
        await page.get_by_label("Address").fill("https://once.example.invalid/hook")
        await page.get_by_role("button", name="Make the webhook").click()
        await expect(page.get_by_text("it is shown only this once")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Once only")
        await expect(page.get_by_text("it is shown only this once")).to_have_count(0)
    made = await asyncio.to_thread(stack.api, "webhooks")
    assert [each["name"] for each in made["items"]].count("Once only") == 1


async def test_a_wrong_place_of_a_body_is_gone_to(
    stack: Stack,
    browser: Browser,
    member: dict[str, Any],
) -> None:
    source = stack.example["source"]["id"]
    schema = {"type": "object", "properties": {"deep": {"properties": {"far": {"items": {"type": "number"}}}}}}
    await asyncio.to_thread(stack.api_put, f"sources/{source}/schema?type=pointed", schema)
    payload = {**{f"field{n}": {"a": {"b": n}} for n in range(60)}, "deep": {"far": [*range(40), "x"]}}
    id = (await deliver(stack, payload, "pointed")).json()["signal_id"]
    async with opened(browser, member, stack.base_url, f"{history(stack)}/{id}") as page:
        await page.get_by_role("link", name="/deep/far/40").click()
        wrong = page.locator(".tree-wrong")
        await expect(wrong).to_be_in_viewport()
        await expect(wrong).to_contain_text("This must be of type number.")
        await expect(wrong).to_be_focused()


async def test_a_session_that_has_ended_says_so_and_keeps_what_is_typed(
    stack: Stack, browser: Browser, wire: tuple[Wire, str]
) -> None:
    cable, url = wire
    signed_in = await Member(stack, 1).sign_in(browser)
    state = dict(await signed_in.context.storage_state())
    async with opened(browser, state, url, f"{history(stack)}?type=typed") as page:
        async with page.expect_response(re.compile("text=half")):
            await page.locator("#field-text").fill("half a thought")
        await signed_in.locator("form[action='/logout']").evaluate("form => form.submit()")
        await signed_in.wait_for_url(re.compile("/login"))
        cable.cut_all()
        cable.cut = False
        await expect(page.get_by_text("Your session has ended")).to_be_visible(timeout=20_000)
        await expect(page.locator("#field-text")).to_have_value("half a thought")
    await signed_in.context.close()
