"""Whatever is delivered to a source of any scheme: an answer below 500, and what is acknowledged is in the table."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from litestar import Litestar

from portal.db.engine import run_sql
from tests.http.api import key_of, make_source
from tests.people import Cast
from tests.schemes import CASES, Case
from tests.signals import Headers, sign

EXAMPLES = 60
"""For each scheme. Derandomised, so that a failure comes again."""
SIGNED_BY = {name for case in CASES for name, _ in case.delivery()[0]}
READ_BY_US = [
    b"content-length",
    b"content-encoding",
    b"transfer-encoding",
    b"x-correlation-id",
    b"x-forwarded-for",
    b"cookie",
    b"host",
    b"expect",
    b"idempotency-key",
]
NAMES = st.sampled_from(sorted(SIGNED_BY) + READ_BY_US) | st.binary(min_size=1, max_size=20).map(bytes.lower)
NASTY = [
    *(b"", b" ", b"\0", b"a\0b", b"\r\n", b"\xff\xfe", "é\U0001f600".encode(), b"a" * 5000),
    *(b"0", b"-1", b"9" * 400, b"1e9", b"\xb2", "٣".encode()),
    *(b"identity", b"gzip", b"chunked", b"text/plain; charset=nonsense", b"100-continue"),
    *(b"v1,", b"v1a,\xff", b"v1,=== v1,", b"t=1,v1=", b"t=\xb2,v1=\xff", b"sha256=", b"sha256=\xff", b"v0=zz"),
    *(b"Basic ==", b"Basic \xff", b"Basic gICA", b"Bearer", b"Bearer \xff"),
]
VALUES = st.binary(max_size=60) | st.sampled_from(NASTY)
BODIES = st.binary(max_size=200) | st.sampled_from(
    [
        b"",
        b"null",
        b"\xff\xfe",
        b'"\\ud800"',
        b"[" * 5000,
        b"9" * 5000,
        b'{"a":1,"a":2}',
        b'{"type":"a\\u0000b"}',
        b'{"type":"url_verification","challenge":7}',
        b'{"meta":[{"a/b":{}}],"what":{"happened":[]},"event_id":null,"id":"\\u0000"}',
    ]
)
CHANGES = st.lists(st.tuples(NAMES, VALUES), max_size=4)


def drawn(case: Case) -> Iterator[tuple[bool, bytes, Headers, bytes]]:
    """Whether it is signed, its body, headers beside or instead of the sender's own, and a query."""
    found: list[tuple[bool, bytes, Headers, bytes]] = []

    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.booleans(), BODIES, st.just([]) | CHANGES, st.just(b"") | st.binary(max_size=30))
    def draw(signed: bool, body: bytes, changes: Headers, query: bytes) -> None:
        found.append((signed, body, changes, query))

    draw()
    own = {name for name, _ in case.delivery()[0]} | {b"x-correlation-id", b"content-type"}
    found += [(True, case.body(f"evt-{name}", "paid"), [(name, value)], b"") for name in sorted(own) for value in NASTY]
    for signed, body, changes, query in found:
        form = case.scheme == "twilio" and not body.startswith(b"MessageSid=")
        yield signed, (body.hex().encode() + b"=1" if form else body), changes, query


async def post(app: Litestar, path: str, query: bytes, headers: Headers, body: bytes) -> tuple[int, Any]:
    """Past every HTTP library: these refuse to send half of it."""
    told: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query,
        "headers": headers,
        "client": ("192.0.2.7", 50_000),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    return told[0]["status"], json.loads(told[1]["body"])


async def check_stored(acknowledged: dict[str, bytes]) -> None:
    """Every acknowledged delivery is the one row with its id, with the bytes that were sent."""
    rows = await run_sql("SELECT id::text, body FROM signal")
    assert {row["id"]: bytes(row["body"]) for row in rows} == acknowledged


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_nothing_that_is_delivered_breaks_the_intake(
    http: httpx.AsyncClient, app: Litestar, cast: Cast, case: Case
) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, scheme=case.scheme, secret=case.secret, settings=case.settings)
    path = urlsplit(source["url"]).path
    acknowledged: dict[str, bytes] = {}
    refused = 0
    for signed, body, changes, query in drawn(case):
        own = sign(case.scheme, case.settings, case.key, body, id=uuid4().hex, url=source["url"]) if signed else []
        headers = [pair for pair in own if pair[0] not in dict(changes)] + changes
        status, answer = await post(app, path, query, headers, body)
        told = f"{headers} {body!r} {query!r} -> {status} {answer}"
        assert status == 202 or 400 <= status < 500, told
        if status == 202:
            assert signed, told
            acknowledged[answer["signal_id"]] = body
        else:
            assert changes or query or not signed or not case.any_body, told
            assert answer["detail"], told
            refused += 1
    assert len(acknowledged) > 2
    assert refused > EXAMPLES / 10
    await check_stored(acknowledged)
    kept = await run_sql("SELECT count(*) AS count FROM rejected_delivery")
    assert kept[0]["count"] == refused, "every refusal is kept, so that it can be explained"
