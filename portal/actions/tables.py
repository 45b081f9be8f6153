"""Policies, proposed actions and the decisions of people about them."""

from enum import StrEnum

from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.tables import ApiKey, EndUser, Member, Organization
from portal.chain.tables import Chain, Contract, Signer
from portal.db import columns
from portal.signals.tables import Signal


class Policy(Table, tablename="policy"):
    """What must be true before an action may run. Its versions are immutable."""

    id = columns.key()
    organization = columns.reference(Organization, index=True)
    name = columns.text()
    created_at = columns.moment()

    one_policy_name = Unique(["organization", "name"])


class PolicyVersion(Table, tablename="policy_version"):
    """One edition of a policy; an action is bound to the edition it was proposed under, and where the newest one is
    stricter, to that (the view `policy_terms`)."""

    id = columns.key()
    policy = columns.reference(Policy)
    number = columns.integer()
    approvals_required = columns.integer()
    """0 approves automatically once the simulation succeeds."""
    expires_after_seconds = columns.integer()
    execute_within_seconds = columns.integer(default=86_400)
    """After its approval an action is carried out within this time or not at all."""
    most_cost_wei = columns.amount(null=True)
    """The most that one action may cost, value and gas; null is no limit but the engine's own."""
    most_cost_a_day_wei = columns.amount(null=True)
    """The most that all actions under this policy may cost on one chain within 24 hours; null is no limit."""
    created_at = columns.moment()

    one_policy_version = Unique(["policy", "number"])
    is_sensible = Check(
        "approvals_required BETWEEN 0 AND 20 AND expires_after_seconds BETWEEN 60 AND 31536000 "
        "AND execute_within_seconds BETWEEN 60 AND 31536000"
    )


class ActionStatus(StrEnum):
    PROPOSED = "proposed"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Action(Table, tablename="action"):
    """A proposed call of a contract. The call and its digest never change."""

    id = columns.key()
    organization = columns.reference(Organization)
    signal = columns.reference(Signal, null=True)
    rule = columns.reference("Rule", null=True)
    rule_version = columns.reference("RuleVersion", null=True)
    end_user = columns.reference(EndUser, null=True, index=True)
    contract = columns.reference(Contract)
    chain = columns.reference(Chain)
    signer = columns.reference(Signer)
    """The one that sends it, chosen when it was proposed."""
    function = columns.text()
    """Canonical signature, `mint(address,uint256)`; `constructor(...)` deploys."""
    arguments = columns.json()
    """`[{"name", "type", "value"}]` in the order of the ABI; integers as decimal strings."""
    to_address = columns.text(null=True)
    """EIP-55; null deploys a contract."""
    calldata = columns.binary()
    value_wei = columns.amount()
    digest = columns.binary()
    """SHA-256 over the canonical call, see `actions.digest`."""
    policy_version = columns.reference(PolicyVersion)
    status = columns.text()
    summary = columns.text()
    """What would happen, as a sentence."""
    proposed_by = columns.reference(Member, null=True)
    """Null where no member proposed it by hand."""
    proposed_by_key = columns.reference(ApiKey, null=True)
    """The API key that proposed it: the member who made that counts as the proposer."""
    simulation = columns.json(null=True)
    """`{"ok", "gas", "block_number", "revert_reason", "effects"}`; null until simulated."""
    simulated_at = columns.moment(null=True)
    correlation_id = columns.text(index=True)
    proposed_at = columns.moment()
    expires_at = columns.moment()
    decided_at = columns.moment(null=True)
    queued_at = columns.moment(null=True)
    """When a transaction was made for it; null while nobody has picked it up."""

    once_per_rule = Unique(["signal", "rule"])
    status_is_known = columns.one_of("status", ActionStatus)
    value_is_unsigned = Check("value_wei >= 0")


class Verdict(StrEnum):
    APPROVAL = "approval"
    REJECTION = "rejection"


class Decision(Table, tablename="decision"):
    """One member's approval or rejection of one action."""

    id = columns.key()
    organization = columns.reference(Organization)
    action = columns.reference(Action)
    member = columns.reference(Member)
    verdict = columns.text()
    digest = columns.binary()
    """The digest that was shown to and confirmed by the member."""
    reason = columns.text(null=True)
    second_factor = columns.text(null=True)
    """`totp` for an approval."""
    decided_at = columns.moment()

    once_a_member = Unique(["action", "member"])
    verdict_is_known = columns.one_of("verdict", Verdict)
