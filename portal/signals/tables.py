"""Sources, their secrets, the signals they sent and the deliveries that were refused."""

from enum import StrEnum

from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.tables import Organization
from portal.db import columns


class SourceStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"


class SchemaFailure(StrEnum):
    """What becomes of an authentic delivery that fails the schema of its type."""

    QUARANTINE = "quarantine"
    """It is stored and acknowledged, and no rule sees it."""
    REFUSE = "refuse"
    """It is answered 422 and kept as a refused delivery."""


class Source(Table, tablename="source"):
    """A configured sender."""

    id = columns.key()
    organization = columns.reference(Organization, index=True)
    name = columns.text()
    scheme = columns.text()
    """A name from the registry in `signals.schemes`, or a way to pull: `poll`, `evm_logs`."""
    settings = columns.json()
    """What the scheme needs to know besides its secrets, in the form that the scheme declares; `{}` for most."""
    status = columns.text()
    body_cap_bytes = columns.integer()
    allowed_networks = columns.json()
    """CIDR blocks that deliveries may come from; `[]` is anywhere."""
    rate_limit_per_minute = columns.integer(null=True)
    """Authentic deliveries a minute over all web processes; null is without a limit."""
    on_schema_failure = columns.text()
    expected_every_seconds = columns.integer(null=True)
    """A silence longer than this is an alarm; null is none."""
    quiet_since = columns.moment(null=True)
    """When the alarm went off; null while all is well."""
    created_at = columns.moment()
    updated_at = columns.moment()
    """Also its version: the ETag is made of it, and a delivery is stored only if it was checked against this version.
    Whatever changes how deliveries are checked (secrets, schemas, status) therefore changes it, too."""

    one_source_name = Unique(["organization", "name"])
    status_is_known = columns.one_of("status", SourceStatus)
    on_schema_failure_is_known = columns.one_of("on_schema_failure", SchemaFailure)


class SourceAllowance(Table, tablename="source_allowance"):
    """The bucket of a source's rate limit, shared by all web processes."""

    source = columns.reference(Source)
    tokens = columns.fraction()
    """Deliveries that may still come at `filled_at`."""
    filled_at = columns.moment()

    one_allowance = Unique(["source"])


class SourceHour(Table, tablename="source_hour"):
    """How many deliveries of a source ended in one way within an hour: what charts and health are drawn from."""

    organization = columns.reference(Organization)
    source = columns.reference(Source)
    hour = columns.moment()
    """Its beginning."""
    outcome = columns.text()
    """`stored`, or the cause of a refusal such as `signature_invalid`."""
    number = columns.integer()

    one_number = Unique(["source", "hour", "outcome"])


class TallyMark(Table, tablename="tally_mark"):
    """Up to where the stored signals are counted in `source_hour`. One row."""

    id = columns.key()
    counted_to = columns.moment()


class Pull(Table, tablename="pull"):
    """Where a pull source stands: what it has fetched is stored in the same db transaction that moves it on."""

    source = columns.reference(Source)
    position = columns.json()
    """How to go on: a cursor or ETag for `poll`, the next block and the last block's hash for `evm_logs`."""
    due_at = columns.moment(index=True)
    claimed_until = columns.moment(null=True)
    """A worker fetches just now; after this moment another may."""
    pulled_at = columns.moment(null=True)
    """The last time that succeeded."""
    failures = columns.integer()
    """In a row; they make the interval longer."""
    error = columns.text(null=True)
    """Why the last attempt failed, in a sentence."""

    one_pull = Unique(["source"])


class SignalSchema(Table, tablename="signal_schema"):
    """A version of the JSON Schema of one type of signals of a source. The highest number is in force. Append-only."""

    id = columns.key()
    source = columns.reference(Source)
    type = columns.text()
    number = columns.integer()
    schema = columns.json(null=True)
    """JSON Schema 2020-12 unless it names another dialect; null means that from here on the type has none."""
    created_by = columns.reference("Member", null=True)
    created_at = columns.moment()

    one_schema_number = Unique(["source", "type", "number"])


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
    """Authentic, but its body cannot be read as JSON or fails the schema of its type; `reasons` says where."""
    FAILED = "failed"
    """A rule could not be evaluated; `reasons` says why."""
    DEAD = "dead"
    """It was `failed` until its body expired: no rule can be mended for it any more."""


