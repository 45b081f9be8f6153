"""What carries out approved actions: lanes, transactions and their signed attempts."""

from enum import StrEnum

from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.tables import Organization
from portal.actions.tables import Action
from portal.chain.tables import Chain, Signer
from portal.db import columns


class Lane(Table, tablename="lane"):
    """The ordered nonces of one signer on one chain; its row lock makes one writer."""

    id = columns.key()
    organization = columns.reference(Organization)
    signer = columns.reference(Signer)
    chain = columns.reference(Chain)
    next_nonce = columns.integer(null=True)
    """Null until seeded from the chain; from then on ours, never lowered by what a node says."""

    one_lane = Unique(["signer", "chain"])


class TransactionStatus(StrEnum):
    QUEUED = "queued"
    NONCED = "nonced"
    SIGNED = "signed"
    BROADCAST = "broadcast"
    MINED = "mined"
    CONFIRMED = "confirmed"
    FINALIZED = "finalized"
    REFUSED = "refused"
    """The gate at signing found a difference to what was approved. Holds no nonce."""
    REJECTED = "rejected"
    """The node refused the bytes for good before they were ever sent. Holds no nonce."""


class Outcome(StrEnum):
    OK = "ok"
    REVERTED = "reverted"
    CANCELLED = "cancelled"


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
    outcome_is_known = Check("outcome IS NULL OR outcome IN ('ok', 'reverted', 'cancelled')")


class Attempt(Table, tablename="attempt"):
    """One signed form of a transaction; its bytes are stored before they are first sent."""

    id = columns.key()
    organization = columns.reference(Organization)
    transaction = columns.reference(Transaction, index=True)
    hash = columns.text(unique=True)
    raw_bytes = columns.binary(unique=True)
    gas_limit = columns.integer()
    max_fee_wei = columns.amount()
    """EIP-1559 `maxFeePerGas`."""
    max_priority_fee_wei = columns.amount()
    signed_at = columns.moment()
    first_sent_at = columns.moment(null=True)
    last_sent_at = columns.moment(null=True)
    last_answer = columns.text(null=True)
    """What the node said last, if it was not plain acceptance."""
