"""Actions are counted and listed by their state: found without reading all the others."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T19:02:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Index the actions by their state"


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def index() -> None:
        await run_sql("CREATE INDEX action_by_status ON action (organization, status, id DESC)")

    async def drop() -> None:
        await run_sql("DROP INDEX action_by_status")

    manager.add_raw(index)
    manager.add_raw_backwards(drop)
    return manager
