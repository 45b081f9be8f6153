"""What Piccolo's tables cannot say about signers: with what their keys are sealed by now, and how they are found."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T15:12:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Name the sealing keys of signers, index what workers look for"

INDEXES = (
    ("signer_pending", "signer (kind) WHERE status = 'pending'"),
    ("signer_to_check", "signer (id) WHERE kind <> 'local' OR trouble IS NOT NULL"),
    ("signer_sealed", "signer (sealed_with)"),
    ("action_of_signer", "action (signer) WHERE status = 'proposed'"),
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        # A sealed value begins with a version byte and the four bytes that name its sealing key.
        await run_sql(
            "UPDATE signer SET sealed_with = encode(substring(encrypted_key FROM 2 FOR 4), 'hex') "
            "WHERE encrypted_key IS NOT NULL AND sealed_with IS NULL"
        )
        for name, what in INDEXES:
            await run_sql(f"CREATE INDEX {name} ON {what}")

    async def remove() -> None:
        for name, _ in INDEXES:
            await run_sql(f"DROP INDEX {name}")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
