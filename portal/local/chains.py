"""What `portal seed` and `portal chain show|set|reset|pause|resume` do."""

import getpass
from collections.abc import Mapping, Sequence

import msgspec

from portal.chain.chain_settings import (
    apply_presets,
    get_chain_settings,
    in_words,
    pause_chain,
    read_pairs,
    reset_chain,
    resume_chain,
    update_chain,
)
from portal.chain.queries import list_chains
from portal.chain.rpc import NodeUnavailable, get_node
from portal.chain.service import register_chains


async def seed_chains() -> list[str]:
    """Register the chains of the settings and bring what nobody set by hand to its preset; what was done, in lines."""
    known = {chain.id for chain in await list_chains()}
    unreachable = await register_chains()
    new = [chain for chain in await list_chains() if chain.id not in known]
    return [
        *(f"{chain.name} (chain {chain.id}): registered." for chain in new),
        *await apply_presets(),
        *(f"Chain {chain_id}: its node does not answer; it is registered once it does." for chain_id in unreachable),
    ]


async def show_chain(chain_id: int) -> list[str]:
    """How a chain is used, each setting as `portal chain set` takes it, and how its endpoints are."""
    settings, updated_at = await get_chain_settings(chain_id)
    words = {name: in_words(value) for name, value in msgspec.structs.asdict(settings).items()}
    by = f"set by hand at {updated_at:%Y-%m-%d %H:%M} UTC" if updated_at else "as the preset says"
    return [
        f"Chain {chain_id}, {by}",
        *(f"  {name}={word}" for name, word in words.items()),
        *await _endpoints(chain_id),
    ]


async def _endpoints(chain_id: int) -> list[str]:
    try:
        views = await get_node(chain_id).survey()
    except NodeUnavailable as error:
        return [error.detail]
    return ["Endpoints", *(f"  {view.name}: {view.message} {_head(view.head_number)}".rstrip() for view in views)]


def _head(number: int | None) -> str:
    return "" if number is None else f"Block {number}."


async def set_chain(chain_id: int, pairs: Sequence[str]) -> list[str]:
    """Set `name=value` pairs of a chain; what changed, in lines."""
    return _changed(await update_chain(chain_id, read_pairs(pairs), by=_who()))


async def unset_chain(chain_id: int) -> list[str]:
    """Back to the preset; what changed, in lines."""
    return _changed(await reset_chain(chain_id, by=_who()))


async def halt_chain(chain_id: int) -> str:
    """Pause a chain for everybody; what was done, as a sentence."""
    done = await pause_chain(chain_id, by=_who())
    return "Nothing new is signed or sent on it until `portal chain resume`." if done else "It is paused already."


async def free_chain(chain_id: int) -> str:
    """End that pause; what was done, as a sentence."""
    return "It goes on." if await resume_chain(chain_id, by=_who()) else "It is not paused."


def _changed(changed: Mapping[str, tuple[str, str]]) -> list[str]:
    return [f"{name}: {before} -> {after}" for name, (before, after) in changed.items()] or ["Nothing has changed."]


def _who() -> str:
    """The account of this machine that runs the command, for the log."""
    return getpass.getuser()
