"""Follows what was sent until the chain can no longer undo it. It reads the chain, and neither signs nor sends.

A receipt counts only while its block is the canonical one at its height. A missing receipt proves nothing. What a
reorganisation undid goes back to where it was, and counts as not sent: a pass of its lane sends the same bytes again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from prometheus_client import Counter

from portal import clock
from portal.chain.queries import get_abi
from portal.chain.rpc import Block, Call, Node, NodeUnavailable, Receipt, get_node
from portal.chain.service import record_head, record_nodes
from portal.chain.values import created_address
from portal.db.engine import run_sql, try_advisory_lock
from portal.db.notices import announce
from portal.jobs.queue import ring
from portal.logging import get_logger
from portal.transactions.deployments import end_deployment
from portal.transactions.moves import Step, Work, correlated, list_work
from portal.transactions.states import depth
from portal.transactions.tables import AttemptKind, Outcome
from portal.transactions.tables import TransactionStatus as Status
from portal.transactions.watching import displacement, opinions
from portal.transactions.watching.finality import View, look
from portal.transactions.watching.steps import count_as_unsent, states_before, take

log = get_logger(__name__)
REORGANISED = Counter("portal_transactions_reorganised_total", "Included transactions that the chain undid", ["chain"])
REASONS_AT_ONCE = 8
"""Reverted calls carried out again side by side."""

UNDONE: dict[str, Any] = dict.fromkeys(
    (
        *("outcome", "revert_reason", "block_number", "block_hash", "mined_hash", "contract_address"),
        *("gas_used", "gas_price_wei", "mined_at", "confirmed_at"),
    )
)
INCLUDED = """
    SELECT t.block_number, t.block_hash, array_agg(DISTINCT t.organization) AS organizations
    FROM transaction t JOIN lane l ON l.id = t.lane
    WHERE l.chain = {} AND t.status IN ('mined', 'confirmed') GROUP BY t.block_number, t.block_hash
"""
ATTEMPTS = "SELECT transaction, hash, kind, signed_at_block FROM attempt WHERE transaction = ANY({}) ORDER BY id"
QUICK_SECONDS = 2.0
"""Chains whose blocks take less are looked at more often than by the clock, while something is to be mined soon."""
LEAST_PAUSE_SECONDS = 0.2
SOON_BLOCKS = 20
"""Blocks since it was signed after which a transaction is no longer expected in the very next one."""


async def watch_chains() -> int:
    """Take every transaction on every chain as far as the chain has come; the number of steps taken.

    One watcher a chain at a time. A chain whose node is down is left as it is, and its head grows old.
    """
    chains = await run_sql("SELECT id, confirmations, final_depth, final_number, head_number FROM chain")
    results = await asyncio.gather(*(_watch_chain(chain) for chain in chains), return_exceptions=True)
    for chain, result in zip(chains, results, strict=True):
        if isinstance(result, NodeUnavailable):
            log.warning("chain.unwatched", chain_id=chain["id"], reason=result.detail)
        elif isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))


async def _watch_chain(chain: dict[str, Any]) -> int:
    async with try_advisory_lock(f"watch-chain:{chain['id']}") as ours:
        if not ours:
            return 0
        view = await _look(chain)
        await record_head(view.chain_id, view.head)
        included = await run_sql(INCLUDED, view.chain_id)
        kept, undone = await _check_included(included, view)
        mined, suspected = await _find_receipts(view, kept)
        deeper = await _deepen(kept, view)
        if view.head.number != chain["head_number"]:
            for organization_id in {each for row in included for each in row["organizations"]}:
                announce("transaction", organization_id)  # the confirmations of what it has included are other ones
        return undone + mined + suspected + deeper


async def _look(chain: dict[str, Any]) -> View:
    """As `look`; what the nodes are like is noted either way, for those who do not ask them themselves."""
    node = get_node(chain["id"])
    try:
        view = await look(chain, node)
    except NodeUnavailable:
        await record_nodes(chain["id"], await node.survey(), answered=False)
        raise
    await record_nodes(chain["id"], await node.survey(), answered=True)
    return view


async def _check_included(included: list[dict[str, Any]], view: View) -> tuple[set[str], int]:
    """Compare the blocks of what is `included` with the canonical ones: the hashes that hold, how many were undone.

    A height that the node does not have now proves nothing either way.
    """
    canonical = await _canonical_hashes((row["block_number"] for row in included), view.node)
    kept = {row["block_hash"] for row in included} & set(canonical.values())
    undone = [row["block_hash"] for row in included if row["block_number"] in canonical]
    gone = [hash for hash in undone if hash not in kept]
    if not gone:
        return kept, 0
    works = await list_work(
        "WHERE l.chain = {} AND t.status IN ('mined', 'confirmed') AND t.block_hash = ANY({}) ORDER BY t.id",
        view.chain_id,
        gone,
    )
    return kept, await _undo([(work, canonical[work.block_number or 0]) for work in works])


async def _undo(told: Sequence[tuple[Work, str | None]]) -> int:
    """Void what was told of each, which is in another block, or in this one but otherwise; how many were undone."""
    before = await states_before([work for work, _ in told])
    undone = 0
    for status in (Status.BROADCAST, Status.CLOSING):
        steps = [
            Step(
                work=work,
                changes=UNDONE,
                detail={
                    "hash": work.mined_hash,
                    "block_number": work.block_number,
                    "undone_block": work.block_hash,
                    "canonical_block": canonical,
                },
            )
            for work, canonical in told
            if before[work.id] is status
        ]
        undone += await take(steps, status, "reorganised", also=_reorganised)
    return undone


async def _reorganised(works: list[Work]) -> None:
    await count_as_unsent(works)
    for work in works:
        REORGANISED.labels(str(work.chain_id)).inc()
        with correlated(work):
            log.warning("transaction.reorganised", block_number=work.block_number, undone_block=work.block_hash)


async def _find_receipts(view: View, kept: set[str]) -> tuple[int, int]:
    """Mark as mined what has a receipt in a canonical block, and look into what should have one and has none.

    What nobody tells of stays as it is. Adds those blocks to `kept`. Returns how many were mined, and how many became
    suspect or ceased to be.
    """
    works = await list_work(
        "WHERE l.chain = {} AND t.status IN ('broadcast', 'closing', 'suspect') ORDER BY t.id", view.chain_id
    )
    kinds: defaultdict[UUID, dict[str, AttemptKind]] = defaultdict(dict)
    attempts = await run_sql(ATTEMPTS, [work.id for work in works])
    for attempt in attempts:
        kinds[attempt["transaction"]][attempt["hash"]] = AttemptKind(attempt["kind"])
    found, untold = await _read_receipts(view, works, kinds)
    canonical = await _canonical_hashes((receipt.block_number for receipt in found.values()), view.node)
    mined, without = [], []
    for work in works:
        receipts = [found[hash] for hash in kinds[work.id] if hash in found]
        receipt = next((each for each in receipts if canonical.get(each.block_number) == each.block_hash), None)
        if receipt:
            mined.append((work, receipt, kinds[work.id][receipt.hash]))
            kept.add(receipt.block_hash)
        elif untold.isdisjoint(kinds[work.id]):
            without.append((work, list(kinds[work.id])))
    moved = await take(await _mined_steps(mined, view), Status.MINED, "mined")
    if without:
        _look_again_soon(max(attempt["signed_at_block"] or 0 for attempt in attempts), view)
    return moved, await displacement.examine(without, view)


def _look_again_soon(signed_at_block: int, view: View) -> None:
    """Look again in half a block's time where the next block may well hold what was `signed_at_block`."""
    seconds = view.block_seconds
    if seconds is not None and seconds < QUICK_SECONDS and view.head.number - signed_at_block <= SOON_BLOCKS:
        ring("watch_chains", after=max(seconds / 2, LEAST_PAUSE_SECONDS))


