"""Chains, the contracts that may be called on them, and the keys that sign."""

from enum import StrEnum

from piccolo.columns import BigInt
from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.db import columns


class FeeStyle(StrEnum):
    EIP1559 = "eip1559"
    LEGACY = "legacy"
    """One gas price, for chains or nodes without a base fee."""


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
    watched_at = columns.moment(null=True)
    """When a node last answered our watcher, to within five seconds."""
    endpoints = columns.json(null=True)
    """How the nodes are and compare, as our watcher last saw them: a list of what `chain.schemas.EndpointView` says."""
    final_number = columns.integer(null=True)
    """The highest block that a node called final; null while none has."""
    paused_at = columns.moment(null=True)
    """While whoever runs the installation has set it, nothing new is signed or sent on this chain for anybody."""
    final_depth = columns.integer(null=True)
    """Blocks after which a block counts as final; null where the node's `finalized` tag says."""
    fee_style = columns.text(default="eip1559")
    fee_percentile = columns.integer(default=50)
    """Of the tips paid in recent blocks, what a new transaction offers."""
    base_fee_percent = columns.integer(default=200)
    """Of the next block's base fee (or, on a legacy chain, of the node's gas price), what a new transaction allows."""
    least_tip_wei = columns.amount(default=1)
    most_fee_wei = columns.amount(null=True)
    """The most that is ever offered per unit of gas; null is no limit but those of the policy."""
    stuck_blocks = columns.integer(default=5)
    """Blocks that the head of a lane may be passed over before its fees are raised."""
    in_flight_limit = columns.integer(default=16)
    """Unmined transactions of one lane: what a node's pool keeps executable for one address."""
    updated_at = columns.moment(null=True)
    """When an operator last changed how it is used; null while the preset holds."""

    confirms_at_all = Check("confirmations >= 1")
    fee_style_is_known = columns.one_of("fee_style", FeeStyle)
    fees_make_sense = Check(
        "fee_percentile BETWEEN 1 AND 100 AND base_fee_percent BETWEEN 100 AND 1000 AND least_tip_wei >= 1 "
        "AND (most_fee_wei IS NULL OR most_fee_wei >= least_tip_wei)"
    )
    moves_on = Check("stuck_blocks >= 1 AND in_flight_limit BETWEEN 1 AND 16 AND final_depth >= confirmations")


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


class SignerKind(StrEnum):
    LOCAL = "local"
    """A key in our database, sealed with a key that only the worker has."""
    AWS_KMS = "aws_kms"
    WEB3SIGNER = "web3signer"


class SignerGroup(Table, tablename="signer_group"):
    """Signers that may all send for a contract: each proposal takes the one with the least to do."""

    id = columns.key()
    organization = columns.reference("Organization")
    name = columns.text()
    created_at = columns.moment()

    one_group_name = Unique(["organization", "name"])


class Signer(Table, tablename="signer"):
    """A key the organisation holds, for one address; where it is a local one, only the worker can decrypt it."""

    id = columns.key()
    organization = columns.reference("Organization", index=True)
    name = columns.text()
    kind = columns.text(default="local")
    purpose = columns.text()
    status = columns.text()
    signer_group = columns.reference(SignerGroup, null=True, index=True)
    end_user = columns.reference("EndUser", null=True)
    """For whom a key of purpose `holds` was made."""
    address = columns.text(null=True)
    """EIP-55; null while pending."""
    encrypted_key = columns.binary(null=True)
    """Of a local one."""
    sealed_with = columns.text(null=True)
    """The id of the key that `encrypted_key` is sealed with, a digest of it: the worker's key may have been rotated."""
    key_reference = columns.text(null=True)
    """Of a remote one: the id or ARN of the KMS key, or the base address of the signing service."""
    trouble = columns.text(null=True)
    """Why it cannot sign just now, as a sentence; null while all is well."""
    low_balance_wei = columns.amount(null=True)
    """Below this a top-up is proposed; null where nobody asked for it."""
    top_up_wei = columns.amount(null=True)
    """How much a top-up sends; null where a low balance is only an alarm."""
    top_up_from = columns.reference("Signer", null=True)
    """The treasury: the signer that sends the top-up."""
    top_up_policy = columns.reference("Policy", null=True)
    """Under which a top-up is proposed."""
    created_at = columns.moment()

    one_address = Unique(["address"])
    one_key_an_end_user = Unique(["end_user"])
    status_is_known = columns.one_of("status", SignerStatus)
    purpose_is_known = columns.one_of("purpose", SignerPurpose)
    kind_is_known = columns.one_of("kind", SignerKind)
    top_up_is_whole = Check(
        "num_nonnulls(top_up_wei, top_up_from, top_up_policy) IN (0, 3) "
        "AND (top_up_wei IS NULL OR (top_up_wei > 0 AND low_balance_wei IS NOT NULL AND top_up_from <> id))"
    )
    active_can_sign = Check(
        "status = 'pending' OR (address IS NOT NULL AND num_nonnulls(encrypted_key, key_reference) = 1)"
    )


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
    signer_group = columns.reference(SignerGroup, null=True)
    """Whose signers may send them, too; each proposal takes the one with the least to do."""
    created_at = columns.moment()

    one_contract = Unique(["organization", "chain", "address"])
    status_is_known = columns.one_of("status", ContractStatus)
    active_has_address = Check("status <> 'active' OR address IS NOT NULL")
