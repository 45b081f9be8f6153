"""What the transactions room shows. Amounts are wei as decimal strings, times UTC, hashes `0x` and lower case hex."""

from datetime import datetime
from uuid import UUID

import msgspec

from portal.transactions.tables import Outcome, TransactionStatus


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One signed form of a transaction."""

    hash: str
    explorer_url: str | None
    gas_limit: int
    max_fee_wei: str
    max_priority_fee_wei: str
    signed_at: datetime
    first_sent_at: datetime | None
    """When a node may first have had it; None while surely none has."""
    last_sent_at: datetime | None
    last_answer: str | None
    """What the node said last, unless it just took it."""
    mined: bool


class TransactionView(msgspec.Struct, frozen=True, kw_only=True):
    """What carries out one action, as far as it got."""

    id: UUID
    action_id: UUID
    status: TransactionStatus
    outcome: Outcome | None
    """What the mined attempt did; None until one is mined."""
    waiting_for: str | None
    """What has to happen next, or why it does not, as a sentence; None once nothing more will happen."""
    held: bool
    """Whether it waits for something out of the ordinary."""
    failure: str | None
    """Why it was refused, rejected or reverted, as a sentence."""
    chain_id: int
    chain_name: str
    currency: str
    signer_id: UUID
    signer_address: str | None
    nonce: int | None
    hash: str | None
    """Of the mined attempt, else of the newest one."""
    explorer_url: str | None
    block_number: int | None
    block_hash: str | None
    confirmations: int
    """Blocks that confirm it so far, its own included."""
    confirmations_required: int
    contract_address: str | None
    gas_used: int | None
    gas_price_wei: str | None
    fee_wei: str | None
    """What was paid for gas."""
    attempts: list[AttemptView]
    """The oldest first."""
    correlation_id: str
    queued_at: datetime
    broadcast_at: datetime | None
    mined_at: datetime | None
    confirmed_at: datetime | None
    finalized_at: datetime | None


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What an end user owns of one contract."""

    contract_id: UUID
    contract_name: str
    symbol: str | None
    decimals: int | None
    """None where it counts things, such as certificates."""
    amount: str
    """In the smallest unit, above 0."""
