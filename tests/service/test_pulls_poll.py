"""`poll` against a real HTTP server: every item once, whatever it does, and never a word to private addresses."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from portal import clock, egress
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound
from portal.rules.jobs import assess_signals
from portal.signals.errors import SourceNotActive
from portal.signals.pulls import fetching, running
from portal.signals.pulls.jobs import pull_sources
from portal.signals.pulls.service import PullInput, get_pull, pull_now
from portal.signals.schemas import SourceChange
from portal.signals.service import change_source, pause_source, resume_source
from tests.people import Cast
from tests.pulls import Api, Asked, Pulled, Reply, egress_allowed, make_certificate, make_pulled, running_api

LOCAL = "127.0.0.0/8"


@pytest.fixture
def api() -> Iterator[Api]:
    with egress_allowed(LOCAL), running_api() as running_one:
        yield running_one


def orders(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": number, "type": "order.paid", "total": 100 + number} for number in numbers]


async def make_poll(cast: Cast, api: Api, *, secret: str | None = None, **settings: Any) -> Pulled:
    given = {"url": f"{api.url}/orders", "items": "/data", "id": "/id", **settings}
    return await make_pulled(cast.alice, "poll", {k: v for k, v in given.items() if v is not None}, secret=secret)


def pages(items: list[dict[str, Any]], size: int, *, first: int = 0) -> Any:
    """An API with cursors that are places, and none on the last page."""

    def say(asked: Asked) -> Reply:
        start = int(asked.query.get("cursor", first))
        more = start + size < len(items)
        return Reply({"data": items[start : start + size], "next": str(start + size) if more else None})

    return say


async def test_each_item_becomes_a_signal_with_the_bytes_it_came_in(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply(b'{"data": [ {"id": 7, "type": "order.paid", "total": 12345678901234567890.10} ]}')
    source = await make_poll(cast, api)
    view = await source.pull()
    [signal] = await source.signals()
    assert bytes(signal["body"]) == b'{"id": 7, "type": "order.paid", "total": 12345678901234567890.10}'
    assert (signal["external_id"], signal["type"], signal["status"]) == ("7", "order.paid", "received")
    assert (signal["secret"], signal["skew_ms"], view.failures, view.error) == (None, None, 0, None)
    assert view.pulled_at is not None
    assert 55 < (view.due_at - clock.now()).total_seconds() <= 60
    assert await assess_signals() == 1
    assert (await source.signals())[0]["status"] == "ignored"


async def test_an_item_that_is_there_again_is_no_new_signal(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": orders(1, 2)})
    source = await make_poll(cast, api)
    await source.pull()
    api.say = lambda _: Reply({"data": orders(1, 2, 3)})
    await source.pull()
    assert await source.ids() == ["1", "2", "3"]


async def test_without_an_id_the_content_is_the_id(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply(
        b'{"data":[{"a":1,"b":[2.50]},{"b":[2.50],  "a":1},{"a":1,"b":[2.5]},{"a":2,"b":[2.50]}]}'
    )
    source = await make_poll(cast, api, id=None)
    await source.pull()
    await source.pull()
    assert len(await source.ids()) == 2, "the order of fields and spaces make no other item; another value does"


async def test_types_come_from_the_item_or_are_given(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": [{"id": 1, "kind": {"name": "a.b"}}, {"id": 2, "kind": "no type at all"}]})
    pointed = await make_poll(cast, api, type_at="/kind/name")
    given = await make_poll(cast, api, type="order")
    await pointed.pull()
    await given.pull()
    assert [signal["type"] for signal in await pointed.signals()] == ["a.b", "unknown"]
    assert [signal["type"] for signal in await given.signals()] == ["order", "order"]


async def test_an_item_without_its_id_stops_the_page_and_says_where(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": [{"id": 1}, {"name": "nameless"}]})
    source = await make_poll(cast, api)
    view = await source.pull()
    assert view.error is not None
    assert "/data/1 has no id at /id" in view.error
    assert await source.ids() == []


async def test_the_secret_is_sent_as_a_bearer_token_or_in_the_header_that_is_named(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": []})
    await (await make_poll(cast, api, secret="s3cret-of-acme")).pull()
    await (await make_poll(cast, api, secret="s3cret-of-acme", header="X-Api-Key")).pull()
    await (await make_poll(cast, api)).pull()
    bearer, named, none = (asked.headers for asked in api.asked)
    assert bearer["authorization"] == "Bearer s3cret-of-acme"
    assert named["x-api-key"] == "s3cret-of-acme"
    assert "authorization" not in named | none
    assert bearer["host"] == f"127.0.0.1:{api.port}"


async def test_neither_errors_nor_logs_hold_the_secret(cast: Cast, api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    source = await make_poll(cast, api, secret="s3cret-of-acme", url=f"{api.url}/orders?key=k3y-in-query")
    for reply in (Reply("no", status=403), Reply(b"<html>", content_type="text/html"), Reply(b"[1,", status=200)):
        api.say = lambda _, reply=reply: reply
        view = await source.pull()
        assert view.error
        assert "s3cret" not in view.error
        assert "k3y" not in view.error
    out = capfd.readouterr()
    assert "pull.failed" in out.out + out.err
    assert "s3cret" not in out.out + out.err
    assert "k3y" not in out.out + out.err


# Paging


async def test_cursors_are_followed_to_the_end_and_from_there_next_time(cast: Cast, api: Api) -> None:
    items = orders(*range(25))
    api.say = pages(items, 10)
    source = await make_poll(cast, api, paging={"by": "cursor", "next": "/next"})
    await source.pull()
    assert len(await source.ids()) == 25
    assert [asked.query.get("cursor") for asked in api.asked] == [None, "10", "20"]
    items += orders(*range(25, 33))
    await source.pull()
    assert sorted(map(int, await source.ids())) == list(range(33))
    assert [asked.query.get("cursor") for asked in api.asked[3:]] == ["20", "30"]
    assert (await source.view()).position == "After the cursor 30."


async def test_a_failure_between_pages_loses_nothing_and_repeats_nothing(cast: Cast, api: Api) -> None:
    items = orders(*range(30))
    good = pages(items, 10)
    api.say = lambda asked: Reply("oops", status=500) if asked.query.get("cursor") == "20" else good(asked)
    source = await make_poll(cast, api, paging={"by": "cursor", "next": "/next"})
    view = await source.pull()
    assert (len(await source.ids()), view.failures) == (20, 1)
    assert view.error == "127.0.0.1 answers HTTP 500."
    api.say = good
    view = await source.pull()
    assert (len(await source.ids()), view.failures, view.error) == (30, 0, None)
    assert [asked.query.get("cursor") for asked in api.asked] == [None, "10", "20", "20"]


async def test_newest_first_is_read_to_its_end_once_and_then_to_what_is_known(cast: Cast, api: Api) -> None:
    items = list(reversed(orders(*range(30))))

    def say(asked: Asked) -> Reply:
        return pages(items, 10)(asked)

    api.say = lambda asked: Reply("oops", status=500) if asked.query.get("cursor") == "20" else say(asked)
    source = await make_poll(cast, api, paging={"by": "cursor", "next": "/next", "newest_first": True})
    await source.pull()
    await pull_now(cast.alice.actor, source.id, PullInput(from_start=True))
    api.say = say
    await source.pull()
    assert sorted(map(int, await source.ids())) == list(range(30)), "the known first pages do not hide the last one"
    items[:0] = list(reversed(orders(*range(30, 45))))
    api.asked.clear()
    await source.pull()
    assert sorted(map(int, await source.ids())) == list(range(45))
    assert [asked.query.get("cursor") for asked in api.asked] == [None, "10", "20"]


async def test_an_unchanged_list_is_answered_304_and_read_again_when_it_changes(cast: Cast, api: Api) -> None:
    state = {"etag": '"v1"', "items": orders(1)}

    def say(asked: Asked) -> Reply:
        if asked.headers.get("if-none-match") == state["etag"]:
            return Reply(status=304, headers={"ETag": state["etag"]})
        return Reply({"data": state["items"]}, headers={"ETag": state["etag"]})

    api.say = say
    source = await make_poll(cast, api, paging={"by": "etag"})
    await source.pull()
    view = await source.pull()
    assert (await source.ids(), view.failures) == (["1"], 0)
    state.update(etag='"v2"', items=orders(1, 2))
    await source.pull()
    assert await source.ids() == ["1", "2"]
    assert [asked.headers.get("if-none-match") for asked in api.asked] == [None, '"v1"', '"v1"']


async def test_since_goes_on_from_the_last_item(cast: Cast, api: Api) -> None:
    items = [{"id": n, "at": f"2026-05-{n:02}T00:00:00+00:00"} for n in range(1, 26)]

    def say(asked: Asked) -> Reply:
        later = [item for item in items if item["at"] >= asked.query.get("from", "")]
        return Reply({"data": later[:10]})

    api.say = say
    source = await make_poll(cast, api, paging={"by": "since", "value": "/at", "parameter": "from"})
    await source.pull()
    assert await source.ids() == [str(n) for n in range(1, 26)]
    items.append({"id": 26, "at": "2026-05-26T00:00:00+00:00"})
    await source.pull()
    assert (await source.ids())[-1] == "26"


# What servers do


async def test_an_etag_that_cannot_be_kept_is_done_without(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": orders(1)}, headers={"ETag": '"\xff\xfe"'})
    source = await make_poll(cast, api, paging={"by": "etag"})
    for _ in range(2):
        assert (await source.pull()).error is None
    assert await source.ids() == ["1"]
    assert "if-none-match" not in api.asked[-1].headers


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply("no", status=401), "does not accept the source's secret"),
        (Reply("no", status=404), "answers HTTP 404"),
        (Reply(b"<html>hello</html>", content_type="text/html"), "answers text/html where JSON is expected"),
        (Reply(b'{"data": [1,'), "The answer cannot be read"),
        (Reply(b'{"data": [{"id":1,"id":2}]}'), "twice"),
        (Reply(b"payload=%7B%22data%22%3A%5B1%5D%7D"), "not JSON"),
        (Reply({"data": {"id": 1}}), "no list at /data"),
        (Reply({"items": []}), "no list at /data"),
        (Reply(b'{"data": [' + b"1," * 10_000 + b"1]}"), "at most 10000"),
        (Reply(b'"' + b"x" * 6 * 1024 * 1024 + b'"'), "larger than 5 MB"),
        (
            Reply(gzip.compress(b'"' + b"x" * 50 * 1024 * 1024 + b'"'), headers={"Content-Encoding": "gzip"}),
            "larger than 5 MB",
        ),
        (Reply(b"{}", status=302, headers={"Location": "http://169.254.169.254/latest/"}), "redirects (HTTP 302)"),
        (Reply(b"x", headers={"Content-Length": "1000"}), "broke off"),
    ],
)
async def test_what_is_no_usable_answer_is_said_in_a_sentence(cast: Cast, api: Api, reply: Reply, says: str) -> None:
    api.say = lambda _: reply
    source = await make_poll(cast, api)
    view = await source.pull()
    assert view.error is not None
    assert says in view.error
    assert (view.failures, len(api.asked), await source.ids()) == (1, 1, [])
    assert view.due_at > clock.now()
    counted = await run_sql("SELECT outcome, number FROM source_hour WHERE source = {}", source.id)
    assert [(row["outcome"], row["number"]) for row in counted] == [("pull_failed", 1)]


async def test_one_that_never_finishes_is_left_and_keeps_no_other_waiting(
    cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "ANSWER_SECONDS", 1.5)
    api.say = lambda asked: (
        Reply({"data": orders(1)}, drip=True) if asked.path == "/slow" else Reply({"data": orders(2)})
    )
    slow = await make_poll(cast, api, url=f"{api.url}/slow")
    fast = await make_poll(cast, api)
    started = time.monotonic()
    assert await pull_sources() == 2
    assert time.monotonic() - started < 4
    assert await fast.ids() == ["2"]
    view = await slow.view()
    assert view.error is not None
    assert "does not answer within" in view.error


async def test_a_slow_source_keeps_no_other_waiting_that_becomes_due_meanwhile(cast: Cast, api: Api) -> None:
    api.say = lambda asked: Reply({"data": orders(1)}, wait_seconds=3 if asked.path == "/slow" else 0)
    await make_poll(cast, api, url=f"{api.url}/slow")
    job = asyncio.create_task(pull_sources())
    await asyncio.sleep(0.3)
    late = await make_poll(cast, api)
    await asyncio.sleep(1.2)
    assert await late.ids() == ["1"]
    assert not job.done()
    await job


async def test_retry_after_is_honoured(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply("slow down", status=429, headers={"Retry-After": "1800"})
    in_seconds = await make_poll(cast, api)
    wait = (await in_seconds.pull()).due_at - clock.now()
    assert timedelta(seconds=1790) < wait <= timedelta(seconds=1800)
    api.say = lambda _: Reply(
        "", status=503, headers={"Retry-After": format_datetime(clock.now() + timedelta(hours=2), usegmt=True)}
    )
    as_date = await make_poll(cast, api)
    wait = (await as_date.pull()).due_at - clock.now()
    assert timedelta(seconds=7100) < wait <= timedelta(hours=2)


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "99999999999999999999999", "Wed, 99 Xxx 2026 00:00:00 GMT"])
async def test_an_unreadable_retry_after_does_no_harm(cast: Cast, api: Api, value: str) -> None:
    api.say = lambda _: Reply("", status=503, headers={"Retry-After": value})
    view = await (await make_poll(cast, api)).pull()
    assert view.error == "127.0.0.1 answers HTTP 503."
    assert view.due_at - clock.now() <= timedelta(days=1)


def test_each_failure_doubles_the_wait_up_to_an_hour() -> None:
    waits = [running.backoff_seconds(failures, 60, 0.0) for failures in range(1, 9)]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert running.backoff_seconds(10**6, 60, 0.0) == 3600
    assert running.backoff_seconds(3, 7200, 0.0) == 7200, "never sooner than it is pulled anyway"
    assert 45 <= running.backoff_seconds(1, 60, 0.99) < 60


async def test_nobody_listens(cast: Cast, api: Api) -> None:
    source = await make_poll(cast, api)
    api.stop()
    view = await source.pull()
    assert view.error is not None
    assert view.error.startswith("127.0.0.1 cannot be reached")


# Where it must not go


async def test_a_name_that_resolves_to_this_machine_is_not_connected_to(
    cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await make_poll(cast, api, url=f"https://localhost:{api.port}/orders")
    with egress_allowed(""):
        view = await source.pull()
    assert view.error is not None
    assert "localhost has the address" in view.error
    assert api.asked == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "[::ffff:7f00:1]"])
async def test_no_spelling_of_this_machine_is_connected_to(cast: Cast, api: Api, host: str) -> None:
    source = await make_poll(cast, api)
    settings = json.dumps({"url": f"https://{host}:{api.port}/orders", "interval_seconds": 60})
    await run_sql("UPDATE source SET settings = {} WHERE id = {}", settings, source.id)
    with egress_allowed(""):
        view = await source.pull()
    assert view.error is not None
    assert "no connection is made" in view.error or "There is no host" in view.error
    assert api.asked == []


async def test_one_private_address_among_public_ones_is_enough(
    cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await make_poll(cast, api, url="https://two.example.org/orders")
    _resolve_to(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    view = await source.pull()
    assert view.error is not None
    assert "10.0.0.1, which is not an address of the internet" in view.error


async def test_what_a_name_means_later_does_not_matter(cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name is resolved once, and the connection goes to that address."""
    answers = iter([["127.0.0.1"], ["127.0.0.99"]])
    resolved = _resolve_to(monkeypatch, lambda: next(answers))
    api.say = lambda _: Reply({"data": orders(1)})
    source = await make_poll(cast, api, url=f"http://rebinding.example.org:{api.port}/orders")
    await source.pull()
    assert await source.ids() == ["1"]
    assert resolved == ["rebinding.example.org"]
    assert api.asked[0].headers["host"] == f"rebinding.example.org:{api.port}"


