"""Every page a person can open: axe finds nothing, the console is quiet, nothing runs off a phone's edge.

The run leaves a picture of each page under `var/pictures`, and the one that the README shows.
"""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.stack import ROOT, Stack

pytestmark = pytest.mark.browser

AXE = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES_OF_A_LOOK = {"light": RULES, "dark": ["color-contrast"], "phone": RULES}
"""In the dark only colours differ from the page that was checked in the light."""
PICTURES = ROOT / "var" / "pictures"
README_PICTURE = ROOT / "docs" / "action.png"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}


def pages_of_a_member(stack: Stack) -> dict[str, str]:
    """Every page there is, by a name for its picture, with the ids of the quickstart's example."""
    desk = f"/orgs/{stack.example['organization']['slug']}"
    action = stack.api("actions?status=proposed")["items"] or stack.api("actions")["items"]
    ids = {
        "signals": stack.example["signal_id"],
        "actions": action[0]["id"],
        "sources": stack.example["source"]["id"],
        "rules": stack.example["rule"]["id"],
        "contracts": stack.example["contract"]["id"],
        "end-users": stack.api("end-users")["items"][0]["id"],
        "transactions": stack.api("transactions")["items"][0]["id"],
        "lanes": stack.api("lanes")["items"][0]["id"],
        "signers": stack.example["signer"]["id"],
    }
    lists = ["signals", "actions", "transactions", "lanes", "pauses", "sources", "rules", "policies", "contracts"]
    lists += ["signers", "chains"]
    lists += ["people", "end-users", "api-keys", "audit", "health", "inbox"]
    pages = {
        "overview": desk,
        "account": "/account",
        "second-factor": "/account/second-factor",
        "api-docs": "/api/docs",
    }
    pages |= {name: f"{desk}/{name}" for name in lists}
    pages |= {f"{name}-detail": f"{desk}/{name}/{id}" for name, id in ids.items()}
    pages |= {
        f"{name}-new": f"{desk}/{name}/new"
        for name in ("sources", "rules", "actions", "policies", "contracts", "signers")
    }
    pages |= {f"contracts-{name}": f"{desk}/contracts/{name}" for name in ("deploy", "deploy-own")}
    pages |= {f"signals-{name}": f"{desk}/signals/{name}" for name in ("refused", "exports", "replays", "rechecks")}
    pages |= {f"signals-{name}-new": f"{desk}/signals/{name}/new" for name in ("exports", "replays", "rechecks")}
    pages |= {"signers-groups": f"{desk}/signers/groups", "signers-runway": f"{desk}/signers/{ids['signers']}/runway"}
    pages |= {"chains-check": f"{desk}/chains/check?chain_id={stack.example['chain']['id']}"}
    pages |= {"contracts-senders": f"{desk}/contracts/{ids['contracts']}/senders"}
    pages |= {"signals-retention": f"{desk}/signals/retention", **signals_in_trouble(stack, desk)}
    return pages | webhook_that_fails(stack, desk)


def webhook_that_fails(stack: Stack, desk: str) -> dict[str, str]:
    """A webhook whose receiver is nowhere, and what could not be delivered to it."""
    given = {"name": "ERP", "url": "https://erp.example.invalid/hook", "types": ["action.*", "transaction.mined"]}
    path = f"webhooks/{stack.api_post('webhooks', given)['id']}"
    stack.api_post(f"{path}/test")
    deadline = time.monotonic() + 20
    while not (failed := [each for each in stack.api(f"{path}/deliveries")["items"] if each["error"]]):
        assert time.monotonic() < deadline, "the worker has not tried it"
        time.sleep(0.1)
    return {
        "webhooks": f"{desk}/webhooks",
        "webhooks-new": f"{desk}/webhooks/new",
        "webhooks-detail": f"{desk}/{path}",
        "webhooks-edit": f"{desk}/{path}/edit",
        "webhooks-delivery": f"{desk}/{path}/deliveries/{failed[0]['id']}",
    }


