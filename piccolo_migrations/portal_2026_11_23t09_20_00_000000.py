"""Indexes that Piccolo cannot express: a history of ten million signals is searched as quickly as one of ten.

Ascending where they were descending: PostgreSQL reads them backwards as well, and only what is appended at the end of
its group fills pages up.
"""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from portal.db.engine import run_sql

ID = "2026-11-23T09:20:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "Index the words, types and states of signals"

# What a search finds a signal by. Each word stands behind its block of time (2^28 ms, the first five digits of an id)
# and the end of its organisation's id: a search goes back block by block, and what is added at one time lies together.
# The marks divide blocks (`/`) and narrow words down to a source (`@`), a type (`=`) and a state (`#`).
TERMS = """
    CREATE FUNCTION signal_terms(organization uuid, source uuid, type text, status text, id uuid, words text[])
    RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 1000
    RETURN array_to_tsvector(
        string_to_array(
            left(id::text, 5) || right(organization::text, 4)
                || array_to_string(words, chr(10) || left(id::text, 5) || right(organization::text, 4)),
            chr(10))
        || ARRAY['/' || left(id::text, 6), '/' || left(id::text, 7), '/' || left(id::text, 8),
                 '@' || right(source::text, 8), '=' || left(type, 100), '#' || status])
"""

ADDED = (
    ("signal_history", "ON signal (organization, id)"),
    ("signal_of_source", "ON signal (source, id)"),
    ("signal_in_state", "ON signal (source, status, id)"),
    ("signal_of_type", "ON signal (source, type, status, id)"),
    (
        "signal_search",
        "ON signal USING gin (signal_terms(organization, source, type, status, id, words)) WHERE words IS NOT NULL",
    ),
)
REPLACED = (
    ("signal_history", "ON signal (organization, id DESC)"),
    ("signal_of_source", "ON signal (source, id DESC)"),
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="portal", description=DESCRIPTION)

    async def add() -> None:
        await run_sql(TERMS)
        await replace(REPLACED, ADDED)

    async def remove() -> None:
        await replace(ADDED, REPLACED)
        await run_sql("DROP FUNCTION signal_terms(uuid, uuid, text, text, uuid, text[])")

    async def replace(old: tuple[tuple[str, str], ...], new: tuple[tuple[str, str], ...]) -> None:
        for name, _ in old:
            await run_sql(f"DROP INDEX {name}")
        for name, definition in new:
            await run_sql(f"CREATE INDEX {name} {definition}")

    manager.add_raw(add)
    manager.add_raw_backwards(remove)
    return manager
