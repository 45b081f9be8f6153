"""Chains, the contracts that may be called on them, and the keys that sign."""

from enum import StrEnum

from piccolo.columns import BigInt
from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.db import columns


class Chain(Table, tablename="chain"):
    """A chain this installation has a node for; shared by all organisations."""

    id = BigInt(primary_key=True, default=None, null=False)
    """The EIP-155 chain id."""
    name = columns.text()
    currency = columns.text()
    """Symbol of the native currency, which has 18 decimals."""
    confirmations = columns.integer()
    """Blocks on top of a transaction's block before it counts as confirmed."""
    explorer_url = columns.text(null=True)
    is_local = columns.flag(default=False)
    genesis_hash = columns.text()
    """What tells one chain from another with the same id; compared on every start."""
    head_number = columns.integer(null=True)
    head_hash = columns.text(null=True)
    head_at = columns.moment(null=True)
    """When our watcher last saw a new head."""
    paused_at = columns.moment(null=True)
    """While an operator has set it, no new transaction is signed or sent."""

    confirms_at_all = Check("confirmations >= 1")


class SignerStatus(StrEnum):
    PENDING = "pending"
    """Waits for the worker, which alone can make and encrypt the key."""
    ACTIVE = "active"
    DISABLED = "disabled"


class SignerPurpose(StrEnum):
    SENDS = "sends"
    """Pays for and sends the organisation's transactions."""
    HOLDS = "holds"
    """Holds what an end user owns."""


class Signer(Table, tablename="signer"):
    """A key the organisation holds, for one address. Only the worker can decrypt it."""

    id = columns.key()
    organization = columns.reference("Organization", index=True)
    name = columns.text()
    purpose = columns.text()
    status = columns.text()
    end_user = columns.reference("EndUser", null=True)
    """For whom a key of purpose `holds` was made."""
    address = columns.text(null=True)
    """EIP-55; null while pending."""
    encrypted_key = columns.binary(null=True)
    created_at = columns.moment()

    one_address = Unique(["address"])
    one_key_an_end_user = Unique(["end_user"])
    status_is_known = columns.one_of("status", SignerStatus)
    purpose_is_known = columns.one_of("purpose", SignerPurpose)
    active_can_sign = Check("status = 'pending' OR (address IS NOT NULL AND encrypted_key IS NOT NULL)")


class ContractStatus(StrEnum):
    DEPLOYING = "deploying"
    """Waits for its deployment action to be confirmed."""
    ACTIVE = "active"
    FAILED = "failed"
    """Its deployment was rejected, expired or reverted."""


class Contract(Table, tablename="contract"):
    """A registered contract: only these can be called, and only their allowed functions."""

    id = columns.key()
    organization = columns.reference("Organization", index=True)
    chain = columns.reference(Chain)
    name = columns.text()
    template = columns.text(null=True)
    """`points`, `certificates` or `records` where we compiled it; null where registered by address."""
    status = columns.text()
    address = columns.text(null=True)
    """EIP-55; null until deployed."""
    abi = columns.json()
    allowed_functions = columns.json()
    """Canonical signatures such as `mint(address,uint256)`."""
    symbol = columns.text(null=True)
    decimals = columns.integer(null=True)
    signer = columns.reference(Signer)
    """Sends the calls of this contract (for ours: the owner that may mint)."""
    created_at = columns.moment()

    one_contract = Unique(["organization", "chain", "address"])
    status_is_known = columns.one_of("status", ContractStatus)
    active_has_address = Check("status <> 'active' OR address IS NOT NULL")
