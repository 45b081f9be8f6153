"""What to make of a nonce that the chain has used without a receipt of ours: mostly a node that lags, else an alarm.

`suspect` as soon as a node says so; back again if the nonce is free once more; mined with the first receipt of ours.
`displaced` only when nothing can change it any more: at the final block, after several looks, by two endpoints where
there are two, and never where a block shows that it was ours that used the nonce. The action then needs a new approval:
a second nonce for it is never taken.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from prometheus_client import Counter

from portal.chain.nonces import Use, find_use
from portal.chain.pool import all_told
from portal.chain.rpc import Block, NodeUnavailable
from portal.chain.survey import report_disagreement
from portal.db.engine import run_sql, transaction
from portal.logging import get_logger
from portal.transactions import standing
from portal.transactions.deployments import end_deployment
from portal.transactions.moves import Step, Work, correlated, hold_many, move_many
from portal.transactions.schemas import Evidence
from portal.transactions.tables import TransactionStatus as Status
from portal.transactions.watching.finality import View, final_number
from portal.transactions.watching.steps import count_as_unsent, states_before, take

log = get_logger(__name__)
LEAST_READS = 3
LEAST_ENDPOINTS = 2
"""Of those that the settings name, where there are so many."""
LEAST_TIME = timedelta(minutes=1)
"""By the chain's clock, from the first suspicion to the final block: an index of receipts may lag behind the state."""
DISPLACED = Counter(
    "portal_transactions_displaced_total", "Transactions whose nonce another program used with the same key", ["chain"]
)

Missing = tuple[Work, Sequence[str]]
"""A transaction that no receipt was found for, and the hashes of all its attempts."""


async def examine(missing: Sequence[Missing], view: View) -> int:
    """Suspect, or suspect no longer, or give up what is `missing`; how many changed their state.

    The counts are read after the receipts, so where one says that a nonce is used, its receipts are asked for again.
    Raises `NodeUnavailable`.
    """
    addresses = sorted({work.signer_address for work, _ in missing})
    said = zip(addresses, await view.node.transaction_counts(addresses), strict=True)
    counts = {address: count for address, count in said if isinstance(count, int)}
    told = [each for each in missing if each[0].signer_address in counts]
    used = [(work, hashes) for work, hashes in told if counts[work.signer_address] > (work.nonce or 0)]
    free = [
        work for work, _ in told if work.status is Status.SUSPECT and counts[work.signer_address] <= (work.nonce or 0)
    ]
    return await _suspect(used, view) + await _withdraw(free, view) + await _displace(used, view)


async def _suspect(used: Sequence[Missing], view: View) -> int:
    fresh = [(work, hashes) for work, hashes in used if work.status is not Status.SUSPECT]
    asked = [hash for _, hashes in fresh for hash in hashes]
    receipts = await view.node.receipts(asked)
    # One with a receipt was mined meanwhile, one without an answer is unknown: neither makes its transaction suspect.
    others = {hash for hash, receipt in zip(asked, receipts, strict=True) if receipt is not None}
    await run_sql(
        "UPDATE transaction SET suspect_reads = suspect_reads + 1 WHERE id = ANY({}) AND status = 'suspect'",
        [work.id for work, _ in used if work.status is Status.SUSPECT],
    )
    return await take(
        [
            Step(
                work=work,
                changes={
                    "reason": standing.suspicion(work.nonce, work.signer_address),
                    "suspect_since": _moment_of(view.head),
                    "suspect_reads": 1,
                },
                detail={"nonce": work.nonce, "block_number": view.head.number},
            )
            for work, hashes in fresh
            if others.isdisjoint(hashes)
        ],
        Status.SUSPECT,
        "suspected",
    )


async def _withdraw(free: Sequence[Work], view: View) -> int:
    """Take back the suspicion of those whose nonce is free again, unless the node only lags behind the one before."""
    works = [work for work in free if work.suspect_since is None or _moment_of(view.head) > work.suspect_since]
    before = await states_before(works)
    withdrawn = 0
    for status in (Status.BROADCAST, Status.CLOSING):
        steps = [
            Step(work=work, changes={"suspect_since": None, "suspect_reads": 0}, detail={"nonce": work.nonce})
            for work in works
            if before[work.id] is status
        ]
        withdrawn += await take(steps, status, "suspicion_withdrawn", also=count_as_unsent)
    return withdrawn


