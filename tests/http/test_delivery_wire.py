"""Deliveries as bytes on a socket, well-formed or not: never a 5xx, the server goes on, and each 202 is one row."""

import asyncio
import json
import re
import struct
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from uuid import uuid4

import httpx
import pytest
from litestar import Litestar

from portal.db.engine import run_sql
from tests.http.api import github_headers, key_of, make_source
from tests.http.test_hostile_input import HOST, listening, say
from tests.people import Cast

BODY = b'{"a":1}'
CLOSE = b"Connection: close\r\n"


class Source:
    """A source, and requests to it as bytes."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.path = made["url"].removeprefix("http://127.0.0.1:8000").encode()

    def head(
        self, *, body: bytes = BODY, line: bytes = b"POST %s HTTP/1.1", more: bytes = b"", host: bytes = HOST
    ) -> bytes:
        """Everything of a signed delivery but its framing, the empty line and its body."""
        signed = "".join(f"{name}: {value}\r\n" for name, value in github_headers(body).items()).encode()
        return line % self.path + b"\r\n" + host + signed + more

    def delivery(self, *, body: bytes = BODY, **given: bytes) -> bytes:
        return self.head(body=body, **given) + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
async def source(http: httpx.AsyncClient, cast: Cast) -> Source:
    return Source(await make_source(http, await key_of(cast.alice)))


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


async def check_stored(answers: bytes, count: int) -> None:
    """So many deliveries were acknowledged, and they are all that is in the table."""
    acknowledged = {match.decode() for match in re.findall(rb'"signal_id":"([^"]+)"', answers)}
    assert len(acknowledged) == count
    assert {row["id"] for row in await run_sql("SELECT id::text FROM signal")} == acknowledged


ODD_AND_ACCEPTED = {
    "absolute address": {"line": b"POST http://127.0.0.1%s HTTP/1.1", "more": CLOSE},
    "HTTP/1.0": {"line": b"POST %s HTTP/1.0"},
    "HTTP/1.0 without a host": {"line": b"POST %s HTTP/1.0", "host": b""},
    "no version": {"line": b"POST %s", "more": CLOSE},
    "no blank before values": {"more": b"X-Empty:\r\n" + CLOSE},
    "header names in capitals": {"more": b"X-FORWARDED-FOR: 10.0.0.1\r\nCONNECTION: close\r\n"},
    "a value that is not ASCII": {"more": b"X-Name: J\xfcrgen \xff\r\n" + CLOSE},
}


@pytest.mark.parametrize("given", ODD_AND_ACCEPTED.values(), ids=ODD_AND_ACCEPTED)
async def test_an_odd_delivery_is_stored(app: Litestar, source: Source, given: dict[str, bytes]) -> None:
    async with listening(app) as port:
        answer = await say(port, source.delivery(**given))
    assert statuses(answer) == [202], answer
    await check_stored(answer, 1)


MALFORMED = {
    "lower-case method": {"line": b"post %s HTTP/1.1"},
    "another version": {"line": b"POST %s HTTP/3.7"},
    "two hosts": {"more": b"Host: evil.example\r\n"},
    "no host": {"host": b""},
    "a blank in the address": {"line": b"POST %s HTTP/1.1 HTTP/1.1"},
    "NUL in the address": {"line": b"POST %s\0 HTTP/1.1"},
    "bytes in the address": {"line": b"POST %s\xff\xfe HTTP/1.1"},
    "NUL in a value": {"more": b"X: a\0b\r\n"},
    "NUL in a name": {"more": b"X\0: a\r\n"},
    "a folded header": {"more": b"X: a\r\n folded\r\n"},
    "a bare CR": {"more": b"X: a\rY: b\r\n"},
    "a header without a name": {"more": b": a\r\n"},
    "a header without a colon": {"more": b"X-Alone\r\n"},
    "a blank before the colon": {"more": b"X : a\r\n"},
    "a header of 100 kB": {"more": b"X: " + b"a" * 100_000 + b"\r\n"},
    "30,000 headers": {"more": b"X: a\r\n" * 30_000},
    "TLS": {"line": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc%s"},
    "HTTP/2": {"line": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%s"},
}


@pytest.mark.parametrize("given", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_delivery_is_refused_and_the_server_goes_on(
    app: Litestar, source: Source, given: dict[str, bytes]
) -> None:
    async with listening(app) as port:
        refused = await say(port, source.delivery(**{**given, "more": CLOSE + given.get("more", b"")}))
        assert statuses(refused)
        assert all(400 <= status < 500 for status in statuses(refused)), refused
        answer = await say(port, source.delivery(more=CLOSE))
    assert statuses(answer) == [202]
    await check_stored(answer, 1)


async def test_lines_that_end_with_a_bare_line_feed_are_one_delivery_or_none(app: Litestar, source: Source) -> None:
    """RFC 9112, section 2.2, lets a reader take them; what it must not do is to see two requests in one."""
    async with listening(app) as port:
        answer = await say(port, source.delivery(more=CLOSE).replace(b"\r\n", b"\n"))
    assert statuses(answer) in ([202], [400])
    await check_stored(answer, statuses(answer).count(202))


async def test_deliveries_that_are_sent_without_waiting_are_each_stored_and_answered_in_turn(
    app: Litestar, source: Source
) -> None:
    bodies = [json.dumps({"n": number}).encode() for number in range(20)]
    sent = [source.delivery(body=body) for body in bodies[:-1]] + [source.delivery(body=bodies[-1], more=CLOSE)]
    async with listening(app) as port:
        answers = await say(port, b"".join(sent))
    assert statuses(answers) == [202] * 20
    await check_stored(answers, 20)
    in_turn = re.findall(rb'"signal_id":"([^"]+)"', answers)
    rows = {row["id"]: bytes(row["body"]) for row in await run_sql("SELECT id::text, body FROM signal")}
    assert [rows[id.decode()] for id in in_turn] == bodies


async def test_a_refused_delivery_takes_none_behind_it_along(app: Litestar, source: Source) -> None:
    """Its body, which is not read, is not taken for a request."""
    inside = source.delivery(body=b'{"inside":1}')
    wrong = source.head().replace(b"sha256=", b"sha256=0") + b"Content-Length: %d\r\n\r\n" % len(inside) + inside
    async with listening(app) as port:
        answers = await say(port, wrong + source.delivery(more=CLOSE))
    assert statuses(answers) == [401, 202]
    await check_stored(answers, 1)


async def test_a_sender_that_asks_first_is_told_to_go_on(app: Litestar, source: Source) -> None:
    async with listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = source.head(more=b"Expect: 100-continue\r\n" + CLOSE) + b"Content-Length: %d\r\n\r\n" % len(BODY)
        writer.write(head)
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            answer = await reader.read()
        writer.close()
    assert statuses(answer) == [202]
    await check_stored(answer, 1)


async def test_a_sender_that_asks_first_about_too_much_need_not_send_it(app: Litestar, source: Source) -> None:
    head = source.head(more=b"Expect: 100-continue\r\n" + CLOSE) + b"Content-Length: 100000000\r\n\r\n"
    async with listening(app) as port:
        assert statuses(await say(port, head)) == [413]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("after", ["the head", "half of the body", "the body"])
async def test_a_sender_that_leaves_early_leaves_the_whole_or_nothing(
    app: Litestar, source: Source, after: str, reset: bool
) -> None:
    body = json.dumps({"id": uuid4().hex, "text": "x" * 1000}).encode()
    whole = source.delivery(body=body)
    cut = {"the head": len(body), "half of the body": len(body) // 2, "the body": 0}[after]
    async with listening(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(whole[: len(whole) - cut])
        await writer.drain()
        if reset:
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        answer = await say(port, source.delivery(more=CLOSE))
        assert statuses(answer) == [202]
        again = await say(port, source.delivery(body=body, more=CLOSE))
        assert statuses(again) == [202]
    stored = sorted(bytes(row["body"]) for row in await run_sql("SELECT body FROM signal"))
    left = stored.count(body)
    assert stored.count(BODY) == 1
    assert left == len(stored) - 1
    assert left in ((1, 2) if after == "the body" else (1,)), "under a new id it is another delivery"
