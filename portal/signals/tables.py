"""Sources, their secrets, the signals they sent and the deliveries that were refused."""

from enum import StrEnum

from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.tables import Organization
from portal.db import columns


class SourceStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"


class Source(Table, tablename="source"):
    """A configured sender."""

    id = columns.key()
    organization = columns.reference(Organization, index=True)
    name = columns.text()
    scheme = columns.text()
    """A name from the registry in `signals.schemes`."""
    status = columns.text()
    body_cap_bytes = columns.integer()
    created_at = columns.moment()
    updated_at = columns.moment()
    """Also its version: the ETag is made of it."""

    one_source_name = Unique(["organization", "name"])
    status_is_known = columns.one_of("status", SourceStatus)


class SourceSecret(Table, tablename="source_secret"):
    """What a source signs with, encrypted with the secret key, shown once when made."""

    id = columns.key()
    source = columns.reference(Source, index=True)
    ciphertext = columns.binary()
    hint = columns.text()
    """The last four characters, to recognise it by."""
    created_at = columns.moment()
    last_used_at = columns.moment(null=True)
    ends_at = columns.moment(null=True)
    """Not accepted from then on; null while it has no end."""


class SignalStatus(StrEnum):
    RECEIVED = "received"
    ASSESSED = "assessed"
    """At least one rule matched and proposed an action."""
    IGNORED = "ignored"
    """No rule matched."""
    QUARANTINED = "quarantined"
    """Authentic, but its body cannot be read as JSON."""
    FAILED = "failed"
    """A rule could not be evaluated; `reasons` says why."""
    DEAD = "dead"


class Signal(Table, tablename="signal"):
    """One authenticated inbound fact. What was received is never changed; only its assessment is."""

    id = columns.key()
    organization = columns.reference(Organization)
    source = columns.reference(Source)
    external_id = columns.text()
    """The sender's id of this delivery."""
    type = columns.text()
    status = columns.text()
    reasons = columns.json()
    """Why it is `failed` or `quarantined`: `[{"rule_id": ... or null, "message": ...}]`, else `[]`."""
    content_type = columns.text()
    body = columns.binary()
    """The bytes as received."""
    body_digest = columns.binary()
    """SHA-256 of `body`."""
    secret = columns.reference(SourceSecret)
    """The secret its signature was made with."""
    skew_ms = columns.integer(null=True)
    """Our clock minus the sender's timestamp; null where the scheme has none."""
    correlation_id = columns.text(index=True)
    received_at = columns.moment()
    assessed_at = columns.moment(null=True)

    stored_once = Unique(["source", "external_id"])
    external_id_is_given = Check("external_id <> ''")
    status_is_known = columns.one_of("status", SignalStatus)


class RejectedDelivery(Table, tablename="rejected_delivery"):
    """A delivery to a known source that was refused, with the cause; bounded per source."""

    id = columns.key()
    organization = columns.reference(Organization)
    source = columns.reference(Source)
    cause = columns.text()
    """Code of the error, such as `signature_invalid`."""
    detail = columns.text()
    external_id = columns.text(null=True)
    body_bytes = columns.integer()
    ip = columns.text()
    correlation_id = columns.text()
    received_at = columns.moment()
