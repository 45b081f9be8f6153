"""One reference of a stored delivery that the database checks instead of four: each costs as much as two indexes.

Source and organisation are now proven to belong together. The secret and the schema come from that source in the
statement that stores them or in the version that it compares, and are kept for ever by triggers.
"""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T14:50:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Check the source and organisation of a signal together"

ALONE = {"organization": "organization", "source": "source", "secret": "source_secret", "schema": "signal_schema"}
KEPT = ("source_secret", "signal_schema")


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def together() -> None:
        await run_sql("ALTER TABLE source ADD CONSTRAINT source_of_organization UNIQUE (id, organization)")
        await run_sql(
            """ALTER TABLE signal ADD CONSTRAINT signal_of_source_and_organization FOREIGN KEY (source, organization)
               REFERENCES source (id, organization) ON DELETE RESTRICT ON UPDATE RESTRICT"""
        )
        for column in ALONE:
            await run_sql(f"ALTER TABLE signal DROP CONSTRAINT signal_{column}_fkey")
        for table in KEPT:
            await run_sql(
                f"CREATE TRIGGER {table}_is_kept BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change()"
            )

    async def alone() -> None:
        for table in KEPT:
            await run_sql(f"DROP TRIGGER {table}_is_kept ON {table}")
        for column, table in ALONE.items():
            await run_sql(
                f"""ALTER TABLE signal ADD CONSTRAINT signal_{column}_fkey FOREIGN KEY ({column})
                    REFERENCES {table} (id) ON DELETE RESTRICT ON UPDATE RESTRICT"""
            )
        await run_sql("ALTER TABLE signal DROP CONSTRAINT signal_of_source_and_organization")
        await run_sql("ALTER TABLE source DROP CONSTRAINT source_of_organization")

    manager.add_raw(together)
    manager.add_raw_backwards(alone)
    return manager
