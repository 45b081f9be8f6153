"""Health and metrics: true, quick, and detailed only for whoever may see them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import time_machine
from saq import Queue, Worker

from portal import clock
from portal.chain import rpc
from portal.chain.rpc import close_nodes, get_node
from portal.chain.tables import Chain
from portal.db.engine import run_sql
from portal.jobs.queue import make_queue, open_doorbell, ring
from portal.jobs.registry import saq_functions
from portal.ops import checks
from portal.settings import Settings, get_settings
from portal.signals.health.watching import watch_sources
from portal.transactions.controls.pauses import pause
from portal.transactions.jobs import watch_chains
from portal.transactions.signers.runway import TopUpInput, set_top_up
from portal.transactions.signers.top_ups import read_signers
from portal.transactions.tables import PauseScope
from tests.actions import make_stage, settings_chain
from tests.http.api import deliver, key_of, make_source, problem, session_of, wired_database
from tests.people import Cast
from tests.stored import store
from tests.transactions import make_play


@pytest.fixture(autouse=True)
def forget() -> None:
    checks._kept.clear()


async def add_chain(*, head_seconds_ago: float | None) -> None:
    seen = None if head_seconds_ago is None else clock.now() - timedelta(seconds=head_seconds_ago)
    await Chain.insert(
        Chain(
            id=31337,
            name="Local",
            currency="ETH",
            confirmations=2,
            is_local=True,
            genesis_hash="0x00",
            head_number=7 if seen else None,
            head_hash="0x07" if seen else None,
            head_at=seen,
        )
    )


def named(health: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in health["checks"]}


async def test_it_is_alive_and_ready(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/live")).json() == {"state": "ok"}
    ready = await http.get("/health/ready")
    assert (ready.status_code, ready.json()["state"], ready.json()["checks"]) == (200, "ok", None)


async def test_without_its_database_it_is_alive_and_not_ready(http: httpx.AsyncClient) -> None:
    async with wired_database() as wire:
        wire.cut()
        started = time.monotonic()
        assert (await http.get("/health/live")).status_code == 200
        for path in ("/health/ready", "/health"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["state"]) == (503, "failed")
        assert time.monotonic() - started < 2 * checks.CHECK_SECONDS + 1


async def test_it_is_not_ready_before_the_migrations_ran(http: httpx.AsyncClient) -> None:
    newest = await run_sql("DELETE FROM migration WHERE id = (SELECT max(id) FROM migration) RETURNING name, app_name")
    try:
        assert (await http.get("/health/ready")).status_code == 503
    finally:
        await run_sql(
            "INSERT INTO migration (name, app_name, ran_on) VALUES ({}, {}, now())",
            newest[0]["name"],
            newest[0]["app_name"],
        )
    checks._kept.clear()
    assert (await http.get("/health/ready")).status_code == 200


async def test_details_are_for_members_and_keys_that_may_see_them(http: httpx.AsyncClient, cast: Cast) -> None:
    await add_chain(head_seconds_ago=3)
    assert (await http.get("/health")).json()["checks"] is None
    assert (await http.get("/health", headers=await key_of(cast.alice, "signals:read"))).json()["checks"] is None
    for headers in (await key_of(cast.alice, "health:read"), await session_of(cast.carol)):
        health = (await http.get("/health", headers=headers)).json()
        assert {"database", "migrations", "queue", "chain 31337"} <= named(health).keys()
    problem(await http.get("/health", headers={"Authorization": "Bearer sp_wrong"}), 401, "not_signed_in")


@pytest.mark.parametrize(
    ("head_seconds_ago", "state"), [(None, "degraded"), (3, "ok"), (checks.HEAD_OVERDUE_SECONDS + 10, "failed")]
)
async def test_a_chain_is_as_well_as_its_head_is_new(
    http: httpx.AsyncClient, cast: Cast, head_seconds_ago: float | None, state: str
) -> None:
    await add_chain(head_seconds_ago=head_seconds_ago)
    answer = await http.get("/health", headers=await key_of(cast.alice))
    chain = named(answer.json())["chain 31337"]
    assert chain["state"] == state
    assert chain["values"]["chain_id"] == 31337
    assert answer.status_code == (503 if state == "failed" else 200)


async def test_a_chain_that_no_worker_looks_at_is_not_well_however_new_its_head_was(
    http: httpx.AsyncClient, cast: Cast
) -> None:
    key = await key_of(cast.alice)
    async with settings_chain() as node:
        await add_chain(head_seconds_ago=None)
        node.mine()
        await watch_chains()
        well = named((await http.get("/health", headers=key)).json())["chain 31337"]
        assert (well["state"], well["values"]["watched_seconds_ago"] < 60) == ("ok", True)
    checks._kept.clear()
    await watch_chains()
    down = named((await http.get("/health", headers=key)).json())["chain 31337"]
    assert (down["state"], "It cannot be reached." in down["message"]) == ("degraded", True)
    with time_machine.travel(clock.now() + timedelta(seconds=checks.WATCH_OVERDUE_SECONDS + 5)):
        checks._kept.clear()
        await watch_chains()
        answer = await http.get("/health", headers=key)
    lost = named(answer.json())["chain 31337"]
    assert (answer.status_code, lost["state"]) == (503, "failed")
    assert lost["message"].startswith("No worker has had an answer from its nodes for 65")


async def test_a_node_that_hangs_makes_nobody_wait(
    http: httpx.AsyncClient, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with settings_chain() as node:
        await make_stage(cast, node)
    taken = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set()
        await asyncio.sleep(60)
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = get_settings().model_copy(update={"chain_rpc_urls": f"31337={url}"})
    monkeypatch.setattr(rpc, "get_settings", lambda: settings)
    get_node.cache_clear()
    try:
        health = (await http.get("/health", headers=await key_of(cast.alice))).json()
    finally:
        server.close()
        await close_nodes()
    assert {"chain 31337", "signer Treasury"} <= named(health).keys()
    assert not taken.is_set(), "a node was asked"


async def test_a_node_that_fails_is_named_without_its_address(
    http: httpx.AsyncClient, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_chain(head_seconds_ago=3)
    urls = f"{get_settings().chain_rpc_urls},31337=http://127.0.0.1:1/v3/secret-key"
    settings = get_settings().model_copy(update={"chain_rpc_urls": urls})
    monkeypatch.setattr(rpc, "get_settings", lambda: settings)
    await close_nodes()
    async with settings_chain() as node:
        await watch_chains()
        answer = await http.get("/health", headers=await key_of(cast.alice))
    get_node.cache_clear()
    chain = named(answer.json())["chain 31337"]
    assert (answer.status_code, chain["state"]) == (200, "degraded")
    assert "Endpoint 2: It cannot be reached." in chain["message"]
    states = [(each["name"], each["state"]) for each in chain["values"]["endpoints"]]
    assert states == [(f"127.0.0.1:{node.port}", "ok"), ("endpoint 2", "failed")]
    assert "secret-key" not in answer.text


async def test_sources_and_balances_are_the_organisations_own(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, name="Shop")
    await deliver(http, source, {"n": 1})
    async with settings_chain() as node:
        stage = await make_stage(cast, node)
        unknown = named((await http.get("/health", headers=key)).json())["signer Treasury"]
        assert (unknown["state"], unknown["values"]["balance_wei"]) == ("degraded", None)
        await read_signers()
        checks._kept.clear()
        health = named((await http.get("/health", headers=key)).json())
        assert health["source Shop"]["values"]["last_signal_at"] is not None
        funded = health["signer Treasury"]
        assert funded["state"] == "ok"
        assert funded["values"]["balance_wei"] == str(
            int(node.rpc("eth_getBalance", stage.signer_address, "latest"), 16)
        )
        assert 0 <= funded["values"]["read_seconds_ago"] < 60
        node.fund(stage.signer_address, 0)
        await read_signers()
        checks._kept.clear()
        empty = named((await http.get("/health", headers=key)).json())["signer Treasury"]
        assert (empty["state"], empty["values"]["balance_wei"]) == ("failed", "0")
    checks._kept.clear()
    await run_sql("UPDATE signer_reading SET read_at = read_at - interval '3 hours', balance_wei = 25 * 10^17")
    old = named((await http.get("/health", headers=key)).json())["signer Treasury"]
    assert (old["state"], old["message"]) == ("degraded", "Its balance was last read 3 hours ago: 2.5 ETH.")
    others = named((await http.get("/health", headers=await key_of(cast.dave))).json())
    assert not [name for name in others if name.startswith(("source", "signer"))]


async def test_what_is_paused_low_or_stuck_is_said(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    async with settings_chain() as node:
        play = await make_play(cast, node)
        await play.sent_mint()
        await read_signers()
        health = named((await http.get("/health", headers=key)).json())
        assert {health[name]["state"] for name in ("lanes", "pauses", "signer Treasury")} == {"ok"}

        await set_top_up(cast.alice.actor, play.stage.signer_id, TopUpInput(low_balance_wei=str(10**24)))
        await pause(cast.oscar.actor, PauseScope.ORGANIZATION, None, "To look into it.")
        await run_sql("UPDATE lane SET stuck_since = now()")
        checks._kept.clear()
        troubled = named((await http.get("/health", headers=key)).json())
    assert {troubled[name]["state"] for name in ("lanes", "pauses", "signer Treasury")} == {"degraded"}
    assert troubled["lanes"]["message"].startswith("Treasury on Local chain does not move. Nonce ")
    assert troubled["pauses"]["message"].startswith("Everything is paused by oscar@example.org since ")
    assert troubled["signer Treasury"]["message"].endswith("ETH, which is low.")


async def test_transactions_that_do_not_go_on_are_named_and_counted(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    async with settings_chain() as node:
        play = await make_play(cast, node)
        views = []
        for _ in range(2):
            views.append(await play.view(await play.sent_mint()))
        checks._kept.clear()
        well = named((await http.get("/health", headers=key)).json())["transactions"]
        assert (well["state"], well["message"]) == ("ok", "Under way: 2.")
        assert well["values"]["oldest_unmined_seconds"] >= 0

        now = clock.now()
        await run_sql("UPDATE transaction SET broadcast_at = {} WHERE id = {}", now - timedelta(hours=3), views[0].id)
        await run_sql("UPDATE transaction SET reason = 'No funds.' WHERE id = {}", views[0].id)
        await run_sql("UPDATE transaction SET status = 'displaced', suspect_since = {} WHERE id = {}", now, views[1].id)
        checks._kept.clear()
        troubled = named((await http.get("/health", headers=key)).json())["transactions"]
        assert troubled["state"] == "degraded"
        assert troubled["message"] == (
            "Another program used a signer's key: 1 displaced in the last 7 days. Held: 1, each with its reason. "
            "The oldest one that was sent has waited for a block for 3 hours."
        )
        lines = (await http.get("/metrics")).text.splitlines()
        assert 'portal_transactions{status="broadcast"} 1.0' in lines
        assert "portal_transactions_held 1.0" in lines
        assert 'portal_transactions_ended{status="displaced"} 1.0' in lines
        oldest = f'portal_lane_oldest_unmined_seconds{{chain="31337",signer="{play.stage.signer_address}"}} '
        assert [float(line.removeprefix(oldest)) >= 10_800 for line in lines if line.startswith(oldest)] == [True]
        node.mine(3)
        await watch_chains()
        lag = [line for line in (await http.get("/metrics")).text.splitlines() if "final_lag_blocks{" in line]
        assert len(lag) == 1
    other = named((await http.get("/health", headers=await key_of(cast.dave))).json())["transactions"]
    assert (other["state"], other["message"]) == ("ok", "Under way: 0.")


async def test_a_source_that_cannot_be_asked_is_not_well(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    given = {"name": "ERP", "scheme": "poll", "settings": {"url": "https://erp.example.org/invoices"}}
    assert (await http.post("/api/v1/sources", json=given, headers=key)).status_code == 201
    for failures, state in ((2, "ok"), (3, "degraded")):
        checks._kept.clear()
        await run_sql("UPDATE pull SET failures = {}, error = 'It answered 500.'", failures)
        erp = named((await http.get("/health", headers=key)).json())["source ERP"]
        assert erp["state"] == state, failures
    assert erp["message"] == "Its last 3 pulls failed. It answered 500."


async def test_a_quiet_source_is_named_to_its_organisation_and_counted(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, name="Shop")
    at = clock.now() - timedelta(hours=3)
    await store(source["id"], at=at)
    await run_sql("UPDATE source SET expected_every_seconds = 600, updated_at = {}", at)
    assert await watch_sources() == 1
    answer = await http.get("/health", headers=key)
    shop = named(answer.json())["source Shop"]
    assert (answer.status_code, shop["state"]) == (200, "degraded")
    assert "expected every 10 minutes" in shop["message"]
    assert f"{at:%Y-%m-%d %H:%M:%S}" in shop["message"]
    others = (await http.get("/health", headers=await key_of(cast.dave))).text
    assert "Shop" not in others
    assert "Shop" not in (await http.get("/health")).text
    text = (await http.get("/metrics")).text
    assert f'portal_source_quiet{{source="{source["id"]}"}} 1.0' in text
    silence = next(line for line in text.splitlines() if line.startswith("portal_source_silence_seconds{"))
    assert 3 * 3600 <= float(silence.split()[-1]) < 3 * 3600 + 120
    await store(source["id"])
    assert await watch_sources() == 1
    checks._kept.clear()
    assert named((await http.get("/health", headers=key)).json())["source Shop"]["state"] == "ok"
    assert f'portal_source_quiet{{source="{source["id"]}"}} 0.0' in (await http.get("/metrics")).text


async def test_an_answer_is_kept_briefly(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    first = (await http.get("/health", headers=key)).json()
    await add_chain(head_seconds_ago=3)
    assert named((await http.get("/health", headers=key)).json()).keys() == named(first).keys()
    with time_machine.travel(clock.now() + timedelta(seconds=1)):
        checks._kept.clear()
        assert "Block 7" in named((await http.get("/health", headers=key)).json())["chain 31337"]["message"]


@asynccontextmanager
async def from_host(http: httpx.AsyncClient, host: str) -> AsyncIterator[httpx.AsyncClient]:
    app = http._transport.app  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(host, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


async def test_metrics_tell_what_happened(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    await deliver(http, source, {"n": 1})
    await http.get("/api/v1/sources/nothing-here")
    text = (await http.get("/metrics")).text
    intake = 'route="/api/v1/sources/{source_id}/signals",status="202"'
    assert f'portal_http_request_seconds_count{{method="POST",{intake}}}' in text
    assert 'portal_signals_by_status{status="received"} 1.0' in text
    for name in (
        "portal_signals_total",
        "portal_transactions",
        "portal_database_query_seconds_bucket",
        "portal_database_pool_connections",
        "portal_errors_total",
        "portal_queue_workers",
    ):
        assert f"\n{name}" in text, name
    requests = [line for line in text.splitlines() if line.startswith("portal_http_request_seconds")]
    assert not [line for line in requests if source["id"] in line], "an id in an address is no label"
    assert f'portal_source_quiet{{source="{source["id"]}"}} 0.0' in text


async def test_metrics_are_for_this_machine(http: httpx.AsyncClient) -> None:
    assert (await http.get("/metrics")).status_code == 200
    for name in ("X-Forwarded-For", "Forwarded"):
        problem(await http.get("/metrics", headers={name: "for=127.0.0.1"}), 403, "forbidden")
    for host in ("10.0.0.7", "2001:db8::1", "not an address"):
        async with from_host(http, host) as client:
            problem(await client.get("/metrics"), 403, "forbidden")


async def test_with_a_token_set_only_its_bearer_reads_metrics(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_token = Settings(**{**get_settings().model_dump(), "metrics_token": "scraper's own"})
    monkeypatch.setattr("portal.ops.router.get_settings", lambda: with_token)
    async with from_host(http, "10.0.0.7") as client:
        problem(await client.get("/metrics"), 401, "not_signed_in")
        problem(await client.get("/metrics", headers={"Authorization": "Bearer wrong"}), 401, "not_signed_in")
        right = await client.get("/metrics", headers={"Authorization": "Bearer scraper's own"})
    assert right.status_code == 200
    problem(await http.get("/metrics"), 401, "not_signed_in")


async def test_metrics_are_given_even_when_the_rows_cannot_be_read(http: httpx.AsyncClient) -> None:
    async with wired_database() as wire:
        wire.cut()
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert "portal_http_request_seconds" in answer.text


@asynccontextmanager
async def doorbell() -> AsyncIterator[Queue]:
    """The queue of a web process, on the test's own database."""
    queue = make_queue()
    await queue.connect()
    async with open_doorbell(queue):
        yield queue
    await queue.disconnect()


