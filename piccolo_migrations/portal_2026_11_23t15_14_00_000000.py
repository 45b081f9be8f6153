"""How deliveries are found, which Piccolo's tables cannot say."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T15:14:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Index deliveries"

STATEMENTS = (
    "CREATE INDEX delivery_due ON delivery (webhook, due_at) WHERE status = 'waiting'",
    "CREATE INDEX delivery_waiting ON delivery (webhook, position) WHERE status = 'waiting'",
    "CREATE INDEX delivery_history ON delivery (webhook, id DESC)",
    "CREATE INDEX delivery_of_event ON delivery (event)",
    "ALTER TABLE webhook ADD CONSTRAINT types_are_given CHECK (cardinality(types) >= 1)",
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        for statement in STATEMENTS:
            await run_sql(statement)

    async def remove() -> None:
        for index in ("delivery_due", "delivery_waiting", "delivery_history", "delivery_of_event"):
            await run_sql(f"DROP INDEX {index}")
        await run_sql("ALTER TABLE webhook DROP CONSTRAINT types_are_given")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
