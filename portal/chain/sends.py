"""Sending signed bytes through a pool of endpoints: what the answers of several mean together."""

from collections.abc import Sequence

from eth_utils.crypto import keccak

from portal.chain.endpoint import Answer, Asked, Endpoint, EndpointFailed
from portal.chain.pool import Pool
from portal.chain.send_answers import NOT_TAKEN, SendAnswer, SendKind, answer_of
from portal.logging import get_logger

log = get_logger(__name__)
OTHERS_MAY_TAKE_IT = frozenset({SendKind.UNAVAILABLE, SendKind.FEE_CAP})
"""These say something of the endpoint, not of the bytes."""
DOUBTFUL = "One endpoint was silent and may have it; another says: "
"""Begins the answer where another endpoint's words do not tell that nobody has the bytes."""


class Sending:
    """One batch of signed bytes on its way to the first endpoint that says what comes of each."""

    def __init__(self, pool: Pool, raws: Sequence[bytes]) -> None:
        self._pool = pool
        self._raws = raws
        self._asked: list[Asked] = [("eth_sendRawTransaction", ["0x" + raw.hex()]) for raw in raws]
        self._answers: list[SendAnswer | None] = [None] * len(raws)
        self._doubtful: set[int] = set()
        """Places of what an endpoint may have taken without saying so."""

    async def run(self) -> list[SendAnswer]:
        """The answer to each, in order. Never raises for what an endpoint does."""
        asked: set[Endpoint] = set()
        for endpoint in self._pool.in_order():
            if not (open_places := self._open_places()):
                break
            asked.add(endpoint)
            await self._send_to(endpoint, open_places)
        known = [place for place, answer in enumerate(self._answers) if answer and answer.kind is SendKind.KNOWN]
        if known:
            await self._pool.ask_rest([self._asked[place] for place in known], asked)
        return [self._meaning(place) for place in range(len(self._raws))]

    def _open_places(self) -> list[int]:
        return [
            place for place, answer in enumerate(self._answers) if answer is None or answer.kind in OTHERS_MAY_TAKE_IT
        ]

    async def _send_to(self, endpoint: Endpoint, places: Sequence[int]) -> None:
        try:
            answers = await endpoint.ask_each([self._asked[place] for place in places])
        except EndpointFailed as failure:
            if failure.arrived:
                self._doubtful.update(places)
            return
        for place, answer in zip(places, answers, strict=True):
            said = self._read(self._raws[place], answer) if answer else None
            if said is None or said.kind is SendKind.UNAVAILABLE:
                self._doubtful.add(place)
            self._answers[place] = said or self._answers[place]

    def _read(self, raw: bytes, answer: Answer) -> SendAnswer:
        if "error" in answer:
            return answer_of(answer["error"])
        hash = "0x" + keccak(raw).hex()
        if answer["result"] == hash:
            return SendAnswer(SendKind.ACCEPTED)
        # The bytes decide the hash, so the node is wrong about something; whether it took them, nobody knows.
        log.error("node.other_hash", chain_id=self._pool.chain_id, hash=hash)
        return SendAnswer(SendKind.UNKNOWN, "The node names another hash than the transaction has.")

    def _meaning(self, place: int) -> SendAnswer:
        answer = self._answers[place]
        if answer is None:
            return SendAnswer(SendKind.UNAVAILABLE, self._pool.unavailable().detail)
        if place in self._doubtful and answer.kind in NOT_TAKEN:
            return SendAnswer(SendKind.UNAVAILABLE, DOUBTFUL + answer.message)
        return answer
