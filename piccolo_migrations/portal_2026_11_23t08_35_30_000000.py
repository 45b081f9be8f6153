"""Indexes that Piccolo cannot express."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T08:35:30:000000"
VERSION = "1.38.0"
DESCRIPTION = "Find the batches of an organisation, and those that are to be done"

STATEMENTS = {
    "signal_batch_of_organization": "CREATE INDEX signal_batch_of_organization ON signal_batch (organization, kind, id)",
    "signal_batch_to_do": "CREATE INDEX signal_batch_to_do ON signal_batch (kind) WHERE status IN ('waiting', 'running')",
}


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        for statement in STATEMENTS.values():
            await run_sql(statement)

    async def remove() -> None:
        for name in STATEMENTS:
            await run_sql(f"DROP INDEX {name}")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
