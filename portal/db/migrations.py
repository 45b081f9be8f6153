"""Brings the database to the tables of this version."""

import contextlib
import io
from functools import cache

from piccolo.apps.migrations.commands.base import BaseMigrationManager
from piccolo.apps.migrations.commands.forwards import run_forwards
from piccolo.apps.migrations.tables import Migration

from portal.db.engine import advisory_lock
from portal.errors import Unavailable

APP = "portal"


async def migrate() -> list[str]:
    """Run every migration that has not run yet, one process at a time; returns their ids.

    Raises `Unavailable` with the reason if one fails; what ran before it stays.
    """
    async with advisory_lock("portal-migrate"):
        waiting = await list_waiting()
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            result = await run_forwards(app_name=APP)
        if not result.success:
            raise Unavailable(f"A migration failed: {result.message or output.getvalue().strip()}")
    return waiting


async def list_waiting() -> list[str]:
    """Ids of the migrations that this version has and the database has not had; changes nothing."""
    if not await Migration.table_exists():
        return list(known_migrations())
    done = set(await Migration.get_migrations_which_ran(app_name=APP))
    return [id for id in known_migrations() if id not in done]


@cache
def known_migrations() -> tuple[str, ...]:
    """Ids of this version's migrations, in order."""
    manager = BaseMigrationManager()
    folder = manager.get_app_config(APP).resolved_migrations_folder_path
    return tuple(manager.get_migration_ids(manager.get_migration_modules(folder)))
