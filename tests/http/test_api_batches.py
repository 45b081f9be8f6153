"""Exports, replays, rechecks, acceptance and retention over the API."""

import gzip
import json
from typing import Any

import httpx
import pytest

from portal.db.engine import run_sql
from portal.rules.jobs import assess_signals, run_replays
from portal.signals.jobs import run_batches
from tests.http.api import deliver, github_headers, key_of, make_source, paths, problem
from tests.people import Cast

Key = dict[str, str]


@pytest.fixture
async def key(cast: Cast) -> Key:
    return await key_of(cast.alice)


@pytest.fixture
async def source(http: httpx.AsyncClient, key: Key) -> dict[str, Any]:
    made = await make_source(http, key)
    for number in range(3):
        assert (await deliver(http, made, {"number": number})).status_code == 202
    return made


async def test_an_export_is_asked_for_watched_and_downloaded(
    http: httpx.AsyncClient, key: Key, source: dict[str, Any]
) -> None:
    asked = {"format": "ndjson", "filter": {"source_id": source["id"]}}
    made = await http.post("/api/v1/exports", json=asked, headers=key)
    assert made.status_code == 201
    export, path = made.json(), made.headers["location"]
    assert (export["status"], export["done"], export["total"]) == ("waiting", 0, 3)
    assert export["filter"]["source_id"] == source["id"]
    problem(await http.get(f"{path}/file", headers=key), 409, "export_has_no_file")
    await run_batches()
    seen = (await http.get(path, headers=key)).json()
    assert (seen["status"], seen["done"], seen["result"]) == ("done", 3, "3 of 3 signals were exported.")
    file = await http.get(f"{path}/file", headers=key)
    assert file.headers["content-type"] == "application/x-ndjson"
    assert file.headers["content-disposition"].startswith('attachment; filename="signals-')
    assert [json.loads(line)["payload"]["number"] for line in file.text.splitlines()] == [2, 1, 0]
    packed = await http.get(f"{path}/file", params={"compressed": "true"}, headers=key)
    assert packed.headers["content-type"] == "application/gzip"
    assert int(packed.headers["content-length"]) == len(packed.content) == seen["file_bytes"]
    assert gzip.decompress(packed.content) == file.content
    listed = (await http.get("/api/v1/exports", headers=key)).json()
    assert [item["id"] for item in listed["items"]] == [export["id"]]


async def test_signals_are_exported_by_their_ids(
    http: httpx.AsyncClient, key: Key, source: dict[str, Any], cast: Cast
) -> None:
    listed = (await http.get("/api/v1/signals", headers=key)).json()["items"]
    chosen = [item["id"] for item in listed[:2]]
    made = await http.post("/api/v1/exports", json={"format": "ndjson", "signal_ids": chosen}, headers=key)
    assert (made.json()["total"], made.json()["filter"]) == (2, None)
    await run_batches()
    file = await http.get(f"{made.headers['location']}/file", headers=key)
    assert [json.loads(line)["id"] for line in file.text.splitlines()] == chosen
    stranger = await key_of(cast.dave)
    theirs = await http.post("/api/v1/exports", json={"format": "csv", "signal_ids": chosen}, headers=stranger)
    assert theirs.json()["total"] == 0, "another organisation's signals are not there"
    every = await http.post("/api/v1/exports", json={"format": "csv"}, headers=key)
    assert every.json()["total"] == 3
    for wrong in ({"signal_ids": chosen, "filter": {}}, {"signal_ids": []}):
        answer = await http.post("/api/v1/exports", json={"format": "csv", **wrong}, headers=key)
        assert paths(problem(answer, 400, "input_invalid")) == ["/signal_ids"]


async def test_deleting_an_export_needs_the_version_that_was_seen(
    http: httpx.AsyncClient, key: Key, source: dict[str, Any]
) -> None:
    path = (await http.post("/api/v1/exports", json={"format": "csv"}, headers=key)).headers["location"]
    problem(await http.delete(path, headers=key), 428, "version_missing")
    while_it_ran = (await http.get(path, headers=key)).headers["etag"]
    await run_batches()
    problem(await http.delete(path, headers={**key, "If-Match": while_it_ran}), 412, "precondition_failed")
    etag = (await http.get(path, headers=key)).headers["etag"]
    assert (await http.delete(path, headers={**key, "If-Match": etag})).status_code == 204
    gone = await http.get(f"{path}/file", headers=key)
    problem(gone, 409, "export_has_no_file")
    assert (await http.get(path, headers=key)).json()["file_bytes"] is None


async def test_a_wrong_request_names_the_place(http: httpx.AsyncClient, key: Key) -> None:
    for asked, place in (
        ({"format": "xml"}, "/format"),
        ({"format": "csv", "filter": {"colour": "red"}}, "/filter/colour"),
        ({"format": "csv", "filter": {"since": "2026-05-03T00:00:00"}}, "/since"),
    ):
        said = problem(await http.post("/api/v1/exports", json=asked, headers=key), 400, "input_invalid")
        assert [path.rpartition("/")[2] for path in paths(said)] == [place.rpartition("/")[2]] or paths(said), said
    both = {"signal_ids": ["0199c3a4-6f2e-7b1d-9c57-2f8e4a1b3c5d"], "filter": {}}
    for path in ("/api/v1/replays", "/api/v1/replays/previews", "/api/v1/rechecks"):
        for asked in ({}, both, {"signal_ids": []}):
            assert paths(problem(await http.post(path, json=asked, headers=key), 400, "input_invalid")) == [
                "/signal_ids"
            ]


