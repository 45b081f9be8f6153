"""`evm_logs`: events of a registered contract, from a block on, each once and none left out.

Guarantees, as long as the node tells the truth about blocks that are deep enough:
- Blocks are read in order up to the depth of `confirmations`, and the position moves over a range only if one and the
  same answer says that the range continues the blocks read before and that its own last block is the canonical one. A
  node that lags, or several behind one address that differ, therefore make a delay and never a gap.
- If a block that was read is no longer canonical, reading goes back to the last one that is and on from there.
- A log is known by its transaction and what it says, not by its block: one that a reorganisation moves to another block
  is the same fact. What it undoes for good stays as it was received; the audit names the reorganisation.
"""

import hashlib
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from portal import clock
from portal.chain.logs import Event, Log, LogUnreadable, decode_log, find_event
from portal.chain.pool import all_told
from portal.chain.queries import get_abi, get_chain, get_contract
from portal.chain.rpc import Block, Node, NodeUnavailable, RangeRefused, get_node
from portal.chain.schemas import ContractView
from portal.db.engine import run_sql
from portal.errors import InputInvalid, NotFound
from portal.signals.intake.service import PulledFact
from portal.signals.pulls.kinds import Claim, Position, PullFailed, PullKind, Step
from portal.signals.schemes.base import type_of

FIRST_RANGE = 1000
MOST_BLOCKS = 5000
FEW_EVENTS, MANY_EVENTS = 500, 5000
"""In one range: below the one it grows, above the other it shrinks."""
CHECKPOINTS = 64
LISTED = 100
"""Signals that the audit of a reorganisation names."""


class EvmLogsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    contract_id: UUID
    """A registered contract of the organisation."""
    event: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    """Name, or where it has several of that name, signature: `Transfer(address,address,uint256)`."""
    from_block: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    """The first block to read; None is the first one after the first pull."""
    confirmations: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    """How many blocks, an event's own included, must be there before it is read; None is what the chain has."""
    interval_seconds: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 10


async def check(organization_id: UUID, settings: EvmLogsSettings) -> None:
    """Raises `InputInvalid` where the organisation has no such contract, or the contract no such event."""
    try:
        contract = await get_contract(organization_id, settings.contract_id)
        abi = await get_abi(organization_id, settings.contract_id)
    except NotFound:
        raise InputInvalid.at("/settings/contract_id", "There is no such contract.") from None
    if contract.address is None:
        raise InputInvalid.at("/settings/contract_id", "The contract is not deployed yet.")
    find_event(abi, settings.event, "/settings/event")


def refuse_secret(_secret: str, _settings: Any = None) -> str:
    raise InputInvalid.at("/secret", "Events are read from the operator's own node, which asks for no secret.")


def first_position(settings: EvmLogsSettings) -> Position:
    return {} if settings.from_block is None else {"first": settings.from_block, "next": settings.from_block}


def keeps_position(before: EvmLogsSettings, after: EvmLogsSettings) -> bool:
    return (before.contract_id, before.event, before.from_block) == (after.contract_id, after.event, after.from_block)


def describe(position: Position) -> str:
    if "next" not in position:
        return "From the next block on."
    undone = position.get("undone")
    after = f" A reorganisation undid blocks from {undone['block']} on, found at {undone['at']}." if undone else ""
    return f"From block {position['next']} on.{after}"


class Place(msgspec.Struct, frozen=True):
    """Where a source reads: looked up for each step, since a contract may have been changed."""

    contract: ContractView
    address: str
    event: Event
    confirmations: int
    node: Node


async def fetch(claim: Claim, position: Position) -> Step:
    """One range of blocks. Raises `PullFailed`."""
    try:
        place = await _find_place(claim)
        head = await place.node.head()
        target = head.number + 1 - place.confirmations
        if "next" not in position:
            start = head.number + 1
            return Step(facts=[], position={"first": start, "next": start}, more=False)
        if undone := await _find_undone(place.node, position):
            return await _step_back(place, claim, position, *undone)
        if target < position["next"]:
            return Step(facts=[], position=position, more=False)
        return await _read_range(place, claim, position, target)
    except NodeUnavailable as error:
        raise PullFailed(error.detail, retry_after_seconds=error.retry_after_seconds) from None


async def _find_place(claim: Claim) -> Place:
    settings: EvmLogsSettings = claim.settings
    try:
        contract = await get_contract(claim.organization_id, settings.contract_id)
        event = find_event(await get_abi(claim.organization_id, contract.id), settings.event, "/settings/event")
        chain = await get_chain(contract.chain_id)
    except (NotFound, InputInvalid) as error:
        raise PullFailed(error.detail) from None
    assert contract.address, "a source is made for a contract that has an address, which never changes"
    confirmations = settings.confirmations or chain.confirmations
    return Place(contract, contract.address, event, confirmations, get_node(contract.chain_id))


async def _find_undone(node: Node, position: Position) -> tuple[list[list[Any]], Block] | None:
    """If the last block that was read is not canonical: the checkpoints that are, and the block in its place."""
    checkpoints: list[list[Any]] = position.get("checkpoints", [])
    if not checkpoints:
        return None
    number, hash = checkpoints[-1]
    block = await node.block(number)
    if block is None:
        raise NodeUnavailable(f"The node of chain {node.chain_id} is behind: it has no block {number} yet.")
    if block.hash == hash:
        return None
    canonical = all_told(await node.blocks([number for number, _ in checkpoints]))
    kept = [
        checkpoint
        for checkpoint, block in zip(checkpoints, canonical, strict=True)
        if block is not None and block.hash == checkpoint[1]
    ]
    return kept, block


