"""One RPC address: JSON-RPC batches over open connections; what went wrong is said without the address."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import aiohttp
from eth_typing import URI
from prometheus_client import Histogram
from web3 import AsyncHTTPProvider
from web3.types import RPCEndpoint

from portal.chain.send_answers import error_text

REQUEST_SECONDS = Histogram("portal_node_request_seconds", "Time of one request to a node", ["chain", "result"])
TIMEOUT_SECONDS = 10
REST_SECONDS = 15  # an endpoint that failed is asked last for so long

Asked = tuple[str, list[Any]]
"""A method and its parameters."""


class EndpointFailed(Exception):
    """One endpoint gave no usable answer; the text continues "The node of chain 1 ..." and never names an address."""


class Response(aiohttp.ClientResponse):
    """Lets through the JSON-RPC errors that some nodes send with an HTTP status such as 400."""

    def raise_for_status(self) -> None:
        if self.status in (408, 429) or self.status >= 500 or self.content_type != "application/json":
            super().raise_for_status()


class Endpoint:
    """One RPC address of a chain, with connections that are kept open. Verifies the chain id before anything else."""

    def __init__(self, chain_id: int, url: str) -> None:
        self.chain_id = chain_id
        self.rests_until = 0.0
        self._url = URI(url)
        self._verified = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._provider = AsyncHTTPProvider(
            self._url,
            request_kwargs={"timeout": aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)},
            exception_retry_configuration=None,
        )

    async def ask(self, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """The answers in the order of `asked`, each with `result` or `error`. Raises `EndpointFailed`."""
        started, result = time.perf_counter(), "failed"
        try:
            if not self._verified:
                await self._verify()
            answers = await self._post(asked)
            result = "ok"
        except EndpointFailed:
            self._verified = False
            self.rests_until = time.monotonic() + REST_SECONDS
            raise
        finally:
            REQUEST_SECONDS.labels(self.chain_id, result).observe(time.perf_counter() - started)
        return answers

    async def _verify(self) -> None:
        answer = (await self._post([("eth_chainId", [])]))[0]
        said = answer.get("result")
        if said != hex(self.chain_id):
            named = int(said, 16) if isinstance(said, str) and said.startswith("0x") else "unknown"
            raise EndpointFailed(f"belongs to another chain (its id is {named}); correct PORTAL_CHAIN_RPC_URLS")
        self._verified = True

    async def _post(self, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        await self._keep_connections()
        try:
            answers = await self._provider.make_batch_request(
                [(RPCEndpoint(method), parameters) for method, parameters in asked]
            )
        except TimeoutError:
            raise EndpointFailed(f"does not answer within {TIMEOUT_SECONDS} seconds") from None
        except aiohttp.ClientResponseError as error:
            raise EndpointFailed(f"answers HTTP {error.status}") from None
        except (aiohttp.ClientError, OSError):
            raise EndpointFailed("cannot be reached") from None
        except (ValueError, TypeError, AttributeError, KeyError):  # what web3 raises for a body that is not JSON-RPC
            raise EndpointFailed("answers something that is not JSON-RPC") from None
        if isinstance(answers, dict) and "error" in answers:
            raise EndpointFailed(f"refuses the request: {error_text(answers['error'])}")
        if (
            not isinstance(answers, list)
            or len(answers) != len(asked)
            or any("result" not in a and "error" not in a for a in answers)
        ):
            raise EndpointFailed("answers something that is not JSON-RPC")
        return cast(list[dict[str, Any]], answers)

    async def _keep_connections(self) -> None:
        """Replace web3's own session, which opens a connection for each request; once an event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            connector = aiohttp.TCPConnector(limit=32, keepalive_timeout=10)
            await self._provider.cache_async_session(
                aiohttp.ClientSession(connector=connector, response_class=Response)
            )

    async def close(self) -> None:
        if self._loop is asyncio.get_running_loop():
            await self._provider.disconnect()
        self._loop = None
