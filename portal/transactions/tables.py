"""What carries out approved actions: lanes, transactions and their signed attempts."""

from enum import StrEnum

from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.tables import Member, Organization
from portal.actions.tables import Action
from portal.chain.tables import Chain, Signer
from portal.db import columns


class Lane(Table, tablename="lane"):
    """The ordered nonces of one signer on one chain; whoever holds its lease is its one writer."""

    id = columns.key()
    organization = columns.reference(Organization)
    signer = columns.reference(Signer)
    chain = columns.reference(Chain)
    next_nonce = columns.integer(null=True)
    """Null until seeded from the chain; from then on ours, never lowered by what a node says."""
    held_by = columns.uuid(null=True)
    """The pass of a worker that writes in this lane now."""
    held_until = columns.moment(null=True)
    """By the database's clock; from then on another may take the lane."""
    fence = columns.integer(default=0)
    """Rises with each taking of the lane: whoever holds an older one changes nothing any more."""
    stuck_since = columns.moment(null=True)
    """Since when its head has not moved, once that is too long; looked at every quarter of a minute."""

    one_lane = Unique(["signer", "chain"])


class TransactionStatus(StrEnum):
    QUEUED = "queued"
    NONCED = "nonced"
    SIGNED = "signed"
    BROADCAST = "broadcast"
    CLOSING = "closing"
    """An empty transaction is sent at its nonce, because it was cancelled, has expired or may not be sent."""
    SUSPECT = "suspect"
    """The chain has used up its nonce, and no receipt of ours is there yet."""
    MINED = "mined"
    CONFIRMED = "confirmed"
    FINALIZED = "finalized"
    REFUSED = "refused"
    """The gate at signing found a difference from what was approved. Holds no nonce."""
    REJECTED = "rejected"
    """The node refused the bytes for good before they were ever sent. Holds no nonce."""
    EXPIRED = "expired"
    """Its time ran out before it had a nonce."""
    CANCELLED = "cancelled"
    """Somebody cancelled it before it had a nonce."""
    DISPLACED = "displaced"
    """Another program has used the key: a transaction that is not ours is final at its nonce."""


class Outcome(StrEnum):
    OK = "ok"
    REVERTED = "reverted"
    CANCELLED = "cancelled"
    """The empty transaction was mined."""


class ClosingReason(StrEnum):
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REFUSED = "refused"
    """The gate refused it after it had got its nonce."""


class Transaction(Table, tablename="transaction"):
    """Carries out one approved action, at most once."""

    id = columns.key()
    organization = columns.reference(Organization)
    action = columns.reference(Action)
    lane = columns.reference(Lane)
    nonce = columns.integer(null=True)
    status = columns.text()
    outcome = columns.text(null=True)
    """What the mined attempt did; set when mined, void again after a reorganisation."""
    reason = columns.text(null=True)
    """Why it waits, or was refused or rejected, as a sentence; null while it moves."""
    revert_reason = columns.text(null=True)
    closing_reason = columns.text(null=True)
    """`cancelled`, `expired` or `refused`: why its nonce is closed; it stays when the call was mined first."""
    cancel_requested_at = columns.moment(null=True)
    hurry_requested_at = columns.moment(null=True)
    """Somebody wants its fees raised now; null again once they are."""
    execute_before = columns.moment(null=True)
    """By the chain's clock; from then on it is not carried out any more."""
    suspect_since = columns.moment(null=True)
    suspect_reads = columns.integer(default=0)
    """How often a node said since that the nonce is used and has no receipt of ours."""
    evidence = columns.json(null=True)
    """Of a displaced one: `{"finalized_number", "finalized_hash", "transaction_count", "endpoints", "foreign_hash",
    "foreign_block_number"}`, the last two null where they could not be found."""
    block_number = columns.integer(null=True)
    block_hash = columns.text(null=True)
    mined_hash = columns.text(null=True)
    """Hash of the attempt that was mined."""
    contract_address = columns.text(null=True)
    """What the mined attempt deployed."""
    gas_used = columns.integer(null=True)
    gas_price_wei = columns.amount(null=True)
    """Effective price paid per unit of gas."""
    correlation_id = columns.text(index=True)
    queued_at = columns.moment()
    broadcast_at = columns.moment(null=True)
    mined_at = columns.moment(null=True)
    confirmed_at = columns.moment(null=True)
    finalized_at = columns.moment(null=True)

    one_transaction = Unique(["action"])
    one_use_of_a_nonce = Unique(["lane", "nonce"])
    status_is_known = columns.one_of("status", TransactionStatus)
    closing_reason_is_known = columns.one_of("closing_reason", ClosingReason)
    outcome_is_known = Check("outcome IS NULL OR outcome IN ('ok', 'reverted', 'cancelled')")