async def _read_receipts(
    view: View, works: list[Work], kinds: Mapping[UUID, Mapping[str, AttemptKind]]
) -> tuple[dict[str, Receipt], set[str]]:
    """Receipts by hash, and the hashes of which nobody tells whether there is one.

    Of what is suspect, those that any endpoint has: one may have lost what another one keeps.
    """
    hashes = [hash for work in works for hash in kinds[work.id]]
    receipts = await view.node.receipts(hashes)
    found = _found(receipts)
    untold = {hash for hash, receipt in zip(hashes, receipts, strict=True) if isinstance(receipt, NodeUnavailable)}
    suspect = [hash for work in works if work.status is Status.SUSPECT for hash in kinds[work.id]]
    lost = [hash for hash in suspect if hash not in found]
    for endpoint in view.node.each() if lost else ():
        try:
            found |= _found(await endpoint.receipts(lost))
        except NodeUnavailable:
            continue
    return found, untold


def _found(receipts: Iterable[Receipt | NodeUnavailable | None]) -> dict[str, Receipt]:
    return {receipt.hash: receipt for receipt in receipts if isinstance(receipt, Receipt)}


async def _mined_steps(mined: list[tuple[Work, Receipt, AttemptKind]], view: View) -> list[Step]:
    limit = asyncio.Semaphore(REASONS_AT_ONCE)

    async def step(work: Work, receipt: Receipt, kind: AttemptKind) -> Step:
        reason = None
        outcome = Outcome.OK if receipt.ok else Outcome.REVERTED
        if kind is AttemptKind.NOOP:
            outcome = Outcome.CANCELLED
        elif not receipt.ok:
            async with limit:
                reason = await _revert_reason(work, receipt, view.node)
        return _mined_step(work, receipt, outcome, reason)

    return await asyncio.gather(*(step(*each) for each in mined))