async def _displace(used: Sequence[Missing], view: View) -> int:
    displaced = 0
    for work, hashes in used:
        # One more than was read: this pass has looked, too.
        if work.suspect_since is None or work.suspect_reads + 1 < LEAST_READS or view.final is None:
            continue
        if _moment_of(view.final) < work.suspect_since + LEAST_TIME:
            continue
        evidence = await _prove(work, hashes, view.final, view)
        if evidence:
            displaced += await _give_up(work, evidence)
    return displaced


async def _prove(work: Work, hashes: Sequence[str], final: Block, view: View) -> Evidence | None:
    """That the nonce is used at the final block and no attempt of ours has a receipt; None where anybody says else.

    What used it is looked for in the blocks. Where that is an attempt of ours, a node hides or has lost its receipt.
    """
    assert work.nonce is not None
    counts: dict[int, int] = {}
    uses: dict[int, Use] = {}
    endpoints = view.node.each()
    for place, endpoint in enumerate(endpoints, start=1):
        try:
            if await final_number(endpoint, view) < final.number:
                return None
            block = await endpoint.block(final.number)
            count = await endpoint.transaction_count(work.signer_address, block_number=final.number)
            receipts = all_told(await endpoint.receipts(hashes))
            is_used = count > work.nonce and not any(receipts)
            use = await find_use(endpoint, work.signer_address, work.nonce, final.number) if is_used else None
        except NodeUnavailable as error:
            log.warning("displacement.unproven", chain_id=view.chain_id, nonce=work.nonce, reason=error.detail)
            continue
        if block and block.hash == final.hash and set(counts.values()) - {count}:
            report_disagreement(view.chain_id, "count", final.number, {**counts, place: count})
        if block is None or block.hash != final.hash or not is_used:
            return None
        counts[place] = count
        if use and use.hash in hashes:
            await _hold(work, use)
            return None
        if use:
            uses[place] = use
    if len(set(uses.values())) > 1:
        report_disagreement(view.chain_id, "use", final.number, {place: use.hash for place, use in uses.items()})
        return None
    if len(counts) < min(LEAST_ENDPOINTS, len(endpoints)):
        return None
    use = next(iter(uses.values()), None)
    return Evidence(
        finalized_number=final.number,
        finalized_hash=final.hash,
        transaction_count=min(counts.values()),
        endpoints=len(counts),
        foreign_hash=use.hash if use else None,
        foreign_block_number=use.block_number if use else None,
    )


async def _hold(work: Work, use: Use) -> None:
    """Say that the nonce was used by an attempt of ours, whose receipt no node shows."""
    reason = standing.hidden_receipt(work.nonce, use.block_number)
    async with transaction():
        await hold_many([(work, reason)])
    if reason != work.reason:
        with correlated(work):
            log.error("receipt.hidden", chain_id=work.chain_id, hash=use.hash, block_number=use.block_number)


async def _give_up(work: Work, evidence: Evidence) -> bool:
    """Whether it was still as it was read."""
    said = msgspec.to_builtins(evidence)
    step = Step(
        work=work,
        changes={"reason": standing.displacement(work.nonce, work.signer_address), "evidence": said},
        detail={"nonce": work.nonce, "signer": work.signer_address, **said},
    )
    async with transaction():
        # What others have used is given out no more. First, as whoever writes in a lane locks its row before all else.
        await run_sql(
            "UPDATE lane SET next_nonce = greatest(next_nonce, {}) WHERE id = {}",
            evidence.transaction_count,
            work.lane_id,
        )
        if not await move_many([step], Status.DISPLACED, "displaced"):
            return False
        await end_deployment(work, None)
    DISPLACED.labels(str(work.chain_id)).inc()
    with correlated(work):
        log.error("security.transaction_displaced", nonce=work.nonce, signer=work.signer_address, **said)
    return True


def _moment_of(block: Block) -> datetime:
    return datetime.fromtimestamp(block.timestamp, UTC)
