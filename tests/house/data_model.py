"""Writes `docs/data-model.md` from the tables: `python -m tests.house.data_model`."""

import ast
import inspect
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from piccolo.columns import ForeignKey
from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.piccolo_app import APP_CONFIG, FEATURES

DOCUMENT = Path(__file__).parents[2] / "docs" / "data-model.md"
INTRODUCTION = """# Data model

Generated from `portal/*/tables.py` by `python -m tests.house.data_model`; a test keeps it true.

Every table but `chain`, `organization`, `person`, `session` and the two that slow down or remember requests belongs
to an organisation. Keys are UUIDv7, times `timestamptz` in UTC, amounts of wei and token units `NUMERIC(78,0)`. Nothing
is deleted that another row refers to. Indexes and triggers that are not in the tables stand in `piccolo_migrations/`.
"""


def render() -> str:
    """The whole document."""
    by_feature: dict[str, list[type[Table]]] = defaultdict(list)
    for table in APP_CONFIG.table_classes:
        by_feature[table.__module__.split(".")[1]].append(table)
    parts = [INTRODUCTION]
    for feature in FEATURES:
        parts.append(f"## {feature}\n")
        parts += [_table(table) for table in sorted(by_feature[feature], key=_line)]
    return "\n".join(parts)


def _line(table: type[Table]) -> int:
    return inspect.getsourcelines(table)[1]


def _table(table: type[Table]) -> str:
    notes = _notes(table)
    lines = [
        f"### `{table._meta.tablename}`\n",
        inspect.cleandoc(table.__doc__ or ""),
        "",
        "| column | type | notes |",
        "|---|---|---|",
    ]
    lines += [_row(column, notes.get(column._meta.name, "")) for column in table._meta.columns]
    for constraint in table._meta.constraints:
        if isinstance(constraint, Unique):
            lines.append(f"\nUnique: {', '.join(f'`{name}`' for name in constraint.get_column_names())}.")
        elif isinstance(constraint, Check) and "IN (" not in str(constraint.condition):
            lines.append(f"\nAlways: `{constraint.condition}`.")
    return "\n".join(lines) + "\n"


def _row(column: Any, note: str) -> str:
    meta = column._meta
    kind = column.column_type.lower()
    if isinstance(column, ForeignKey):
        kind = f"→ `{column._foreign_key_meta.resolved_references._meta.tablename}`"
    marks = [
        mark for mark, is_so in (("key", meta.primary_key), ("unique", meta.unique), ("or null", meta.null)) if is_so
    ]
    return f"| `{meta.name}` | {' '.join([kind, *marks])} | {note} |"


def _notes(table: type[Table]) -> dict[str, str]:
    """The string under each column's assignment: Python throws it away, so it is read from the source."""
    body = ast.parse(inspect.getsource(table)).body[0].body  # type: ignore[attr-defined]
    return {
        before.targets[0].id: " ".join(after.value.value.split())
        for before, after in pairwise(body)
        if isinstance(before, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


if __name__ == "__main__":
    DOCUMENT.write_text(render())
