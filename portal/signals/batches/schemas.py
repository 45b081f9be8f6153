"""What is asked of work over many signals, and what is shown of it."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from portal.signals.schemas import SignalFilter
from portal.signals.tables import BatchKind, BatchStatus

__all__ = ["BatchKind", "BatchStatus", "BatchView", "ExportInput", "ExportView", "SignalSelection"]
MAX_SIGNAL_IDS = 1000


class SignalSelection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certain signals: either those with these ids or all that a filter matches. `{"filter": {}}` is every signal."""

    signal_ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=MAX_SIGNAL_IDS)] | None = None
    filter: SignalFilter | None = None


class ExportInput(SignalSelection, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certain signals as a file; every signal where neither ids nor a filter are given."""

    format: Literal["ndjson", "csv"]

    @property
    def selection(self) -> SignalSelection:
        if self.signal_ids is None and self.filter is None:
            return SignalSelection(filter=SignalFilter())
        return SignalSelection(signal_ids=self.signal_ids, filter=self.filter)


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """Long work over many signals, as far as it has come."""

    id: UUID
    kind: BatchKind
    status: BatchStatus
    done: int
    """Signals that it is through with, whether or not there was something to do."""
    changed: int
    """Of those, how many it did something with: exported, set back, released from quarantine."""
    total: int | None
    """How many signals were selected; None while they are too many to be counted beforehand."""
    seconds_left: int | None
    """Estimated from its pace so far; None before it has one, and where `total` is None."""
    error: str | None
    """Why it failed, in a sentence."""
    result: str | None
    """What came of it, in a sentence, once it is done."""
    requested_by: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class ExportView(BatchView, frozen=True, kw_only=True):
    """An export and its file."""

    format: Literal["ndjson", "csv"]
    filter: SignalFilter | None
    """None where the signals were chosen by their ids; `total` says how many they are."""
    file_bytes: int | None
    """Compressed, as it is kept; None where there is no file: not yet, or not any more."""
    file_expires_at: datetime | None
    """When the file is deleted."""
