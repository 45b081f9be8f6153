"""Pull sources over HTTP: made by settings, watched, and pulled now."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from portal.db.engine import run_sql
from portal.signals.pulls import KINDS
from portal.signals.pulls.jobs import pull_sources
from portal.signals.source_input import settings_from
from tests.http.api import key_of, make_source, problem
from tests.http.test_web_rooms import Visitor
from tests.people import Cast
from tests.pulls import Api, Reply, egress_allowed, running_api

DOCUMENT = Path(__file__).parents[2] / "docs/sources.md"


@pytest.fixture
def api() -> Iterator[Api]:
    with egress_allowed("127.0.0.0/8"), running_api() as running_one:
        running_one.say = lambda _: Reply({"data": [{"id": 1, "type": "order.paid"}]})
        yield running_one


def given(api: Api, **more: object) -> dict[str, object]:
    settings = {"url": f"{api.url}/orders", "items": "/data", "id": "/id", **more}
    return {"name": "Orders", "scheme": "poll", "settings": settings, "secret": "s3cret-of-acme"}


async def test_a_source_is_made_pulled_and_watched(http: httpx.AsyncClient, cast: Cast, api: Api) -> None:
    key = await key_of(cast.alice)
    made = await http.post("/api/v1/sources", json=given(api), headers=key)
    assert made.status_code == 201, made.text
    source = made.json()
    assert source["settings"]["interval_seconds"] == 60
    assert "s3cret" not in made.text
    path = f"/api/v1/sources/{source['id']}/pull"
    before = (await http.get(path, headers=key)).json()
    assert (before["pulled_at"], before["position"]) == (None, "From the start of the list.")
    assert await pull_sources() == 1
    assert api.asked[0].headers["authorization"] == "Bearer s3cret-of-acme"
    after = (await http.get(path, headers=key)).json()
    assert after["pulled_at"]
    assert (after["failures"], after["error"], after["pulling"], after["kind"]) == (0, None, False, "poll")
    [signal] = (await http.get("/api/v1/signals", headers=key)).json()["items"]
    assert (signal["external_id"], signal["type"], signal["source_id"]) == ("1", "order.paid", source["id"])
    again = await http.post(path, json={}, headers=key)
    assert again.status_code == 202
    assert again.json()["due_at"] < after["due_at"]
    assert await pull_sources() == 1
    assert len((await http.get("/api/v1/signals", headers=key)).json()["items"]) == 1


async def test_what_can_not_be_a_pull_source_is_refused_with_its_place(
    http: httpx.AsyncClient, cast: Cast, api: Api
) -> None:
    key = await key_of(cast.alice)
    for settings, path in (
        ({"url": "http://169.254.169.254/latest/meta-data"}, "/settings/url"),
        ({"url": None}, "/settings/url"),
        ({"interval_seconds": 1}, "/settings/interval_seconds"),
        ({"items": "data"}, "/settings/items"),
        ({"paging": {"by": "magic"}}, "/settings/paging"),
        ({"paging": {"by": "cursor"}}, "/settings/paging"),
        ({"more": 1}, "/settings/more"),
    ):
        answer = await http.post("/api/v1/sources", json=given(api, **settings), headers=key)
        assert path in [each["path"] for each in problem(answer, 400, "input_invalid")["errors"]], settings
    answer = await http.post("/api/v1/sources", json={**given(api), "secret": "not\nvisible"}, headers=key)
    assert [each["path"] for each in problem(answer, 400, "input_invalid")["errors"]] == ["/secret"]
    contract = {"contract_id": str(cast.organization_id), "event": "Transfer"}
    events = {"name": "Events", "scheme": "evm_logs", "settings": contract}
    answer = await http.post("/api/v1/sources", json=events, headers=key)
    assert [each["path"] for each in problem(answer, 400, "input_invalid")["errors"]] == ["/settings/contract_id"]
    assert await run_sql("SELECT id FROM pull") == []


async def test_changed_settings_count_from_the_next_pull_on(http: httpx.AsyncClient, cast: Cast, api: Api) -> None:
    key = await key_of(cast.alice)
    made = await http.post("/api/v1/sources", json=given(api, paging={"by": "since", "value": "/id"}), headers=key)
    source = made.json()
    path = f"/api/v1/sources/{source['id']}"
    await pull_sources()
    assert (await http.get(f"{path}/pull", headers=key)).json()["position"] == "From 1 on."

    async def change(**settings: object) -> str:
        seen = (await http.get(path, headers=key)).headers["etag"]
        body = {"name": "Orders", "body_cap_bytes": 65536, "settings": {**source["settings"], **settings}}
        changed = await http.put(path, json=body, headers={**key, "If-Match": seen})
        assert changed.status_code == 200, changed.text
        return str((await http.get(f"{path}/pull", headers=key)).json()["position"])

    assert await change(interval_seconds=300) == "From 1 on.", "the same list goes on where it stood"
    assert await change(url=f"{api.url}/others") == "From the start of the list."
    api.asked.clear()
    await pull_sources()
    assert api.asked[0].path == "/others"
    added = await http.post(f"{path}/secrets", json={"secret": "another-one", "overlap_seconds": 0}, headers=key)
    assert added.status_code == 201
    await http.post(f"{path}/pull", json={"from_start": True}, headers=key)
    api.asked.clear()
    await pull_sources()
    assert api.asked[0].headers["authorization"] == "Bearer another-one"
    problem(await http.post(f"{path}/secrets", json={}, headers=key), 400, "input_invalid")


async def test_a_source_to_which_is_delivered_is_not_pulled(http: httpx.AsyncClient, cast: Cast, api: Api) -> None:
    key = await key_of(cast.alice)
    github = await make_source(http, key)
    path = f"/api/v1/sources/{github['id']}/pull"
    problem(await http.get(path, headers=key), 409, "source_not_pulled")
    problem(await http.post(path, json={}, headers=key), 409, "source_not_pulled")
    made = await http.post("/api/v1/sources", json=given(api), headers=key)
    delivered = await http.post(f"/api/v1/sources/{made.json()['id']}/signals", json={"type": "forged"})
    problem(delivered, 401, "signature_invalid")


async def test_its_pages_can_be_shown(http: httpx.AsyncClient, cast: Cast, api: Api) -> None:
    made = await http.post("/api/v1/sources", json=given(api), headers=await key_of(cast.alice))
    await pull_sources()
    visitor = Visitor(http)
    await visitor.sign_in(cast.alice)
    for path, shows in (("sources", "JSON API"), (f"sources/{made.json()['id']}", "Orders"), ("signals", "order.paid")):
        page = await visitor.get(f"/orgs/acme/{path}")
        assert page.status_code == 200
        assert shows in page.text


async def test_the_examples_of_the_document_can_be_made(http: httpx.AsyncClient, cast: Cast) -> None:
    section = DOCUMENT.read_text().split("## Pulling instead of receiving")[1]
    blocks = [json.loads(text[text.index("{") : text.rindex("}") + 1]) for text in section.split("```")[1::2]]
    poll, events = blocks
    made = await http.post("/api/v1/sources", json=poll, headers=await key_of(cast.alice))
    assert made.status_code == 201, made.text
    events["settings"]["contract_id"] = str(cast.organization_id)
    assert settings_from(KINDS["evm_logs"].settings_type, events["settings"])
    for paging in re.findall(r'`(\{"by":.*?\})`', section):
        assert settings_from(KINDS["poll"].settings_type, {"url": "https://example.org", "paging": json.loads(paging)})
    for kind in KINDS.values():
        for field in msgspec.structs.fields(kind.settings_type):
            assert f"`{field.encode_name}`" in section
