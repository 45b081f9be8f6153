"""Webhooks and the feed of events over HTTP: made, changed, tested, watched; and read by a program that polls."""

from collections.abc import Iterator

import httpx
import pytest

from portal.db.engine import run_sql
from portal.notify.jobs import deliver_events, publish_events
from tests.http.api import key_of, problem
from tests.people import Cast
from tests.pulls import egress_allowed
from tests.webhooks import Endpoint, Reply, happen, running_endpoint

APPROVED = "action.approved"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with egress_allowed("127.0.0.0/8"), running_endpoint() as running:
        yield running


def given(endpoint: Endpoint, **more: object) -> dict[str, object]:
    return {"name": "ERP", "url": endpoint.url, "types": ["action.*"], **more}


async def test_a_webhook_is_made_shown_changed_and_deleted(
    http: httpx.AsyncClient, cast: Cast, endpoint: Endpoint
) -> None:
    key = await key_of(cast.alice)
    made = await http.post("/api/v1/webhooks", json=given(endpoint), headers=key)
    assert made.status_code == 201, made.text
    webhook = made.json()
    path = made.headers["location"]
    assert webhook["secret"].startswith("whsec_")
    assert (webhook["status"], webhook["types"], webhook["waiting"]) == ("active", ["action.*"], 0)
    seen = await http.get(path, headers=key)
    assert webhook["secret"] not in seen.text
    assert [secret["hint"] for secret in seen.json()["secrets"]] == [webhook["secret"][-4:]]
    stored = await run_sql("SELECT ciphertext FROM webhook_secret")
    assert webhook["secret"].encode() not in bytes(stored[0]["ciphertext"])

    change = given(endpoint, name="Ledger", types=["*"])
    problem(await http.put(path, json=change, headers=key), 428, "version_missing")
    changed = await http.put(path, json=change, headers={**key, "if-match": seen.headers["etag"]})
    assert (changed.status_code, changed.json()["name"], changed.json()["types"]) == (200, "Ledger", ["*"])
    again = await http.put(path, json=change, headers={**key, "if-match": seen.headers["etag"]})
    problem(again, 412, "precondition_failed")
    matching = {**key, "if-match": changed.headers["etag"]}
    assert (await http.delete(path, headers=matching)).status_code == 204
    problem(await http.get(path, headers=key), 404, "not_found")
    assert (await http.get("/api/v1/webhooks", headers=key)).json()["items"] == []
    kinds = await run_sql("SELECT kind FROM audit_entry WHERE subject_kind = 'webhook' ORDER BY sequence")
    assert [row["kind"] for row in kinds] == ["webhook.created", "webhook.changed", "webhook.deleted"]


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"url": "http://169.254.169.254/latest"}, "/url"),
        ({"url": "https://10.0.0.1/"}, "/url"),
        ({"url": "https://user:password@example.org/"}, "/url"),
        ({"url": "nonsense"}, "/url"),
        ({"types": []}, "/types"),
        ({"types": ["action.*", "nobody.*"]}, "/types"),
        ({"types": ["action.flown"]}, "/types"),
        ({"name": ""}, "/name"),
        ({"secret": "mine"}, "/secret"),
    ],
)
async def test_what_is_wrong_is_named(
    http: httpx.AsyncClient, cast: Cast, endpoint: Endpoint, wrong: dict[str, object], path: str
) -> None:
    answer = await http.post("/api/v1/webhooks", json=given(endpoint, **wrong), headers=await key_of(cast.alice))
    assert path in [each["path"] for each in problem(answer, 400, "input_invalid")["errors"]]


async def test_there_are_at_most_twenty(http: httpx.AsyncClient, cast: Cast, endpoint: Endpoint) -> None:
    key = await key_of(cast.alice)
    for _ in range(20):
        assert (await http.post("/api/v1/webhooks", json=given(endpoint), headers=key)).status_code == 201
    problem(await http.post("/api/v1/webhooks", json=given(endpoint), headers=key), 409, "too_many_webhooks")


async def test_a_test_its_delivery_and_a_redelivery(http: httpx.AsyncClient, cast: Cast, endpoint: Endpoint) -> None:
    key = await key_of(cast.alice)
    path = (await http.post("/api/v1/webhooks", json=given(endpoint), headers=key)).headers["location"]
    endpoint.say = lambda _: Reply(500, body=b"out of order")
    assert (await http.post(f"{path}/test", headers=key)).status_code == 202
    await publish_events()
    await deliver_events()
    [item] = (await http.get(f"{path}/deliveries?status=waiting", headers=key)).json()["items"]
    assert (item["type"], item["attempts"], item["status_code"]) == ("webhook.test", 1, 500)
    shown = (await http.get(f"{path}/deliveries/{item['id']}", headers=key)).json()
    assert shown["event"]["id"] == endpoint.came[0].id
    assert shown["event"] == endpoint.came[0].event
    assert [attempt["response_body"] for attempt in shown["log"]] == ["out of order"]
    endpoint.say = lambda _: Reply()
    again = await http.post(f"{path}/deliveries/{item['id']}/redeliveries", headers=key)
    assert (again.status_code, again.json()["attempts"]) == (202, 0)
    await deliver_events()
    assert [each.id for each in endpoint.came] == [item["event_id"]] * 2
    assert (await http.get(f"{path}/deliveries?status=delivered", headers=key)).json()["items"][0]["id"] == item["id"]


