"""The endpoints of one chain: who is asked, who next, and what it means when they differ."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from portal.chain.endpoint import Answer, Asked, Endpoint, EndpointFailed
from portal.chain.results import NONSENSE, Refused
from portal.chain.send_answers import error_text
from portal.errors import Unavailable

T = TypeVar("T")


class NodeUnavailable(Unavailable):
    """No node of the chain gives a usable answer now."""

    title = "The chain's node does not answer"


class Pool:
    """Endpoints in the order of preference; one that failed of late or lags comes after the others."""

    def __init__(self, chain_id: int, endpoints: Sequence[Endpoint], *, is_part: bool = False) -> None:
        self.chain_id = chain_id
        self.endpoints = endpoints
        self.surveyed_at = -math.inf
        """When `survey` compared them last, by the monotonic clock."""
        self._is_part = is_part

    def each(self) -> list["Pool"]:
        """A pool of each endpoint alone, in which one that rests is not waited for if there are others."""
        is_part = len(self.endpoints) > 1
        return [Pool(self.chain_id, [endpoint], is_part=is_part) for endpoint in self.endpoints]

    def in_order(self) -> Iterator[Endpoint]:
        """Those that may be asked now, the best first."""
        for endpoint in sorted(self.endpoints, key=lambda each: (each.rests, each.lagging)):
            if not (endpoint.is_closed or (self._is_part and endpoint.rests)):
                yield endpoint

    async def ask(self, asked: Sequence[Asked]) -> list[Answer]:
        """The answers of the first endpoint that gives any, errors about what is asked included.

        Raises `NodeUnavailable`.
        """
        for endpoint in self.in_order():
            try:
                return await endpoint.ask(asked)
            except EndpointFailed:
                continue
        raise self.unavailable()

    async def judge(self, asked: Sequence[Asked], judge: Callable[[list[Answer]], T]) -> T:
        """What `judge` makes of the answers of the first endpoint where it does.

        An endpoint is passed over where it raises `Refused`, and has failed where the answers make no sense to it.
        Raises `NodeUnavailable`.
        """
        refusal = None
        for endpoint in self.in_order():
            try:
                return judge(await endpoint.ask(asked))
            except EndpointFailed:
                continue
            except Refused as refused:
                refusal = refusal or f"The node of chain {self.chain_id} {refused}."
            except NONSENSE as error:
                endpoint.blame(error)
        raise NodeUnavailable(refusal, retry_after_seconds=5) if refusal else self.unavailable()

    async def read(self, asked: Sequence[Asked], parse: Callable[[list[Any]], T]) -> T:
        """As `judge`, with the results; an endpoint that answers any error is passed over.

        For what no honest node that is up to date can refuse.
        """

        def judge(answers: list[Answer]) -> T:
            for answer in answers:
                if "error" in answer:
                    raise Refused(f"refuses: {error_text(answer['error'])}")
            return parse([answer["result"] for answer in answers])

        return await self.judge(asked, judge)

    async def ask_rest(self, asked: Sequence[Asked], besides: set[Endpoint]) -> None:
        """Ask the same of all others that are well; what they say is of no interest."""
        others = [each for each in self.endpoints if each not in besides and not each.rests]
        await asyncio.gather(*(each.ask_each(asked) for each in others), return_exceptions=True)

    async def close(self) -> None:
        self.surveyed_at = -math.inf
        for endpoint in self.endpoints:
            await endpoint.close()

    def unavailable(self) -> NodeUnavailable:
        """Why nobody answers: what the preferred endpoint said last."""
        said = [str(each.failure) for each in self.endpoints if each.failure] or ["does not answer"]
        also = f" (nor does any of {len(said) - 1} more)" if len(said) > 1 else ""
        return NodeUnavailable(f"The node of chain {self.chain_id} {said[0]}{also}.", retry_after_seconds=5)
