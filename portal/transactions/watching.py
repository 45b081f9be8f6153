"""Follows what was sent until the chain can no longer undo it.

A receipt counts only while its block is the canonical one at its height. A missing receipt proves nothing. What a
reorganisation undid goes back to `broadcast`, and counts as not sent: a pass of its lane sends the same bytes again.
"""

import asyncio
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec
from piccolo.columns import Column

from portal import clock
from portal.chain.queries import get_abi
from portal.chain.rpc import Block, Call, Node, NodeUnavailable, Receipt, get_node
from portal.chain.service import record_head
from portal.db.engine import run_sql, transaction, try_advisory_lock
from portal.db.notices import announce
from portal.logging import get_logger
from portal.transactions.deployments import end_deployment
from portal.transactions.moves import Work, correlated, list_work, move
from portal.transactions.states import depth
from portal.transactions.tables import Outcome
from portal.transactions.tables import TransactionStatus as Status

log = get_logger(__name__)
FINAL_DEPTH = 64
"""Blocks after which a block counts as final on a chain whose node has no `finalized` tag."""


class View(msgspec.Struct, frozen=True):
    """The chain as one pass sees it."""

    head: Block
    final_number: int
    confirmations: int


async def watch_chains() -> int:
    """Take every transaction on every chain as far as the chain has come; the number of steps taken.

    One watcher a chain at a time. A chain whose node is down is left as it is, and its head grows old.
    """
    chains = await run_sql("SELECT id, confirmations, head_number FROM chain")
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
        node = get_node(chain["id"])
        head, finalized = await asyncio.gather(node.head(), node.finalized())
        await record_head(chain["id"], head)
        view = View(
            head=head,
            final_number=finalized.number if finalized else head.number - FINAL_DEPTH,
            confirmations=chain["confirmations"],
        )
        included = await list_work("WHERE l.chain = {} AND t.status IN ('mined', 'confirmed')", chain["id"])
        kept, undone = await _check_included(included, node)
        mined = await _find_receipts(chain["id"], node)
        deeper = await _deepen(kept | mined, view)
        if head.number != chain["head_number"]:
            for organization_id in {work.organization_id for work in included}:
                announce("transaction", organization_id)  # the confirmations of what it has included are other ones
        return len(undone) + len(mined) + deeper


async def _check_included(included: list[Work], node: Node) -> tuple[set[UUID], set[UUID]]:
    """Compare the blocks of what is `included` with the canonical ones: which transactions are kept, which undone.

    A height that the node does not have now proves nothing either way.
    """
    canonical = await _canonical_hashes((work.block_number for work in included), node)
    kept, undone = set(), set()
    for work in included:
        assert work.block_number is not None
        hash = canonical.get(work.block_number)
        if hash == work.block_hash:
            kept.add(work.id)
        elif hash is not None:
            await _undo(work, hash)
            undone.add(work.id)
    return kept, undone


async def _undo(work: Work, canonical_hash: str) -> None:
    void: dict[Column | str, Any] = dict.fromkeys(
        (
            *("outcome", "revert_reason", "block_number", "block_hash", "mined_hash", "contract_address"),
            *("gas_used", "gas_price_wei", "mined_at", "confirmed_at"),
        )
    )
    async with transaction():
        moved = await move(
            work,
            Status.BROADCAST,
            "reorganised",
            void,
            hash=work.mined_hash,
            block_number=work.block_number,
            undone_block=work.block_hash,
            canonical_block=canonical_hash,
        )
        if moved:
            await run_sql("UPDATE attempt SET last_sent_at = NULL WHERE transaction = {}", work.id)
    if moved:
        with correlated(work):
            log.warning("transaction.reorganised", block_number=work.block_number, undone_block=work.block_hash)


async def _find_receipts(chain_id: int, node: Node) -> set[UUID]:
    """Mark as mined what has a receipt in a canonical block; which transactions those are."""
    sent = await list_work("WHERE l.chain = {} AND t.status = 'broadcast'", chain_id)
    works = {work.id: work for work in sent}
    attempts = await run_sql("SELECT transaction, hash FROM attempt WHERE transaction = ANY({})", list(works))
    receipts = await node.receipts([attempt["hash"] for attempt in attempts])
    found = [
        (works[attempt["transaction"]], receipt)
        for attempt, receipt in zip(attempts, receipts, strict=True)
        if receipt is not None
    ]
    canonical = await _canonical_hashes((receipt.block_number for _, receipt in found), node)
    mined = set()
    for work, receipt in found:
        if canonical.get(receipt.block_number) != receipt.block_hash:
            continue
        reason = None if receipt.ok else await _revert_reason(work, receipt, node)
        async with transaction():
            if await _mark_mined(work, receipt, reason):
                mined.add(work.id)
    return mined


async def _mark_mined(work: Work, receipt: Receipt, reason: str | None) -> bool:
    outcome = Outcome.OK if receipt.ok else Outcome.REVERTED
    return await move(
        work,
        Status.MINED,
        "mined",
        {
            "outcome": outcome.value,
            "revert_reason": reason,
            "block_number": receipt.block_number,
            "block_hash": receipt.block_hash,
            "mined_hash": receipt.hash,
            "contract_address": receipt.contract_address,
            "gas_used": receipt.gas_used,
            "gas_price_wei": receipt.gas_price_wei,
            "mined_at": clock.now(),
        },
        hash=receipt.hash,
        block_number=receipt.block_number,
        block_hash=receipt.block_hash,
        outcome=outcome.value,
        reason=reason,
    )


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


async def _deepen(included: set[UUID], view: View) -> int:
    """Confirm what is deep enough of `included`, and end what the chain can no longer undo; the number of steps."""
    moved = 0
    for work in await _list_included(included, Status.MINED, view.head.number + 1 - view.confirmations):
        moved += await _confirm(work, view)
    for work in await _list_included(included, Status.CONFIRMED, view.final_number):
        async with transaction():
            moved += await move(
                work,
                Status.FINALIZED,
                "finalized",
                {"finalized_at": clock.now()},
                block_number=work.block_number,
                block_hash=work.block_hash,
                outcome=work.outcome,
            )
    return moved


async def _list_included(ids: set[UUID], status: Status, up_to_block: int) -> list[Work]:
    return await list_work(
        "WHERE t.id = ANY({}) AND t.status = {} AND t.block_number <= {} ORDER BY t.block_number, t.nonce",
        list(ids),
        status.value,
        up_to_block,
    )


async def _confirm(work: Work, view: View) -> bool:
    assert work.block_number is not None
    async with transaction():
        moved = await move(
            work,
            Status.CONFIRMED,
            "confirmed",
            {"confirmed_at": clock.now()},
            block_number=work.block_number,
            block_hash=work.block_hash,
            confirmations=depth(work.block_number, view.head.number),
        )
        if moved:
            await end_deployment(work, work.contract_address if work.outcome == Outcome.OK else None)
    return moved


async def _canonical_hashes(numbers: Iterable[int | None], node: Node) -> dict[int, str]:
    """The hash of the canonical block at each height that the node has."""
    wanted = sorted({number for number in numbers if number is not None})
    blocks = await node.blocks(wanted)
    return {block.number: block.hash for block in blocks if block}
