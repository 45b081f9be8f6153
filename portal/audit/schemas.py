"""What readers see of the audit chain."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class AuditEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One entry; `hash` and `previous_hash` are hex."""

    id: UUID
    sequence: int
    kind: str
    actor_kind: str
    actor_id: str | None
    actor_label: str
    subject_kind: str
    subject_id: str
    detail: dict[str, Any]
    correlation_id: str
    at: datetime
    previous_hash: str
    hash: str
