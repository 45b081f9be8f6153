"""How the endpoints of a chain compare: whose head is behind, and whether they tell of the same chain.

A lagging endpoint is asked after the others. Two that name different blocks at a height that both call final cannot
both be right: that is reported, and where more agree than not, those in the minority are asked last, too.
"""

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Mapping, Sequence

import msgspec
from prometheus_client import Counter, Gauge

from portal.chain.endpoint import Endpoint, EndpointFailed, Trouble
from portal.chain.pool import Pool
from portal.chain.results import NONSENSE, Block, parse_block
from portal.chain.schemas import EndpointView
from portal.logging import get_logger

log = get_logger(__name__)
LAG = Gauge("portal_node_head_lag_blocks", "Blocks that an RPC endpoint is behind the best one", ["chain", "endpoint"])
DISAGREEMENTS = Counter(
    "portal_node_disagreements_total",
    "What endpoints say differently of a final block: its hash (block), a nonce at it (count), what used one (use), or "
    "what became of a transaction in it (receipt)",
    ["chain", "about"],
)
EVERY_SECONDS = 10
"""As often as Chainlink's node pool polls (`NodePool.PollInterval`)."""
ANSWER_SECONDS = 1.25
LAG_BLOCKS = 5
"""As Chainlink's `NodePool.SyncThreshold`. Several blocks a second make that nothing, so `LAG_SECONDS` counts, too."""
LAG_SECONDS = 10
FINAL_DEPTH = 64
"""Blocks after which a block counts as final where the chain's setting is silent and its node has no `finalized` tag:
two epochs of Ethereum, where finality takes as long."""


class Seen(msgspec.Struct, frozen=True):
    endpoint: Endpoint
    head: Block
    final_number: int


async def survey(pool: Pool) -> list[EndpointView]:
    """The endpoints of `pool` as they are now, looked at again if that was not done for ten seconds."""
    now = time.monotonic()
    if now >= pool.surveyed_at + EVERY_SECONDS:
        pool.surveyed_at = now
        seen = [each for each in await asyncio.gather(*map(_look, pool.endpoints)) if each]
        if len(seen) > 1:
            _compare_heads(pool.chain_id, seen)
            await _compare_blocks(pool.chain_id, seen)
    return [_view(endpoint) for endpoint in pool.endpoints]


async def _look(endpoint: Endpoint) -> Seen | None:
    if endpoint.is_closed or (endpoint.rests and endpoint.failure and endpoint.failure.trouble is Trouble.SLOW):
        return None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            chain, latest, finalized = await endpoint.ask(
                [
                    ("eth_chainId", []),
                    ("eth_getBlockByNumber", ["latest", False]),
                    ("eth_getBlockByNumber", ["finalized", False]),
                ]
            )
        endpoint.check_chain(chain.get("result"))
        head = parse_block(latest["result"])
        final = parse_block(finalized["result"]).number if finalized.get("result") else head.number - FINAL_DEPTH
    except EndpointFailed:
        return None
    except TimeoutError:
        endpoint.lagging = True
        return None
    except NONSENSE as error:
        endpoint.blame(error)
        return None
    endpoint.head_number = head.number
    return Seen(endpoint, head, max(0, final))


def _compare_heads(chain_id: int, seen: Sequence[Seen]) -> None:
    best = max((each.head for each in seen), key=lambda head: head.number)
    for each in seen:
        behind = best.number - each.head.number
        lagging = behind > LAG_BLOCKS and best.timestamp - each.head.timestamp > LAG_SECONDS
        LAG.labels(chain_id, each.endpoint.place).set(behind)
        if lagging and not each.endpoint.lagging:
            log.warning("node.lags", chain_id=chain_id, endpoint=each.endpoint.place, blocks=behind)
        each.endpoint.lagging = lagging
        each.endpoint.behind = behind


async def _compare_blocks(chain_id: int, seen: Sequence[Seen]) -> None:
    number = min(each.final_number for each in seen)
    hashes = await asyncio.gather(*(_hash_at(each.endpoint, number) for each in seen))
    named = {each.endpoint: hash for each, hash in zip(seen, hashes, strict=True) if hash}
    tally = Tally(named.values())
    most = max(tally.values(), default=0)
    for endpoint, hash in named.items():
        endpoint.disagrees = len(tally) > 1 and (tally[hash] < most or list(tally.values()).count(most) > 1)
        endpoint.lagging = endpoint.lagging or tally[hash] < most
    if len(tally) > 1:
        report_disagreement(chain_id, "block", number, {endpoint.place: hash for endpoint, hash in named.items()})


def report_disagreement(chain_id: int, about: str, block_number: int, said: Mapping[int, object]) -> None:
    """Endpoints, by their places in the settings, differ in what cannot change any more: one of them is wrong."""
    DISAGREEMENTS.labels(chain_id, about).inc()
    by_endpoint = {f"endpoint {place}": what for place, what in said.items()}
    log.error("node.disagreement", chain_id=chain_id, about=about, block_number=block_number, **by_endpoint)


async def _hash_at(endpoint: Endpoint, number: int) -> str | None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            [answer] = await endpoint.ask([("eth_getBlockByNumber", [hex(number), False])])
        return parse_block(answer["result"]).hash
    except (EndpointFailed, TimeoutError, *NONSENSE):
        return None


def _view(endpoint: Endpoint) -> EndpointView:
    state, message = "ok", "Answers."
    if endpoint.failure:
        state, message = "closed" if endpoint.is_closed else "failed", f"It {endpoint.failure}."
    elif endpoint.disagrees:
        state, message = "disagrees", "It names another final block than another endpoint: one of them lies."
    elif endpoint.behind and endpoint.lagging:
        state, message = "lags", f"It is {endpoint.behind} blocks behind the best one; others are asked first."
    elif endpoint.lagging:
        state, message = "lags", f"It takes longer than {ANSWER_SECONDS:g} seconds; others are asked first."
    elif endpoint.head_number is None:
        state, message = "unknown", "It has not been asked yet."
    return EndpointView(
        name=endpoint.name, state=state, message=message, head_number=endpoint.head_number, behind=endpoint.behind
    )
