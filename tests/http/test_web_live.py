"""The stream of changes, over a real socket: who gets it, what is in it, and when it ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from portal.accounts import sessions
from portal.accounts.permissions import Role
from portal.accounts.service import disable_member
from portal.accounts.sessions import COOKIE, sign_out
from portal.db import notices
from portal.db.engine import run_sql
from portal.server import Server
from portal.web.pages import live
from tests.http.live import reading, serving, until
from tests.http.test_access_matrix import visit
from tests.people import Cast, make_member
from tests.signals import make_sender


@pytest_asyncio.fixture
async def served(app: Any, cast: Cast) -> AsyncIterator[tuple[Server, str]]:
    async with serving(app) as (server, url):
        yield server, url


@pytest.fixture
def url(served: tuple[Server, str]) -> str:
    return served[1]


@pytest_asyncio.fixture
async def token(cast: Cast) -> str:
    return (await visit(cast.carol, "acme")).token


async def ask(url: str, token: str, query: str, **headers: str) -> httpx.Response:
    """An answer that is no stream."""
    async with httpx.AsyncClient(base_url=url, timeout=5) as client:
        return await client.get(f"/orgs/acme/live?{query}", headers={"cookie": f"{COOKIE}={token}", **headers})


async def test_a_change_reaches_an_open_page_at_once(url: str, token: str, cast: Cast) -> None:
    async with reading(url, token, "source,signals") as stream:
        await stream.until("live:connected")
        headers = stream.response.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["x-accel-buffering"] == "no"
        assert headers["cache-control"] == "no-store"
        assert "retry: 1000" in stream.text
        began = time.monotonic()
        await make_sender(cast.alice)
        await stream.until("live:source")
        assert time.monotonic() - began < 5
        assert stream.events == ["live:connected", "live:source"]


async def test_another_organisations_changes_are_not_told(url: str, token: str, cast: Cast) -> None:
    async with reading(url, token, "source") as stream:
        await stream.until("live:connected")
        await make_sender(cast.dave)
        await asyncio.sleep(0.5)
        assert stream.events == ["live:connected"]


async def test_a_flood_of_changes_is_a_trickle_of_hints(url: str, token: str, cast: Cast) -> None:
    async with reading(url, token, "signals") as stream:
        await stream.until("live:connected")
        for _ in range(150):
            notices.announce("signals", cast.organization_id)
            await asyncio.sleep(0.01)
        await asyncio.sleep(live.PAUSE_SECONDS + 0.3)
        assert 2 <= stream.events.count("live:signals") <= 6


async def test_whoever_comes_back_has_missed_nothing(url: str, token: str, cast: Cast) -> None:
    async with reading(url, token, "source,signals") as stream:
        await stream.until("live:connected")
    await make_sender(cast.alice)
    await asyncio.sleep(0.3)
    async with reading(url, token, "source,signals", last_event_id=stream.last_id) as again:
        await again.until("live:source")
        await asyncio.sleep(0.3)
        assert again.events == ["live:connected", "live:source"]
    async with reading(url, token, "source,signals", last_event_id=again.last_id, since=stream.last_id) as third:
        await third.until("live:connected")
        await asyncio.sleep(0.3)
        assert third.events == ["live:connected"], "the newer position counts"


async def test_of_a_position_of_another_process_everything_may_have_changed(url: str, token: str) -> None:
    async with reading(url, token, "source,signals", last_event_id="0123abcd.17") as stream:
        await stream.until("live:signals")
        assert stream.events == ["live:connected", "live:signals", "live:source"]


async def test_only_the_last_of_events_that_belong_together_has_an_id(url: str, token: str) -> None:
    async with reading(url, token, "source,signals", since="0123abcd.17") as stream:
        await stream.until("live:source")
        await asyncio.sleep(0.1)
        events = stream.text.strip().split("\n\n")
        assert ["id: " in event for event in events] == [False, False, True]


async def test_what_changes_between_page_and_stream_is_told(url: str, token: str, cast: Cast) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        page = (await client.get("/orgs/acme/signals", headers={"cookie": f"{COOKIE}={token}"})).text
    await make_sender(cast.alice)
    await asyncio.sleep(0.3)
    since = page.partition("since=")[2].partition('"')[0]
    async with reading(url, token, "source,action", since=since) as stream:
        await stream.until("live:source")
        assert stream.events == ["live:connected", "live:source"]


async def test_a_silent_stream_stays_alive(url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.2)
    async with reading(url, token, "signals") as stream:
        await asyncio.sleep(2)
        assert stream.text.count(": still here") >= 2
        assert stream.events == ["live:connected"]


async def test_a_stream_ends_with_its_session(url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.2)
    async with reading(url, token, "signals") as stream:
        await stream.until("live:connected")
        await sign_out(token)
        await asyncio.wait_for(stream.ended.wait(), 3)
    again = await ask(url, token, "topics=signals", **{"hx-request": "true"})
    assert again.status_code == 401
    assert again.headers["hx-redirect"].startswith("/login")


async def test_what_a_page_asks_without_its_reader_keeps_no_session_alive(
    url: str, token: str, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.2)
    await run_sql("UPDATE session SET last_seen_at = last_seen_at - interval '29 minutes 58 seconds'")
    async with (
        httpx.AsyncClient(base_url=url) as client,
        reading(url, token, "signals", background="true") as stream,
    ):
        await stream.until("live:connected")
        headers = {"cookie": f"{COOKIE}={token}", "x-background": "true", "hx-request": "true"}
        assert (await client.get("/orgs/acme/inbox/waiting", headers=headers)).status_code == 200
        await asyncio.wait_for(stream.ended.wait(), 5)
        ended = await client.get("/orgs/acme/inbox/waiting", headers=headers)
        assert ended.status_code == 401


async def test_a_stream_ends_with_the_membership(url: str, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.2)
    erin = await make_member(cast.organization_id, "erin", Role.AUDITOR)
    token = (await visit(erin, "acme")).token
    async with reading(url, token, "signals") as stream:
        await stream.until("live:connected")
        assert erin.actor.id
        await disable_member(cast.alice.actor, erin.actor.id)
        await asyncio.wait_for(stream.ended.wait(), 3)


async def test_a_stream_outlives_a_break_of_the_database(
    url: str, token: str, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_token: str, *, used: bool) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.2)
    async with reading(url, token, "source") as stream:
        await stream.until("live:connected")
        with monkeypatch.context() as broken:
            broken.setattr(sessions, "find_session", away)
            await run_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {} "
                "AND datname = current_database()",
                notices.APPLICATION_NAME,
            )
            await stream.until("live:source")
            await asyncio.sleep(1)
        assert not stream.ended.is_set()
        await make_sender(cast.alice)
        await stream.until("live:source", 2)


async def test_stopping_the_server_does_not_wait_for_open_streams(served: tuple[Server, str], token: str) -> None:
    server, url = served
    async with reading(url, token, "signals") as first, reading(url, token, "action") as second:
        await first.until("live:connected")
        await second.until("live:connected")
        began = time.monotonic()
        server.should_exit = True
        await asyncio.wait_for(asyncio.gather(first.ended.wait(), second.ended.wait()), 3)
        await until(lambda: not server.server_state.connections and not server.server_state.tasks)
        assert time.monotonic() - began < 2


async def test_a_reader_who_goes_leaves_nothing_behind(url: str, token: str) -> None:
    for _ in range(3):
        async with reading(url, token, "signals") as stream:
            await stream.until("live:connected")
    await until(lambda: not live._streams)
    assert notices.require_listener()._subscriptions == {}


async def test_a_session_has_only_so_many_streams(url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STREAMS_OF_A_SESSION", 2)
    async with reading(url, token, "signals") as first, reading(url, token, "signals") as second:
        await first.until("live:connected")
        await second.until("live:connected")
        refused = await ask(url, token, "topics=signals", **{"hx-request": "true"})
        assert refused.status_code == 429
        assert "hx-retarget" not in refused.headers, "nothing is wrong with the page that asked"


@pytest.mark.parametrize("query", ["", "topics=", "topics=signals,", "topics=everything", "topics=signals%00"])
async def test_a_topic_that_is_none_is_refused(url: str, token: str, query: str) -> None:
    assert (await ask(url, token, query)).status_code == 400


async def test_a_stream_is_not_a_slow_request(url: str, token: str) -> None:
    async with reading(url, token, "signals") as stream:
        await stream.until("live:connected")
        await asyncio.sleep(1.2)
    async with httpx.AsyncClient(base_url=url) as client:
        metrics = (await client.get("/metrics")).text
    label = 'method="GET",route="/orgs/{slug}/live",status="200"'
    counts = {
        line.split('le="')[1].split('"')[0]: float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith("portal_http_request_seconds_bucket") and label in line
    }
    assert counts["1.0"] == counts["+Inf"] > 0