async def test_public_addresses_are_not_asked_without_tls(
    cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await make_poll(cast, api, url="http://plain.example.org/orders")
    _resolve_to(monkeypatch, ["93.184.216.34"])
    view = await source.pull()
    assert view.error is not None
    assert "must be reached over https://" in view.error


async def test_a_proxy_of_the_environment_is_not_used(cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_api() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        await (await make_poll(cast, api)).pull()
        assert (len(proxy.asked), len(api.asked)) == (0, 1)


def _resolve_to(monkeypatch: pytest.MonkeyPatch, addresses: Any) -> list[str]:
    """Make names mean `addresses` to this process; the names that were looked up."""
    looked_up: list[str] = []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        looked_up.append(host)
        found = addresses() if callable(addresses) else addresses
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **more: (getaddrinfo if str(host).endswith("example.org") else real)(host, *args, **more),
    )
    return looked_up


async def test_tls_is_verified_against_the_name(
    cast: Cast, database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, authority = make_certificate(tmp_path, "localhost")
    other, other_authority = make_certificate(tmp_path, "other.example.org")
    with egress_allowed("127.0.0.0/8,::1/128"), running_api(right) as api, running_api(other) as impostor:
        for each in (api, impostor):
            each.say = lambda _: Reply({"data": orders(1)})
        source = await make_poll(cast, api, url=f"https://localhost:{api.port}/")
        untrusted = await source.pull()
        assert untrusted.error is not None
        assert "certificate of localhost is not valid" in untrusted.error

        trusting = egress.ssl.create_default_context(cafile=str(authority))
        trusting.load_verify_locations(str(other_authority))
        monkeypatch.setattr(egress, "tls_context", lambda: trusting)
        await source.pull()
        assert await source.ids() == ["1"]
        wrong = await (await make_poll(cast, impostor, url=f"https://localhost:{impostor.port}/")).pull()
        assert wrong.error is not None
        assert "certificate of localhost is not valid" in wrong.error
        assert impostor.asked == []


# Pausing, claims, people


async def test_a_paused_source_is_not_pulled_and_goes_on_where_it_stood(cast: Cast, api: Api) -> None:
    items = orders(*range(15))
    api.say = pages(items, 10)
    source = await make_poll(cast, api, paging={"by": "cursor", "next": "/next"})
    await source.pull()
    await pause_source(cast.alice.actor, source.id)
    items += orders(*range(15, 20))
    api.asked.clear()
    await source.pull()
    assert api.asked == []
    with pytest.raises(SourceNotActive):
        await pull_now(cast.alice.actor, source.id)
    await resume_source(cast.alice.actor, source.id)
    await source.pull()
    assert [asked.query.get("cursor") for asked in api.asked] == ["10"]
    assert len(await source.ids()) == 20


async def test_what_is_fetched_while_the_source_is_paused_is_not_stored(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": orders(1)}, wait_seconds=1)
    source = await make_poll(cast, api)
    job = asyncio.create_task(pull_sources())
    await asyncio.sleep(0.3)
    assert (await source.view()).pulling
    await pause_source(cast.alice.actor, source.id)
    await job
    assert await source.ids() == []
    assert await source.position() == {}
    await resume_source(cast.alice.actor, source.id)
    await pull_sources()
    assert await source.ids() == ["1"], "nothing is lost, and nobody waits for the end of a claim"


async def test_what_is_fetched_by_old_settings_does_not_move_the_new_position(cast: Cast, api: Api) -> None:
    api.say = lambda asked: Reply({"data": [], "next": "old"}, wait_seconds=1 if asked.path == "/orders" else 0)
    source = await make_poll(cast, api, paging={"by": "cursor", "next": "/next"})
    job = asyncio.create_task(pull_sources())
    await asyncio.sleep(0.3)
    settings = {"url": f"{api.url}/others", "paging": {"by": "cursor", "next": "/next"}}
    change = SourceChange(name="Others", body_cap_bytes=65536, settings=settings)
    await change_source(cast.alice.actor, source.id, change)
    await job
    assert api.asked[1].path == "/others"
    assert api.asked[1].query == {}, "a cursor of the old list means nothing to the new one"


async def test_what_is_fetched_does_not_undo_a_new_beginning(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": [], "next": "further"}, wait_seconds=1)
    source = await make_poll(cast, api, paging={"by": "cursor", "next": "/next"})
    await run_sql("""UPDATE pull SET position = '{{"cursor": "there"}}'""")
    job = asyncio.create_task(pull_sources())
    await asyncio.sleep(0.3)
    await pull_now(cast.alice.actor, source.id, PullInput(from_start=True))
    await job
    assert [asked.query.get("cursor") for asked in api.asked[:3]] == ["there", None, "further"]


async def test_a_new_interval_counts_at_once(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": []}, wait_seconds=1)
    source = await make_poll(cast, api, interval_seconds=86400)
    job = asyncio.create_task(pull_sources())
    await asyncio.sleep(0.3)
    settings = {"url": f"{api.url}/orders", "items": "/data", "id": "/id", "interval_seconds": 5}
    await change_source(
        cast.alice.actor, source.id, SourceChange(name="Orders", body_cap_bytes=65536, settings=settings)
    )
    await job
    assert (await source.view()).due_at < clock.now() + timedelta(seconds=10)


async def test_at_most_eight_sources_are_pulled_at_once(cast: Cast, api: Api) -> None:
    now, most = 0, 0

    def say(_: Asked) -> Reply:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        time.sleep(0.2)
        now -= 1
        return Reply({"data": orders(1)})

    api.say = say
    sources = [await make_poll(cast, api) for _ in range(12)]
    assert await pull_sources() == 12
    assert 4 < most <= 8
    assert [await source.ids() for source in sources] == [["1"]] * 12


async def test_workers_at_once_pull_a_source_once(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": orders(1, 2)}, wait_seconds=0.3)
    source = await make_poll(cast, api)
    await asyncio.gather(*(pull_sources() for _ in range(5)))
    assert len(api.asked) == 1
    assert await source.ids() == ["1", "2"]


async def test_a_worker_that_slept_past_its_claim_stores_nothing(
    cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = iter(
        [Reply({"data": orders(1), "next": "lost"}, wait_seconds=1.5), Reply({"data": orders(2), "next": ""})]
    )
    api.say = lambda _: next(replies)
    source = await make_poll(cast, api, paging={"by": "cursor", "next": "/next"})
    monkeypatch.setattr(running, "LEASE", timedelta(seconds=0.5))
    sleeper = asyncio.create_task(pull_sources())
    await asyncio.sleep(0.8)
    monkeypatch.setattr(running, "LEASE", timedelta(seconds=30))
    await pull_sources()
    await sleeper
    assert await source.ids() == ["2"]
    assert await source.position() == {}


async def test_a_worker_that_is_stopped_gives_the_source_back(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": orders(1)}, wait_seconds=1)
    source = await make_poll(cast, api)
    job = asyncio.create_task(pull_sources())
    await asyncio.sleep(0.3)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert not (await source.view()).pulling
    assert await pull_sources() == 1
    assert await source.ids() == ["1"]


async def test_an_error_of_ours_stays_with_its_source(cast: Cast, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.say = lambda _: Reply({"data": orders(1)})
    broken = await make_poll(cast, api)
    await run_sql("UPDATE source SET settings = {} WHERE id = {}", '{"no": "settings"}', broken.id)
    good = await make_poll(cast, api)
    await pull_sources()
    assert await good.ids() == ["1"]


async def test_pulling_now_is_audited_and_only_for_who_may(cast: Cast, api: Api) -> None:
    api.say = lambda _: Reply({"data": orders(1)})
    source = await make_poll(cast, api)
    await source.pull()
    api.asked.clear()
    await pull_sources()
    assert api.asked == [], "it is not due"
    view = await pull_now(cast.oscar.actor, source.id)
    assert view.due_at <= clock.now()
    await pull_sources()
    assert len(api.asked) == 1
    entries = await run_sql("SELECT kind, actor_label FROM audit_entry WHERE subject_id = {}", str(source.id))
    assert ("source.pull_requested", "oscar@example.org") in [(row["kind"], row["actor_label"]) for row in entries]
    with pytest.raises(Forbidden):
        await pull_now(cast.carol.actor, source.id)
    with pytest.raises(NotFound):
        await pull_now(cast.dave.actor, source.id)
    with pytest.raises(NotFound):
        await get_pull(cast.dave.actor.organization_id, source.id)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"url": "https://localhost:22/"}, "/settings/url"),
        ({"url": "https://10.0.0.1/"}, "/settings/url"),
        ({"header": "Host"}, "/settings/header"),
        ({"header": "X: y\r\nZ"}, "/settings/header"),
        ({"type": "no spaces"}, "/settings/type"),
        ({"type": "a", "type_at": "/a"}, "/settings/type_at"),
    ],
)
async def test_settings_that_cannot_work_are_refused_with_their_place(
    cast: Cast, api: Api, settings: dict[str, Any], path: str
) -> None:
    with pytest.raises(InputInvalid) as refused:
        await make_poll(cast, api, **settings)
    assert [problem.path for problem in refused.value.fields] == [path]
