"""What is shown of schemas of signals, and of trying and proposing them."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from portal.signals.schemas import Reason


class SignalSchemaView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the schema of one type of a source's signals."""

    id: UUID
    source_id: UUID
    type: str
    number: int
    """1, 2, 3 ... for each type."""
    schema: dict[str, Any] | None
    """None ends it: from this version on the type has no schema."""
    in_force: bool
    """Whether deliveries are checked against this version."""
    created_by: str | None
    """The member's e-mail address; None where an API key made it."""
    created_at: datetime


class TypeView(msgspec.Struct, frozen=True, kw_only=True):
    """A type of a source's signals."""

    type: str
    signals: int
    """Of the source's newest 5,000."""
    last_at: datetime | None
    """When the last of those came."""
    schema_number: int | None
    """The version of its schema that is in force; None where it has none."""


class SchemaProposal(msgspec.Struct, frozen=True, kw_only=True):
    """A schema that all signals it was inferred from pass. Nothing is stored."""

    type: str
    signals: int
    """From how many signals, the newest ones of the type."""
    schema: dict[str, Any]


class TrialFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that the schema would not let pass."""

    signal_id: UUID
    external_id: str
    received_at: datetime
    reasons: list[Reason]


class SchemaTrial(msgspec.Struct, frozen=True, kw_only=True):
    """What a schema would have made of the newest signals of its type. Nothing is stored."""

    type: str
    signals: int
    """How many were looked at."""
    passed: int
    failures: list[TrialFailure]
    """Of those that failed, the newest ten."""