async def test_the_queue_is_as_well_as_its_workers(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    async with doorbell() as queue:
        alone = named((await http.get("/health", headers=key)).json())["queue"]
        assert (alone["state"], alone["values"]["workers"]) == ("degraded", 0)
        worker = Worker(queue, functions=saq_functions(), concurrency=1)
        await worker.worker_info(ttl=30)
        checks._kept.clear()
        staffed = named((await http.get("/health", headers=key)).json())["queue"]
        assert (staffed["state"], staffed["values"]["workers"]) == ("ok", 1)
        ring("assess_signals")
        source = await make_source(http, key)
        await deliver(http, source, {"n": 1})
        text = (await http.get("/metrics")).text
    assert "portal_queue_workers 1.0" in text
    assert 'portal_doorbell_rings_total{job="assess_signals"' in text


async def test_the_time_in_each_stage_is_told(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice))
    await deliver(http, source, {"n": 1})
    await run_sql("UPDATE signal SET status = 'ignored', assessed_at = received_at + interval '250 milliseconds'")
    text = (await http.get("/metrics")).text
    assert 'portal_stage_seconds{quantile="0.5",stage="received_to_assessed"} 0.25' in text
    assert 'portal_signals_by_status{status="ignored"} 1.0' in text
    assert 'portal_signals_by_status{status="received"} 0.0' in text


async def test_many_who_ask_at_once_cause_one_look(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def look() -> list[checks.Check]:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.05)
        return []

    monkeypatch.setattr(checks, "check_chains", look)
    answers = await asyncio.gather(*(http.get("/health") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert looks == 1


async def test_a_check_that_hangs_fails_in_time(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(checks, "check_chains", lambda: asyncio.sleep(60))
    started = time.monotonic()
    assert (await http.get("/health")).json()["state"] == "failed"
    assert time.monotonic() - started < 2
