"""Signals as rows, for tests about what has arrived rather than about how: any time, any number, no signature."""

import hashlib
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from portal import clock
from portal.db.columns import new_id, oldest_id
from portal.db.engine import run_sql


def id_at(moment: datetime) -> UUID:
    """A new id that was made at `moment`."""
    return UUID(int=oldest_id(moment).int | (new_id().int & ((1 << 80) - 1)))


async def store(
    source_id: UUID,
    payload: Any = None,
    *,
    type: str = "order.created",
    at: datetime | None = None,
    skew_ms: int | None = None,
) -> UUID:
    """A signal of the source that was received `at` that moment, by default now."""
    at = at or clock.now()
    id, body = id_at(at), payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    await run_sql(
        """INSERT INTO signal (id, organization, source, external_id, type, status, reasons, content_type, body,
                               body_bytes, body_digest, skew_ms, correlation_id, received_at)
           SELECT {}, organization, id, {}, {}, 'ignored', '[]', 'application/json', {}, {}, {}, {}, 'test', {}
           FROM source WHERE id = {}""",
        id,
        id.hex,
        type,
        body,
        len(body),
        hashlib.sha256(body).digest(),
        skew_ms,
        at,
        source_id,
    )
    return id
