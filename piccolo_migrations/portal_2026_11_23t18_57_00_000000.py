"""Fills in who made the API keys there are, and what they proposed, from the audit entries of both."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T18:57:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Fill in who stands behind older API keys"

# A key that another key made counts as made by whoever made that one.
FILL = (
    """WITH RECURSIVE made AS (
           SELECT k.id, e.actor_kind, e.actor_id FROM api_key k
           JOIN audit_entry e ON e.organization = k.organization AND e.kind = 'api_key.created'
                AND e.subject_id = k.id::text
       ), maker AS (
           SELECT id, actor_id FROM made WHERE actor_kind = 'member'
           UNION ALL
           SELECT made.id, maker.actor_id FROM made
           JOIN maker ON made.actor_kind = 'api_key' AND made.actor_id = maker.id::text
       )
       UPDATE api_key k SET created_by = m.id FROM maker JOIN member m ON m.id::text = maker.actor_id
       WHERE k.id = maker.id AND m.organization = k.organization""",
    """UPDATE action a SET proposed_by_key = k.id
       FROM audit_entry e JOIN api_key k ON k.organization = e.organization AND k.id::text = e.actor_id
       WHERE e.kind = 'action.proposed' AND e.actor_kind = 'api_key' AND e.organization = a.organization
             AND e.subject_id = a.id::text AND a.proposed_by IS NULL AND a.rule IS NULL""",
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def fill() -> None:
        for statement in FILL:
            await run_sql(statement)

    async def nothing_to_undo() -> None:
        """The columns go with the migration before."""

    manager.add_raw(fill)
    manager.add_raw_backwards(nothing_to_undo)
    return manager
