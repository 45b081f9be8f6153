"""What a simulated call would change: who gains and loses what, and which events are emitted. Pure.

Tokens count by the standard transfer events they emit (ERC-20, ERC-721, ERC-1155), native currency by the calls that
carry it. Nothing else is counted: a token that moves balances without an event shows in its own events only.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from portal.actions.effects import WEI_DECIMALS
from portal.actions.schemas import BalanceChange, EmittedEvent, SimulatedEffects
from portal.chain.abi import Abi, inputs_of
from portal.chain.logs import Emitted, Event, LogUnreadable, decode_log, events_by_topic
from portal.chain.traces import Trace
from portal.chain.values import checksum_address, printable

NOBODY = "0x" + "00" * 20
MOST_CHANGES = 50
MOST_EVENTS = 50
MOST_DATA = 4096
"""Bytes of one event that are decoded and kept."""


class KnownContract(msgspec.Struct, frozen=True):
    """A contract that the organisation has registered."""

    abi: Abi
    symbol: str | None
    decimals: int | None


class Asset(msgspec.Struct, frozen=True):
    """What one can have a balance of. `token` is an address in lower case, None for native currency."""

    kind: str
    token: str | None = None
    token_id: int | None = None


def _event(name: str, *inputs: tuple[str, str, bool]) -> dict[str, Any]:
    listed = [{"name": label, "type": kind, "indexed": indexed} for label, kind, indexed in inputs]
    return {"type": "event", "name": name, "inputs": listed}


_FROM_TO = (("from", "address", True), ("to", "address", True))
_SHARED = (("operator", "address", True), *_FROM_TO)
STANDARD = events_by_topic(
    [
        _event("Transfer", *_FROM_TO, ("value", "uint256", False)),
        _event("Transfer", *_FROM_TO, ("tokenId", "uint256", True)),
        _event("TransferSingle", *_SHARED, ("id", "uint256", False), ("value", "uint256", False)),
        _event("TransferBatch", *_SHARED, ("ids", "uint256[]", False), ("values", "uint256[]", False)),
        _event("Approval", ("owner", "address", True), ("spender", "address", True), ("value", "uint256", False)),
        _event("Approval", ("owner", "address", True), ("approved", "address", True), ("tokenId", "uint256", True)),
        _event(
            "ApprovalForAll", ("owner", "address", True), ("operator", "address", True), ("approved", "bool", False)
        ),
    ]
)
"""Of ERC-20, ERC-721 and ERC-1155, which say the same of tokens that nobody has registered."""


def measure(trace: Trace, known: Mapping[str, KnownContract]) -> SimulatedEffects:
    """What `trace` changes, with the events decoded by the ABIs of `known` contracts (by address in lower case)."""
    moved: dict[tuple[str, Asset], int] = {}
    for payment in trace.payments:
        _move(moved, Asset("native"), payment.sender, payment.receiver, payment.wei)
    for log in trace.logs:
        for asset, sender, receiver, amount in _transfers(log):
            _move(moved, asset, sender, receiver, amount)
    changes = [_change(holder, asset, amount, known) for (holder, asset), amount in moved.items() if amount]
    topics = {address: events_by_topic(each.abi) for address, each in known.items()}
    events = [_emitted(log, topics.get(log.address, {}), known.get(log.address)) for log in trace.logs[:MOST_EVENTS]]
    return SimulatedEffects(
        source=trace.source,
        changes=changes[:MOST_CHANGES],
        more_changes=max(0, len(changes) - MOST_CHANGES),
        events=events,
        more_events=max(0, len(trace.logs) - MOST_EVENTS),
    )


def _move(moved: dict[tuple[str, Asset], int], asset: Asset, sender: str, receiver: str, amount: int) -> None:
    for holder, change in ((sender, -amount), (receiver, amount)):
        if holder != NOBODY:
            moved[holder, asset] = moved.get((holder, asset), 0) + change


def _transfers(log: Emitted) -> Iterable[tuple[Asset, str, str, int]]:
    """What a log says moved, by the standards' own form of it, whatever an ABI calls it."""
    event = _standard(log)
    if event is None or not event.name.startswith("Transfer"):
        return []
    try:
        said = decode_log(event, log)
    except LogUnreadable:
        return []
    sender, receiver = said["from"].lower(), said["to"].lower()
    if event.name == "Transfer" and "tokenId" in said:
        assets = [(Asset("erc721", log.address, int(said["tokenId"])), 1)]
    elif event.name == "Transfer":
        assets = [(Asset("erc20", log.address), int(said["value"]))]
    else:
        ids, values = (said["ids"], said["values"]) if "ids" in said else ([said["id"]], [said["value"]])
        assets = [(Asset("erc1155", log.address, int(id)), int(n)) for id, n in zip(ids, values, strict=False)]
    return [(asset, sender, receiver, amount) for asset, amount in assets]


