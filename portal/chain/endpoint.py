"""One RPC address: JSON-RPC batches over open connections, and how well it serves. Never says the address.

What counts against an endpoint is what it fails to do as a server: no connection, no answer in time, HTTP 429 or 5xx,
something that is not JSON-RPC, another chain. What it says of a call or a transaction (a revert, a nonce, funds) never
does. One that failed rests, twice as long each time, and is asked for its chain id before anything else afterwards.
"""

import asyncio
import itertools
import math
import random
import re
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from prometheus_client import Counter, Gauge, Histogram

from portal.chain.results import QUANTITY, why_senseless
from portal.chain.send_answers import error_text, is_busy
from portal.logging import get_logger

log = get_logger(__name__)
REQUEST_SECONDS = Histogram("portal_node_request_seconds", "Time of one request to a node", ["chain", "result"])
FAILURES = Counter("portal_node_failures_total", "Failures of an RPC endpoint", ["chain", "endpoint", "trouble"])
UP = Gauge("portal_node_endpoint_up", "1 while an RPC endpoint answered when last asked", ["chain", "endpoint"])
TIMEOUT_SECONDS = 10
KEEP_OPEN_SECONDS = 4
"""Less than servers keep an idle connection (Node 5), so that none is used just as the server closes it."""
MOST_BYTES = 64 * 2**20
"""Of one answer: far beyond any that is asked for, and within what a process can hold."""
LONGEST_REST_SECONDS = 120
AWAY_SECONDS = 60
OF_BATCHES = re.compile(r"batch|\barray\b", re.I)
"""In the words with which nodes refuse several questions in one request."""
IDS = itertools.count(1)
"""Unique in this process, so that an answer to another request is never taken for the one that is waited for."""

Asked = tuple[str, list[Any]]
"""A method and its parameters."""
Answer = dict[str, Any]
"""Has either `result` or `error`."""


class Trouble(StrEnum):
    """What counts against an endpoint."""

    UNREACHABLE = "unreachable"
    SLOW = "slow"
    BUSY = "busy"
    """It asks for fewer requests."""
    BROKEN = "broken"
    """HTTP 5xx, or an answer that is not JSON-RPC."""
    WRONG_CHAIN = "wrong_chain"


FIRST_REST_SECONDS = {
    Trouble.UNREACHABLE: 1.0,
    Trouble.SLOW: TIMEOUT_SECONDS,
    Trouble.BUSY: 1.0,
    Trouble.BROKEN: 1.0,
    Trouble.WRONG_CHAIN: 5.0,
}
CLOSED_BY = frozenset({Trouble.BUSY, Trouble.WRONG_CHAIN})
"""Not asked at all while they rest; others are asked where nobody else is left."""


class EndpointFailed(Exception):
    """One endpoint gave no usable answer; the text continues "The node of chain 1 ..." and never names an address."""

    def __init__(self, trouble: Trouble, said: str, *, arrived: bool = True, retry_after_seconds: float = 0) -> None:
        super().__init__(said)
        self.trouble = trouble
        self.arrived = arrived
        """Whether it may have received and carried out what was asked."""
        self.retry_after_seconds = retry_after_seconds


class BatchRefused(EndpointFailed):
    """It does not take so many questions in one request."""


