"""What one version of a schema changed against the one before it, in short sentences. Pure."""

import json
from typing import Any

MOST = 8
SHOWN_LETTERS = 60


def changes_between(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    """At most eight changes, by their place in the schema; more are counted."""
    if after is None:
        return ["Ended: nothing is checked any more."]
    if before is None:
        return ["From here on deliveries are checked."]
    found = _changes("", before, after)
    more = len(found) - MOST
    return found if more <= 0 else [*found[:MOST], f"And {more} more."]


def _changes(path: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            change
            for name in [*before, *(name for name in after if name not in before)]
            for change in _change_of(f"{path}/{name}", name, before, after)
        ]
    return [] if before == after else [f"{path or 'All'}: {_shown(before)} became {_shown(after)}"]


def _change_of(path: str, name: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    if name not in after:
        return [f"{path}: taken out"]
    if name not in before:
        return [f"{path}: added"]
    return _changes(path, before[name], after[name])


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
