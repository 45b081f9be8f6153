"""What is well and what is not: each check is limited in time, and its answer is kept for two seconds."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.chain.schemas import EndpointView
from portal.db.engine import run_sql
from portal.db.migrations import list_waiting
from portal.jobs.queue import queue_state
from portal.logging import get_logger
from portal.ops import readings
from portal.settings import get_settings
from portal.signals.health.judgement import in_words
from portal.transactions.controls.pauses import list_stops
from portal.transactions.lanes.queries import LaneView, list_stuck_lanes

log = get_logger(__name__)
CHECK_SECONDS = 3.0
KEPT_SECONDS = 2.0
HEAD_OVERDUE_SECONDS = 120
"""No chain that we know makes its blocks further apart."""
WATCH_OVERDUE_SECONDS = 60
"""Workers look every second."""
READ_OVERDUE_SECONDS = 300
"""Workers read balances every minute."""
UNMINED_OVERDUE_SECONDS = 600
"""Fees were raised several times by then."""
FAILED_PULLS = 3
"""In a row: from there on it is no blip any more."""


class State(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    """Works, but somebody should look."""
    FAILED = "failed"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at; `values` are what was measured, with their units in the names."""

    name: str
    state: State
    message: str
    values: dict[str, Any] = {}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The worst state of all checks; `checks` is null for whoever may not see them."""

    state: State
    checked_at: datetime
    checks: list[Check] | None


Look = Callable[[], Awaitable[list[Check]]]
_kept: dict[tuple[str, UUID | None], tuple[float, list[Check]]] = {}
_looking: defaultdict[tuple[str, UUID | None], asyncio.Lock] = defaultdict(asyncio.Lock)


async def check_readiness() -> list[Check]:
    """What this process needs to answer at all: the database, at this version's migrations."""
    looks: dict[str, Look] = {"database": check_database, "migrations": check_migrations}
    return await _gather(looks, None)


async def check_installation() -> list[Check]:
    """What all organisations share."""
    looks: dict[str, Look] = {
        "database": check_database,
        "migrations": check_migrations,
        "queue": check_queue,
        "chains": check_chains,
        "sealing of keys": check_sealing,
    }
    return await _gather(looks, None)


async def check_organization(organization_id: UUID) -> list[Check]:
    """What is one organisation's own: sources, transactions, lanes, pauses and the balances of its signers."""

    async def sources() -> list[Check]:
        return [_source_check(source) for source in await readings.read_sources(organization_id)]

    async def signers() -> list[Check]:
        return [_signer_check(reading) for reading in await readings.read_balances(organization_id)]

    async def transactions() -> list[Check]:
        return [_transactions_check(await readings.read_transactions(organization_id))]

    async def lanes() -> list[Check]:
        return [_lanes_check(await list_stuck_lanes(organization_id))]

    async def pauses() -> list[Check]:
        return [_pauses_check(await list_stops(organization_id))]

    looks: dict[str, Look] = {
        "sources": sources,
        "signers": signers,
        "transactions": transactions,
        "lanes": lanes,
        "pauses": pauses,
    }
    return await _gather(looks, organization_id)


def worst(checks: list[Check]) -> State:
    order = list(State)
    return max((check.state for check in checks), key=order.index, default=State.OK)


async def check_database() -> list[Check]:
    started = time.perf_counter()
    await run_sql("SELECT 1 AS one")
    milliseconds = round((time.perf_counter() - started) * 1000, 1)
    return [
        Check(name="database", state=State.OK, message="Answers.", values={"query_milliseconds": milliseconds}),
    ]


async def check_migrations() -> list[Check]:
    waiting = await list_waiting()
    if waiting:
        message = f"{len(waiting)} migrations have not run; run `portal migrate`."
        return [Check(name="migrations", state=State.FAILED, message=message, values={"waiting": waiting})]
    return [Check(name="migrations", state=State.OK, message="The database is at this version.")]


async def check_queue() -> list[Check]:
    queue = await queue_state()
    if queue is None:
        return [Check(name="queue", state=State.DEGRADED, message="This process rings nobody; sweepers do the work.")]
    values = {"queued": queue.queued, "active": queue.active, "workers": queue.workers}
    if queue.workers == 0:
        message = "No worker has reported; nothing is assessed or sent until one runs."
        return [Check(name="queue", state=State.DEGRADED, message=message, values=values)]
    return [Check(name="queue", state=State.OK, message=f"Workers: {queue.workers}.", values=values)]


