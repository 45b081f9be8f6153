"""The endpoints of one chain: who is asked, who next, and what it means when they differ."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from prometheus_client import Counter

from portal.chain.endpoint import Answer, Asked, Endpoint, EndpointFailed
from portal.chain.results import NONSENSE, Refused, result_of, why_senseless
from portal.errors import Unavailable
from portal.logging import get_logger

log = get_logger(__name__)
UNTOLD = Counter(
    "portal_node_untold_total", "Reads that no endpoint of the chain gave a usable answer to", ["chain", "method"]
)

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
        """What `judge` returns for the answers of the first endpoint whose answers it accepts.

        Where `judge` raises `Refused` the next endpoint is asked; answers without sense count against theirs as well.
        Raises `NodeUnavailable`.
        """
        refusal = None
        for endpoint in self.in_order():
            try:
                return judge(await endpoint.ask(asked))
            except EndpointFailed:
                continue
            except Refused as refused:
                refusal = refusal or str(refused)
            except NONSENSE as error:
                endpoint.blame(error)
        raise self.untold(refusal) if refusal else self.unavailable()

    async def read(self, asked: Sequence[Asked], parse: Callable[[list[Any]], T]) -> T:
        """As `judge`, with the results; an endpoint that answers any error is passed over.

        For what no honest node that is up to date can refuse.
        """
        return await self.judge(asked, lambda answers: parse([result_of(answer) for answer in answers]))

    async def read_each(
        self, asked: Sequence[Asked], parsers: Sequence[Callable[[Any], T]]
    ) -> list[T | NodeUnavailable]:
        """What its parser makes of each result, or why nobody tells: one broken answer costs no other.

        What an endpoint refuses, leaves out or answers senselessly is put to the next; the last two count against it.
        Raises `NodeUnavailable` where no endpoint answers at all.
        """
        told: dict[int, T] = {}
        why: dict[int, str] = {}
        for endpoint in self.in_order():
            places = [place for place in range(len(asked)) if place not in told]
            try:
                answers = await endpoint.ask_each([asked[place] for place in places])
            except EndpointFailed:
                continue
            senseless = None
            for place, answer in zip(places, answers, strict=True):
                try:
                    told[place] = parsers[place](result_of(answer))
                except Refused as refused:
                    why.setdefault(place, str(refused))
                except NONSENSE as error:
                    senseless = senseless if answer is None else error  # what is left out was counted already
                    why.setdefault(place, why_senseless(error))
            if senseless:
                endpoint.blame(senseless)
            if len(told) == len(asked):
                break
        if not told and not why:
            raise self.unavailable()
        untold = {place: self.untold(said) for place, said in why.items() if place not in told}
        self._report([asked[place] for place in untold], list(untold.values()))
        return [told[place] if place in told else untold[place] for place in range(len(asked))]

    def untold(self, said: str) -> NodeUnavailable:
        """What to raise where a node answered, but does not tell; `said` continues "The node of chain 1 ..."."""
        return NodeUnavailable(f"The node of chain {self.chain_id} {said}.", retry_after_seconds=5)

    def _report(self, asked: Sequence[Asked], why: Sequence[NodeUnavailable]) -> None:
        """In one line for all: they may be many, and are asked again with each look."""
        for method, _ in asked:
            UNTOLD.labels(self.chain_id, method).inc()
        if asked:
            method, parameters = asked[0]
            told = {"method": method, "about": parameters[0], "reason": why[0].detail, "more": len(asked) - 1}
            log.warning("node.untold", chain_id=self.chain_id, **told)

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


def all_told(answers: Sequence[T | NodeUnavailable]) -> list[T]:
    """The answers of `read_each` where none can be done without. Raises the first `NodeUnavailable` among them."""
    told: list[T] = []
    for answer in answers:
        if isinstance(answer, NodeUnavailable):
            raise answer
        told.append(answer)
    return told
