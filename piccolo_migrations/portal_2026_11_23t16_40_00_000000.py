"""What binds an action: the terms it was proposed under, and of the policy's newest version whatever is stricter."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T16:40:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Let the stricter of two versions of a policy bind"


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        # LEAST and GREATEST leave nulls out: no limit is never the stricter one.
        await run_sql(
            """CREATE VIEW policy_terms AS
               SELECT v.id, v.policy, v.number,
                      greatest(v.approvals_required, newest.approvals_required) AS approvals_required,
                      least(v.execute_within_seconds, newest.execute_within_seconds) AS execute_within_seconds,
                      least(v.most_cost_wei, newest.most_cost_wei) AS most_cost_wei,
                      least(v.most_cost_a_day_wei, newest.most_cost_a_day_wei) AS most_cost_a_day_wei
               FROM policy_version v JOIN LATERAL (
                   SELECT * FROM policy_version n WHERE n.policy = v.policy ORDER BY n.number DESC LIMIT 1
               ) newest ON true"""
        )

    async def remove() -> None:
        await run_sql("DROP VIEW policy_terms")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
