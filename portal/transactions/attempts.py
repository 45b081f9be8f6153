"""The signed attempts of transactions, as they are stored: bytes are there before they are first sent."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from portal import clock
from portal.chain.rpc import Fees
from portal.chain.signers import TransactionFields
from portal.db.engine import run_sql
from portal.transactions.tables import AttemptKind


class Offer(msgspec.Struct, frozen=True):
    """What an earlier attempt offered."""

    kind: AttemptKind
    fees: Fees
    gas_limit: int


class StoredAttempt(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    hash: str
    raw_bytes: bytes
    may_be_out: bool
    """Whether some node may have accepted it, or one of the attempts before it."""


class NewAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to store of an attempt."""

    attempt: StoredAttempt
    organization_id: UUID
    transaction_id: UUID
    kind: AttemptKind
    fields: TransactionFields
    head_number: int


async def newest_attempt(transaction_id: UUID) -> StoredAttempt:
    """The attempt that offers the most: the one to send."""
    rows = await run_sql(
        """SELECT id, hash, raw_bytes, bool_or(first_sent_at IS NOT NULL) OVER () AS may_be_out FROM attempt
           WHERE transaction = {} ORDER BY max_fee_wei DESC LIMIT 1""",
        transaction_id,
    )
    return StoredAttempt(**{**rows[0], "raw_bytes": bytes(rows[0]["raw_bytes"])})


async def list_offers(transaction_id: UUID) -> list[Offer]:
    """What all stored attempts offer, the cheapest first."""
    rows = await run_sql(
        """SELECT kind, max_fee_wei, max_priority_fee_wei, gas_limit FROM attempt
           WHERE transaction = {} ORDER BY max_fee_wei""",
        transaction_id,
    )
    return [
        Offer(
            AttemptKind(row["kind"]), Fees(int(row["max_fee_wei"]), int(row["max_priority_fee_wei"])), row["gas_limit"]
        )
        for row in rows
    ]


async def lower_gas_limit(lane_id: UUID, gas_limit: int) -> int:
    """The highest gas limit below `gas_limit`, by a tenth at most, that no attempt rejected in the lane had.

    All limits have a margin of more than that.
    """
    rows = await run_sql(
        """SELECT min(x.gas_limit) AS lowest FROM transaction t JOIN attempt x ON x.transaction = t.id
           WHERE t.lane = {} AND t.nonce IS NULL AND t.status = 'rejected' AND x.gas_limit BETWEEN {} AND {}""",
        *(lane_id, gas_limit - gas_limit // 10, gas_limit),
    )
    return (rows[0]["lowest"] or gas_limit) - 1


async def insert_attempts(made: Sequence[NewAttempt]) -> None:
    """Store what was signed, in the caller's db transaction."""
    await run_sql(
        """INSERT INTO attempt (id, organization, transaction, kind, hash, raw_bytes, gas_limit, max_fee_wei,
                                max_priority_fee_wei, is_legacy, signed_at, signed_at_block)
           SELECT id, organization, transaction, kind, hash, raw_bytes, gas_limit, max_fee_wei, max_priority_fee_wei,
                  is_legacy, {}, head
           FROM unnest({}::uuid[], {}::uuid[], {}::uuid[], {}::text[], {}::text[], {}::bytea[], {}::bigint[],
                       {}::numeric[], {}::numeric[], {}::boolean[], {}::bigint[])
               AS made (id, organization, transaction, kind, hash, raw_bytes, gas_limit, max_fee_wei,
                        max_priority_fee_wei, is_legacy, head)""",
        clock.now(),
        [each.attempt.id for each in made],
        [each.organization_id for each in made],
        [each.transaction_id for each in made],
        [each.kind.value for each in made],
        [each.attempt.hash for each in made],
        [each.attempt.raw_bytes for each in made],
        [each.fields.gas_limit for each in made],
        [each.fields.max_fee_wei for each in made],
        [each.fields.max_priority_fee_wei for each in made],
        [each.fields.is_legacy for each in made],
        [each.head_number for each in made],
    )