def signals_in_trouble(stack: Stack, desk: str) -> dict[str, str]:
    """A signal that fails its schema, a delivery that was refused, and work over signals, on their own pages."""
    source = stack.example["source"]["id"]
    schema = {"type": "object", "required": ["customer"], "properties": {"lines": {"items": {"type": "number"}}}}
    stack.api_put(f"sources/{source}/schema?type=order", schema)
    id = stack.deliver({"lines": [1, "two", 3], "note": "x" * 200}, event="order").json()["signal_id"]
    stack.deliver({"half": 1}, event="order", secret="another")
    refused = stack.api(f"sources/{source}/rejected-deliveries")["items"][0]["id"]
    export = stack.api_post("exports", {"format": "csv", "filter": {"type": "order"}})["id"]
    replay = stack.api_post("replays", {"filter": {"type": "order"}})["id"]
    return {
        "signals-quarantined": f"{desk}/signals/{id}",
        "signals-refused-detail": f"{desk}/signals/refused/{refused}",
        "signals-export": f"{desk}/signals/exports/{export}",
        "signals-replay": f"{desk}/signals/replays/{replay}",
    }


class Visit:
    """One page as one look shows it, with everything the browser complained about."""

    def __init__(self, page: Page, look: str) -> None:
        self.page = page
        self.rules = RULES_OF_A_LOOK[look]
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def check(self, path: str, picture: Path) -> list[str]:
        """What is wrong with the page at `path`, as sentences."""
        self.complaints.clear()
        answer = await self.page.goto(path)
        assert answer is not None
        problems = [] if answer.status == 200 else [f"answers {answer.status}"]
        return [f"{path}: {problem}" for problem in problems + await self.look(picture) + self.complaints]

    async def look(self, picture: Path) -> list[str]:
        """What is wrong with the page that is open."""
        picture.parent.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=picture, full_page=True)
        found = await self.page.evaluate(
            f"async () => {{ {AXE}; return await axe.run(document, {{runOnly: {self.rules}}}) }}"
        )
        problems = [
            f"axe {violation['id']}: {node['html'][:160]}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]
        too_wide = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        problems += [f"runs {too_wide} px off the edge"] if too_wide > 0 else []
        if not await self.page.title() or not await self.page.locator("h1").count():
            problems.append("has no title or no heading")
        return problems


@pytest.mark.parametrize("look", LOOKS)
async def test_every_page_of_a_member(stack: Stack, browser: Browser, member: dict[str, Any], look: str) -> None:
    context = await browser.new_context(base_url=stack.base_url, storage_state=member, bypass_csp=False, **LOOKS[look])
    visit = Visit(await context.new_page(), look)
    problems: list[str] = []
    for name, path in pages_of_a_member(stack).items():
        problems += await visit.check(path, PICTURES / look / f"{name}.png")
    await context.close()
    assert problems == []


@pytest.mark.parametrize("look", LOOKS)
async def test_every_page_of_a_stranger(stack: Stack, browser: Browser, look: str) -> None:
    context = await browser.new_context(base_url=stack.base_url, **LOOKS[look])
    visit = Visit(await context.new_page(), look)
    problems = await visit.check("/login", PICTURES / look / "login.png")
    problems += await visit.check("/setup", PICTURES / look / "setup.png")
    await context.close()
    assert problems == []


async def test_a_page_that_is_not_there_says_so_kindly(stack: Stack, browser: Browser, member: dict[str, Any]) -> None:
    context = await browser.new_context(base_url=stack.base_url, storage_state=member)
    page = await context.new_page()
    answer = await page.goto(
        f"/orgs/{stack.example['organization']['slug']}/actions/00000000-0000-0000-0000-000000000000"
    )
    assert answer is not None
    assert answer.status == 404
    assert re.search(r"[0-9a-f]{32}", await page.inner_text("body")), "the correlation id helps whoever is asked"
    await page.screenshot(path=PICTURES / "light" / "not-found.png")
    await context.close()


async def test_a_form_that_changes_keeps_the_readers_place(
    stack: Stack, browser: Browser, member: dict[str, Any]
) -> None:
    context = await browser.new_context(base_url=stack.base_url, storage_state=member)
    page = await context.new_page()
    await page.goto(f"/orgs/{stack.example['organization']['slug']}/actions/new")
    function = page.get_by_label("Function")
    await function.focus()
    await function.select_option(label="set_minter(minter: address, status: bool)")
    await expect(page.get_by_label("minter", exact=True)).to_be_visible()
    await expect(function).to_be_focused()
    await context.close()
