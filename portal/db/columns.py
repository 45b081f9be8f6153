"""Column helpers that say our conventions once: UUIDv7 keys, UTC times, wei amounts, no silent defaults.

They return Piccolo's own columns, so that migrations name nothing of ours. `default=None` with `null=False` makes a
forgotten value an error where Piccolo would store an empty one.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from piccolo import columns
from piccolo.columns.base import OnDelete, OnUpdate
from piccolo.columns.reference import LazyTableReference
from piccolo.constraints import Check
from piccolo.table import Table
from uuid_utils.compat import uuid7

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): unique, and sorts by the time it was made."""
    return uuid7()


def oldest_id(moment: datetime) -> UUID:
    """The smallest UUIDv7 of `moment`: keys made later are greater, so the primary key serves as an index on time."""
    return UUID(int=((moment - EPOCH) // timedelta(milliseconds=1)) << 80)


def key() -> columns.UUID:
    """The primary key, always `new_id()`, so that it is known before the insert."""
    return columns.UUID(primary_key=True, default=None, null=False)


def reference(table: type[Table] | str, *, null: bool = False, index: bool = False) -> columns.ForeignKey[Any]:
    """A foreign key that refuses to delete what is referred to; by name where the table is in a layer above."""
    return columns.ForeignKey(
        references=LazyTableReference(table, app_name="portal") if isinstance(table, str) else table,
        null=null,
        index=index,
        on_delete=OnDelete.restrict,
        on_update=OnUpdate.restrict,
    )


def text(*, null: bool = False, unique: bool = False, index: bool = False, default: str | None = None) -> columns.Text:
    return columns.Text(default=default, null=null, unique=unique, index=index)


def moment(*, null: bool = False, index: bool = False) -> columns.Timestamptz:
    """A `timestamptz`; values are timezone-aware and UTC."""
    return columns.Timestamptz(default=None, null=null, index=index)


def integer(*, null: bool = False, default: int | None = None) -> columns.BigInt:
    return columns.BigInt(default=default, null=null)


def amount(*, null: bool = False, default: int | None = None) -> columns.Numeric:
    """Wei or token units: `NUMERIC(78,0)` holds every uint256. Read with `wei` or `decimal_string`."""
    return columns.Numeric(digits=(78, 0), default=None if default is None else Decimal(default), null=null)


def wei(stored: Decimal | None) -> int | None:
    """A stored amount as it is reckoned with."""
    return None if stored is None else int(stored)


def decimal_string(stored: Decimal | None) -> str | None:
    """A stored amount as JSON has it."""
    return None if stored is None else str(int(stored))


def binary(*, null: bool = False, unique: bool = False) -> columns.Bytea:
    return columns.Bytea(default=None, null=null, unique=unique)


def json(*, null: bool = False) -> columns.JSONB:
    """JSONB; give it dicts and lists, and read it with `.output(load_json=True)`."""
    return columns.JSONB(default=None, null=null)


def words(*, null: bool = False) -> columns.Array:
    """A `text[]`, for an index over its words."""
    return columns.Array(base_column=columns.Text(), default=None, null=null)


def fraction() -> columns.DoublePrecision:
    return columns.DoublePrecision(default=None, null=False)


def uuid(*, null: bool = False) -> columns.UUID:
    """A key that is no foreign key."""
    return columns.UUID(default=None, null=null)


def flag(default: bool) -> columns.Boolean:
    return columns.Boolean(default=default, null=False)


def one_of(column: str, values: type[StrEnum]) -> Check:
    """A constraint that `column` holds a value of the enum (Piccolo's `choices` is not enforced by the database)."""
    listed = ", ".join(f"'{value}'" for value in values)
    return Check(f"{column} IN ({listed})", name=f"{column}_is_known")
