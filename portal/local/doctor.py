"""`portal doctor`: what is missing or wrong, in one table, with what to do about it."""

from rich import box
from rich.console import Console
from rich.table import Table

from portal.errors import SettingInvalid
from portal.ops.checks import Check, State, check_installation, troubles_of
from portal.sealing import key_id
from portal.settings import Settings, get_settings

STYLES = {State.OK: "[green]✓ ok[/]", State.DEGRADED: "[yellow]! look[/]", State.FAILED: "[red]✗ wrong[/]"}


async def examine() -> bool:
    """Print the table; whether nothing is wrong."""
    try:
        checks = [check_settings(get_settings()), *await _check_parts()]
    except SettingInvalid as error:
        checks = [Check(name="settings", state=State.FAILED, message=error.detail)]
    table = Table("What", "State", "Found", box=box.ROUNDED)
    for check in checks:
        table.add_row(check.name, STYLES[check.state], check.message)
    Console(highlight=False).print(table)
    return all(check.state != State.FAILED for check in checks)


def check_settings(settings: Settings) -> Check:
    """Whether web and worker could start with these settings. Raises `SettingInvalid` if not."""
    settings.require("database_url", "secret_key", "chain_rpc_urls")
    if not settings.signer_key:
        message = "Complete; PORTAL_SIGNER_KEY, which only a worker needs, is not set here."
        return Check(name="settings", state=State.OK, message=message)
    message = f"Complete; PORTAL_SIGNER_KEY is the sealing key {key_id(settings.signer_key)}."
    return Check(name="settings", state=State.OK, message=message)


async def _check_nodes() -> list[Check]:
    """The nodes as they answer here and now, whether or not a worker looks at them."""
    from portal.chain.rpc import get_node

    checks = []
    for chain_id in get_settings().rpc_urls:
        said = troubles_of(await get_node(chain_id).survey())
        state = State.DEGRADED if said else State.OK
        message = " ".join(said) or "Answer, as this process asks them."
        checks.append(Check(name=f"nodes of chain {chain_id}", state=state, message=message))
    return checks


async def _check_parts() -> list[Check]:
    from portal.chain.rpc import close_nodes
    from portal.db.engine import open_pool
    from portal.jobs.queue import make_queue, open_doorbell

    queue = make_queue()
    async with open_pool():
        await queue.connect()
        async with open_doorbell(queue):
            checks = [*await check_installation(), *await _check_nodes()]
        await close_nodes()
        await queue.disconnect()
    return checks
