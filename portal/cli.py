"""The `portal` command: every process and every task of an operator."""

import asyncio
import os
import sys
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from portal.accounts.permissions import Role
from portal.errors import PortalError, SettingInvalid
from portal.settings import PREFIX, Settings, get_settings, read_settings

T = TypeVar("T")
GIVEN = ("host", "port", "data")
"""Options that stand for a setting."""


class Commands(click.Group):
    """Turns an expected failure into one sentence: exit code 2 where a setting is wrong, else 1; never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PortalError as error:
            click.echo(f"portal: {error.detail}", err=True)
            sys.exit(2 if isinstance(error, SettingInvalid) else 1)


def given(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Make an option the setting of its name, for this process and those that it starts."""
    if value is not None:
        os.environ[f"{PREFIX}{str(parameter.name).upper()}"] = str(value)
    return value


approvals_option = click.option(
    "--approvals", type=click.IntRange(0, 2), default=2, show_default=True, help="Of the example; 0: automatic."
)
data_option = click.option(
    "--data", type=click.Path(path_type=Path), callback=given, expose_value=False, help="Folder of `portal up` [var]."
)
host_option = click.option("--host", callback=given, expose_value=False, help="Address to listen on [127.0.0.1].")
port_option = click.option("--port", type=int, callback=given, expose_value=False, help="Port to listen on [8000].")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Signal Portal. Settings are environment variables PORTAL_...; the README lists them."""
    # Piccolo warns of a database that does not answer; we say it ourselves, once.
    warnings.filterwarnings("ignore", message=r".*Unable to (connect to database|fetch server version)")


@main.command()
@click.option("--quickstart", is_flag=True, help="Then make the example organisation, once.")
@approvals_option
@host_option
@port_option
@data_option
def up(quickstart: bool, approvals: int) -> None:
    """Run everything in this terminal: database, chain, web and worker. Ctrl-C stops it."""
    from portal.local.supervisor import run_up

    settings = read_settings(dict(os.environ))
    with _database_required():
        run_up(settings, example_approvals=approvals if quickstart else None)


@main.command()
@host_option
@port_option
@data_option
def web() -> None:
    """Serve pages and API against PORTAL_DATABASE_URL."""
    from portal.server import serve

    settings = _start_process("web")
    serve(settings)


@main.command()
@data_option
def worker() -> None:
    """Run jobs: assess signals, sign, send and watch transactions."""
    import uvloop

    from portal.jobs.worker import run_worker

    _start_process("worker")
    with _database_required(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker())


@main.command()
@data_option
def migrate() -> None:
    """Bring the database's tables to this version; waits for another one that does so."""
    from portal.db import migrations

    _require_database()
    with _database_required():
        done = asyncio.run(migrations.migrate())
    click.echo(f"Ran {len(done)} migration(s)." if done else "Nothing to migrate.")


@main.command()
@data_option
def seed() -> None:
    """Register the chains of PORTAL_CHAIN_RPC_URLS, and bring those that nobody set by hand to their presets."""
    from portal.local.chains import seed_chains

    _administer()
    click.echo("\n".join(_run(_closing_nodes(seed_chains()))))


@main.group()
def chain() -> None:
    """How chains are used. All organisations share them, so only this command changes it; each change is logged."""


@chain.command()
@data_option
@click.argument("chain_id", type=int)
def show(chain_id: int) -> None:
    """Print the settings of a chain and the state of its endpoints."""
    from portal.local.chains import show_chain

    _require_database()
    click.echo("\n".join(_run(_closing_nodes(show_chain(chain_id)))))


@chain.command("set")
@data_option
@click.argument("chain_id", type=int)
@click.argument("pairs", metavar="NAME=VALUE...", nargs=-1, required=True)
def set_settings(chain_id: int, pairs: tuple[str, ...]) -> None:
    """Change settings of a chain, such as confirmations=20 or most_fee_wei=100gwei; `show` names them all."""
    from portal.local.chains import set_chain

    _administer()
    click.echo("\n".join(_run(set_chain(chain_id, pairs))))


@chain.command()
@data_option
@click.argument("chain_id", type=int)
def reset(chain_id: int) -> None:
    """Use a chain as its preset says again."""
    from portal.local.chains import unset_chain

    _administer()
    click.echo("\n".join(_run(unset_chain(chain_id))))


@chain.command()
@data_option
@click.argument("chain_id", type=int)
def pause(chain_id: int) -> None:
    """Sign and send nothing new on a chain, for any organisation; what is out is still followed."""
    from portal.local.chains import halt_chain

    _administer()
    click.echo(_run(halt_chain(chain_id)))


