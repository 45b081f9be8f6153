"""What the watcher last saw of a chain's nodes: what health tells, instead of asking them itself."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns.column_types import JSONB
from piccolo.columns.column_types import Timestamptz
from piccolo.columns.indexes import IndexMethod

ID = "2026-11-23T18:17:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Keep how the watcher sees the nodes"

PARAMS = {
    "default": None,
    "null": True,
    "primary_key": False,
    "unique": False,
    "index": False,
    "index_method": IndexMethod.btree,
    "choices": None,
    "db_column_name": None,
    "secret": False,
}


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)
    for name, kind in (("watched_at", Timestamptz), ("endpoints", JSONB)):
        manager.add_column(
            table_class_name="Chain",
            tablename="chain",
            column_name=name,
            db_column_name=name,
            column_class_name=kind.__name__,
            column_class=kind,
            params=PARAMS,
        )
    return manager
