"""What this room shows of chains, contracts and signers. Times are UTC; addresses are EIP-55."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class Parameter(msgspec.Struct, frozen=True):
    """One input of a function. `type` is canonical, tuples spelt out: `(uint256,address)[]`."""

    name: str
    type: str
    max_bytes: int | None = None
    """Of a text in UTF-8, where the contract has a limit that we know."""
    example: Any = None
    """A value of the type as JSON writes it, with the names of a tuple's parts."""


class FunctionView(msgspec.Struct, frozen=True):
    signature: str
    """Canonical: `mint(address,uint256)`."""
    name: str
    label: str
    """For people: `mint(to: address, amount: uint256)`."""
    inputs: list[Parameter]
    payable: bool
    allowed: bool
    """Whether actions may call it."""


class ChainView(msgspec.Struct, frozen=True):
    id: int
    name: str
    currency: str
    confirmations: int
    explorer_url: str | None
    is_local: bool
    head_number: int | None
    head_at: datetime | None
    paused_at: datetime | None
    final_depth: int | None
    """Blocks after which a block is final; null where the chain says so itself (`finalized`)."""
    fee_style: str
    """`eip1559` or `legacy`, one gas price."""
    fee_percentile: int
    """Of the tips paid in recent blocks, what a new transaction offers."""
    base_fee_percent: int
    """Of the next base fee (of a legacy gas price), what a new transaction allows for."""
    least_tip_wei: str
    most_fee_wei: str | None
    """Never is more offered per unit of gas."""
    stuck_blocks: int
    """Blocks after which what is not mined is offered for more."""
    in_flight_limit: int
    """Unmined transactions of one signer at a time."""
    updated_at: datetime | None
    """When whoever runs the installation last set these by hand; null while the chain's preset holds."""


class EndpointView(msgspec.Struct, frozen=True):
    """One RPC endpoint of a chain as one process sees it. Its address, which may hold a key, is not shown."""

    name: str
    """Its host where the address holds nothing but that, else `endpoint 2`: its place in the settings."""
    state: str
    """`ok`, `lags`, `disagrees`, `failed`, `closed` (left alone for a while) or `unknown`."""
    message: str
    head_number: int | None
    behind: int
    """Blocks behind the best endpoint."""


class ChainState(msgspec.Struct, frozen=True):
    """A chain with how a worker last saw its endpoints."""

    chain: ChainView
    endpoints: list[EndpointView]
    """In the order of the settings; empty while no worker has looked."""
    watched_at: datetime | None
    """When one of them last answered a worker, to within five seconds."""


class ChainAnswer(msgspec.Struct, frozen=True):
    """A chain with what its endpoints say just now."""

    chain: ChainView
    endpoints: list[EndpointView]
    """In the order of the settings; empty where this process has none."""
    tip_wei: int | None
    """What a transaction would offer now, per unit of gas; None where no node tells in time."""
    fee_wei: int | None
    """And the most that it would pay, the tip included."""
    trouble: str | None
    """Why the fees cannot be known now."""


class ContractView(msgspec.Struct, frozen=True):
    id: UUID
    chain_id: int
    chain_name: str
    name: str
    template: str | None
    status: str
    address: str | None
    explorer_url: str | None
    """Its page at the chain's explorer, if it has an address and the chain an explorer."""
    symbol: str | None
    decimals: int | None
    signer_id: UUID
    signer_address: str | None
    signer_group_id: UUID | None
    """Whose active signers may send its calls, too."""
    functions: list[FunctionView]
    """Those that change state; those that actions may call come first."""
    created_at: datetime


class SignerView(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    kind: str
    """`local`, `aws_kms` or `web3signer`: who keeps the key."""
    purpose: str
    status: str
    trouble: str | None
    """Why it cannot sign just now, as a sentence; None while all is well."""
    address: str | None
    """None until the worker has made the key, or has seen that it can be used."""
    key_reference: str | None
    """Of a remote one, for those who may change signers: the KMS key, or `service#public key`."""
    signer_group_id: UUID | None
    signer_group_name: str | None
    end_user_id: UUID | None
    created_at: datetime


class GroupMember(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    status: str
    trouble: str | None
    address: str | None


class SignerGroupView(msgspec.Struct, frozen=True):
    """Signers that share the calls of contracts: each proposal takes the one with the least to do."""

    id: UUID
    name: str
    signers: list[GroupMember]
    """By name."""
    contract_ids: list[UUID]
    """Whose calls they send."""
    created_at: datetime
