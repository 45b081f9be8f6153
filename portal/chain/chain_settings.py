"""How each chain is used: by its preset, or as whoever runs the installation has set it (`portal chain set`).

All organisations share a chain, so no page and no API changes these; each change is one line in the log.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
from piccolo.columns import Column

from portal import clock
from portal.chain.presets import PRESETS, Preset
from portal.chain.queries import get_chain_row
from portal.chain.tables import Chain, FeeStyle
from portal.db.columns import wei
from portal.db.engine import transaction
from portal.errors import InputInvalid, NotFound
from portal.logging import get_logger

log = get_logger(__name__)
WHOLE = re.compile(r"[0-9]{1,30}")
AMOUNT = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,9}))? ?(wei|gwei)?")
UNSET = "none"


class ChainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set of a chain; the columns of the table `chain` of these names. Amounts are wei per unit of gas."""

    name: str
    currency: str
    explorer_url: str | None
    confirmations: int
    final_depth: int | None
    fee_style: FeeStyle
    fee_percentile: int
    base_fee_percent: int
    least_tip_wei: int
    most_fee_wei: int | None
    stuck_blocks: int
    in_flight_limit: int


async def get_chain_settings(chain_id: int) -> tuple[ChainSettings, datetime | None]:
    """How the chain is used, and when that was last set by hand; None while the preset holds. Raises `NotFound`."""
    row = await get_chain_row(chain_id)
    return _settings(row), row["updated_at"]


async def update_chain(chain_id: int, changes: Mapping[str, str], *, by: str) -> dict[str, tuple[str, str]]:
    """Set what `changes` names, in words as `portal chain set` takes them; what changed, before and after.

    All or nothing. Raises `NotFound`, and `InputInvalid` with a sentence for each value that cannot be.
    """
    return await _change(chain_id, lambda settings: check(read(settings, changes)), by=by, updated_at=clock.now())


async def reset_chain(chain_id: int, *, by: str) -> dict[str, tuple[str, str]]:
    """Back to the preset, which `portal seed` keeps up to date; what changed. Raises `NotFound`, also without one."""
    return await _change(chain_id, lambda settings: _as_preset(settings, chain_id), by=by, updated_at=None)


async def pause_chain(chain_id: int, *, by: str) -> bool:
    """Sign and send nothing new on the chain, for anybody; what is out is still followed. False if it was paused."""
    return await _set_paused(chain_id, clock.now(), by)


async def resume_chain(chain_id: int, *, by: str) -> bool:
    """Let what has waited go on. False if it was not paused."""
    return await _set_paused(chain_id, None, by)


async def apply_presets() -> list[str]:
    """Bring every chain that nobody set by hand to its preset; a sentence for each chain, by id. Can be repeated."""
    said = []
    for row in await Chain.select(Chain.id, Chain.name, Chain.updated_at).order_by(Chain.id):
        of = f"{row['name']} (chain {row['id']})"
        if row["id"] not in PRESETS:
            said.append(f"{of}: no preset is known; `portal chain show {row['id']}` says how it is used.")
        elif row["updated_at"]:
            said.append(f"{of}: left as it was set by hand at {row['updated_at']:%Y-%m-%d %H:%M} UTC.")
        else:
            changed = await reset_chain(row["id"], by="portal seed")
            what = ", ".join(f"{name} from {before} to {after}" for name, (before, after) in changed.items())
            said.append(f"{of}: changed {what}." if changed else f"{of}: as its preset says.")
    return said


def read_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """`name=value` pairs by name. Raises `InputInvalid` for one of another form, or a name that comes twice."""
    changes: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name.strip() in changes:
            raise InputInvalid.at("", f"{pair[:80]!r} is not of the form confirmations=12, or names a setting twice.")
        changes[name.strip()] = value
    return changes


def read(settings: ChainSettings, changes: Mapping[str, str]) -> ChainSettings:
    """`settings` with `changes`, each in words. Raises `InputInvalid`."""
    values: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in READERS:
            raise InputInvalid.at(f"/{name}", f"{name} is no setting of a chain; they are: {', '.join(READERS)}.")
        try:
            values[name] = READERS[name](text.strip())
        except ValueError as error:
            raise InputInvalid.at(f"/{name}", f"{name} {error}, not {text[:80]!r}.") from None
    return msgspec.structs.replace(settings, **values)


def check(settings: ChainSettings) -> ChainSettings:
    """`settings` if a chain can be used so. Raises `InputInvalid`; the table refuses the same."""
    wrong = [(path, sentence) for path, holds, sentence in _rules(settings) if not holds]
    if wrong:
        raise InputInvalid.at(f"/{wrong[0][0]}", wrong[0][1])
    return settings


def in_words(value: Any) -> str:
    """A value as `update_chain` takes it."""
    return UNSET if value is None else str(value)