def _standard(log: Emitted) -> Event | None:
    found = STANDARD.get(log.topics[0], []) if log.topics else []
    return next((event for event in found if _indexed(event) == len(log.topics) - 1), None)


def _indexed(event: Event) -> int:
    return sum(component.get("indexed") is True for component in event.inputs)


def _change(holder: str, asset: Asset, amount: int, known: Mapping[str, KnownContract]) -> BalanceChange:
    contract = known.get(asset.token or "")
    return BalanceChange(
        holder=checksum_address(holder),
        asset=asset.kind,
        token=asset.token and checksum_address(asset.token),
        token_id=None if asset.token_id is None else str(asset.token_id),
        is_registered=contract is not None or asset.token is None,
        symbol=contract.symbol if contract else None,
        decimals=WEI_DECIMALS if asset.token is None else contract.decimals if contract else None,
        change=str(amount),
    )


def _emitted(log: Emitted, topics: Mapping[bytes, list[Event]], contract: KnownContract | None) -> EmittedEvent:
    event, arguments = _decoded(log, topics)
    return EmittedEvent(
        contract=checksum_address(log.address),
        event=event,
        arguments=arguments,
        topics=["0x" + topic.hex() for topic in log.topics],
        data="0x" + log.data[:MOST_DATA].hex(),
        data_bytes=len(log.data),
        symbol=contract.symbol if contract else None,
        decimals=contract.decimals if contract else None,
    )


def _decoded(log: Emitted, topics: Mapping[bytes, list[Event]]) -> tuple[str | None, list[dict[str, Any]]]:
    if not log.topics or len(log.data) > MOST_DATA:
        return None, []
    for event in [*topics.get(log.topics[0], []), *filter(None, [_standard(log)])]:
        try:
            values = decode_log(event, log)
        except LogUnreadable:
            continue
        return event.signature, [
            {"name": each.name, "type": each.type, "value": _storable(values[each.name])}
            for each in inputs_of({"inputs": event.inputs})
        ]
    return None, []


def _storable(value: Any) -> Any:
    """Texts come from contracts: PostgreSQL stores no U+0000, and nothing may turn around what follows it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_storable(each) for each in value]
    return {name: _storable(each) for name, each in value.items()} if isinstance(value, dict) else value


def read_symbol(data: bytes) -> str | None:
    """What `symbol()` returned, a text or (as MKR does) 32 bytes; None for anything else."""
    try:
        symbol = decode(["string"], data)[0] if len(data) > 32 else data.rstrip(b"\0").decode()
    except (DecodingError, ValueError, OverflowError):
        return None
    symbol = printable(symbol).strip()
    return symbol if 1 <= len(symbol) <= 20 else None


def read_decimals(data: bytes) -> int | None:
    """What `decimals()` returned; None for what cannot be one."""
    found = int.from_bytes(data) if len(data) == 32 else -1
    return found if 0 <= found <= 77 else None
