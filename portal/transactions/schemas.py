"""What the transactions room shows. Amounts are wei as decimal strings, times UTC, hashes `0x` and lower case hex."""

from datetime import datetime
from uuid import UUID

import msgspec

from portal.transactions.tables import AttemptKind, ClosingReason, Outcome, TransactionStatus


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One signed form of a transaction."""

    hash: str
    kind: AttemptKind
    """`call` is what was approved; `noop`, an empty transaction, only uses up the nonce."""
    explorer_url: str | None
    is_legacy: bool
    """Whether it offers one gas price instead of EIP-1559 fees; both fees are then that price."""
    gas_limit: int
    max_fee_wei: str
    max_priority_fee_wei: str
    signed_at: datetime
    first_sent_at: datetime | None
    """When a node may first have had it; None while surely none has."""
    last_sent_at: datetime | None
    last_answer: str | None
    """What the node said last, in its own words, unless it just took it."""
    trouble: str | None
    """What that means where it is in the way, in a few words; null where all is well or it does not matter any more."""
    mined: bool


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What proved that a transaction that is not ours is final at the nonce."""

    finalized_number: int
    finalized_hash: str
    """The final block at which the nonce was used."""
    transaction_count: int
    """The next nonce of the signer at that block."""
    endpoints: int
    """How many nodes said so, none of them with a receipt of ours."""
    foreign_hash: str | None = None
    """The transaction that used the nonce; null where the nodes keep too few old states to find it."""
    foreign_block_number: int | None = None
    """The block that has it."""


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
    """Why the action was not carried out as it was approved, as a sentence."""
    remark: str | None
    """That it was called off, or that a cancellation came too late, as a sentence."""
    closing_reason: ClosingReason | None
    """Why an empty transaction was signed at its nonce; it stays where the call was mined first."""
    may_cancel: bool
    """Whether a cancellation can still be asked for."""
    may_hurry: bool
    """Whether its fees can be raised now."""
    cancel_requested_at: datetime | None
    hurry_requested_at: datetime | None
    execute_before: datetime | None
    """By the chain's clock; from then on it is not carried out any more."""
    suspect_since: datetime | None
    """By the chain's clock: since when the chain has its nonce used and shows no receipt of ours."""
    evidence: Evidence | None
    """Of a displaced one."""
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
