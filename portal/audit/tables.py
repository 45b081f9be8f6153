"""The record of what was decided and done, chained by hashes per organisation."""

from piccolo.constraints import Unique
from piccolo.table import Table

from portal.db import columns


class AuditHead(Table, tablename="audit_head"):
    """The end of one organisation's chain; locked while an entry is appended."""

    organization = columns.reference("Organization")
    sequence = columns.integer()
    hash = columns.binary()

    one_head = Unique(["organization"])


class AuditEntry(Table, tablename="audit_entry"):
    """Append-only: a trigger refuses UPDATE and DELETE."""

    id = columns.key()
    organization = columns.reference("Organization")
    sequence = columns.integer()
    """1, 2, 3 ... within the organisation, without a gap."""
    kind = columns.text()
    """`noun.verb`, such as `action.approved`."""
    actor_kind = columns.text()
    """`member`, `end_user`, `api_key`, `system` or `command`."""
    actor_id = columns.text(null=True)
    actor_label = columns.text()
    subject_kind = columns.text()
    subject_id = columns.text()
    detail = columns.json()
    correlation_id = columns.text(index=True)
    at = columns.moment()
    previous_hash = columns.binary()
    hash = columns.binary()

    one_entry = Unique(["organization", "sequence"])
