"""What operators look for is rare among the transactions: found without reading all that went well."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T15:31:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Index the transactions that ended otherwise than they should"


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def index() -> None:
        await run_sql(
            """CREATE INDEX transaction_ended_badly ON transaction (organization, status, id DESC)
               WHERE status IN ('refused', 'rejected', 'expired', 'cancelled', 'displaced')"""
        )

    async def drop() -> None:
        await run_sql("DROP INDEX transaction_ended_badly")

    manager.add_raw(index)
    manager.add_raw_backwards(drop)
    return manager
