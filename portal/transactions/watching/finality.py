"""What one look at a chain shows: its newest block, and the newest one that can no longer be undone."""

import asyncio
from typing import Any

import msgspec

from portal.chain.rpc import Block, Node
from portal.chain.service import record_final
from portal.chain.survey import FINAL_DEPTH
from portal.logging import get_logger

log = get_logger(__name__)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A chain as one pass of its watcher sees it."""

    chain_id: int
    node: Node
    head: Block
    final: Block | None
    """The newest block that can no longer be undone; None while nobody can tell."""
    final_depth: int | None
    """By the chain's setting; None where the node's tag says what is final."""
    confirmations: int

    @property
    def block_seconds(self) -> float | None:
        """How long a block took on average since the final one; None while nobody can tell."""
        if self.final is None or self.final.number >= self.head.number:
            return None
        return (self.head.timestamp - self.final.timestamp) / (self.head.number - self.final.number)


async def look(chain: dict[str, Any], node: Node) -> View:
    """Ask for the head and the final block of `chain`, a row with `confirmations`, `final_depth` and `final_number`.

    The final block is the one `final_depth` blocks below the head where the chain's setting says so, else what the node
    calls `finalized`, else the one 64 blocks below. Where the chain had the tag before and has none now, nothing new
    becomes final. Raises `NodeUnavailable`.
    """
    if chain["final_depth"] is None:
        head, final = await asyncio.gather(node.head(), node.finalized())
        if final:
            await _note(chain, head, final)
        elif chain["final_number"] is not None:
            log.error("chain.finalized_missing", chain_id=chain["id"], last=chain["final_number"])
        else:
            final = await _below(node, head, FINAL_DEPTH)
    else:
        head = await node.head()
        final = await _below(node, head, chain["final_depth"])
    return View(
        chain_id=chain["id"],
        node=node,
        head=head,
        final=final,
        final_depth=chain["final_depth"],
        confirmations=chain["confirmations"],
    )


async def final_number(endpoint: Node, view: View) -> int:
    """The height up to which `endpoint`, alone, calls blocks final; without a tag, the one 64 below its head.

    That a tag was there before is of no interest here: somebody else has called the block final. Raises
    `NodeUnavailable`.
    """
    final = await endpoint.finalized() if view.final_depth is None else None
    if final:
        return final.number
    return (await endpoint.head()).number - (FINAL_DEPTH if view.final_depth is None else view.final_depth)


async def _note(chain: dict[str, Any], head: Block, final: Block) -> None:
    """Keep how far finality has come; say so where it went back, which changes nothing about what is final here."""
    last = chain["final_number"]
    if last is not None and final.number < last:
        log.error("chain.finalized_went_back", chain_id=chain["id"], last=last, now=final.number)
    if last is None or final.number > last or last > head.number:  # what is beyond the head was never so: a node lied
        await record_final(chain["id"], final)


async def _below(node: Node, head: Block, depth: int) -> Block | None:
    return await node.block(head.number - depth) if head.number >= depth else None
