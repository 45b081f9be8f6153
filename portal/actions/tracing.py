"""What calls that would succeed change, asked of the node: traced, and measured against what is there before."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any
from uuid import UUID

import msgspec
from eth_utils.abi import function_signature_to_4byte_selector

from portal.actions.outcomes import KnownContract, measure, read_decimals, read_symbol
from portal.actions.schemas import BalanceChange, SimulatedEffects
from portal.chain.endpoint import Asked
from portal.chain.rpc import Call
from portal.chain.traces import Trace, read_many, trace_many
from portal.chain.values import checksum_address
from portal.db.engine import run_sql

BALANCE_OF, SYMBOL, DECIMALS = (
    function_signature_to_4byte_selector(each).hex() for each in ("balanceOf(address)", "symbol()", "decimals()")
)


class TracedCall(msgspec.Struct, frozen=True):
    """A call of an action that the node has carried out with success on top of block `block_number`."""

    action_id: UUID
    organization_id: UUID
    contract_id: UUID
    call: Call
    block_number: int


async def find_effects(chain_id: int, calls: Iterable[TracedCall]) -> dict[UUID, SimulatedEffects]:
    """What each call changes, by action, as far as a node of the chain traces. Never raises for what a node says."""
    effects: dict[UUID, SimulatedEffects] = {}
    for block_number, group in groupby(
        sorted(calls, key=lambda each: each.block_number), key=lambda each: each.block_number
    ):
        asked = list(group)
        found = await trace_many(chain_id, [each.call for each in asked], block_number)
        traced = [(each, trace) for each, trace in zip(asked, found, strict=True) if trace]
        known = await _known_contracts(chain_id, traced)
        measured = {each.action_id: measure(trace, known[each.action_id]) for each, trace in traced}
        effects |= await _with_balances(chain_id, block_number, measured)
    return effects


async def _known_contracts(
    chain_id: int, traced: list[tuple[TracedCall, Trace]]
) -> dict[UUID, dict[str, KnownContract]]:
    """By action: the contracts of its organisation among those that emit, by address; also the one being deployed."""
    emitting = {checksum_address(log.address) for _, trace in traced for log in trace.logs}
    rows = await run_sql(
        """SELECT id, organization, address, abi, symbol, decimals FROM contract
           WHERE chain = {} AND organization = ANY({}::uuid[])
           AND (address = ANY({}::text[]) OR id = ANY({}::uuid[]))""",
        chain_id,
        list({each.organization_id for each, _ in traced}),
        list(emitting),
        [each.contract_id for each, trace in traced if trace.created],
    )
    known = {row["id"]: KnownContract(msgspec.json.decode(row["abi"]), row["symbol"], row["decimals"]) for row in rows}
    found: dict[UUID, dict[str, KnownContract]] = {}
    for each, trace in traced:
        of_action = {
            row["address"].lower(): known[row["id"]]
            for row in rows
            if row["address"] and row["organization"] == each.organization_id
        }
        if trace.created and each.contract_id in known:
            of_action[trace.created] = known[each.contract_id]
        found[each.action_id] = of_action
    return found


async def _with_balances(
    chain_id: int, block_number: int, measured: Mapping[UUID, SimulatedEffects]
) -> dict[UUID, SimulatedEffects]:
    """The same with the balances before, and with what tokens that nobody has registered say of themselves."""
    tag = hex(block_number)
    asked: dict[tuple[str, ...], Asked] = {}
    for change in (change for effects in measured.values() for change in effects.changes):
        asked |= _questions(change, tag)
    answers = dict(zip(asked, await read_many(chain_id, list(asked.values())), strict=True))
    return {
        id: msgspec.structs.replace(effects, changes=[_completed(change, answers) for change in effects.changes])
        for id, effects in measured.items()
    }


def _questions(change: BalanceChange, tag: str) -> dict[tuple[str, ...], Asked]:
    if change.token is None:
        return {("balance", "", change.holder): ("eth_getBalance", [change.holder, tag])}
    questions: dict[tuple[str, ...], Asked] = {}
    if change.asset == "erc20":
        data = BALANCE_OF + change.holder[2:].lower().rjust(64, "0")
        questions["balance", change.token, change.holder] = _reading(change.token, data, tag)
    if not change.is_registered:
        questions["symbol", change.token] = _reading(change.token, SYMBOL, tag)
        if change.asset == "erc20":
            questions["decimals", change.token] = _reading(change.token, DECIMALS, tag)
    return questions


def _reading(token: str, data: str, tag: str) -> Asked:
    return "eth_call", [{"to": token, "data": "0x" + data}, tag]


def _completed(change: BalanceChange, answers: Mapping[tuple[str, ...], Any]) -> BalanceChange:
    token = change.token or ""
    symbol, decimals = (_bytes(answers.get((each, token))) for each in ("symbol", "decimals"))
    balance = _bytes(answers.get(("balance", token, change.holder)))
    return msgspec.structs.replace(
        change,
        before=str(int.from_bytes(balance)) if 1 <= len(balance) <= 32 else None,
        symbol=change.symbol if change.is_registered else read_symbol(symbol),
        decimals=change.decimals if change.is_registered else read_decimals(decimals),
    )


def _bytes(result: Any) -> bytes:
    """Bytes or a quantity of JSON-RPC; empty for anything else."""
    try:
        digits = result.removeprefix("0x")
        return bytes.fromhex(digits.rjust(len(digits) + len(digits) % 2, "0"))
    except (AttributeError, ValueError):
        return b""
