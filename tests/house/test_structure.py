"""The rules of the house that a reader relies on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from piccolo.apps.migrations.auto.diffable_table import DiffableTable
from piccolo.apps.migrations.auto.schema_differ import SchemaDiffer
from piccolo.apps.migrations.auto.schema_snapshot import SchemaSnapshot
from piccolo.apps.migrations.commands.base import BaseMigrationManager

from portal.db.engine import run_sql
from portal.piccolo_app import APP_CONFIG

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "portal").rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_only_the_signers_touch_the_key_of_keys() -> None:
    readers = {
        named(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ("signer_key", "signer_key_previous")
    }
    # The doctor only says whether it is set.
    assert readers <= {"portal/chain/signers/local.py", "portal/local/doctor.py"}


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_functions_stay_readable(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = node.body[1:] if ast.get_docstring(node) else node.body
            assert not said or (node.end_lineno or 0) - said[0].lineno < 40, node.name


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_task_is_started_inside_a_db_transaction(path: Path) -> None:
    for block in ast.walk(tree(path)):
        if not isinstance(block, ast.AsyncWith) or not any("transaction(" in ast.unparse(i) for i in block.items):
            continue
        called = {ast.unparse(node.func) for node in ast.walk(block) if isinstance(node, ast.Call)}
        assert not {name for name in called if name.endswith(("create_task", "gather", "TaskGroup"))}


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_existing_rows_are_never_saved_whole(path: Path) -> None:
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "save"]


async def test_the_migrations_make_exactly_the_tables(database: None) -> None:
    manager = BaseMigrationManager()
    migrations = await manager.get_migration_managers(app_config=APP_CONFIG)
    differ = SchemaDiffer(
        schema=[
            DiffableTable(
                class_name=table.__name__,
                tablename=table._meta.tablename,
                columns=table._meta.non_default_columns,
                constraints=table._meta.constraints,
            )
            for table in APP_CONFIG.table_classes
        ],
        schema_snapshot=SchemaSnapshot(migrations).get_snapshot(),
        auto_input="y",
    )
    assert differ.get_alter_statements() == [] or all(not part.statements for part in differ.get_alter_statements())


@pytest.mark.parametrize("table", ["audit_entry", "policy_version", "rule_version"])
async def test_what_was_agreed_on_is_append_only(database: None, table: str) -> None:
    triggers = await run_sql("SELECT tgname FROM pg_trigger WHERE tgrelid = {}::regclass AND NOT tgisinternal", table)
    assert [row["tgname"] for row in triggers] == [f"{table}_is_append_only"]


def test_no_library_lets_python_recurse_until_the_process_dies() -> None:
    # One deeply nested JSON body would end it. py_ecc, below eth-account, sets a limit of 100,000 as it is imported.
    modules = "portal.app", "portal.jobs.worker", "portal.cli"
    ask = f"import sys, {', '.join(modules)}; print(sys.getrecursionlimit(), 'py_ecc' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1000", "False"]