class AttemptKind(StrEnum):
    CALL = "call"
    """What was approved."""
    NOOP = "noop"
    """Sends nothing to its own address, so that the nonce is used up."""


class Attempt(Table, tablename="attempt"):
    """One signed form of a transaction; its bytes are stored before they are first sent."""

    id = columns.key()
    organization = columns.reference(Organization)
    transaction = columns.reference(Transaction, index=True)
    kind = columns.text(default="call")
    hash = columns.text(unique=True)
    raw_bytes = columns.binary(unique=True)
    gas_limit = columns.integer()
    max_fee_wei = columns.amount()
    """EIP-1559 `maxFeePerGas`, or the gas price of a legacy one."""
    max_priority_fee_wei = columns.amount()
    is_legacy = columns.flag(default=False)
    signed_at = columns.moment()
    signed_at_block = columns.integer(null=True)
    """The newest block when it was signed."""
    first_sent_at = columns.moment(null=True)
    last_sent_at = columns.moment(null=True)
    last_answer = columns.text(null=True)
    """What the node said last, if it was not plain acceptance."""

    kind_is_known = columns.one_of("kind", AttemptKind)


class SignerReading(Table, tablename="signer_reading"):
    """What a chain last said of a signer that sends there; read every minute."""

    id = columns.key()
    organization = columns.reference(Organization, index=True)
    signer = columns.reference(Signer)
    chain = columns.reference(Chain)
    balance_wei = columns.amount()
    transaction_count = columns.integer()
    """The next nonce as the chain counts."""
    read_at = columns.moment()
    spent_wei = columns.amount(null=True)
    """What it spent in the seven days before `spent_at`, for gas and with its calls."""
    spent_transactions = columns.integer(null=True)
    """How many of its transactions were mined in that time."""
    spent_since = columns.moment(null=True)
    """The beginning of the seven days, or its first transaction if that is later; null where there is none."""
    spent_at = columns.moment(null=True)
    """When that was reckoned; every ten minutes."""
    low_since = columns.moment(null=True)
    """Since when the balance is below the signer's threshold; null while it is not."""

    one_reading = Unique(["signer", "chain"])


class PauseScope(StrEnum):
    ORGANIZATION = "organization"
    CHAIN = "chain"
    CONTRACT = "contract"
    SIGNER = "signer"


class Pause(Table, tablename="pause"):
    """While it lasts, nothing new is signed or sent within its scope; what is out is followed all the same."""

    id = columns.key()
    organization = columns.reference(Organization)
    scope = columns.text()
    subject = columns.text()
    """The id of what is paused."""
    reason = columns.text()
    begun_by = columns.text()
    """The label of whoever stopped it."""
    begun_at = columns.moment()
    ended_at = columns.moment(null=True)

    scope_is_known = columns.one_of("scope", PauseScope)


class Resumption(Table, tablename="resumption"):
    """One member's vote to end a pause: one stops, going on needs as many as an approval."""

    id = columns.key()
    organization = columns.reference(Organization)
    pause = columns.reference(Pause)
    member = columns.reference(Member)
    voted_at = columns.moment()

    one_vote = Unique(["pause", "member"])