@chain.command()
@data_option
@click.argument("chain_id", type=int)
def resume(chain_id: int) -> None:
    """Let what has waited go on."""
    from portal.local.chains import free_chain

    _administer()
    click.echo(_run(free_chain(chain_id)))


@main.command()
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print what was made as one JSON object.")
@approvals_option
@click.option("--organization", default="Acme", show_default=True, help="Name of the organisation to make.")
def quickstart(as_json: bool, approvals: int, organization: str) -> None:
    """Make an example organisation on the local chain of a running portal and send its first signal."""
    from portal.local.example import show_example
    from portal.local.quickstart import make_example

    _require_database()
    example = _run(_closing_nodes(make_example(organization, approvals)))
    show_example(example, as_json=as_json)


@main.group()
def member() -> None:
    """People who work in an organisation."""


@member.command()
@data_option
@click.option("--organization", required=True, help="Its slug; made, with this name, if there is none.")
@click.option("--email", required=True)
@click.option("--name", required=True)
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True)
@click.option("--password-file", type=click.Path(exists=True, path_type=Path), help="Else an invitation is printed.")
def add(organization: str, email: str, name: str, role: str, password_file: Path | None) -> None:
    """Add a member, or the first owner of a new organisation."""
    from portal.local.commands import add_member

    _require_database()
    password = password_file.read_text().strip() if password_file else None
    click.echo(_run(add_member(organization, email, name, Role(role), password)))


@main.group()
def audit() -> None:
    """The record of who did what."""


@audit.command()
@data_option
@click.option("--organization", help="Slug of one organisation; all of them if not given.")
def verify(organization: str | None) -> None:
    """Recompute every hash and name the first entry that is not what it was; exit code 1 if there is one."""
    from portal.local.commands import verify_audit

    _require_database()
    lines, holds = _run(verify_audit(organization))
    click.echo("\n".join(lines))
    sys.exit(0 if holds else 1)


@main.command()
@data_option
def doctor() -> None:
    """Check settings, database, migrations, queue and chains; exit code 1 if something is wrong."""
    from portal.local.doctor import examine

    _adopt_running_portal()
    sys.exit(0 if asyncio.run(examine()) else 1)


def _start_process(name: str) -> Settings:
    from portal.logging import configure_logging

    settings = get_settings()
    settings.require("database_url", "secret_key")
    configure_logging(settings.log_level, process=name)
    return settings


def _administer() -> None:
    """Before a command that changes what all organisations share: its log is the record of who did what."""
    from portal.logging import configure_logging

    _require_database()
    configure_logging(get_settings().log_level, process="command")


def _require_database() -> None:
    _adopt_running_portal()
    get_settings().require("database_url")


def _adopt_running_portal() -> None:
    """Without a database of its own settings a command means the `portal up` that runs in the data folder."""
    from portal.local.supervisor import ENVIRONMENT_FILE

    data = Path(os.environ.get(f"{PREFIX}DATA", "var"))
    if f"{PREFIX}DATABASE_URL" in os.environ or f"{PREFIX}DATABASE_URL_FILE" in os.environ:
        return
    file = data / ENVIRONMENT_FILE
    if file.exists():
        for line in file.read_text().splitlines():
            name, _, value = line.partition("=")
            os.environ.setdefault(name, value)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, run with the pool of this process open."""
    from portal.db import notices
    from portal.db.engine import open_pool

    async def pooled() -> T:
        async with open_pool():
            try:
                return await work
            finally:
                await notices.settle()

    with _database_required():
        return asyncio.run(pooled())


async def _closing_nodes(work: Coroutine[Any, Any, T]) -> T:
    from portal.chain.rpc import close_nodes

    try:
        return await work
    finally:
        await close_nodes()


@contextmanager
def _database_required() -> Iterator[None]:
    """Raise `SettingInvalid` where PORTAL_DATABASE_URL names no database that answers and lets us in."""
    import asyncpg

    from portal.db.engine import is_unreachable

    refusals = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError, OSError)
    try:
        yield
    except Exception as error:
        if not isinstance(error, PortalError) and (is_unreachable(error) or isinstance(error, refusals)):
            reason = str(error).rstrip(".") or type(error).__name__
            raise SettingInvalid(f"PORTAL_DATABASE_URL: the database cannot be used: {reason}.") from error
        raise


if __name__ == "__main__":
    main()
