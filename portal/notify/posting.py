"""One request to a receiver, and what its answer means. Touches no table."""

import time
from datetime import datetime
from uuid import UUID

import aiohttp
import msgspec
from yarl import URL

from portal import clock, egress
from portal.notify.signing import signed_headers

ANSWER_SECONDS = 10
KEPT_BYTES = 2048
AWAY = frozenset({429, 502, 503, 504})
"""What a receiver answers, or what stands before it, that cannot take anything now."""
GONE = 410


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one request."""

    started_at: datetime
    latency_ms: int
    status_code: int | None = None
    """None where there was no answer."""
    body: str | None = None
    error: str | None = None
    """Why it is a failure, as a sentence; None for a success."""
    retry_after_seconds: int | None = None

    @property
    def is_away(self) -> bool:
        """Whether the receiver cannot take anything now, whatever it is."""
        return self.status_code is None or self.status_code in AWAY

    @property
    def is_gone(self) -> bool:
        """Whether the receiver asks for no more (Standard Webhooks: 410)."""
        return self.status_code == GONE


async def post(url: str, event_id: UUID, body: bytes, secrets: list[str]) -> Answer:
    """Post `body`, signed for this moment. Whatever goes wrong is in the answer; redirects are not followed."""
    started_at, started = clock.now(), time.monotonic()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "signal-portal",
        **signed_headers(event_id, started_at, body, secrets),
    }
    address = URL(url)
    error = retry_after_seconds = status_code = text = None
    try:
        response, text = await egress.request("POST", address, headers, _read, seconds=ANSWER_SECONDS, body=body)
    except egress.RequestFailed as failure:
        error = str(failure)
    else:
        status_code, retry_after_seconds = response.status, egress.retry_after(response)
        error = _why_not(response.status, address.host or "")
    return Answer(
        started_at=started_at,
        latency_ms=round((time.monotonic() - started) * 1000),
        status_code=status_code,
        body=text,
        error=error,
        retry_after_seconds=retry_after_seconds,
    )


async def _read(response: aiohttp.ClientResponse) -> tuple[aiohttp.ClientResponse, str]:
    """The answer with the beginning of its body: the status decides, even where the rest never comes."""
    kept = bytearray()
    try:
        while len(kept) < KEPT_BYTES and (chunk := await response.content.read(KEPT_BYTES - len(kept))):
            kept += chunk
    except (TimeoutError, aiohttp.ClientError):
        pass
    return response, kept.decode(errors="replace").replace("\0", "\ufffd")


def _why_not(status: int, host: str) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"{host} redirects (HTTP {status}), which is not followed. Give the final address."
    if status == GONE:
        return f"{host} answers HTTP {GONE}: it wants no more deliveries."
    return f"{host} answers HTTP {status}."
