"""Sources over the API: made, read, changed by whoever saw the newest version, and their secrets shown once."""

import base64
import hashlib
import hmac

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from portal.db.engine import run_sql
from tests.http.api import deliver, key_of, make_source, paths, problem
from tests.people import Cast
from tests.signals import public_key, sign


async def test_a_secret_is_shown_when_it_is_made_and_never_again(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    made = await http.post("/api/v1/sources", json={"name": "GitHub", "scheme": "github"}, headers=key)
    assert made.status_code == 201
    source = made.json()
    assert made.headers["location"] == f"/api/v1/sources/{source['id']}"
    assert source["url"] == f"http://127.0.0.1:8000/api/v1/sources/{source['id']}/signals"
    assert len(source["secret"]) >= 24
    for path in (f"/api/v1/sources/{source['id']}", "/api/v1/sources"):
        assert source["secret"] not in (await http.get(path, headers=key)).text
    listed = (await http.get("/api/v1/sources", headers=key)).json()
    assert listed["next_cursor"] is None
    assert [item["id"] for item in listed["items"]] == [source["id"]]


async def test_pages_of_a_list_hold_every_item_once(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    made = [(await make_source(http, key))["id"] for _ in range(5)]
    found, cursor = [], None
    while True:
        page = (await http.get("/api/v1/sources", params={"limit": 2, "cursor": cursor or ""}, headers=key)).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == made[::-1]


async def test_a_change_needs_the_version_that_was_seen(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    path, change = f"/api/v1/sources/{source['id']}", {"name": "Renamed", "body_cap_bytes": 2048}
    seen = (await http.get(path, headers=key)).headers["etag"]
    problem(await http.put(path, json=change, headers=key), 428, "version_missing")
    problem(await http.put(path, json=change, headers={**key, "If-Match": '"another"'}), 412, "precondition_failed")
    changed = await http.put(path, json=change, headers={**key, "If-Match": seen})
    assert changed.status_code == 200
    assert changed.json()["name"] == "Renamed"
    assert changed.headers["etag"] != seen
    problem(await http.put(path, json=change, headers={**key, "If-Match": seen}), 412, "precondition_failed")
    newest = changed.headers["etag"]
    assert (await http.put(path, json=change, headers={**key, "If-Match": f'"old", {newest}'})).status_code == 200


async def test_a_sender_changes_over_to_a_new_secret(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    path = f"/api/v1/sources/{source['id']}"
    added = await http.post(f"{path}/secrets", json={"secret": "the second secret, long enough"}, headers=key)
    assert added.status_code == 201
    assert added.json()["secret"] == "the second secret, long enough"
    old = added.json()["secrets"][-1]
    etag = (await http.get(path, headers=key)).headers["etag"]
    problem(await http.delete(f"{path}/secrets/{old['id']}", headers=key), 428, "version_missing")
    ended = await http.delete(f"{path}/secrets/{old['id']}", headers={**key, "If-Match": etag})
    assert ended.status_code == 204
    problem(await deliver(http, source, {"signed": "with the old one"}), 401, "signature_invalid")


async def test_a_paused_source_takes_nothing_until_it_is_resumed(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    path = f"/api/v1/sources/{source['id']}"
    for status, expected in (("paused", 403), ("active", 202)):
        etag = (await http.get(path, headers=key)).headers["etag"]
        turned = await http.put(f"{path}/status", json={"status": status}, headers={**key, "If-Match": etag})
        assert turned.json()["status"] == status
        assert (await deliver(http, source, {"while": status})).status_code == expected


async def test_what_was_refused_is_listed_with_its_cause(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    refused = await http.post(source["url"], content=b"{}", headers={"X-Hub-Signature-256": "sha256=00"})
    listed = await http.get(f"/api/v1/sources/{source['id']}/rejected-deliveries", headers=key)
    assert [item["cause"] for item in listed.json()["items"]] == ["signature_invalid"]
    assert listed.json()["items"][0]["correlation_id"] == refused.headers["x-correlation-id"]


async def test_another_organisations_source_does_not_exist(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    stranger = {**await key_of(cast.dave), "If-Match": "*"}
    path, change = f"/api/v1/sources/{source['id']}", {"name": "Taken over", "body_cap_bytes": 2048}
    for answer in (
        await http.get(path, headers=stranger),
        await http.put(path, json=change, headers=stranger),
        await http.put(f"{path}/status", json={"status": "paused"}, headers=stranger),
        await http.post(f"{path}/secrets", json={}, headers=stranger),
        await http.delete(f"{path}/secrets/{source['secrets'][0]['id']}", headers=stranger),
        await http.get(f"{path}/rejected-deliveries", headers=stranger),
    ):
        problem(answer, 404, "not_found")
    rows = await run_sql("SELECT name, status FROM source")
    assert [(row["name"], row["status"]) for row in rows] == [(source["name"], "active")]


async def test_input_that_is_wrong_in_several_places_is_told_all_of_them(http: httpx.AsyncClient, cast: Cast) -> None:
    body = {"scheme": "carrier pigeon", "colour": "grey", "body_cap_bytes": 1}
    said = problem(
        await http.post("/api/v1/sources", json=body, headers=await key_of(cast.alice)), 400, "input_invalid"
    )
    assert sorted(paths(said)) == ["/body_cap_bytes", "/colour", "/name", "/scheme"]
    assert "'colour'" in next(error["message"] for error in said["errors"] if error["path"] == "/colour")


HMAC = {
    "header": "X-Signature",
    "signed": "{timestamp}.{body}",
    "timestamp_header": "X-Timestamp",
    "id_pointer": "/id",
    "type_pointer": "/event",
}


async def test_a_described_sender_delivers_by_its_settings(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, scheme="hmac", settings=HMAC, secret=None, rate_limit_per_minute=100)
    assert source["settings"]["header"] == "x-signature"
    body = b'{"id":"evt_1","event":"paid"}'
    headers = [(k.decode(), v.decode()) for k, v in sign("hmac", HMAC, source["secret"], body, id="")]
    answer = await http.post(source["url"], content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    signal = (await http.get(f"/api/v1/signals/{answer.json()['signal_id']}", headers=key)).json()
    assert (signal["external_id"], signal["type"]) == ("evt_1", "paid")
    seen = (await http.get(f"/api/v1/sources/{source['id']}", headers=key)).json()
    assert seen["secrets"][0]["last_used_at"] is not None
    assert (seen["rate_limit_per_minute"], seen["on_schema_failure"]) == (100, "quarantine")


async def test_wrong_settings_are_named_one_by_one(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    wrong = {"signed": "{body}", "algorithm": "md5", "colour": "grey"}
    body = {"name": "ERP", "scheme": "hmac", "settings": wrong}
    said = problem(await http.post("/api/v1/sources", json=body, headers=key), 400, "input_invalid")
    assert sorted(paths(said)) == ["/settings/algorithm", "/settings/colour", "/settings/header"]
    body = {
        "name": "ERP",
        "scheme": "github",
        "allowed_networks": ["10.0.0.0/8", "office"],
        "expected_every_seconds": 1,
    }
    said = problem(await http.post("/api/v1/sources", json=body, headers=key), 400, "input_invalid")
    assert paths(said) == ["/expected_every_seconds"]
    del body["expected_every_seconds"]
    said = problem(await http.post("/api/v1/sources", json=body, headers=key), 400, "input_invalid")
    assert paths(said) == ["/allowed_networks/1"]


async def test_a_public_key_is_given_and_never_shown_as_a_secret(http: httpx.AsyncClient, cast: Cast) -> None:
    key, private = await key_of(cast.alice), Ed25519PrivateKey.generate()
    body = {"name": "Discord", "scheme": "ed25519", "settings": {"header": "X-Signature-Ed25519"}}
    said = problem(await http.post("/api/v1/sources", json=body, headers=key), 400, "input_invalid")
    assert paths(said) == ["/secret"]
    made = await http.post("/api/v1/sources", json={**body, "secret": public_key(private)}, headers=key)
    assert made.status_code == 201
    assert made.json()["secret"] is None
    headers = [(k.decode(), v.decode()) for k, v in sign("ed25519", body["settings"], private, b"{}", id="")]
    assert (await http.post(made.json()["url"], content=b"{}", headers=headers)).status_code == 202


async def test_what_a_change_leaves_out_stays_as_it_is(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, allowed_networks=["127.0.0.1"], expected_every_seconds=3600)
    path = f"/api/v1/sources/{source['id']}"
    etag = (await http.get(path, headers=key)).headers["etag"]
    change = {"name": "Renamed", "body_cap_bytes": 2048, "expected_every_seconds": None}
    changed = await http.put(path, json=change, headers={**key, "If-Match": etag})
    assert changed.status_code == 200, changed.text
    assert changed.json()["allowed_networks"] == ["127.0.0.1/32"]
    assert changed.json()["expected_every_seconds"] is None
    assert changed.headers["etag"] != etag


async def test_slack_hears_its_challenge_back(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, scheme="slack")
    body = b'{"token":"x","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}'
    headers = [(k.decode(), v.decode()) for k, v in sign("slack", {}, source["secret"], body, id="")]
    answer = await http.post(source["url"], content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json() == {"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}
    forged = [(name, value[:-1] + "0" if name == "x-slack-signature" else value) for name, value in headers]
    refused = await http.post(source["url"], content=body.replace(b"3e", b"4e"), headers=forged)
    problem(refused, 401, "signature_invalid")


async def test_twilio_signs_the_query_of_the_public_address(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice), scheme="twilio")
    body = b'{"property": "value", "boolean": true}'
    url = f"{source['url']}?a=%20b&bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = base64.b64encode(hmac.digest(source["secret"].encode(), url.encode(), "sha1")).decode()
    sent = {"X-Twilio-Signature": signature, "Content-Type": "application/json", "Host": "evil.example"}
    assert (await http.post(url, content=body, headers=sent)).status_code == 202
    problem(await http.post(source["url"], content=body, headers=sent), 401, "signature_invalid")