class Signal(Table, tablename="signal"):
    """One authenticated inbound fact. What was received is never changed; only its assessment is.

    Of what it refers to the database checks one thing at each insert, that source and organisation belong together;
    the secret and the schema are rows that are never deleted."""

    id = columns.key()
    organization = columns.reference(Organization)
    source = columns.reference(Source)
    external_id = columns.text()
    """The sender's id of this delivery."""
    type = columns.text()
    status = columns.text()
    reasons = columns.json()
    """Why it is `failed` or `quarantined`: `[{"rule_id": ... or null, "path": JSON Pointer or null, "message": ...}]`,
    else `[]`."""
    content_type = columns.text()
    body = columns.binary(null=True)
    """The bytes as received; null once the organisation's retention has expired them."""
    body_bytes = columns.integer()
    body_digest = columns.binary()
    """SHA-256 of `body`; it stays."""
    words = columns.words(null=True)
    """The words of the payload in lower case, for search; null until it is assessed and once the body has expired."""
    schema = columns.reference(SignalSchema, null=True)
    """The version it was checked against last; null where its type has none."""
    secret = columns.reference(SourceSecret, null=True)
    """The secret its signature was made with; null for what was pulled."""
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
    body = columns.binary(null=True)
    """As received, to be accepted once the cause is mended; null where it was over the cap or had to make room."""
    headers = columns.binary(null=True)
    """The headers that the scheme verifies, encrypted with the secret key: some carry a secret. Null with `body`."""
    ip = columns.text()
    correlation_id = columns.text()
    received_at = columns.moment()
    accepted_as = columns.reference(Signal, null=True)
    """The signal that it became when somebody accepted it after all."""


class BodyExpiry(Table, tablename="body_expiry"):
    """Up to where the bodies of an organisation's signals have expired, so that none is looked at twice."""

    organization = columns.reference(Organization)
    expired_to = columns.uuid()
    """The id of the newest signal up to which no body is left."""

    one_expiry = Unique(["organization"])


class BatchKind(StrEnum):
    EXPORT = "export"
    REPLAY = "replay"
    RECHECK = "recheck"
    """Quarantined signals are checked against the schema that is in force now."""


class BatchStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SignalBatch(Table, tablename="signal_batch"):
    """Long work over many signals, done in slices, each in one db transaction with its `position`; kept for a week."""

    id = columns.key()
    organization = columns.reference(Organization)
    kind = columns.text()
    status = columns.text()
    given = columns.json()
    """What was asked for: the filter, the format."""
    until = columns.uuid()
    """No signal after this id belongs to it: what arrives while it runs does not make it longer."""
    position = columns.uuid(null=True)
    """The id of the last signal that was done; it goes from the newest to the oldest."""
    total = columns.integer(null=True)
    """How many there are to do; null where there are too many to count beforehand."""
    done = columns.integer()
    changed = columns.integer()
    """Of those, how many it did something with."""
    error = columns.text(null=True)
    requested_by = columns.text()
    """The label of whoever asked."""
    correlation_id = columns.text()
    claimed_until = columns.moment(null=True)
    attempts = columns.integer(default=0)
    """How often the slice behind `position` was begun; each but the last ended with its worker."""
    requested_at = columns.moment()
    started_at = columns.moment(null=True)
    ended_at = columns.moment(null=True)

    kind_is_known = columns.one_of("kind", BatchKind)
    status_is_known = columns.one_of("status", BatchStatus)


class ExportPart(Table, tablename="export_part"):
    """A slice of an export's file, compressed."""

    batch = columns.reference(SignalBatch)
    number = columns.integer()
    content = columns.binary()
    """A gzip member (RFC 1952)."""

    one_part = Unique(["batch", "number"])
