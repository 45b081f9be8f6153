"""Drives a server over loopback from a process of its own: keep-alive connections, requests made beforehand."""

import asyncio
import hashlib
import hmac
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec


class Load(msgspec.Struct):
    """What to send: `count` deliveries of `body_bytes` over `connections`; signed where there is a `secret`."""

    url: str
    secret: str
    body_bytes: int
    count: int
    connections: int
    per_second: float | None = None
    """Paced evenly; as fast as answered where None."""


class Tally(msgspec.Struct):
    """What came back."""

    seconds: float
    accepted: dict[str, str]
    """Signal id by delivery id, of every 202."""
    refused: dict[str, int]
    latencies_ms: list[float]


def make_request(load: Load, delivery: str) -> bytes:
    body = json.dumps({"zen": "x" * max(1, load.body_bytes - 60), "id": delivery}).encode()
    address = urlsplit(load.url)
    head = {
        "Host": address.netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "X-GitHub-Event": "ping",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": "sha256=" + hmac.new(load.secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    lines = [f"POST {address.path or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def drive(load: Load) -> Tally:
    work = [(delivery, make_request(load, delivery)) for delivery in (str(uuid4()) for _ in range(load.count))]
    tally = Tally(0.0, {}, {}, [])
    started = time.perf_counter()

    async def send(own: list[tuple[int, tuple[str, bytes]]]) -> None:
        address = urlsplit(load.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**20)
        for number, (delivery, request) in own:
            if load.per_second:
                await asyncio.sleep(started + number / load.per_second - time.perf_counter())
            sent = time.perf_counter()
            writer.write(request)
            status, answer = await read_answer(reader)
            tally.latencies_ms.append((time.perf_counter() - sent) * 1000)
            if status == 202:
                tally.accepted[delivery] = answer.get("signal_id", delivery)
            else:
                tally.refused[str(status)] = tally.refused.get(str(status), 0) + 1
        writer.close()

    numbered = list(enumerate(work))
    await asyncio.gather(*(send(numbered[first :: load.connections]) for first in range(load.connections)))
    tally.seconds = time.perf_counter() - started
    return tally


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return int(head[9:12]), json.loads(await reader.readexactly(length))


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(drive(given))))