async def check_chains() -> list[Check]:
    """Each chain as the watcher last saw it: no node is asked here, so that none which hangs is waited for."""
    chains = await readings.read_chains()
    checks = [_chain_check(chain) for chain in chains]
    known = {chain["id"] for chain in chains}
    for chain_id in get_settings().rpc_urls.keys() - known:
        message = "Has a node in the settings, but no worker has registered it yet."
        checks.append(
            Check(name=f"chain {chain_id}", state=State.DEGRADED, message=message, values={"chain_id": chain_id})
        )
    return checks


def troubles_of(endpoints: Sequence[EndpointView]) -> list[str]:
    """What is wrong about nodes, a sentence for each that is not well."""
    troubled = [endpoint for endpoint in endpoints if endpoint.state not in ("ok", "unknown")]
    return [f"{endpoint.name[:1].upper()}{endpoint.name[1:]}: {endpoint.message}" for endpoint in troubled]


def silence_of(head_at: datetime | None, watched_at: datetime | None) -> str | None:
    """Why nothing is heard of a chain, from when a worker saw its newest block and had an answer; None while it is."""
    age, unwatched = _age(head_at), _age(watched_at)
    if age is None:
        return "No block has been seen yet."
    if unwatched is not None and unwatched > WATCH_OVERDUE_SECONDS:
        return f"No worker has had an answer from its nodes for {in_words(unwatched)}."
    return f"It has made no block for {in_words(age)}." if age > HEAD_OVERDUE_SECONDS else None


async def check_sealing() -> list[Check]:
    """With which sealing keys the keys of all signers are encrypted: while it is more than one, the older is needed."""
    sealed = await readings.read_sealing_keys()
    counts = ", ".join(f"{number:,} with {key}" for key, number in sealed.items())
    if len(sealed) > 1:
        state, message = (
            State.DEGRADED,
            f"They are being encrypted anew: {counts}. Keep PORTAL_SIGNER_KEY_PREVIOUS.",
        )
    elif sealed:
        state, message = State.OK, f"All are encrypted with the sealing key {next(iter(sealed))}; no other is needed."
    else:
        state, message = State.OK, "There are none yet."
    return [Check(name="sealing of keys", state=state, message=message, values={"keys_by_sealing_key": sealed})]


def _chain_check(chain: dict[str, Any]) -> Check:
    age, unwatched, endpoints = _age(chain["head_at"]), _age(chain["watched_at"]), chain["endpoints"]
    values = {
        "chain_id": chain["id"],
        "name": chain["name"],
        "head_number": chain["head_number"],
        "final_number": chain["final_number"],
        "head_age_seconds": age,
        "watched_seconds_ago": unwatched,
        "endpoints": [msgspec.structs.asdict(endpoint) for endpoint in endpoints],
    }
    said = troubles_of(endpoints)
    if chain["paused_at"]:
        state, message = State.DEGRADED, "It is paused: nothing is sent."
    elif silent := silence_of(chain["head_at"], chain["watched_at"]):
        state = State.FAILED if chain["head_at"] else State.DEGRADED
        message = " ".join([silent, *said])
    else:
        state = State.DEGRADED if said else State.OK
        message = " ".join([f"Block {chain['head_number']:,}, {age:.0f} seconds ago.", *said])
    return Check(name=f"chain {chain['id']}", state=state, message=message, values=values)


def _source_check(source: dict[str, Any]) -> Check:
    last = source["last_signal_at"]
    state, message = State.OK, f"Last signal at {last:%Y-%m-%d %H:%M:%S} UTC." if last else "No signal has arrived yet."
    if source["status"] == "paused":
        state, message = State.DEGRADED, "Is paused: its deliveries are refused."
    elif source["quiet_since"] and source["expected_every_seconds"]:
        every = in_words(source["expected_every_seconds"])
        state, message = State.DEGRADED, f"Is quiet: a signal is expected every {every}. {message}"
    elif source["failures"] >= FAILED_PULLS:
        state, message = State.DEGRADED, f"Its last {source['failures']} pulls failed. {source['error']}"
    return Check(
        name=f"source {source['name']}",
        state=state,
        message=message,
        values={"source_id": source["id"], "last_signal_at": last, "quiet_since": source["quiet_since"]},
    )


