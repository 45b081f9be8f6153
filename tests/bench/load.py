"""Drives a server over loopback from a process of its own: keep-alive connections, requests made and signed beforehand.

It does as little as it can per request, since it shares the processors with what it measures.
"""

import asyncio
import gc
import hashlib
import hmac
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.I)


class Load(msgspec.Struct):
    """What to send: `count` deliveries of `body_bytes` over `connections`, signed with `secret` as GitHub does."""

    url: str
    secret: str
    body_bytes: int
    count: int
    connections: int
    per_second: float | None = None
    """Evenly paced, whatever is still under way; as fast as answered where None."""


class Tally(msgspec.Struct):
    """What came back."""

    seconds: float
    accepted: dict[str, str]
    """Signal id by delivery id, of every 202."""
    refused: dict[str, int]
    """How many other answers there were, by status."""
    latencies_ms: list[float]
    """From when a request was due to the end of its answer: waiting behind a slow one counts."""
    cpu_seconds: float
    """Of this process while it sent."""


def make_body(size: int, delivery: str) -> bytes:
    """An order as a shop sends one, of about `size` bytes; as `schema` says."""
    order: dict[str, Any] = {
        "action": "created",
        "delivery": delivery,
        "order": {
            "number": 10482,
            "currency": "EUR",
            "total": "1249.90",
            "paid": True,
            "note": None,
            "customer": {"email": "zoë@example.com", "name": "Zoë Müller", "tags": ["returning", "b2b"]},
            "lines": [],
        },
    }
    line = {"sku": "TS-0001-XL", "title": 'T-shirt "Signal"', "quantity": 3, "price": 19.95, "gift": False, "tax": 0.19}
    per_line = len(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()) + 1
    empty = len(json.dumps(order, ensure_ascii=False, separators=(",", ":")).encode())
    order["order"]["lines"] = [line] * max(1, round((size - empty) / per_line))
    return json.dumps(order, ensure_ascii=False, separators=(",", ":")).encode()


SCHEMA = {
    "type": "object",
    "required": ["action", "delivery", "order"],
    "properties": {
        "action": {"enum": ["created", "updated"]},
        "delivery": {"type": "string", "minLength": 1, "maxLength": 100},
        "order": {
            "type": "object",
            "required": ["number", "currency", "total", "lines"],
            "properties": {
                "number": {"type": "integer", "minimum": 1},
                "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
                "total": {"type": "string", "pattern": "^[0-9]+[.][0-9]{2}$"},
                "customer": {"type": "object", "required": ["email"], "properties": {"email": {"type": "string"}}},
                "lines": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["sku", "quantity", "price"],
                        "properties": {
                            "sku": {"type": "string"},
                            "quantity": {"type": "integer", "minimum": 1},
                            "price": {"type": "number", "minimum": 0},
                        },
                    },
                },
            },
        },
    },
}
"""What every body here passes."""


def make_requests(load: Load) -> Iterator[tuple[str, bytes]]:
    """Distinct deliveries with their ids."""
    address, mark = urlsplit(load.url), str(uuid4())
    before, _, after = make_body(load.body_bytes, mark).partition(mark.encode())
    for _ in range(load.count):
        delivery = str(uuid4())
        body = before + delivery.encode() + after
        head = {
            "Host": address.netloc,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": "bench",
            "X-GitHub-Event": "order",
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": "sha256=" + hmac.new(load.secret.encode(), body, hashlib.sha256).hexdigest(),
        }
        lines = [f"POST {address.path or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        yield delivery, "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Sender(asyncio.Protocol):
    """One connection: sends its next request once the one before is answered and, where it is paced, due."""

    def __init__(self, answers: list[tuple[str, float, bytes]]) -> None:
        self.answers = answers
        self.done = asyncio.get_running_loop().create_future()
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def start(self, work: list[tuple[float, str, bytes]]) -> None:
        self.work = work[::-1]
        self.next()

    def next(self) -> None:
        if not self.work:
            self.transport.close()
            self.done.set_result(None)
            return
        wait = self.work[-1][0] - time.perf_counter()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self.send)
        else:
            self.send()

    def send(self) -> None:
        due, self.delivery, request = self.work.pop()
        self.due = due or time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        _head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        length = LENGTH.search(self.received)
        if length and len(body) >= int(length[1]):
            self.answers.append((self.delivery, (time.perf_counter() - self.due) * 1000, self.received))
            self.received = b""
            self.next()


async def drive(load: Load) -> Tally:
    requests = list(make_requests(load))
    answers: list[tuple[str, float, bytes]] = []
    address, loop, senders = urlsplit(load.url), asyncio.get_running_loop(), []
    for _ in range(load.connections):
        _, sender = await loop.create_connection(lambda: Sender(answers), address.hostname, address.port)
        senders.append(sender)
    # A pause of ours would look like one of the server.
    gc.collect()
    gc.disable()
    started, spent = time.perf_counter(), time.process_time()
    pace = 1 / load.per_second if load.per_second else 0
    timed = [(started + number * pace if pace else 0.0, *request) for number, request in enumerate(requests)]
    for place, sender in enumerate(senders):
        sender.start(timed[place :: load.connections])
    await asyncio.gather(*(sender.done for sender in senders))
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    accepted, refused = {}, Counter[str]()
    for delivery, _, answer in answers:
        status = answer[9:12].decode()
        if status == "202":
            accepted[delivery] = json.loads(answer.partition(b"\r\n\r\n")[2]).get("signal_id", delivery)
        else:
            refused[status] += 1
    return Tally(seconds, accepted, dict(refused), [latency for _, latency, _ in answers], spent)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    # Not `sys.stdout.buffer`: under PYTHONUNBUFFERED that writes only as much as the pipe takes at once.
    with open(1, "wb") as output:
        output.write(msgspec.json.encode(uvloop.run(drive(given))))
