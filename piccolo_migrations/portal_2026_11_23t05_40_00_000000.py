"""Indexes and triggers that Piccolo cannot express."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T05:40:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Add the indexes of queues and histories, and make what was agreed on append-only"

# People approved under a policy as it was then, so its versions change as little as the audit does.
APPEND_ONLY = ("audit_entry", "policy_version", "rule_version")

# Partial indexes are the queues: each stays as small as the work that waits.
STATEMENTS = (
    "CREATE INDEX signal_waiting ON signal (received_at, id) WHERE status = 'received'",
    "CREATE INDEX signal_history ON signal (organization, id DESC)",
    "CREATE INDEX signal_of_source ON signal (source, id DESC)",
    "CREATE INDEX rejected_delivery_of_source ON rejected_delivery (source, id DESC)",
    "CREATE INDEX action_open ON action (organization, expires_at) WHERE status = 'proposed'",
    "CREATE INDEX action_unsimulated ON action (id) WHERE status = 'proposed' AND simulated_at IS NULL",
    "CREATE INDEX action_unqueued ON action (decided_at, id) WHERE status = 'approved' AND queued_at IS NULL",
    "CREATE INDEX action_calls ON action (contract, function) WHERE status = 'approved'",
    "CREATE INDEX end_user_address ON end_user (organization, address)",
    "CREATE INDEX action_history ON action (organization, id DESC)",
    "CREATE INDEX transaction_waiting ON transaction (lane, id) WHERE status IN ('queued', 'nonced', 'signed')",
    "CREATE INDEX transaction_watched ON transaction (lane, id) WHERE status IN ('broadcast', 'mined', 'confirmed')",
    # The lane's lock sees to it that one transaction of a lane is sent before the next is signed; this proves it.
    "CREATE UNIQUE INDEX transaction_unsent ON transaction (lane) WHERE status IN ('nonced', 'signed')",
    "CREATE INDEX transaction_history ON transaction (organization, id DESC)",
    "CREATE INDEX audit_entry_of_subject ON audit_entry (organization, subject_kind, subject_id, sequence)",
    """CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$""",
    *(
        f"""CREATE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION refuse_change()"""
        for table in APPEND_ONLY
    ),
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        for statement in STATEMENTS:
            await run_sql(statement)

    async def remove() -> None:
        for table in APPEND_ONLY:
            await run_sql(f"DROP TRIGGER {table}_is_append_only ON {table}")
        await run_sql("DROP FUNCTION refuse_change()")
        for statement in STATEMENTS:
            _, index, after = statement.partition(" INDEX ")
            if index:
                await run_sql(f"DROP INDEX {after.split()[0]}")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
