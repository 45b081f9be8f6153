"""The rate limit of a source, shared by all web processes: a token bucket in one row.

The bucket holds as many deliveries as may come in a minute and fills up again within one. Taken without waiting for
the disk: after a crash a few more are let in than should be.
"""

import math
from collections import Counter
from uuid import UUID

from portal.signals.errors import RateLimited
from portal.signals.intake.senders import lookups
from portal.together import Together


async def take(source_id: UUID, per_minute: int) -> None:
    """Count one delivery; those that arrive at the same time share a statement. Raises `RateLimited` if it is over."""
    wait_seconds = await _taking.do((source_id, per_minute))
    if wait_seconds:
        raise RateLimited(
            f"The source takes at most {per_minute} deliveries a minute. Nothing was stored; send it again in "
            f"{wait_seconds} s.",
            retry_after_seconds=wait_seconds,
        )


async def _take_all(asked: list[tuple[UUID, int]]) -> list[int]:
    """For each, 0 if it may pass, else after how many seconds the next one may."""
    granted: dict[tuple[UUID, int], int] = {}
    waits: dict[tuple[UUID, int], int] = {}
    for key, wanted in sorted(Counter(asked).items()):
        granted[key], waits[key] = await _take(*key, wanted)
    answers = []
    for key in asked:
        granted[key] -= 1
        answers.append(0 if granted[key] >= 0 else waits[key])
    return answers


async def _take(source_id: UUID, per_minute: int, wanted: int) -> tuple[int, int]:
    """How many of `wanted` are granted, and after how many seconds there is one more."""
    while True:
        rows = await lookups.fetch(
            """WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
                    filled AS MATERIALIZED (
                        SELECT a.source, least($1::float8, a.tokens + $1::float8 / 60 * greatest(
                                   0, extract(epoch FROM clock_timestamp() - a.filled_at)::float8)) AS tokens
                        FROM source_allowance a, relaxed WHERE a.source = $2 FOR UPDATE OF a)
               UPDATE source_allowance a
               SET tokens = filled.tokens - least($3::float8, floor(filled.tokens)), filled_at = clock_timestamp()
               FROM filled WHERE a.source = filled.source
               RETURNING least($3::float8, floor(filled.tokens))::bigint AS granted, a.tokens""",
            per_minute,
            source_id,
            wanted,
        )
        if rows:
            missing = 1 - rows[0]["tokens"]
            return rows[0]["granted"], max(1, math.ceil(missing * 60 / per_minute))
        await lookups.fetch(
            """INSERT INTO source_allowance (source, tokens, filled_at)
               SELECT id, $1, clock_timestamp() FROM source WHERE id = $2 ON CONFLICT (source) DO NOTHING""",
            per_minute,
            source_id,
        )


_taking: Together[tuple[UUID, int], int] = Together(_take_all)