async def test_disabled_it_can_be_neither_tested_nor_disabled_again(
    http: httpx.AsyncClient, cast: Cast, endpoint: Endpoint
) -> None:
    key = {**await key_of(cast.alice), "if-match": "*"}
    path = (await http.post("/api/v1/webhooks", json=given(endpoint), headers=key)).headers["location"]
    disabled = await http.put(f"{path}/status", json={"status": "disabled"}, headers=key)
    assert disabled.json()["disabled_because"] == "test disabled it."
    problem(await http.put(f"{path}/status", json={"status": "disabled"}, headers=key), 409, "webhook_not_active")
    problem(await http.post(f"{path}/test", headers=key), 409, "webhook_not_active")
    enabled = await http.put(f"{path}/status", json={"status": "active"}, headers=key)
    assert (enabled.json()["status"], enabled.json()["disabled_because"]) == ("active", None)


async def test_secrets_are_rotated_and_the_last_one_stays(
    http: httpx.AsyncClient, cast: Cast, endpoint: Endpoint
) -> None:
    key = {**await key_of(cast.alice), "if-match": "*"}
    made = await http.post("/api/v1/webhooks", json=given(endpoint), headers=key)
    path, first = made.headers["location"], made.json()["secrets"][0]["id"]
    problem(await http.delete(f"{path}/secrets/{first}", headers=key), 409, "last_secret")
    added = await http.post(f"{path}/secrets", json={"overlap_seconds": 3600}, headers=key)
    assert added.json()["secret"] != made.json()["secret"]
    new, old = added.json()["secrets"]
    assert (new["ends_at"], old["id"]) == (None, first)
    assert old["ends_at"]
    assert (await http.delete(f"{path}/secrets/{first}", headers=key)).status_code == 204
    problem(await http.delete(f"{path}/secrets/{first}", headers=key), 409, "secret_ended")
    for _ in range(4):
        added = await http.post(f"{path}/secrets", json={"overlap_seconds": None}, headers=key)
    problem(await http.post(f"{path}/secrets", json={"overlap_seconds": None}, headers=key), 409, "too_many_secrets")


async def test_a_program_that_polls_misses_nothing_and_sees_nothing_twice(http: httpx.AsyncClient, cast: Cast) -> None:
    key, seen, after = await key_of(cast.alice, "events:read"), list[str](), 0
    for round_of in range(3):
        await happen(cast.organization_id, APPROVED, *(f"{round_of}:{number}" for number in range(5)))
        await happen(cast.dave.actor.organization_id, APPROVED, "not ours")
        query = f"after={after}"
        while True:
            page = (await http.get(f"/api/v1/events?limit=2&{query}", headers=key)).json()
            seen += [event["subject"]["id"] for event in page["items"]]
            after = page["items"][-1]["position"] if page["items"] else after
            if page["next_cursor"] is None:
                break
            query = f"cursor={page['next_cursor']}"
    assert seen == [f"{round_of}:{number}" for round_of in range(3) for number in range(5)]


async def test_events_are_found_by_type_and_subject(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice, "events:read")
    await happen(cast.organization_id, APPROVED, "a", "b")
    await happen(cast.organization_id, "action.rejected", "a")
    for query, found in (
        ("type=action.rejected", [3]),
        ("subject_id=a", [1, 3]),
        ("subject_id=a&type=action.approved", [1]),
        ("type=action.nothing", []),
        ("after=2", [3]),
        ("after=3", []),
    ):
        items = (await http.get(f"/api/v1/events?{query}", headers=key)).json()["items"]
        assert [event["position"] for event in items] == found, query
        for event in items:
            assert (await http.get(f"/api/v1/events/{event['id']}", headers=key)).json() == event
    answer = await http.get("/api/v1/events?cursor=x", headers=key)
    assert problem(answer, 400, "input_invalid")["errors"][0]["path"] == "/cursor"


async def test_a_key_needs_the_scope(http: httpx.AsyncClient, cast: Cast, endpoint: Endpoint) -> None:
    reads = await key_of(cast.alice, "webhooks:read")
    assert (await http.get("/api/v1/webhooks", headers=reads)).status_code == 200
    problem(await http.post("/api/v1/webhooks", json=given(endpoint), headers=reads), 403, "forbidden")
    problem(await http.get("/api/v1/events", headers=reads), 403, "forbidden")
