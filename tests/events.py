"""What docs/webhooks.md says about events, and whether the events that a test has caused are what it says."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from portal.db.engine import run_sql

DOCUMENT = Path(__file__).parents[1] / "docs" / "webhooks.md"
ENTRY = re.compile(r"^### `([a-z_.]+)`\n(?:(?!#|```)[^\n]*\n)*```json\n(.*?)```", re.M | re.S)


@cache
def documented() -> dict[str, dict[str, Any]]:
    """The example of `data` of each type."""
    return {type: json.loads(example) for type, example in ENTRY.findall(DOCUMENT.read_text())}


async def undocumented_events() -> list[str]:
    """What the database's events say and the document does not, as sentences."""
    rows = await run_sql(
        """SELECT DISTINCT kind, name FROM (SELECT kind, payload FROM outbox UNION ALL SELECT kind, payload FROM event)
               AS told LEFT JOIN LATERAL jsonb_object_keys(payload) AS name ON true"""
    )
    return sorted(
        f"{row['kind']} has {row['name']!r}"
        if row["kind"] in documented()
        else f"{row['kind']} is neither in docs/webhooks.md nor in portal/notify/event_types.py"
        for row in rows
        if row["kind"] not in documented() or (row["name"] and row["name"] not in documented()[row["kind"]])
    )
