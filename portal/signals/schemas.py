"""What goes into the signals room and what comes out of it."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from portal.signals.tables import SchemaFailure, SignalStatus, SourceStatus

DEFAULT_BODY_BYTES = 1024 * 1024
MAX_BODY_BYTES = 25 * 1024 * 1024
"""The largest delivery that GitHub sends."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f]*$")]
BodyCap = Annotated[int, msgspec.Meta(ge=1024, le=MAX_BODY_BYTES)]
Networks = Annotated[list[Annotated[str, msgspec.Meta(max_length=60)]], msgspec.Meta(max_length=100)]
RateLimit = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Cadence = Annotated[int, msgspec.Meta(ge=60, le=366 * 86400)]
SchemeName = Literal[
    "standard_webhooks",
    "github",
    "stripe",
    "shopify",
    "slack",
    "twilio",
    "svix",
    "hmac",
    "ed25519",
    "bearer",
    "basic",
    "poll",
    "evm_logs",
]


class Receipt(msgspec.Struct, frozen=True):
    """The answer to a delivery that is stored."""

    signal_id: UUID
    status: SignalStatus
    duplicate: bool
    """True where the same delivery had been stored before; nothing was added."""


class SourceInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    scheme: SchemeName
    secret: str | None = None
    """What the sender signs with; made by us where it is not given. A public key must be given."""
    settings: dict[str, Any] = {}
    """What the scheme needs to know; `{}` for most, and as docs/sources.md says for `hmac`, `ed25519`, `basic`,
    `poll` and `evm_logs`."""
    body_cap_bytes: BodyCap = DEFAULT_BODY_BYTES
    allowed_networks: Networks = []
    """CIDR blocks or addresses that deliveries may come from; `[]` is anywhere."""
    rate_limit_per_minute: RateLimit | None = None
    """Authentic deliveries a minute; null is without a limit."""
    on_schema_failure: SchemaFailure = SchemaFailure.QUARANTINE
    expected_every_seconds: Cadence | None = None
    """A silence longer than this is an alarm; null is none."""


class SourceChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is; the scheme stays for ever."""

    name: Name
    body_cap_bytes: BodyCap
    settings: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    allowed_networks: Networks | msgspec.UnsetType = msgspec.UNSET
    rate_limit_per_minute: RateLimit | msgspec.UnsetType | None = msgspec.UNSET
    on_schema_failure: SchemaFailure | msgspec.UnsetType = msgspec.UNSET
    expected_every_seconds: Cadence | msgspec.UnsetType | None = msgspec.UNSET


class SecretInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    secret: str | None = None
    """Made by us where it is not given."""
    overlap_seconds: Annotated[int, msgspec.Meta(ge=0, le=30 * 86400)] | None = None
    """For how long the secrets that are active now stay so; None leaves them without an end."""


class SecretView(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a source; itself it is shown only once, when it is made."""

    id: UUID
    hint: str
    """Its last four characters."""
    created_at: datetime
    last_used_at: datetime | None
    """Accurate to a minute."""
    ends_at: datetime | None


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    name: str
    scheme: str
    settings: dict[str, Any]
    """As they are kept: with every default, names of headers in lower case."""
    status: SourceStatus
    url: str
    """Where the sender posts to."""
    body_cap_bytes: int
    allowed_networks: list[str]
    rate_limit_per_minute: int | None
    on_schema_failure: SchemaFailure
    expected_every_seconds: int | None
    secrets: list[SecretView]
    """Newest first, those that have ended included."""
    last_signal_at: datetime | None
    signals_24h: int
    """In this hour and the 23 before it."""
    rejected_24h: int
    """The same, of deliveries that were refused, or pulls that failed."""
    created_at: datetime
    updated_at: datetime
    """Its version: `change_source` compares it."""


class Reason(msgspec.Struct, frozen=True):
    """Why a signal is quarantined or failed."""

    message: str
    rule_id: UUID | None = None
    path: str | None = None
    """Where in the body, as a JSON Pointer (RFC 6901), if it fails its schema."""


class SignalItem(msgspec.Struct, frozen=True, kw_only=True):
    """A signal in a list."""

    id: UUID
    source_id: UUID
    source_name: str
    external_id: str
    type: str
    status: SignalStatus
    reasons: list[Reason]
    body_bytes: int
    correlation_id: str
    received_at: datetime
    assessed_at: datetime | None


class SignalView(msgspec.Struct, frozen=True, kw_only=True):
    """One signal with what was received and how it was verified."""

    id: UUID
    source_id: UUID
    source_name: str
    scheme: str
    external_id: str
    type: str
    status: SignalStatus
    reasons: list[Reason]
    content_type: str
    payload: Any
    """The body as JSON, integers with every digit; None where it cannot be read as JSON or has expired."""
    body: str | None
    """The body as text, bytes that are not UTF-8 shown as U+FFFD; None once it has expired."""
    body_expired: bool
    """Whether the organisation keeps it no longer; its digest stays."""
    body_bytes: int
    body_digest: str
    """SHA-256 of the body in hex."""
    schema_id: UUID | None
    """The version of a schema that it was checked against last; None where its type has none."""
    secret_id: UUID | None
    secret_hint: str | None
    """Of the secret that the signature was made with; None for what was pulled."""
    skew_ms: int | None
    """Our clock minus the sender's, in milliseconds; None where the scheme signs no time."""
    correlation_id: str
    received_at: datetime
    assessed_at: datetime | None


class SignalFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a list of signals is narrowed to; None is everything."""

    status: SignalStatus | None = None
    source_id: UUID | None = None
    type: str | None = None
    subject: str | None = None
    """The end user, as the sender's systems call them, of an action that came of it."""
    external_id: str | None = None
    correlation_id: str | None = None
    text: str | None = None
    """All of its words occur in the payload, the last one perhaps as a beginning; or it is the external id."""
    since: datetime | None = None
    until: datetime | None = None
    """Excluded."""


class HourCount(msgspec.Struct, frozen=True):
    """Signals received in the hour that begins at `hour`."""

    hour: datetime
    count: int
    troubled: int
    """Now quarantined, failed or dead, of the newest 10,000 that are."""


class RejectedView(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was refused."""

    id: UUID
    source_id: UUID
    source_name: str
    cause: str
    """Code of the error, such as `signature_invalid`."""
    detail: str
    external_id: str | None
    """As claimed; where the signature is wrong nothing vouches for it."""
    body_bytes: int
    ip: str
    correlation_id: str
    received_at: datetime
