"""What goes into the notify room and what comes out of it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from portal.notify.states import DeliveryStatus, WebhookStatus

MAX_OVERLAP_SECONDS = 30 * 86400

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f]*$")]
Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
TypeForm = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Types = Annotated[list[TypeForm], msgspec.Meta(min_length=1, max_length=50)]


class Subject(msgspec.Struct, frozen=True):
    """What an event is about."""

    kind: str
    id: str


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An event, in the feed as in the body of a webhook."""

    id: UUID
    """Stable: also the `webhook-id` of every attempt to deliver it."""
    type: str
    position: int
    """1, 2, 3 ... within the organisation, without a gap. Of two events about one subject the higher happened later."""
    timestamp: datetime
    """When it happened."""
    organization_id: UUID
    subject: Subject
    correlation_id: str
    data: dict[str, Any]


class WebhookInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    url: Url
    """Where events are posted to."""
    types: Types
    """Which events: types such as `transaction.mined`, `transaction.*` for all of a noun, or `*`."""


class SecretInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    overlap_seconds: Annotated[int, msgspec.Meta(ge=0, le=MAX_OVERLAP_SECONDS)] | None = 86400
    """For how long deliveries are signed with the secrets there are now, too; null leaves them without an end."""


class SecretView(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a webhook; itself it is shown only once, when it is made."""

    id: UUID
    hint: str
    """Its last four characters."""
    created_at: datetime
    ends_at: datetime | None


class WebhookView(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    name: str
    url: str
    types: list[str]
    status: WebhookStatus
    disabled_because: str | None
    secrets: list[SecretView]
    """Newest first, those that have ended included."""
    waiting: int
    """Deliveries that are still to be made; counted up to 1,000."""
    failing_since: datetime | None
    """The first failed attempt since the last that succeeded; after five days the webhook is disabled."""
    delivered_at: datetime | None
    """The last attempt that succeeded."""
    rest_until: datetime | None
    """The receiver was not there, or asked for time: until then nothing is sent."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    """Its version: `change_webhook` compares it."""


class DeliveryItem(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way to one webhook."""

    id: UUID
    event_id: UUID
    type: str
    position: int
    subject: Subject
    status: DeliveryStatus
    attempts: int
    """Of ten; asking for a redelivery begins anew."""
    due_at: datetime | None
    """The next attempt, or that it is due; null where there is none any more."""
    error: str | None
    """Why the last attempt failed."""
    status_code: int | None
    """Of the last attempt."""
    created_at: datetime
    delivered_at: datetime | None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    started_at: datetime
    latency_ms: int
    status_code: int | None
    error: str | None
    response_body: str | None
    """Its first 2 kB."""


class DeliveryView(DeliveryItem, frozen=True, kw_only=True):
    event: EventView
    log: list[AttemptView]
    """Every attempt, the newest first."""
