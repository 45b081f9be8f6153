"""What this room shows of chains, contracts and signers. Times are UTC; addresses are EIP-55."""

from datetime import datetime
from uuid import UUID

import msgspec


class Parameter(msgspec.Struct, frozen=True):
    """One input of a function. `type` is canonical, tuples spelt out: `(uint256,address)[]`."""

    name: str
    type: str
    max_bytes: int | None = None
    """Of a text in UTF-8, where the contract has a limit that we know."""


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
    functions: list[FunctionView]
    """Those that change state, in the order of the ABI."""
    created_at: datetime


class SignerView(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    purpose: str
    status: str
    address: str | None
    """None until the worker has made the key."""
    end_user_id: UUID | None
    created_at: datetime
