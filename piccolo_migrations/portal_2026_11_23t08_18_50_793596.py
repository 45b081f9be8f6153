from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns.column_types import BigInt
from piccolo.columns.column_types import JSONB
from piccolo.columns.column_types import Text

ID = "2026-11-23T08:18:50:793596"
VERSION = "1.38.0"
DESCRIPTION = "Ask for the values that old rows were given"


async def forwards():
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    manager.alter_column(
        table_class_name="Signal",
        tablename="signal",
        column_name="body_bytes",
        db_column_name="body_bytes",
        params={"default": None},
        old_params={"default": 0},
        column_class=BigInt,
        old_column_class=BigInt,
        schema=None,
    )

    manager.alter_column(
        table_class_name="Source",
        tablename="source",
        column_name="allowed_networks",
        db_column_name="allowed_networks",
        params={"default": None},
        old_params={"default": "[]"},
        column_class=JSONB,
        old_column_class=JSONB,
        schema=None,
    )

    manager.alter_column(
        table_class_name="Source",
        tablename="source",
        column_name="on_schema_failure",
        db_column_name="on_schema_failure",
        params={"default": None},
        old_params={"default": "quarantine"},
        column_class=Text,
        old_column_class=Text,
        schema=None,
    )

    manager.alter_column(
        table_class_name="Source",
        tablename="source",
        column_name="settings",
        db_column_name="settings",
        params={"default": None},
        old_params={"default": "{}"},
        column_class=JSONB,
        old_column_class=JSONB,
        schema=None,
    )

    return manager
