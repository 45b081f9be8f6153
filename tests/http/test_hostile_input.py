"""What a hostile sender tries on pages, files, headers and the wire: a refusal in time, and never a 500."""

import asyncio
import base64
import contextlib
import functools
import io
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from uvicorn.server import ServerState

from portal import server
from portal.accounts.permissions import Permission
from portal.accounts.service import invite_owner
from portal.accounts.sessions import COOKIE, csrf_token
from portal.app import csrf
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.logging import configure_logging
from portal.piccolo_app import APP_CONFIG
from portal.settings import get_settings
from portal.signals.payloads import PayloadUnreadable, parse_payload
from tests.http.api import GITHUB_SECRET, github_headers, key_of, make_source, paths, problem, session_of
from tests.http.test_access_matrix import Route, routes, visit
from tests.people import PASSWORD, Cast

__all__ = ["routes"]

FORM = "application/x-www-form-urlencoded"
FIELDS = (
    *("email", "password", "current_password", "code", "current_code", "sealed", "next", "theme", "name", "role"),
    *("organization_name", "digest", "reason", "scheme", "secret", "overlap_seconds", "body_cap_bytes", "condition"),
    *("subject", "source_id", "contract_id", "policy_id", "signer_id", "chain_id", "function", "arguments", "abi"),
    *("address", "approvals_required", "expires_after_seconds", "scopes", "expires_at", "template", "number"),
)
NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        (
            *("\0", "\ud800", "\u202e", "x" * 10_000, "9" * 400, "-1", "1e999", "NaN", "0x10", "٣", "true", "null"),
            *("{}", "[[[[", "' OR 1=1 --", "{{7*7}}", "%00", "%ff", "../../etc/passwd", "<script>alert(1)</script>"),
            *("//[", "//℀", "/\\evil.example", "javascript:alert(1)", "9999-12-31T23:59:59-23:59", str(new_id())),
        )
    ),
)


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Examples of a strategy, the same every time. They are sent later, in the loop that the pool belongs to."""
    found: list[Any] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(strategy)
    def draw(example: Any) -> None:
        found.append(example)

    draw()
    return found


def encoded(fields: dict[str, str]) -> bytes:
    """As a careless client encodes a form: half of a surrogate pair goes out as bytes that are not UTF-8."""
    quoted = (
        name + "=" + "".join(f"%{byte:02x}" for byte in value.encode("utf-8", "surrogatepass"))
        for name, value in fields.items()
    )
    return "&".join(quoted).encode()


def forms(routes: list[Route]) -> list[Route]:
    return [route for route in routes if route.method == "POST" and not route.is_api]


def address(route: Route, token: str = "x" * 43) -> str:
    return route.path.format(**{name: new_id() for name in route.names} | {"slug": "acme", "token": token})


async def test_no_form_breaks_whatever_its_fields_hold(
    http: httpx.AsyncClient, routes: list[Route], cast: Cast
) -> None:
    alice, link = await visit(cast.alice, "acme"), await invite_owner()
    for route in forms(routes):
        for fields in drawn(st.dictionaries(st.sampled_from(FIELDS), NASTY, min_size=4), 8):
            body = encoded(fields | {"csrf_token": csrf_token(alice.token)})
            sent = {"cookie": f"{COOKIE}={alice.token}", "content-type": FORM}
            answer = await http.post(address(route, link), content=body, headers=sent)
            assert answer.status_code < 500, (route, fields)
            assert "<script>alert(1)" not in answer.text
        if route.path == "/logout":
            alice = await visit(cast.alice, "acme")


BODIES = [
    (b"", None),
    (b"%", FORM),
    (b"csrf_token=%ff&email=\xff\xfe", FORM),
    (b"=&=&&;;==", FORM),
    (b"a=1&" * 50_000, FORM),
    (b"email=a&email=b&password=a&password=b&csrf_token=a&csrf_token=b", FORM),
    (b"email=a", f"{FORM}; charset=nonsense"),
    (b"email=a", ";;;==/"),
    (b'{"email": 1}', "application/json"),
    (b"{", "application/json"),
    (b"\x81\xc1", "application/x-msgpack"),
    (b"email=a", "text/plain"),
    (b"email=a", "multipart/form-data"),
    (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
    (
        b'--x\r\nContent-Disposition: form-data; name="email"; filename="/etc/passwd"\r\n\r\nv\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
    ),
    (
        b'--x\r\nContent-Disposition: form-data; name="email"\r\nContent-Type: text/plain; charset=nonsense\r\n\r\n'
        b"v\r\n--x--\r\n",
        "multipart/form-data; boundary=x",
    ),
    (b"email=" + b"x" * 2_000_000, FORM),
]


@pytest.mark.parametrize(("body", "kind"), BODIES, ids=[f"{kind}-{len(body)}" for body, kind in BODIES])
async def test_a_stranger_cannot_break_a_form_by_its_shape(
    http: httpx.AsyncClient, routes: list[Route], database: None, body: bytes, kind: str | None
) -> None:
    plain = kind is None or kind.startswith((FORM, ";"))
    for route in forms(routes):
        if route.permission is Permission.PUBLIC:
            answer = await http.post(address(route), content=body, headers={"content-type": kind} if kind else {})
            assert 300 <= answer.status_code < 500, (route, answer.status_code)
            assert answer.status_code == 415 or plain or answer.status_code == 404, (route, answer.status_code)


@pytest.mark.parametrize("elsewhere", ["//[", "//\u2100", "///evil.example", "/\\evil.example", "/\t/evil.example"])
async def test_no_address_to_return_to_breaks_or_leads_away(http: httpx.AsyncClient, elsewhere: str) -> None:
    answer = await http.post("/theme", data={"theme": "dark", "next": elsewhere})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "name",
    [
        "%00",
        "portal.css%00",
        "portal.css/../x",
        "portal.css/x",
        "x" * 5000,
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..%5c..%5cportal%5csettings.py",
        ".",
        "",
        "%ff",
    ],
)
@pytest.mark.parametrize("folder", ["/static/", "/static/vendor/htmx/", "/static/vendor/tabler/"])
async def test_no_name_leads_out_of_the_static_folders(http: httpx.AsyncClient, folder: str, name: str) -> None:
    answer = await http.get(httpx.URL(f"http://127.0.0.1:8000{folder}").copy_with(raw_path=(folder + name).encode()))
    assert answer.status_code == 404
    assert "root:" not in answer.text


TIMES = ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-05-03T09:30:00"]


@pytest.mark.parametrize("moment", TIMES)
@pytest.mark.parametrize("name", ["since", "until"])
async def test_a_time_that_is_none_in_utc_is_named(http: httpx.AsyncClient, cast: Cast, name: str, moment: str) -> None:
    answer = await http.get("/api/v1/signals", params={name: moment}, headers=await key_of(cast.alice))
    assert paths(problem(answer, 400, "input_invalid")) == [f"/{name}"]


async def test_no_time_breaks_what_looks_for_new_signals_or_ends_a_key(http: httpx.AsyncClient, cast: Cast) -> None:
    alice = await visit(cast.alice, "acme")
    cookie = {"cookie": f"{COOKIE}={alice.token}"}
    for moment in (*TIMES, "9999-12-31T23:59:59.999999Z", "NaN", "9" * 30):
        answer = await http.get("/orgs/acme/signals/new", params={"after": moment}, headers=cookie)
        assert answer.status_code == 400, moment
    wanted = {"name": "ERP", "scopes": ["signals:read"], "expires_at": TIMES[0]}
    refused = await http.post("/api/v1/api-keys", json=wanted, headers=await key_of(cast.alice))
    assert paths(problem(refused, 400, "input_invalid")) == ["/expires_at"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/login", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/api/v1/sources", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/logout", {"POST", "OPTIONS"}),
    ],
)
@pytest.mark.parametrize("method", ["TRACE", "PATCH", "DELETE", "CONNECT"])
async def test_another_method_is_told_which_there_are(
    http: httpx.AsyncClient, cast: Cast, path: str, allowed: set[str], method: str
) -> None:
    """RFC 9110, section 15.5.6."""
    answer = await http.request(method, path, headers=await key_of(cast.alice))
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed


QUERIES = drawn(
    st.dictionaries(
        st.sampled_from(["status", "text", "type", "source_id", "external_id", "since", "cursor", "correlation_id"]),
        NASTY,
        min_size=2,
    ),
    15,
)


async def test_no_filter_breaks_a_page(http: httpx.AsyncClient, routes: list[Route], cast: Cast) -> None:
    alice = await visit(cast.alice, "acme")
    lists = [route for route in routes if route.method == "GET" and not route.is_api and set(route.names) <= {"slug"}]
    for route in lists:
        for fields in QUERIES[:5]:
            path = route.path.format(slug="acme")
            url = httpx.URL(f"http://127.0.0.1:8000{path}").copy_with(raw_path=path.encode() + b"?" + encoded(fields))
            answer = await http.get(url, headers={"cookie": f"{COOKIE}={alice.token}"})
            assert answer.status_code < 500, (route, fields)
            assert "<script>alert(1)" not in answer.text


@pytest.mark.parametrize("part", ["%00", "%ff", "%0a", "%2e%2e", "%ed%a0%80", "%7bslug%7d", ";", "x" * 3000, "%"])
async def test_no_address_breaks_a_route(http: httpx.AsyncClient, routes: list[Route], cast: Cast, part: str) -> None:
    alice, key = await visit(cast.alice, "acme"), await key_of(cast.alice)
    for route in routes:
        for name in route.names:
            path = route.path.format(**{each: new_id() for each in route.names} | {"slug": "acme"} | {name: part})
            url = httpx.URL("http://127.0.0.1:8000").copy_with(raw_path=path.encode())
            headers = key if route.is_api else {"cookie": f"{COOKIE}={alice.token}"}
            answer = await http.request(route.method, url, headers=headers)
            assert 400 <= answer.status_code < 500 or answer.status_code == 303, (route, answer.status_code)


@pytest.mark.parametrize(
    "headers",
    [
        [("content-encoding", "identity"), ("content-encoding", "gzip")],
        [("content-encoding", "GZIP")],
        [("transfer-encoding", "gzip, chunked")],
        [("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
    ],
)
async def test_a_delivery_in_another_coding_than_it_was_signed_in_is_refused(
    http: httpx.AsyncClient, cast: Cast, headers: list[tuple[str, str]]
) -> None:
    source, body = await make_source(http, await key_of(cast.alice)), b'{"n": 1}'
    sent = [*github_headers(body).items(), *headers]
    problem(await http.post(source["url"], content=body, headers=sent), 415, "media_type_unsupported")


async def test_a_source_with_a_small_cap_looks_like_no_source_to_strangers(http: httpx.AsyncClient, cast: Cast) -> None:
    source = await make_source(http, await key_of(cast.alice), body_cap_bytes=1024)
    body = b" " * 2000
    forged = github_headers(body, secret="not the secret that the source has")
    known = problem(await http.post(source["url"], content=body, headers=forged), 401, "signature_invalid")
    nowhere = f"/api/v1/sources/{new_id()}/signals"
    unknown = problem(await http.post(nowhere, content=body, headers=forged), 401, "signature_invalid")
    assert known["detail"] == unknown["detail"]
    problem(await http.post(source["url"], content=body, headers=github_headers(body)), 413, "body_too_large")


def test_a_repeated_name_among_many_is_found_at_once() -> None:
    """Reading holds up everybody else: it must take no longer for the worst body than for a good one of its size."""
    names = ",".join(f'"{number}":0' for number in range(80_000))
    started = time.thread_time()
    with pytest.raises(PayloadUnreadable, match="'last' twice"):
        parse_payload(f'{{{names},"last":1,"last":2}}'.encode())
    assert time.thread_time() - started < 2


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """`app` behind the server's own protocol, on a real socket; its port."""
    config = uvicorn.Config(app, http=server.BoundedHttp, ws="none", lifespan="off", log_config=None)
    config.load()
    protocol = functools.partial(server.BoundedHttp, config, ServerState(), {})
    listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def say(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that the server answers to `pieces`, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            with contextlib.suppress(ConnectionError):
                writer.write(piece)
                await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    "pieces",
    [(b"",), (b"GET /login HTT",), (b"GET /login HTTP/1.1\r\n" + HOST, *[b"X-A: b\r\n"] * 20), (b"\r\n",) * 20],
)
async def test_a_connection_that_brings_no_request_is_closed(
    app: Litestar, database: None, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.4)
    async with listening(app) as port:
        started = time.monotonic()
        assert b"200 OK" not in await say(port, *pieces, pause=0.05)
        assert time.monotonic() - started < 3


