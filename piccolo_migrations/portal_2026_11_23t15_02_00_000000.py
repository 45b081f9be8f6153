"""What Piccolo's tables cannot say about events: how they are found, and that they do not change."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T15:02:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Index events and keep them as they are"


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        await run_sql("CREATE INDEX event_of_kind ON event (organization, kind, position)")
        await run_sql("CREATE INDEX event_of_subject ON event (organization, subject_id, position)")
        await run_sql(
            "CREATE TRIGGER event_is_final BEFORE UPDATE ON event FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )

    async def remove() -> None:
        await run_sql("DROP TRIGGER event_is_final ON event")
        await run_sql("DROP INDEX event_of_subject")
        await run_sql("DROP INDEX event_of_kind")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
