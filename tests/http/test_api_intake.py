"""Deliveries: stored once before they are acknowledged, and refused without telling which sources there are."""

import asyncio
import gzip
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import pytest

from portal.api import intake, requests
from portal.db.engine import run_sql
from tests.http.api import deliver, github_headers, key_of, make_source, problem, wired_database
from tests.people import Cast

SPONSORSHIP = {"action": "created", "sponsorship": {"sponsor": {"login": "octocat"}}}
HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def stored() -> int:
    return int((await run_sql("SELECT count(*) AS count FROM signal"))[0]["count"])


def hook_headers(body: bytes, *, at: int, id: str = "msg_1") -> dict[str, str]:
    """A Standard Webhooks delivery made at `at`, signed with the secret of the specification's own vectors."""
    from standardwebhooks import Webhook

    signature = Webhook(HOOK_SECRET).sign(id, datetime.fromtimestamp(at, UTC), body.decode())
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signature}


async def test_a_delivery_is_acknowledged_stored_and_shown(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    answer = await deliver(http, source, SPONSORSHIP, delivery="first-1")
    assert answer.status_code == 202
    receipt = answer.json()
    assert receipt == {"signal_id": receipt["signal_id"], "status": "received", "duplicate": False}
    shown = (await http.get(f"/api/v1/signals/{receipt['signal_id']}", headers=key)).json()
    assert shown["payload"] == SPONSORSHIP
    assert shown["source_id"] == source["id"]
    assert shown["external_id"] == "first-1"
    assert shown["type"].startswith("sponsorship")
    assert shown["correlation_id"] == answer.headers["x-correlation-id"]
    assert shown["action_ids"] == []
    listed = (await http.get("/api/v1/signals", params={"external_id": "first-1"}, headers=key)).json()
    assert [item["id"] for item in listed["items"]] == [receipt["signal_id"]]


async def test_the_same_delivery_again_is_the_same_signal(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    answers = await asyncio.gather(*(deliver(http, source, SPONSORSHIP, delivery="once") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["signal_id"] for answer in answers}) == 1
    assert sorted(answer.json()["duplicate"] for answer in answers) == [False] + [True] * 19
    assert await stored() == 1


async def test_the_same_id_with_another_body_is_a_conflict(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    assert (await deliver(http, source, {"amount": 1}, delivery="same")).status_code == 202
    problem(await deliver(http, source, {"amount": 1000}, delivery="same"), 409, "signal_conflict")
    assert await stored() == 1


async def test_an_unknown_source_looks_exactly_like_a_wrong_signature(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    body = b"{}"
    wrong = github_headers(body, secret="not the secret, but as long")
    known = problem(await http.post(source["url"], content=body, headers=wrong), 401, "signature_invalid")
    for id in (str(uuid4()), "not-a-uuid", "0", "%20", "é", source["id"] + "0"):
        answer = await http.post(f"/api/v1/sources/{id}/signals", content=body, headers=github_headers(body))
        unknown = problem(answer, 401, "signature_invalid")
        volatile = ("instance", "correlation_id")
        assert {k: v for k, v in unknown.items() if k not in volatile} == {
            k: v for k, v in known.items() if k not in volatile
        }
    assert await stored() == 0


async def test_a_key_or_a_cookie_changes_nothing_about_a_delivery(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    body = b"{}"
    sent = {**github_headers(body), "Authorization": "Bearer of-the-senders-own", "Cookie": "__Host-session=nonsense"}
    assert (await http.post(source["url"], content=body, headers=sent)).status_code == 202


async def chunks(count: int, size: int = 64 * 1024, pause: float = 0) -> AsyncIterator[bytes]:
    for _ in range(count):
        await asyncio.sleep(pause)
        yield b"x" * size


async def test_a_body_over_the_cap_is_refused_however_it_comes(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, body_cap_bytes=1024)
    fitting = json.dumps({"text": "x" * 1000}).encode()
    assert len(fitting) <= 1024
    assert (await http.post(source["url"], content=fitting, headers=github_headers(fitting))).status_code == 202
    announced = b"x" * 1025
    problem(await http.post(source["url"], content=announced, headers=github_headers(announced)), 413, "body_too_large")
    problem(await http.post(source["url"], content=chunks(100)), 413, "body_too_large")
    lying = {"Content-Length": str(10**30)}
    problem(await http.post(source["url"], content=b"{}", headers=lying), 413, "body_too_large")
    assert await stored() == 1


async def test_a_source_may_take_more_than_the_usual_and_no_more(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice), body_cap_bytes=3 * 1024 * 1024)
    large = json.dumps({"text": "x" * (2 * 1024 * 1024)}).encode()
    assert (await http.post(source["url"], content=large, headers=github_headers(large))).status_code == 202
    larger = json.dumps({"text": "x" * (3 * 1024 * 1024)}).encode()
    problem(await http.post(source["url"], content=larger, headers=github_headers(larger)), 413, "body_too_large")


async def test_reading_stops_at_the_cap(http: httpx.AsyncClient, cast: Cast) -> None:
    """A body without an end is not read to its end."""
    source = await make_source(http, await key_of(cast.alice))
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 256 * 1024

    transport = httpx.ASGITransport(app=http._transport.app, raise_app_exceptions=False)  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        answer = await client.post(source["url"], content=endless())
    assert answer.status_code == 413
    assert sent <= 6


async def test_a_body_that_drips_is_given_up(
    http: httpx.AsyncClient, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await make_source(http, await key_of(cast.alice))
    monkeypatch.setitem(requests.read_body.__kwdefaults__, "seconds", 0.2)
    started = time.monotonic()
    problem(await http.post(source["url"], content=chunks(100, size=1, pause=0.05)), 408, "body_too_slow")
    assert time.monotonic() - started < 2


async def test_a_compressed_body_is_refused_unread(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    bomb = gzip.compress(b"0" * 10_000_000)
    sent = {**github_headers(bomb), "Content-Encoding": "gzip"}
    problem(await http.post(source["url"], content=bomb, headers=sent), 415, "media_type_unsupported")


async def test_two_framings_of_one_body_are_refused(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    sent = {**github_headers(b"{}"), "Transfer-Encoding": "chunked", "Content-Length": "2"}
    assert (await http.post(source["url"], content=b"{}", headers=sent)).status_code == 400


async def test_doubled_headers_are_refused(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    sent = [*github_headers(b"{}").items(), ("X-GitHub-Delivery", "another")]
    answer = await http.post(source["url"], content=b"{}", headers=sent)
    problem(answer, 400, "headers_invalid")
    assert await stored() == 0


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b'{"a":', None),
        (b"\xff\xfe", None),
        (b'{"name": "caf\xe9"}', None),
        (b"", None),
        (b"[" * 100_000, None),
        (b'{"n": NaN}', None),
    ],
)
async def test_what_is_authentic_but_not_json_is_kept_aside(
    http: httpx.AsyncClient, cast: Cast, body: bytes, payload: Any
) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    answer = await http.post(source["url"], content=body, headers=github_headers(body))
    assert answer.status_code == 202
    assert answer.json()["status"] == "quarantined"
    shown = (await http.get(f"/api/v1/signals/{answer.json()['signal_id']}", headers=key)).json()
    assert shown["payload"] is payload
    assert shown["body_digest"] == sha256(body).hexdigest()
    assert shown["reasons"][0]["message"]


async def test_a_number_beyond_doubles_keeps_every_digit(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    signal = (await deliver(http, source, {"wei": 2**256 - 1})).json()
    assert str(2**256 - 1) in (await http.get(f"/api/v1/signals/{signal['signal_id']}", headers=key)).text


@pytest.mark.parametrize("shift", [-310, 310])
async def test_a_stale_or_future_delivery_is_refused(http: httpx.AsyncClient, cast: Cast, shift: int) -> None:
    source = await make_source(http, await key_of(cast.alice), scheme="standard_webhooks", secret=HOOK_SECRET)
    now = int(time.time())
    body = b'{"type":"invoice.paid"}'
    problem(
        await http.post(source["url"], content=body, headers=hook_headers(body, at=now + shift)),
        401,
        "signature_invalid",
    )
    fresh = await http.post(source["url"], content=body, headers=hook_headers(body, at=now))
    assert fresh.status_code == 202


@pytest.mark.parametrize("timestamp", [None, "", "now", "1.6e9", "9" * 30, "-1"])
async def test_a_missing_or_odd_timestamp_is_refused(
    http: httpx.AsyncClient, cast: Cast, timestamp: str | None
) -> None:
    source = await make_source(http, await key_of(cast.alice), scheme="standard_webhooks", secret=HOOK_SECRET)
    sent = hook_headers(b"{}", at=int(time.time()))
    del sent["webhook-timestamp"]
    if timestamp is not None:
        sent["webhook-timestamp"] = timestamp
    answer = await http.post(source["url"], content=b"{}", headers=sent)
    assert answer.status_code in (400, 401)
    assert await stored() == 0


async def test_without_its_database_it_acknowledges_nothing(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    async with wired_database() as wire:
        assert (await deliver(http, source, {"n": 1}, delivery="before")).status_code == 202
        wire.cut()
        started = time.monotonic()
        for delivery in ("during-1", "during-2"):
            refused = await deliver(http, source, {"n": 2}, delivery=delivery)
            problem(refused, 503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        assert time.monotonic() - started < 5
        await wire.mend()
        assert (await deliver(http, source, {"n": 2}, delivery="during-1")).status_code == 202
    ids = {row["external_id"] for row in await run_sql("SELECT external_id FROM signal")}
    assert ids == {"before", "during-1"}


def test_the_helper_signs_as_github_documents_it() -> None:
    """GitHub's own test vector, so that the other tests here are about GitHub's scheme and not about ours."""
    signature = github_headers(b"Hello, World!")["X-Hub-Signature-256"]
    documented = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert hmac.compare_digest(signature, documented)


async def test_large_bodies_of_strangers_fill_no_more_memory_than_is_theirs(
    http: httpx.AsyncClient, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever knows an address may send as much as its source takes, as often as they like, before anybody verifies."""
    monkeypatch.setattr(intake, "MOST_LARGE_BYTES", 5_000_000)
    source = await make_source(http, await key_of(cast.alice), body_cap_bytes=3_000_000)
    large, arrived, go = json.dumps("x" * 2_000_000).encode(), asyncio.Semaphore(0), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield large[:1_900_000]
        arrived.release()
        await go.wait()
        yield large[1_900_000:]

    def send(content: Any, delivery: str) -> Any:
        return http.post(source["url"], content=content, headers=github_headers(large, delivery=delivery))

    waiting = [asyncio.create_task(send(slowly(), f"slow-{number}")) for number in range(2)]
    for _ in waiting:
        await arrived.acquire()
    refused = problem(await send(large, "one-too-many"), 503, "unavailable")
    assert "send it again" in refused["detail"]
    assert (await deliver(http, source, SPONSORSHIP, delivery="usual")).status_code == 202
    go.set()
    assert {(await answer).status_code for answer in waiting} == {202}
    assert (await send(large, "one-too-many")).status_code == 202
    assert await stored() == 4