def _rules(it: ChainSettings) -> list[tuple[str, bool, str]]:
    most, depth = it.most_fee_wei, it.final_depth
    return [
        ("confirmations", 1 <= it.confirmations <= 10_000, "confirmations must be from 1 to 10000."),
        (
            "final_depth",
            depth is None or it.confirmations <= depth <= 100_000,
            f"final_depth must be from confirmations ({it.confirmations}) to 100000: nothing is final before it is "
            "confirmed.",
        ),
        ("fee_percentile", 1 <= it.fee_percentile <= 100, "fee_percentile must be from 1 to 100."),
        (
            "base_fee_percent",
            100 <= it.base_fee_percent <= 1000,
            "base_fee_percent must be from 100 to 1000: below 100 nothing would be mined.",
        ),
        ("least_tip_wei", it.least_tip_wei >= 1, "least_tip_wei must be at least 1: nothing is offered for 0."),
        (
            "most_fee_wei",
            most is None or most >= it.least_tip_wei,
            f"most_fee_wei must be at least least_tip_wei ({it.least_tip_wei}), or nothing could ever be sent.",
        ),
        ("stuck_blocks", 1 <= it.stuck_blocks <= 100_000, "stuck_blocks must be from 1 to 100000."),
        (
            "in_flight_limit",
            1 <= it.in_flight_limit <= 16,
            "in_flight_limit must be from 1 to 16: a node's pool keeps 16 transactions of one address.",
        ),
    ]


async def _set_paused(chain_id: int, at: datetime | None, by: str) -> bool:
    await get_chain_settings(chain_id)
    other = Chain.paused_at.is_null() if at else Chain.paused_at.is_not_null()
    changed = await Chain.update({Chain.paused_at: at}).where(Chain.id == chain_id, other).returning(Chain.id)
    if changed:
        log.warning("chain.paused" if at else "chain.resumed", chain_id=chain_id, by=by)
    return bool(changed)


async def _change(
    chain_id: int,
    change: Callable[[ChainSettings], ChainSettings],
    *,
    by: str,
    updated_at: datetime | None,
) -> dict[str, tuple[str, str]]:
    async with transaction():
        before = _settings(await get_chain_row(chain_id, lock=True))
        after = change(before)
        values: dict[Column | str, Any] = {name: getattr(after, name) for name in ChainSettings.__struct_fields__}
        await Chain.update({**values, Chain.updated_at: updated_at}).where(Chain.id == chain_id)
    changed = {
        name: (in_words(getattr(before, name)), in_words(getattr(after, name)))
        for name in ChainSettings.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    }
    if changed:
        log.info("chain.changed", chain_id=chain_id, by=by, **{name: list(pair) for name, pair in changed.items()})
    return changed


def _settings(row: Mapping[str, Any]) -> ChainSettings:
    values = {name: row[name] for name in ChainSettings.__struct_fields__}
    values |= {name: wei(values[name]) for name in ("least_tip_wei", "most_fee_wei")}
    return ChainSettings(**values | {"fee_style": FeeStyle(values["fee_style"])})


def _as_preset(settings: ChainSettings, chain_id: int) -> ChainSettings:
    preset: Preset | None = PRESETS.get(chain_id)
    if preset is None:
        raise NotFound(f"No preset of chain {chain_id} is known.")
    known = msgspec.structs.asdict(preset)
    return msgspec.structs.replace(
        settings, **{name: known[name] for name in ChainSettings.__struct_fields__ if name in known}
    )


def _text(longest: int) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not text or len(text) > longest or not text.isprintable():
            raise ValueError(f"must be a text of 1 to {longest} characters")
        return text

    return read


def _address(text: str) -> str:
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname or len(text) > 200:
        raise ValueError(f"must be an address such as https://etherscan.io, or {UNSET}")
    return text.rstrip("/")


def _whole(text: str) -> int:
    if not WHOLE.fullmatch(text):
        raise ValueError("must be a whole number")
    return int(text)


def _amount(text: str) -> int:
    """Wei; `1.5 gwei` is understood, too."""
    found = AMOUNT.fullmatch(text)
    if not found or (found[2] and found[3] != "gwei"):
        raise ValueError("must be an amount such as 30gwei or 1000000 (wei)")
    return int(found[1] + (found[2] or "").ljust(9, "0")) if found[3] == "gwei" else int(found[1])


def _style(text: str) -> FeeStyle:
    if text not in set(FeeStyle):
        raise ValueError(f"must be {' or '.join(FeeStyle)}")
    return FeeStyle(text)


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == UNSET else read(text)


READERS: dict[str, Callable[[str], Any]] = {
    "name": _text(60),
    "currency": _text(12),
    "explorer_url": _or_none(_address),
    "confirmations": _whole,
    "final_depth": _or_none(_whole),
    "fee_style": _style,
    "fee_percentile": _whole,
    "base_fee_percent": _whole,
    "least_tip_wei": _amount,
    "most_fee_wei": _or_none(_amount),
    "stuck_blocks": _whole,
    "in_flight_limit": _whole,
}