async def _step_back(place: Place, claim: Claim, position: Position, kept: list[list[Any]], canonical: Block) -> Step:
    """Read again from the last common block on. What comes again is stored already and not stored twice."""
    again = kept[-1][0] + 1 if kept else position["first"]
    undone_number, undone_hash = position["checkpoints"][-1]
    signals = await _signals_since(claim.source_id, place, again)
    return Step(
        facts=[],
        position={
            **position,
            "next": again,
            "checkpoints": kept,
            "undone": {"block": again, "at": clock.now().isoformat(timespec="seconds")},
        },
        more=True,
        undone={
            "from_block": again,
            "block": undone_number,
            "undone_block": undone_hash,
            "canonical_block": canonical.hash,
            "signals": [str(id) for id in signals],
        },
    )


class Told(msgspec.Struct, frozen=True):
    """What matters here of the body of a signal."""

    chain_id: int
    address: str
    block_number: int


async def _signals_since(source_id: UUID, place: Place, block_number: int) -> list[UUID]:
    """The newest signals that were read from this block on, at most 100."""
    rows = await run_sql(
        "SELECT id, body FROM signal WHERE source = {} AND body IS NOT NULL ORDER BY id DESC LIMIT {}",
        source_id,
        10 * LISTED,
    )
    told = [(row["id"], msgspec.json.decode(bytes(row["body"]), type=Told)) for row in rows]
    here = (place.contract.chain_id, place.address)  # the source may have read another contract before
    return [id for id, fact in told if (fact.chain_id, fact.address) == here and fact.block_number >= block_number][
        :LISTED
    ]


async def _read_range(place: Place, claim: Claim, position: Position, target: int) -> Step:
    first, checkpoints = position["next"], position.get("checkpoints", [])
    # A question that is too large may end in silence rather than in a refusal, so after failures less is asked.
    size = max(1, position.get("size", FIRST_RANGE) >> min(claim.failures, 20))
    while True:
        blocks = range(first, min(first + size - 1, target) + 1)
        try:
            last, logs = await _read_logs(place, blocks, checkpoints[-1:])
            break
        except RangeRefused:
            if len(blocks) == 1:
                raise
            size = len(blocks) // 2
    if len(logs) > MANY_EVENTS:
        size = max(1, size // 2)
    elif len(logs) < FEW_EVENTS and len(blocks) == size:
        size = min(MOST_BLOCKS, size + max(1, size // 4))
    return Step(
        facts=await _facts(place, logs),
        position={
            **position,
            "next": last.number + 1,
            "size": size,
            "checkpoints": [*checkpoints, [last.number, last.hash]][-CHECKPOINTS:],
        },
        more=last.number < target,
    )


async def _read_logs(place: Place, blocks: range, checkpoint: list[list[Any]]) -> tuple[Block, list[Log]]:
    """The logs of `blocks` and their last block, if one node says before and after that it is the canonical one and
    that `checkpoint`, the block before them, still is. Raises `NodeUnavailable` otherwise."""
    before = await place.node.block(blocks[-1])
    marks = [blocks[-1], *(number for number, _ in checkpoint)]
    logs, (last, *continued) = await place.node.logs(place.address, place.event.topic, blocks, marks)
    if before is None or last is None:
        raise NodeUnavailable(f"The node of chain {place.node.chain_id} is behind: it has no block {blocks[-1]} yet.")
    expected = [hash for _, hash in checkpoint]
    if before.hash != last.hash or [block and block.hash for block in continued] != expected:
        raise NodeUnavailable(f"The chain {place.node.chain_id} changed while block {last.number} was read.")
    return last, logs


async def _facts(place: Place, logs: list[Log]) -> list[PulledFact]:
    numbers = sorted({log.block_number for log in logs})
    blocks = dict(zip(numbers, all_told(await place.node.blocks(numbers)), strict=True))
    for log in logs:
        block = blocks[log.block_number]
        if block is None or block.hash != log.block_hash:
            raise NodeUnavailable(f"The chain {place.node.chain_id} changed while block {log.block_number} was read.")
    same: Counter[str] = Counter()
    facts = []
    for log in logs:
        id = f"{log.transaction_hash}:{_digest(log)}"
        facts.append(_fact(place, log, f"{id}:{same[id]}", blocks[log.block_number]))
        same[id] += 1
    return facts


def _digest(log: Log) -> str:
    """What the log says, in 16 hex digits: a reorganisation may carry out the same transaction with another result."""
    return hashlib.sha256(b"".join([len(log.topics).to_bytes(1), *log.topics, log.data])).hexdigest()[:16]


def _fact(place: Place, log: Log, external_id: str, block: Block | None) -> PulledFact:
    assert block, "the blocks of logs were compared"
    body: dict[str, Any] = {
        "event": place.event.name,
        "contract": str(place.contract.id),
        "address": place.address,
        "chain_id": place.contract.chain_id,
        "block_number": log.block_number,
        "block_hash": log.block_hash,
        "block_time": datetime.fromtimestamp(block.timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "transaction_hash": log.transaction_hash,
        "log_index": log.index,
    }
    trouble = None
    try:
        body["arguments"] = decode_log(place.event, log)
    except LogUnreadable as error:
        trouble = str(error)
        body |= {"topics": ["0x" + topic.hex() for topic in log.topics], "data": "0x" + log.data.hex()}
    return PulledFact(
        external_id=external_id,
        type=type_of(place.event.name),
        body=msgspec.json.encode(body, order="deterministic"),
        trouble=trouble,
    )


EVM_LOGS = PullKind(
    name="evm_logs",
    label="Events of a contract",
    settings_type=EvmLogsSettings,
    check_secret=refuse_secret,
    check=check,
    first_position=first_position,
    keeps_position=keeps_position,
    describe=describe,
    fetch=fetch,
)
