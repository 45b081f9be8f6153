"""Triggers and sizes that Piccolo cannot express."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T08:20:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Count the bytes of old signals, and make what was received and its schemas unchangeable"

STATEMENTS = (
    "UPDATE signal SET body_bytes = octet_length(body)",
    """CREATE TRIGGER signal_schema_is_append_only BEFORE UPDATE OR DELETE ON signal_schema
       FOR EACH ROW EXECUTE FUNCTION refuse_change()""",
    # Of what was received only the body may ever go, and only as a whole.
    """CREATE FUNCTION refuse_another_body() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
           IF NEW.body IS NOT NULL THEN RAISE EXCEPTION 'what was received cannot be changed'; END IF;
           RETURN NEW;
       END $$""",
    """CREATE TRIGGER signal_body_only_expires BEFORE UPDATE OF body ON signal
       FOR EACH ROW EXECUTE FUNCTION refuse_another_body()""",
    """CREATE TRIGGER signal_is_immutable
       BEFORE UPDATE OF id, organization, source, external_id, content_type, body_bytes, body_digest, secret, skew_ms,
                        correlation_id, received_at ON signal
       FOR EACH ROW EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER signal_is_kept BEFORE DELETE ON signal
       FOR EACH ROW EXECUTE FUNCTION refuse_change()""",
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        for statement in STATEMENTS:
            await run_sql(statement)

    async def remove() -> None:
        await run_sql("DROP TRIGGER signal_schema_is_append_only ON signal_schema")
        for trigger in ("signal_body_only_expires", "signal_is_immutable", "signal_is_kept"):
            await run_sql(f"DROP TRIGGER {trigger} ON signal")
        await run_sql("DROP FUNCTION refuse_another_body()")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