class Endpoint:
    """One RPC address of a chain, the `place`-th of the settings, with connections that are kept open."""

    def __init__(self, chain_id: int, url: str, place: int) -> None:
        self.chain_id = chain_id
        self.place = place
        self.lagging = False
        """Whether it is slow, or its head behind that of the others: they are asked first."""
        self.behind = 0
        """Blocks behind the best endpoint when last compared."""
        self.disagrees = False
        """Whether it names another final block than another endpoint."""
        self.head_number: int | None = None
        self.failure: EndpointFailed | None = None
        """The last one, while it has not answered since."""
        self._url = url
        self._failures = 0
        self._failed_at = self._rests_until = -math.inf
        self._failing_since = math.inf
        self._verified = False
        self._most_at_once = sys.maxsize
        """Questions in one request; 1 is sent without a list around it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._verifying = asyncio.Lock()

    @property
    def name(self) -> str:
        """Its host where the address can hold no key, else its place in the settings."""
        parts = urlsplit(self._url)
        bare = parts.username is None and parts.path in ("", "/") and not parts.query + parts.fragment
        return parts.netloc if bare else f"endpoint {self.place}"

    @property
    def rests(self) -> bool:
        """Whether it failed a short while ago, or is just being tried again: others come first."""
        return bool(self._failures) and (time.monotonic() < self._rests_until or self._verifying.locked())

    @property
    def is_closed(self) -> bool:
        """Whether nothing is asked of it now, even if there is nobody else."""
        return bool(self.failure and self.failure.trouble in CLOSED_BY and time.monotonic() < self._rests_until)

    @property
    def is_away(self) -> bool:
        """Whether all that was asked of it for a minute failed: an outage, and not one lost answer."""
        return time.monotonic() - self._failing_since >= AWAY_SECONDS

    async def ask(self, asked: Sequence[Asked]) -> list[Answer]:
        """An answer to each of `asked`, in order. Raises `EndpointFailed`; `RecursionError` for a trace too deep."""
        answers, failure = await self._exchange(asked)
        if failure:
            raise failure
        return [answer for answer in answers if answer is not None]

    async def ask_each(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """As `ask`, but None for what was left unanswered. Raises `EndpointFailed` where nothing came back."""
        return (await self._exchange(asked))[0]

    async def _exchange(self, asked: Sequence[Asked]) -> tuple[list[Answer | None], EndpointFailed | None]:
        started, result = time.monotonic(), "failed"
        try:
            if not self._verified:
                await self._verify()
            answers = await self._post(asked)
            failure = _failure_in(answers)
            result = "failed" if failure else "ok"
        except EndpointFailed as failed:
            self._note(failed, started)
            raise
        finally:
            REQUEST_SECONDS.labels(self.chain_id, result).observe(time.monotonic() - started)
        self._note(failure, started)
        return answers, failure

    async def _verify(self) -> None:
        """Ask for its chain id, once for all who wait. Nothing else is asked of it before."""
        self._connections()  # the lock is one of this event loop
        async with self._verifying:
            if self._verified:
                return
            try:
                answer = (await self._post([("eth_chainId", [])]))[0] or {}
                if failure := _failure_in([answer]):
                    raise failure
            except EndpointFailed as failure:
                failure.arrived = False
                raise
            said = answer.get("result")
            if said != hex(self.chain_id):
                raise EndpointFailed(Trouble.WRONG_CHAIN, _wrong_chain(said), arrived=False)
            self._verified = True

    def check_chain(self, said: Any) -> None:
        """Close it unless `said` is its chain's id: an address may be pointed elsewhere without a failure."""
        if said != hex(self.chain_id):
            failure = EndpointFailed(Trouble.WRONG_CHAIN, _wrong_chain(said), arrived=False)
            self._note(failure, time.monotonic())
            raise failure

    def blame(self, error: Exception) -> None:
        """Count an answer against it that nothing sensible could be read from."""
        self._note(EndpointFailed(Trouble.BROKEN, why_senseless(error)), time.monotonic())

    def _note(self, failure: EndpointFailed | None, asked_at: float) -> None:
        """Take down how a question ended, unless it was asked before the last failure: many meet the same outage."""
        if asked_at < self._failed_at:
            return
        UP.labels(self.chain_id, self.place).set(failure is None)
        if failure is None:
            if self._failures:
                log.info("node.back", chain_id=self.chain_id, endpoint=self.place, failures=self._failures)
            self._failures, self.failure, self._failing_since = 0, None, math.inf
            return
        FAILURES.labels(self.chain_id, self.place, failure.trouble.value).inc()
        again = self.failure is not None and self.failure.trouble is failure.trouble
        self._failures = min(self._failures + 1, 16) if again else 1
        self.failure = failure
        self._failed_at = time.monotonic()
        self._failing_since = min(self._failing_since, self._failed_at)
        self._verified = False
        longest = min(LONGEST_REST_SECONDS, FIRST_REST_SECONDS[failure.trouble] * 2 ** (self._failures - 1))
        # With jitter, so that the processes of an installation do not come back all at once.
        rest = max(longest * random.uniform(0.5, 1), min(failure.retry_after_seconds, LONGEST_REST_SECONDS))  # noqa: S311
        self._rests_until = time.monotonic() + rest
        say = log.error if failure.trouble is Trouble.WRONG_CHAIN else log.warning
        say(
            "node.failed",
            chain_id=self.chain_id,
            endpoint=self.place,
            trouble=failure.trouble.value,
            reason=str(failure),
            rests_seconds=round(rest, 1),
        )

    async def _post(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """The answers, asked for in as many requests as it takes: some nodes limit batches, or take none at all."""
        answers: list[Answer | None] = []
        while len(answers) < len(asked):
            part = asked[len(answers) :][: self._most_at_once]
            try:
                answers += await self._request(part)
            except EndpointFailed as failure:
                if not isinstance(failure, BatchRefused) or self._most_at_once == 1:
                    failure.arrived = failure.arrived or bool(answers)  # what was asked before this part did
                    raise
                self._most_at_once = len(part) // 2 or 1
        return answers

    async def _request(self, asked: Sequence[Asked]) -> list[Answer | None]:
        ids = [next(IDS) for _ in asked]
        questions = [
            {"jsonrpc": "2.0", "id": id, "method": method, "params": parameters}
            for id, (method, parameters) in zip(ids, asked, strict=True)
        ]
        body = msgspec.json.encode(questions if self._most_at_once > 1 else questions[0])
        try:
            async with self._connections().post(self._url, data=body, allow_redirects=False) as response:
                content = await _read(response)
        except TimeoutError:
            raise EndpointFailed(Trouble.SLOW, f"does not answer within {TIMEOUT_SECONDS} seconds") from None
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL):
            raise EndpointFailed(Trouble.UNREACHABLE, "cannot be reached", arrived=False) from None
        except (aiohttp.ClientError, OSError):
            raise EndpointFailed(Trouble.UNREACHABLE, "cannot be reached") from None
        if response.status in (408, 429) or response.status >= 500:
            raise _refused(response)
        if response.status == 413:
            raise BatchRefused(Trouble.BROKEN, "answers HTTP 413")
        try:
            said = msgspec.json.decode(content)
        except ValueError:
            said = None
        except RecursionError:
            if not all(method.startswith("eth_") for method, _ in asked):
                raise  # an honest trace can be nested deeper than is read here: its caller asks for less at once
            said = None
        if isinstance(said, list):
            return _match(ids, said)
        if isinstance(said, dict) and self._most_at_once == 1 and said.get("id") in ids:
            return _match(ids, [said])
        if isinstance(said, dict) and said.get("error") is not None:
            raise _refusal(said["error"])
        if response.status >= 300:
            raise _refused(response)
        raise _nonsense()

    def _connections(self) -> aiohttp.ClientSession:
        """Open connections, once an event loop."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._verifying = asyncio.Lock()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=32, keepalive_timeout=KEEP_OPEN_SECONDS),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                headers={"content-type": "application/json"},
            )
        return self._session

    async def close(self) -> None:
        """Close its connections and forget how it was; it can be asked again."""
        if self._session and self._loop is asyncio.get_running_loop():
            await self._session.close()
        self._session, self._verified = None, False
        self._failures, self.failure = 0, None
        self._failed_at, self._failing_since = -math.inf, math.inf
        self.lagging, self.disagrees, self.behind, self.head_number = False, False, 0, None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > MOST_BYTES:
            raise EndpointFailed(Trouble.BROKEN, f"answers more than {MOST_BYTES} bytes")
    return bytes(content)


def _match(ids: Sequence[int], said: list[Any]) -> list[Answer | None]:
    """The answer to each id, whatever their order; None where there is none, or two that differ."""
    found: dict[int, Answer | None] = {}
    for each in said:
        if not isinstance(each, dict) or type(id := each.get("id")) is not int:
            continue
        error = each.get("error")
        answer = {"error": error} if error is not None else {"result": each["result"]} if "result" in each else None
        found[id] = answer if found.get(id, answer) == answer else None
    return [found.get(id) for id in ids]


def _failure_in(answers: Sequence[Answer | None]) -> EndpointFailed | None:
    if not all(answers):
        return _nonsense()
    for answer in answers:
        if answer and "error" in answer and is_busy(answer["error"]):
            return EndpointFailed(Trouble.BUSY, f"refuses the request: {error_text(answer['error'])}")
    return None


def _refusal(error: Any) -> EndpointFailed:
    """Of a request as a whole."""
    said = f"refuses the request: {error_text(error)}"
    if OF_BATCHES.search(said):
        return BatchRefused(Trouble.BROKEN, said, arrived=False)
    return EndpointFailed(Trouble.BUSY if is_busy(error) else Trouble.BROKEN, said)


def _refused(response: aiohttp.ClientResponse) -> EndpointFailed:
    wait = response.headers.get("retry-after", "")
    busy = response.status == 429 or (response.status == 503 and wait)
    return EndpointFailed(
        Trouble.BUSY if busy else Trouble.BROKEN,
        f"answers HTTP {response.status}",
        retry_after_seconds=float(wait) if wait.isdecimal() else 0,
    )


def _nonsense() -> EndpointFailed:
    return EndpointFailed(Trouble.BROKEN, "answers something that is not JSON-RPC")


def _wrong_chain(said: Any) -> str:
    named = int(said, 16) if isinstance(said, str) and QUANTITY.fullmatch(said) else "unknown"
    return f"belongs to another chain (its id is {named}); correct PORTAL_CHAIN_RPC_URLS"