async def test_a_connection_is_kept_while_requests_come(
    app: Litestar, database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    ask, last = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n", b"Connection: close\r\n\r\n"
    async with listening(app) as port:
        answers = await say(port, *[ask] * 6, ask[:-2] + last, pause=0.1)
    assert answers.count(b"200 OK") == 7


async def test_a_form_that_does_not_come_to_its_end_is_not_waited_for(
    app: Litestar, database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csrf, "FORM_SECONDS", 0.3)
    head = f"Content-Type: {FORM}\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n".encode()
    async with listening(app) as port:
        for path in (b"/login", b"/theme", b"/logout"):
            answer = await say(port, b"POST " + path + b" HTTP/1.1\r\n" + HOST + head + b"email=a")
            assert answer.startswith(b"HTTP/1.1 408"), path


async def test_a_sender_that_asks_for_another_protocol_is_told_so(
    app: Litestar, http: httpx.AsyncClient, cast: Cast
) -> None:
    """As Java's client does by itself where there is no TLS. Its body is not read, so its signature must look wrong."""
    source, body = await make_source(http, await key_of(cast.alice)), b'{"a":1}'
    sent = github_headers(body) | {"Upgrade": "h2c", "Content-Length": "7"}
    headers = "".join(f"{name}: {value}\r\n" for name, value in sent.items()).encode()
    path = source["url"].removeprefix("http://127.0.0.1:8000").encode()
    async with listening(app) as port:
        connection = b"Connection: close, Upgrade, HTTP2-Settings\r\n\r\n"
        answer = await say(port, b"POST " + path + b" HTTP/1.1\r\n" + HOST + headers + connection + body)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"(Upgrade)" in answer


CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"


async def name_headers(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole body, and answers with the names of the headers it has then."""
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b" ".join(name for name, _ in scope["headers"])})


async def test_what_follows_a_body_never_becomes_a_header() -> None:
    """A proxy that drops or checks headers does not see it, and neither does what is checked before the body."""
    async with listening(name_headers) as port:
        answer = await say(port, CHUNKED, b"0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", pause=0.05)
        at_once = await say(port, CHUNKED + b"0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")
    for each in (answer, at_once):
        assert each.startswith(b"HTTP/1.1 200")
        assert b"transfer-encoding" in each
        assert b"x-forwarded-for" not in each.lower()


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"0\r\nX: ", b"a" * 2**16), (b"0\r\n", b"X: a\r\n" * 10_000), (b"5;a=", b"a" * 2**16)],
    ids=["a trailer without end", "trailers without end", "an extension of a chunk without end"],
)
async def test_what_is_around_a_body_has_a_bound(begin: bytes, more: bytes) -> None:
    """The parser copies a trailer with every piece of it: one connection would hold up everybody else for seconds."""
    async with listening(name_headers) as port:
        started = time.monotonic()
        assert b"200" not in await say(port, CHUNKED + begin, *[more] * 20)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 7\r\nContent-Length: 8\r\n",
        b"Content-Length: -7\r\n",
        b"Content-Length: +7\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length : 7\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"X: \0\r\nContent-Length: 7\r\n",
        b"X: a\r\n b\r\nContent-Length: 7\r\n",
    ],
)
async def test_what_two_readers_could_frame_differently_is_refused(
    app: Litestar, http: httpx.AsyncClient, cast: Cast, framing: bytes
) -> None:
    """A body that a proxy ends elsewhere than we do smuggles a second request past it (RFC 9112, section 11.2)."""
    source, body = await make_source(http, await key_of(cast.alice)), b'{"a":1}'
    headers = "".join(f"{name}: {value}\r\n" for name, value in github_headers(body).items()).encode()
    path = source["url"].removeprefix("http://127.0.0.1:8000").encode()
    smuggled = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"
    async with listening(app) as port:
        request = b"POST " + path + b" HTTP/1.1\r\n" + HOST + headers + framing + b"\r\n" + body
        answer = await say(port, request + smuggled)
    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, "what followed was read as a request of its own"
    assert await run_sql("SELECT id FROM signal") == []


@pytest.mark.parametrize("path", ["/orgs/acme/inbox", "/api/v1/signals"])
async def test_an_unexpected_error_says_nothing_of_itself(
    http: httpx.AsyncClient, cast: Cast, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("could not reach postgresql://portal:hunter2@db/portal")

    visitor, key = await visit(cast.alice, "acme"), await key_of(cast.alice)
    monkeypatch.setattr("portal.actions.queries.list_inbox", fail)
    monkeypatch.setattr("portal.signals.queries.list_signals", fail)
    headers = key if path.startswith("/api/") else {"cookie": f"{COOKIE}={visitor.token}"}
    answer = await http.get(path, headers=headers)
    assert answer.status_code == 500
    for word in ("hunter2", "postgresql", "RuntimeError", "Traceback", ".py"):
        assert word not in answer.text
    assert answer.headers["x-correlation-id"] in answer.text


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that the process logs, down to the last detail."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    configure_logging("debug", process="test")
    root.handlers[0].setStream(written)  # type: ignore[attr-defined]
    yield written
    root.handlers, root.level = handlers, level


@pytest_asyncio.fixture
async def secrets_used(http: httpx.AsyncClient, cast: Cast, log: io.StringIO) -> dict[str, str]:
    """Every kind of secret there is, each made and used over HTTP, rightly and wrongly."""
    session = (await session_of(cast.alice))["Authorization"].removeprefix("Bearer ")
    half = await http.post("/login", data={"email": cast.bob.email, "password": PASSWORD})
    wrong = "not my password at all"
    await http.post("/login", data={"email": cast.bob.email, "password": wrong, "next": "/"})
    await http.post("/login", data={"email": wrong, "password": PASSWORD})
    cookie = {"cookie": f"{COOKIE}={session}"}
    form = {"csrf_token": csrf_token(session)}
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    own = (await http.post("/api/v1/sources", json={"name": "Own", "scheme": "standard_webhooks"}, headers=key)).json()
    body = b'{"n": 1}'
    await http.post(source["url"], content=body, headers=github_headers(body))
    await http.post(source["url"], content=b"{}", headers=github_headers(body))
    invited = await http.post("/api/v1/members", json={"email": "eve@example.org", "role": "operator"}, headers=key)
    link = invited.json()["url"].rpartition("/")[2]
    await http.get(f"/invitations/{link}")
    enrolment = await http.get("/account/second-factor", headers=cookie)
    await http.post("/account/password", data={**form, "current_password": wrong, "password": wrong}, headers=cookie)
    return {
        "session": session,
        "half session": re.search(rf"{COOKIE}=\"?([^;\"]+)", half.headers["set-cookie"])[1],  # type: ignore[index]
        "csrf token": form["csrf_token"],
        "password": PASSWORD,
        "another password": wrong,
        "second factor": cast.bob.totp_secret,
        "offered second factor": re.search(r"\b[A-Z2-7]{32}\b", enrolment.text)[0],  # type: ignore[index]
        "API key": key["Authorization"].rpartition("_")[2],
        "source's secret": GITHUB_SECRET,
        "made secret": own["secret"].removeprefix("whsec_"),
        "invitation": link,
        "secret key": str(get_settings().secret_key),
        "signer key": str(get_settings().signer_key),
    }


async def test_no_secret_is_in_the_log_or_readable_in_the_database(
    secrets_used: dict[str, str], log: io.StringIO
) -> None:
    written = log.getvalue()
    assert "session.started" in written
    assert "session.refused" in written
    rows = [
        row["text"]
        for table in APP_CONFIG.table_classes
        for row in await run_sql(f'SELECT t::text AS text FROM "{table._meta.tablename}" t')
    ]
    stored = "\n".join(rows)
    assert len(rows) > 20
    for name, secret in secrets_used.items():
        assert len(secret) > 10, name
        for form in (secret, secret.encode().hex(), base64.b64encode(secret.encode()).decode()):
            assert form not in written, f"{name} is in the log"
            assert form not in stored, f"{name} is in the database"