def _transactions_check(reading: dict[str, Any]) -> Check:
    oldest = reading["oldest_sent_at"]
    age = round((clock.now() - oldest).total_seconds(), 1) if oldest else None
    values = {name: reading[name] for name in ("under_way", "held", "suspect", "displaced")}
    trouble = []
    if reading["displaced"]:
        trouble.append(f"Another program used a signer's key: {reading['displaced']} displaced in the last 7 days.")
    if reading["suspect"]:
        trouble.append(f"With a used nonce and no receipt yet: {reading['suspect']}.")
    if reading["held"] > reading["suspect"]:
        trouble.append(f"Held: {reading['held'] - reading['suspect']}, each with its reason.")
    if age is not None and age > UNMINED_OVERDUE_SECONDS:
        trouble.append(f"The oldest one that was sent has waited for a block for {in_words(int(age))}.")
    message = " ".join(trouble) or f"Under way: {reading['under_way']}."
    return Check(
        name="transactions",
        state=State.DEGRADED if trouble else State.OK,
        message=message,
        values={**values, "oldest_unmined_seconds": age},
    )


def _lanes_check(stuck: list[LaneView]) -> Check:
    said = [f"{lane.signer_name} on {lane.chain_name} does not move. {lane.waits_for}" for lane in stuck]
    return Check(
        name="lanes",
        state=State.DEGRADED if stuck else State.OK,
        message=" ".join(said) or "Every lane moves.",
        values={"stuck": [lane.id for lane in stuck]},
    )


def _pauses_check(stops: list[str]) -> Check:
    state = State.DEGRADED if stops else State.OK
    return Check(name="pauses", state=state, message=" ".join(stops) or "Nothing is paused.")


def _age(moment: datetime | None) -> float | None:
    """In seconds, to a tenth."""
    return None if moment is None else round((clock.now() - moment).total_seconds(), 1)


def _signer_check(reading: readings.Balance) -> Check:
    age = _age(reading.read_at)
    values = {
        "signer_id": reading.signer_id,
        "address": reading.address,
        "chain_id": reading.chain_id,
        "balance_wei": None if reading.balance_wei is None else str(reading.balance_wei),
        "read_seconds_ago": age,
    }
    if reading.trouble is not None:
        state, message = State.FAILED, reading.trouble
    elif reading.address is None:
        state, message = State.DEGRADED, "Waits for the worker to make its key."
    elif reading.balance_wei is None or age is None:
        state, message = State.DEGRADED, "No worker has read its balance yet, as one does every minute."
    elif age > READ_OVERDUE_SECONDS:
        state, message = State.DEGRADED, f"Its balance was last read {in_words(age)} ago: {_amount(reading)}."
    elif reading.balance_wei == 0:
        state, message = State.FAILED, "Has no funds: nothing can be sent until its address receives some."
    else:
        is_low = reading.low_balance_wei is not None and reading.balance_wei < reading.low_balance_wei
        message = f"Holds {_amount(reading)}{', which is low' if is_low else ''}."
        state = State.DEGRADED if is_low else State.OK
    return Check(name=f"signer {reading.name}", state=state, message=message, values=values)


def _amount(reading: readings.Balance) -> str:
    return f"{(reading.balance_wei or 0) / 10**18:.6g} {reading.currency}"


async def _gather(looks: dict[str, Look], organization_id: UUID | None) -> list[Check]:
    found = await asyncio.gather(*(_look(name, look, organization_id) for name, look in looks.items()))
    return [check for checks in found for check in checks]


async def _look(name: str, look: Look, organization_id: UUID | None) -> list[Check]:
    key = (name, organization_id)
    async with _looking[key]:  # many who ask at once wait for one answer
        if key not in _kept or time.monotonic() - _kept[key][0] >= KEPT_SECONDS:
            checks = await _look_now(name, look)
            _kept[key] = (time.monotonic(), checks)
        return _kept[key][1]


async def _look_now(name: str, look: Look) -> list[Check]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await look()
    except TimeoutError:
        return [Check(name=name, state=State.FAILED, message=f"No answer within {CHECK_SECONDS:g} seconds.")]
    except Exception as error:
        log.warning("health.check_failed", check=name, error=type(error).__name__)
        return [Check(name=name, state=State.FAILED, message="Does not answer.")]
