"""What happened, for subscribers: the outbox and the events that came out of it."""

from piccolo.columns import BigSerial
from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.tables import Organization
from portal.db import columns


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
