"""How the watcher takes many transactions on at once, and where what the chain undid goes back to."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from uuid import UUID

from portal.db.engine import run_sql, transaction
from portal.transactions.moves import Step, Work, move_many
from portal.transactions.tables import AttemptKind
from portal.transactions.tables import TransactionStatus as Status

TOGETHER = 200
"""Moves in one db transaction."""


async def take(
    steps: Sequence[Step],
    after: Status,
    verb: str,
    *,
    also: Callable[[list[Work]], Awaitable[None]] | None = None,
) -> int:
    """Take all `steps` to `after`, those of one organisation at a time; how many were still as they were read.

    `also` runs after the moves of each db transaction, with those that moved.
    """
    by_organization = defaultdict(list)
    for step in steps:
        by_organization[step.work.organization_id].append(step)
    moved = 0
    for waiting in map(iter, by_organization.values()):
        while part := list(islice(waiting, TOGETHER)):
            async with transaction():
                works = await move_many(part, after, verb)
                if also:
                    await also(works)
            moved += len(works)
    return moved


async def states_before(works: Sequence[Work]) -> dict[UUID, Status]:
    """Where each goes back to when the chain undoes what used its nonce: what its newest attempt says."""
    rows = await run_sql(
        "SELECT DISTINCT ON (transaction) transaction, kind FROM attempt WHERE transaction = ANY({}) "
        "ORDER BY transaction, id DESC",
        [work.id for work in works],
    )
    kinds = {row["transaction"]: row["kind"] for row in rows}
    return {work.id: Status.CLOSING if kinds.get(work.id) == AttemptKind.NOOP else Status.BROADCAST for work in works}


async def count_as_unsent(works: Sequence[Work]) -> None:
    """Let the next pass of their lanes send the newest bytes again, in the caller's db transaction."""
    await run_sql("UPDATE attempt SET last_sent_at = NULL WHERE transaction = ANY({})", [work.id for work in works])
