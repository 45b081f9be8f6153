"""What happened, for subscribers: the outbox, the events that came out of it, and the webhooks they are sent to."""

from piccolo.columns import BigSerial
from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.tables import Organization
from portal.db import columns
from portal.notify.states import DeliveryStatus, WebhookStatus


class Outbox(Table, tablename="outbox"):
    """What happened and is not published yet; written in the db transaction of the change, gone once it is an event."""

    number = BigSerial(primary_key=True, default=None)
    """Drawn at the insert: what is written after another's commit has a higher one. Numbers may be missing."""
    event_id = columns.uuid()
    organization = columns.reference(Organization)
    kind = columns.text()
    subject_kind = columns.text()
    subject_id = columns.text()
    payload = columns.json()
    correlation_id = columns.text()
    occurred_at = columns.moment()


class Event(Table, tablename="event"):
    """Something that happened, as subscribers are told. Append-only, until it is pruned."""

    id = columns.key()
    """Also the `webhook-id`: the same however often the event is delivered."""
    organization = columns.reference(Organization)
    position = columns.integer()
    """1, 2, 3 ... within the organisation, without a gap, given after the commit: no lower one appears after it."""
    kind = columns.text()
    """`noun.verb`, such as `transaction.mined`."""
    subject_kind = columns.text()
    subject_id = columns.text()
    payload = columns.json()
    correlation_id = columns.text()
    occurred_at = columns.moment()

    one_event_position = Unique(["organization", "position"])
    position_is_positive = Check("position >= 1")


class Webhook(Table, tablename="webhook"):
    """A subscription: an address to which events are posted."""

    id = columns.key()
    organization = columns.reference(Organization, index=True)
    name = columns.text()
    url = columns.text()
    types = columns.words()
    """Kinds of events, each exact, `noun.*` or `*`."""
    status = columns.text()
    disabled_because = columns.text(null=True)
    """A sentence; null while it is active."""
    failing_since = columns.moment(null=True)
    """The first failed attempt since the last that succeeded."""
    delivered_at = columns.moment(null=True)
    """The last attempt that succeeded."""
    rests = columns.integer()
    """How often in a row the receiver was not there; they make the rest longer."""
    rest_until = columns.moment(null=True)
    """The receiver was not there, or asked for time: until then nothing is sent to it."""
    claimed_until = columns.moment(null=True)
    """A worker delivers just now; after this moment another may."""
    created_by = columns.text()
    """For people: an e-mail address or the name of an API key."""
    created_at = columns.moment()
    updated_at = columns.moment()
    """Also its version: the ETag is made of it."""

    status_is_known = columns.one_of("status", WebhookStatus)


class WebhookSecret(Table, tablename="webhook_secret"):
    """What deliveries are signed with, encrypted with the secret key, shown once when made."""

    id = columns.key()
    webhook = columns.reference(Webhook, index=True)
    ciphertext = columns.binary()
    hint = columns.text()
    """The last four characters, to recognise it by."""
    created_at = columns.moment()
    ends_at = columns.moment(null=True)
    """Nothing is signed with it from then on; null while it has no end."""


class Delivery(Table, tablename="delivery"):
    """One event on its way to one webhook."""

    id = columns.key()
    organization = columns.reference(Organization)
    webhook = columns.reference(Webhook)
    event = columns.reference(Event)
    position = columns.integer()
    """The event's: deliveries are started in this order."""
    status = columns.text()
    attempts = columns.integer()
    """Of the schedule; asking for a redelivery begins it anew."""
    due_at = columns.moment()
    created_at = columns.moment()
    delivered_at = columns.moment(null=True)

    one_delivery = Unique(["webhook", "event"])
    status_is_known = columns.one_of("status", DeliveryStatus)


class DeliveryAttempt(Table, tablename="delivery_attempt"):
    """What became of one request. One that was cut off by a crash is not here, and is made again."""

    id = columns.key()
    delivery = columns.reference(Delivery, index=True)
    started_at = columns.moment()
    latency_ms = columns.integer()
    status_code = columns.integer(null=True)
    """Null where there was no answer."""
    error = columns.text(null=True)
    """Why it failed, in a sentence; null if it did not."""
    response_body = columns.text(null=True)
    """The first 2 kB of the answer."""
