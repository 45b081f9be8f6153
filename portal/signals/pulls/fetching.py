"""Fetches JSON from the APIs of pull sources."""

from collections.abc import Mapping
from functools import partial

import aiohttp
import msgspec
from yarl import URL

from portal import egress
from portal.signals.pulls.kinds import PullFailed

MAX_ANSWER_BYTES = 5 * 1024 * 1024
ANSWER_SECONDS = 20


class Answer(msgspec.Struct, frozen=True):
    """What an API said. `body` is None where it said 304."""

    body: bytes | None
    etag: str | None


async def get_json(url: URL, headers: Mapping[str, str]) -> Answer:
    """Fetch JSON of at most 5 MB. Raises `PullFailed` with a sentence that holds neither a header nor the query."""
    accepting = {**headers, "Accept": "application/json"}
    read = partial(_read, url.raw_host or "")
    try:
        return await egress.request("GET", url, accepting, read, seconds=ANSWER_SECONDS)
    except egress.RequestFailed as failure:
        raise PullFailed(str(failure)) from None


async def _read(host: str, response: aiohttp.ClientResponse) -> Answer:
    given = response.headers.get("ETag", "")
    etag = given if given.isascii() and given.isprintable() else None  # others can be neither kept nor sent back
    if response.status == 304:
        return Answer(None, etag)
    if response.status != 200:
        raise PullFailed(_why_not(response, host), retry_after_seconds=egress.retry_after(response))
    kind = response.content_type
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise PullFailed(f"{host} answers {kind[:100]} where JSON is expected.")
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):  # after decompression
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise PullFailed(f"The answer of {host} is larger than {MAX_ANSWER_BYTES // 1024**2} MB. Ask for less.")
    return Answer(bytes(body), etag)


def _why_not(response: aiohttp.ClientResponse, host: str) -> str:
    status = response.status
    if 300 <= status < 400:
        return f"{host} redirects (HTTP {status}), which is not followed. Give the final address."
    if status in (401, 403):
        return f"{host} answers HTTP {status}: it does not accept the source's secret."
    return f"{host} answers HTTP {status}."
