"""What Piccolo does not see: constraints that say more than before, indexes, and the signer of what was proposed."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T14:52:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Widen constraints, index the open transactions, give each action its signer"

OLD = "'queued', 'nonced', 'signed', 'broadcast', 'mined', 'confirmed', 'finalized', 'refused', 'rejected'"
CONSTRAINTS = (
    (
        "transaction",
        "status_is_known",
        f"status IN ({OLD})",
        f"status IN ({OLD}, 'closing', 'suspect', 'expired', 'cancelled', 'displaced')",
    ),
    (
        "policy_version",
        "is_sensible",
        "approvals_required BETWEEN 0 AND 20 AND expires_after_seconds BETWEEN 60 AND 31536000",
        "approvals_required BETWEEN 0 AND 20 AND expires_after_seconds BETWEEN 60 AND 31536000 "
        "AND execute_within_seconds BETWEEN 60 AND 31536000",
    ),
    (
        "signer",
        "active_can_sign",
        "status = 'pending' OR (address IS NOT NULL AND encrypted_key IS NOT NULL)",
        "status = 'pending' OR (address IS NOT NULL AND num_nonnulls(encrypted_key, key_reference) = 1)",
    ),
)
INDEXES = (
    ("pause_lasting", "UNIQUE INDEX pause_lasting ON pause (organization, scope, subject) WHERE ended_at IS NULL"),
    (
        "transaction_open",
        """INDEX transaction_open ON transaction (lane, status, nonce)
           WHERE status NOT IN ('finalized', 'refused', 'rejected', 'expired', 'cancelled', 'displaced')""",
    ),
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def widen() -> None:
        for table, name, _, now in CONSTRAINTS:
            await replace(table, name, now)
        for _, index in INDEXES:
            await run_sql(f"CREATE {index}")
        await run_sql("UPDATE action SET signer = (SELECT signer FROM contract c WHERE c.id = action.contract)")

    async def narrow() -> None:
        for table, name, before, _ in CONSTRAINTS:
            await replace(table, name, before)
        for name, _ in INDEXES:
            await run_sql(f"DROP INDEX {name}")

    async def replace(table: str, name: str, condition: str) -> None:
        await run_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({condition})")

    manager.add_raw(widen)
    manager.add_raw_backwards(narrow)
    return manager