def _mined_step(work: Work, receipt: Receipt, outcome: Outcome, reason: str | None) -> Step:
    facts = {
        "outcome": outcome.value,
        "block_number": receipt.block_number,
        "block_hash": receipt.block_hash,
    }
    return Step(
        work=work,
        changes={
            **facts,
            "revert_reason": reason,
            "mined_hash": receipt.hash,
            "contract_address": _created(work, receipt) if outcome is Outcome.OK else None,
            "gas_used": receipt.gas_used,
            "gas_price_wei": str(receipt.gas_price_wei),
            "mined_at": clock.now(),
            "suspect_since": None,
            "suspect_reads": 0,
        },
        detail={**facts, "hash": receipt.hash, "reason": reason, "closing_reason": work.closing_reason},
    )


def _created(work: Work, receipt: Receipt) -> str | None:
    """The address of the contract that `work` deploys, computed here: later calls go to it, so no node is believed."""
    if work.deploys_contract_id is None or work.nonce is None:
        return None
    address = created_address(work.signer_address, work.nonce)
    if receipt.contract_address != address:
        with correlated(work):
            log.error("security.receipt_differs", contract_address=address, said=receipt.contract_address)
    return address


async def _revert_reason(work: Work, receipt: Receipt, node: Node) -> str:
    """Why the mined call failed, by carrying it out again at its block."""
    rows = await run_sql(
        """SELECT a.contract, a.to_address, a.calldata, a.value_wei, t.gas_limit FROM action a, attempt t
           WHERE a.id = {} AND t.hash = {}""",
        work.action_id,
        receipt.hash,
    )
    call = Call(
        from_address=work.signer_address,
        to_address=rows[0]["to_address"],
        calldata=bytes(rows[0]["calldata"]),
        value_wei=int(rows[0]["value_wei"]),
        gas_limit=rows[0]["gas_limit"],
    )
    abi = await get_abi(work.organization_id, rows[0]["contract"])
    try:
        reason = await node.revert_reason(call, receipt.block_number, abi=abi)
    except NodeUnavailable as error:
        # That it reverted is certain; a node that keeps no old states must not hide it.
        return f"It reverted. {error.detail}"
    return reason or "It reverted, for a reason that cannot be reproduced outside its block."


async def _deepen(kept: set[str], view: View) -> int:
    """Confirm what is deep enough in the blocks `kept`, and end what the chain can no longer undo; how many."""
    deep = await _list_included(kept, Status.MINED, view.head.number + 1 - view.confirmations, view)
    steps = [
        _deeper(work, confirmed_at=clock.now(), confirmations=depth(work.block_number or 0, view.head.number))
        for work in deep
    ]
    moved = await take(steps, Status.CONFIRMED, "confirmed", also=_end_deployments)
    if view.final:
        deep = await _list_included(kept, Status.CONFIRMED, view.final.number, view)
        said = await opinions.ask_all(deep, view) if deep else opinions.Opinions([], [])
        steps = [_deeper(work, finalized_at=clock.now()) for work in said.final]
        moved += await take(steps, Status.FINALIZED, "finalized")
        moved += await _correct(said.wrong, view)
    return moved


async def _correct(wrong: Sequence[tuple[Work, Receipt | None]], view: View) -> int:
    """Undo what was told wrongly, and tell what all endpoints say instead; how many steps that took.

    From their receipts: the endpoint that is asked first may be the one that lied, and lie again.
    """
    if not wrong:
        return 0
    undone = await _undo([(work, receipt.block_hash if receipt else work.block_hash) for work, receipt in wrong])
    known = {
        work.id: (receipt, AttemptKind.NOOP if work.outcome == Outcome.CANCELLED else AttemptKind.CALL)
        for work, receipt in wrong
        if receipt
    }
    works = await list_work("WHERE t.id = ANY({}) AND t.status IN ('broadcast', 'closing')", list(known))
    steps = await _mined_steps([(work, *known[work.id]) for work in works], view)
    return undone + await take(steps, Status.MINED, "mined")


async def _list_included(kept: set[str], status: Status, up_to_block: int, view: View) -> list[Work]:
    return await list_work(
        """WHERE l.chain = {} AND t.status = {} AND t.block_number <= {} AND t.block_hash = ANY({})
           ORDER BY t.block_number, t.nonce""",
        view.chain_id,
        status.value,
        up_to_block,
        list(kept),
    )


def _deeper(work: Work, *, confirmations: int | None = None, **moments: datetime) -> Step:
    detail = {"block_number": work.block_number, "block_hash": work.block_hash, "outcome": work.outcome}
    return Step(
        work=work,
        changes=moments,
        detail=detail if confirmations is None else {**detail, "confirmations": confirmations},
    )


async def _end_deployments(works: list[Work]) -> None:
    for work in works:
        await end_deployment(work, work.contract_address)


async def _canonical_hashes(numbers: Iterable[int], node: Node) -> dict[int, str]:
    """The hash of the canonical block at each height that the node has and tells of."""
    blocks = await node.blocks(sorted(set(numbers)))
    return {block.number: block.hash for block in blocks if isinstance(block, Block)}
