"""What goes into the actions room and what comes out of it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from portal.actions.tables import ActionStatus, Verdict
from portal.chain.schemas import FunctionView, Parameter

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Reason = Annotated[str, msgspec.Meta(min_length=3, max_length=500)]
DecimalString = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,77})$")]


class ProposedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that a rule, a member or an API key wants carried out."""

    contract_id: UUID
    function: str
    """Canonical signature, `mint(address,uint256)`."""
    arguments: dict[str, Any]
    """JSON values by argument name; integers beyond 2^53 as decimal strings."""
    policy_id: UUID
    value_wei: int = 0
    end_user_id: UUID | None = None
    signal_id: UUID | None = None
    rule_id: UUID | None = None
    rule_version_id: UUID | None = None
    correlation_id: str | None = None
    """Of the signal; None takes the one of the current request or job."""


class BatchedCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several calls of a contract that are carried out together."""

    function: str
    arguments: dict[str, Any]


class ActionInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a member or an API key may propose: one call, or several of one contract in one transaction."""

    contract_id: UUID
    function: str | None = None
    """Of one call, with its `arguments`; either it or `calls` is given."""
    arguments: dict[str, Any] = {}
    calls: Annotated[list[BatchedCall], msgspec.Meta(min_length=1, max_length=50)] | None = None
    """Several calls in order, all or nothing, of a contract that has `multicall(bytes[])`. No money goes along."""
    policy_id: UUID
    value_wei: DecimalString = "0"
    end_user_id: UUID | None = None


class ApprovalInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    digest: str
    """Hex of the digest that was shown."""
    code: str
    """Six digits of the second factor."""
    outcome_digest: str | None = None
    """Of the simulation that was shown: if the newest one has another, nothing is approved. Without it, what the
    newest one says is approved, which may have come after the person looked."""


class RejectionInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Reason


class DeploymentInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A contract to be deployed by an action: of one of our templates, or compiled by yourself."""

    name: Name
    template: str | None = None
    """`points`, `certificates` or `records`; either it or `artifact` is given."""
    artifact: dict[str, Any] | None = None
    """The JSON that Foundry, Hardhat, solc or Vyper wrote for one contract: its `abi` and `bytecode` are read."""
    chain_id: int
    signer_id: UUID
    policy_id: UUID
    arguments: dict[str, Any]
    """Of the constructor, by name."""
    allowed_functions: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    """Of an artifact: canonical signatures; nothing else of it can be called."""
    symbol: Annotated[str, msgspec.Meta(min_length=1, max_length=20)] | None = None
    """Of an artifact's amounts, with their `decimals`."""
    decimals: Annotated[int, msgspec.Meta(ge=0, le=77)] | None = None


class ArtifactView(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked before a compiled contract is deployed."""

    inputs: list[Parameter]
    """Of its constructor."""
    functions: list[FunctionView]
    """Those that change state."""


class ContractInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A contract that exists on chain already."""

    name: Name
    chain_id: int
    address: str
    abi: list[dict[str, Any]]
    allowed_functions: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]
    """Canonical signatures; nothing else of it can be called."""
    signer_id: UUID
    symbol: Annotated[str, msgspec.Meta(min_length=1, max_length=20)] | None = None
    decimals: Annotated[int, msgspec.Meta(ge=0, le=77)] | None = None


class PolicyInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must be true before an action may run."""

    name: Name
    approvals_required: Annotated[int, msgspec.Meta(ge=0, le=20)]
    """0 approves automatically once the simulation succeeds."""
    expires_after_seconds: Annotated[int, msgspec.Meta(ge=60, le=31536000)] = 604800
    execute_within_seconds: Annotated[int, msgspec.Meta(ge=60, le=31536000)] = 86400
    """After its approval an action is carried out within this time or not at all."""
    most_cost_wei: DecimalString | None = None
    """The most that one action may cost in the currency of its chain, value and gas; null is no limit of the policy."""
    most_cost_a_day_wei: DecimalString | None = None
    """The most that all actions under the policy may cost on one chain in 24 hours; what would exceed it waits."""


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """A policy with its newest version."""

    id: UUID
    name: str
    version_id: UUID
    version: int
    approvals_required: int
    expires_after_seconds: int
    execute_within_seconds: int
    most_cost_wei: str | None
    most_cost_a_day_wei: str | None
    created_at: datetime
    changed_at: datetime


class PolicyOfAction(msgspec.Struct, frozen=True):
    """The policy version that an action is bound to."""

    id: UUID
    name: str
    version_id: UUID
    version: int
    execute_within_seconds: int
    most_cost_wei: str | None
    most_cost_a_day_wei: str | None


class BalanceChange(msgspec.Struct, frozen=True, kw_only=True):
    """What one address gains or loses of one thing. Addresses are EIP-55, amounts in smallest units."""

    holder: str
    holder_name: str | None = None
    """What the organisation calls it: an end user, a signer or a contract."""
    asset: str
    """`native`, `erc20`, `erc721` or `erc1155`."""
    token: str | None
    """The token's contract; null for the chain's own currency."""
    token_id: str | None
    """Which one, of ERC-721 and ERC-1155."""
    is_registered: bool
    """Whether the token is a contract of the organisation; else `symbol` and `decimals` are what it says of itself."""
    symbol: str | None
    decimals: int | None
    change: str
    """Negative for a loss. Of the sender's native currency without the fee for gas."""
    before: str | None = None
    """The balance at the block of the simulation; null where it was not read."""
    what: str = ""
    """`50 PTS`, without a sign."""
    text: str = ""
    """`Ada Park gets 50 PTS`."""


class EmittedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that would be emitted."""

    contract: str
    contract_name: str | None = None
    event: str | None
    """Canonical signature; null where no ABI that we have names it."""
    arguments: list[dict[str, Any]]
    """`[{"name", "type", "value"}]`, as of calls; of an indexed text, array or tuple a log holds the hash alone."""
    topics: list[str]
    data: str
    """At most its first 4,096 bytes."""
    data_bytes: int
    symbol: str | None
    decimals: int | None
    """Of its contract, where the organisation has registered it."""
    text: str = ""
    """What it permits, where it permits something: `Treasury lets 0x1234…cdef spend 100 PTS`; else empty."""


class SimulatedEffects(msgspec.Struct, frozen=True, kw_only=True):
    """What a call that succeeds would change, as the node traced it."""

    source: str
    """How it was found: `debug_traceCall` or `eth_simulateV1`."""
    changes: list[BalanceChange]
    more_changes: int
    """How many more there are than listed."""
    events: list[EmittedEvent]
    more_events: int


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain says would happen, at one block."""

    ok: bool
    gas: int | None
    """Units of gas estimated; None when it reverts."""
    block_number: int
    revert_reason: str | None
    simulated_at: datetime
    effects: SimulatedEffects | None = None
    """Null when it reverts, and where no node of the chain traces: then only success and gas are known."""
    outcome_digest: str = ""
    """64 hex digits, the same for every simulation by which the same would happen: success, who gains and loses what,
    and each event. Gas, balances before and names do not count."""
    is_stale: bool = False
    """More than 5 minutes old while the chain has moved on: what it says may not hold any more."""


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    member_id: UUID
    email: str
    name: str
    verdict: Verdict
    reason: str | None
    second_factor: str | None
    counts: bool
    """False where an approval no longer counts: the member was disabled or lost the permission."""
    decided_at: datetime


class CallView(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a batch, decoded from the bytes that would be sent."""

    function: str
    """Canonical signature; empty where the ABI does not name it."""
    arguments: list[dict[str, Any]]
    calldata: str
    summary: str


class ActionView(msgspec.Struct, frozen=True, kw_only=True):
    """One action, with everything a person needs to decide about it."""

    id: UUID
    status: ActionStatus
    summary: str
    digest: str
    """64 hex digits."""
    fingerprint: str
    contract_id: UUID
    contract_name: str
    contract_symbol: str | None
    contract_decimals: int | None
    """None where its amounts are whole numbers."""
    chain_id: int
    chain_name: str
    currency: str
    """Of the chain, in which `value_wei` and the costs are, with 18 decimals."""
    function: str
    arguments: list[dict[str, Any]]
    calls: list[CallView]
    """Of a batch, where `function` is `multicall(bytes[])`; else empty."""
    value_wei: str
    to_address: str | None
    signer_id: UUID
    signer_address: str | None
    calldata: str
    simulation: Simulation | None
    approvals: list[DecisionView]
    """Every decision, rejections too, in the order they were made."""
    approvals_given: int
    """Of those, the approvals that count."""
    approvals_required: int
    policy: PolicyOfAction
    because: str | None
    """`GitHub reported sponsorship`; None where no signal stands behind it."""
    proposed_by: str | None
    """E-mail of the member; None where a rule, an API key or the portal itself proposed it."""
    proposed_by_member_id: UUID | None
    proposed_by_key: str | None
    """Name of the API key that proposed it."""
    proposed_by_key_id: UUID | None
    key_created_by: str | None
    """E-mail of the member who made that key."""
    proposer_member_id: UUID | None
    """Whose approval does not count: the member who proposed it, or who made the API key that did."""
    rule_id: UUID | None
    rule_version: int | None
    signal_id: UUID | None
    end_user_id: UUID | None
    end_user_name: str | None
    correlation_id: str
    proposed_at: datetime
    expires_at: datetime
    decided_at: datetime | None


class InboxItem(msgspec.Struct, frozen=True, kw_only=True):
    """An action that waits for one member."""

    action: ActionView
    warnings: list[str]
    """What is unusual about it, as sentences; an empty list where nothing is."""


class SigningOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found approved: the only thing that may be signed."""

    chain_id: int
    signer_id: UUID
    to: str | None
    """None deploys."""
    data: bytes
    value_wei: int
    policy_id: UUID
    most_cost_wei: int | None = None
    """What the policy allows for it, value and gas; None is no limit."""
    most_cost_a_day_wei: int | None = None
    """What the policy allows on this chain within 24 hours."""

    def matches(self, *, to: str | None, data: bytes, value_wei: int, chain_id: int) -> bool:
        """Whether a transaction with these fields does exactly what was approved."""
        same_target = (self.to is None and not to) or (
            self.to is not None and to is not None and self.to.lower() == to.lower()
        )
        return same_target and (self.data, self.value_wei, self.chain_id) == (data, value_wei, chain_id)