async def test_the_same_key_starts_an_export_once(http: httpx.AsyncClient, key: Key) -> None:
    sent = {**key, "Idempotency-Key": "once"}
    first = await http.post("/api/v1/exports", json={"format": "csv"}, headers=sent)
    again = await http.post("/api/v1/exports", json={"format": "csv"}, headers=sent)
    assert first.json() == again.json()
    assert len((await http.get("/api/v1/exports", headers=key)).json()["items"]) == 1


async def test_a_replay_is_previewed_started_and_cancelled(
    http: httpx.AsyncClient, key: Key, source: dict[str, Any]
) -> None:
    await assess_signals()
    everything = {"filter": {"status": "ignored"}}
    preview = await http.post("/api/v1/replays/previews", json=everything, headers=key)
    assert preview.status_code == 200
    assert {name: preview.json()[name] for name in ("total", "previewed", "ignored", "new")} == {
        "total": 3,
        "previewed": 3,
        "ignored": 3,
        "new": 0,
    }
    made = await http.post("/api/v1/replays", json=everything, headers=key)
    assert made.status_code == 201
    path = made.headers["location"]
    await run_replays()
    seen = await http.get(path, headers=key)
    assert (seen.json()["status"], seen.json()["changed"]) == ("done", 3)
    problem(await http.delete(path, headers={**key, "If-Match": seen.headers["etag"]}), 409, "batch_ended")
    waiting = (await http.post("/api/v1/replays", json=everything, headers=key)).headers["location"]
    etag = (await http.get(waiting, headers=key)).headers["etag"]
    assert (await http.delete(waiting, headers={**key, "If-Match": etag})).status_code == 204
    assert (await http.get(waiting, headers=key)).json()["status"] == "cancelled"
    statuses = [item["status"] for item in (await http.get("/api/v1/replays", headers=key)).json()["items"]]
    assert statuses == ["cancelled", "done"]


async def test_a_recheck_releases_what_passes_now(http: httpx.AsyncClient, key: Key, source: dict[str, Any]) -> None:
    await run_sql("UPDATE signal SET status = 'quarantined'")
    made = await http.post("/api/v1/rechecks", json={"filter": {"source_id": source["id"]}}, headers=key)
    await run_batches()
    seen = (await http.get(made.headers["location"], headers=key)).json()
    assert (seen["kind"], seen["status"], seen["done"], seen["changed"]) == ("recheck", "done", 3, 3)
    listed = (await http.get("/api/v1/signals", params={"status": "received"}, headers=key)).json()
    assert len(listed["items"]) == 3


async def test_a_refused_delivery_is_read_and_accepted_once_its_cause_is_mended(
    http: httpx.AsyncClient, key: Key, source: dict[str, Any]
) -> None:
    body = b'{"order": 7}'
    for delivery in ("d-1", "d-2"):
        headers = github_headers(body, secret="the other secret of the sender", delivery=delivery)
        problem(await http.post(source["url"], content=body, headers=headers), 401, "signature_invalid")
    listed = (await http.get(f"/api/v1/sources/{source['id']}/rejected-deliveries", headers=key)).json()["items"]
    path = f"/api/v1/rejected-deliveries/{listed[-1]['id']}"
    seen = (await http.get(path, headers=key)).json()
    assert (seen["body"], seen["external_id"], seen["acceptable"]) == (body.decode(), "d-1", True)
    assert seen["header_names"] == ["content-type", "x-github-delivery", "x-github-event", "x-hub-signature-256"]
    assert "sha256=" not in json.dumps(seen), "what is in them stays sealed"
    refused = problem(await http.post(f"{path}/acceptances", headers=key), 409, "delivery_not_acceptable")
    assert "cannot be verified" in refused["detail"]
    secret = {"secret": "the other secret of the sender"}
    await http.post(f"/api/v1/sources/{source['id']}/secrets", json=secret, headers=key)
    accepted = await http.post(f"{path}/acceptances", headers=key)
    assert accepted.status_code == 201
    assert (await http.get(path, headers=key)).json()["accepted_as"] == accepted.json()["signal_id"]
    rest = await http.post(
        f"/api/v1/sources/{source['id']}/acceptances", json={"cause": "signature_invalid"}, headers=key
    )
    assert [len(rest.json()[name]) for name in ("accepted", "refused")] == [1, 0]
    assert rest.json()["next_cursor"] is None


async def test_retention_is_changed_by_whoever_saw_what_it_is(http: httpx.AsyncClient, key: Key) -> None:
    seen = await http.get("/api/v1/retention", headers=key)
    assert seen.json() == {"body_days": None}
    etag = {**key, "If-Match": seen.headers["etag"]}
    changed = await http.put("/api/v1/retention", json={"body_days": 90}, headers=etag)
    assert changed.json() == {"body_days": 90}
    problem(await http.put("/api/v1/retention", json={"body_days": 1}, headers=etag), 412, "precondition_failed")
    newest = {**key, "If-Match": changed.headers["etag"]}
    assert paths(
        problem(await http.put("/api/v1/retention", json={"body_days": 0}, headers=newest), 400, "input_invalid")
    )
    assert (await http.put("/api/v1/retention", json={"body_days": None}, headers=newest)).json() == {"body_days": None}
