"""A second opinion before anything is final: until then one endpoint is believed, and it may lie.

Each endpoint is asked alone, also one that seems to lag: honest ones do beside one with a head far in the future. Two
that say the same settle it; one does where all others have not answered for a minute. Where one says something else,
nothing is final: no majority decides, since two addresses may well lead to one provider.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import msgspec

from portal import clock
from portal.chain.rpc import Node, NodeUnavailable, Receipt
from portal.chain.survey import report_disagreement
from portal.db.engine import transaction
from portal.transactions import standing
from portal.transactions.moves import Work, hold_many
from portal.transactions.tables import Outcome
from portal.transactions.watching.finality import View, final_number

ENOUGH = 2
LEAST_TIME = timedelta(minutes=1)
"""After it was mined, before what was told is taken back on what endpoints say: one that alternates makes no storm."""

LATE = timedelta(hours=1)
"""After it was mined, one that no second endpoint calls final is a matter for people."""

Told = Mapping[UUID, Receipt | None]
"""What one endpoint says of final transactions, by their ids; None where its block does not hold that one."""


class Opinions(msgspec.Struct, frozen=True):
    """What is settled; of all else nothing may be concluded yet."""

    final: list[Work]
    wrong: list[tuple[Work, Receipt | None]]
    """What was told of these is not so: the receipt that all name instead, None where the block does not hold it."""


async def ask_all(works: Sequence[Work], view: View) -> Opinions:
    """What the endpoints say of `works`, which are included in blocks that are final by one of them.

    Those about which they differ are held, and that is reported; those that wait for long are held, too.
    """
    endpoints = view.node.each()
    answers = await asyncio.gather(*(_ask(endpoint, works, view) for endpoint in endpoints))
    told = {place: answer for place, answer in enumerate(answers, start=1) if answer is not None}
    silent = [endpoint for endpoint, answer in zip(endpoints, answers, strict=True) if answer is None]
    enough = 1 if len(told) == 1 and all(endpoint.is_away for endpoint in silent) else ENOUGH
    opinions = Opinions([], [])
    holds = []
    for work in works:
        said = {place: answer[work.id] for place, answer in told.items() if work.id in answer}
        kinds = {_gist(work, receipt) for receipt in said.values()}
        age = clock.now() - (work.mined_at or clock.now())
        agreed = len(kinds) == 1 and len(said) >= enough
        if agreed and kinds == {_stored(work)}:
            opinions.final.append(work)
        elif agreed or len(kinds) > 1:
            reason = _difference(work, said, agreed=agreed)
            if reason != work.reason:
                holds.append((work, reason, said))
            elif agreed and age >= LEAST_TIME:
                opinions.wrong.append((work, next(iter(said.values()))))
        elif age >= LATE:
            reason = standing.unheard([place for place in range(1, len(endpoints) + 1) if place not in said])
            if reason != work.reason:
                holds.append((work, reason, {}))
    await _hold(holds)
    return opinions


async def _ask(endpoint: Node, works: Sequence[Work], view: View) -> Told | None:
    """What it says of those in blocks that it calls final itself, as far as it tells; None where it does not answer."""
    said: dict[UUID, Receipt | None] = {}
    try:
        final = await final_number(endpoint, view)
        works = [work for work in works if _height(work) <= final]
        receipts = await endpoint.receipts([work.mined_hash or "" for work in works])
        for work, receipt in zip(works, receipts, strict=True):
            if isinstance(receipt, Receipt) and receipt.block_number <= final:
                said[work.id] = receipt
        # No receipt proves nothing: an index may lag, or have lost it. A final block without the transaction does.
        missing = [work for work, receipt in zip(works, receipts, strict=True) if receipt is None]
        for number in {_height(work) for work in missing}:
            hashes = await endpoint.hashes_in(number)
            gone = [work for work in missing if _height(work) == number and work.mined_hash not in (hashes or ())]
            said |= dict.fromkeys((work.id for work in gone if hashes is not None), None)
    except NodeUnavailable:
        return None
    return said


def _height(work: Work) -> int:
    assert work.block_number is not None
    return work.block_number


def _gist(work: Work, receipt: Receipt | None) -> tuple[str, bool, int | None] | None:
    """What must be the same in what is stored: block, success (of no interest for what does nothing) and gas."""
    if receipt is None:
        return None
    return receipt.block_hash, receipt.ok or work.outcome == Outcome.CANCELLED, receipt.gas_used


def _stored(work: Work) -> tuple[str | None, bool, int | None]:
    return work.block_hash, work.outcome != Outcome.REVERTED, work.gas_used


def _difference(work: Work, said: Mapping[int, Receipt | None], *, agreed: bool) -> str:
    words = {place: _in_words(work, receipt) for place, receipt in said.items()}
    return standing.told_wrongly(words) if agreed else standing.contradiction(words)


def _in_words(work: Work, receipt: Receipt | None) -> str:
    if receipt is None:
        return f"it is not in block {work.block_number:,}"
    result = "succeeded" if receipt.ok else "reverted"
    return f"it {result} in block {receipt.block_number:,} ({receipt.block_hash[:10]}…) for {receipt.gas_used:,} gas"


async def _hold(holds: Sequence[tuple[Work, str, Mapping[int, Receipt | None]]]) -> None:
    if not holds:
        return
    async with transaction():
        await hold_many([(work, reason) for work, reason, _ in holds])
    for work, said in ((work, said) for work, _, said in holds if said):
        words = {place: _in_words(work, receipt) for place, receipt in said.items()}
        report_disagreement(work.chain_id, "receipt", _height(work), words)
