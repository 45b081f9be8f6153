"""Events of contracts: found in an ABI, and read from the logs that a node gives. Pure."""

from typing import Any

import msgspec
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import collapse_if_tuple
from eth_utils.crypto import keccak

from portal.chain.abi import Abi, check_components, inputs_of, signature
from portal.chain.values import to_json
from portal.errors import InputInvalid

HASHED = ("string", "bytes", "tuple")


class LogUnreadable(Exception):
    """A log is not what the ABI says of its event; the text says why, for people."""


class Emitted(msgspec.Struct, frozen=True):
    """What a contract emits: the event itself. The address is in lower case."""

    address: str
    topics: list[bytes]
    data: bytes


class Log(Emitted, frozen=True):
    """One entry of a block's logs. Hashes are in lower case."""

    block_number: int
    block_hash: str
    transaction_hash: str
    index: int
    """Its place among the logs of its block."""


class Event(msgspec.Struct, frozen=True):
    """An event of an ABI."""

    name: str
    signature: str
    """Canonical: `Transfer(address,address,uint256)`."""
    inputs: list[dict[str, Any]]

    @property
    def topic(self) -> str:
        """The first topic of its logs."""
        return "0x" + keccak(text=self.signature).hex()


def find_event(abi: Abi, wanted: str, path: str) -> Event:
    """The event of this name or canonical signature. Raises `InputInvalid` at `path` if there is not exactly one."""
    events = [element for element in abi if element["type"] == "event" and isinstance(element.get("name"), str)]
    named = [element for element in events if element["name"] == wanted.partition("(")[0]]
    for element in named:
        check_components(element.get("inputs"), path)
    found = [element for element in named if wanted in (element["name"], signature(element))]
    if len(found) != 1:
        trouble = "several events" if found else "no event"
        known = [signature(element) for element in named] or sorted({element["name"] for element in events})
        raise InputInvalid.at(
            path, f"The contract has {trouble} {wanted[:200]}. Name one of: {', '.join(known)[:1000] or 'it has none'}."
        )
    if found[0].get("anonymous"):
        raise InputInvalid.at(path, f"{wanted[:200]} is anonymous: its logs do not say which event they are.")
    return Event(found[0]["name"], signature(found[0]), found[0]["inputs"])


def events_by_topic(abi: Abi) -> dict[bytes, list[Event]]:
    """The events of an ABI by their first topic; of one signature there may be several, with other values indexed."""
    found: dict[bytes, list[Event]] = {}
    for element in abi:
        if element["type"] != "event" or not isinstance(element.get("name"), str) or element.get("anonymous"):
            continue
        try:
            check_components(element.get("inputs"), "/abi")
        except InputInvalid:
            continue
        event = Event(element["name"], signature(element), element["inputs"])
        found.setdefault(bytes.fromhex(event.topic[2:]), []).append(event)
    return found


def decode_log(event: Event, log: Emitted) -> dict[str, Any]:
    """The arguments by name, in the canonical form of `chain.values`: integers are decimal strings.

    Of an indexed text, array or tuple a log holds only the hash, so that is its value. Raises `LogUnreadable`.
    """
    indexed = [component.get("indexed") is True for component in event.inputs]
    if len(log.topics) != 1 + sum(indexed):
        raise LogUnreadable(f"The log has {len(log.topics) - 1} indexed values, {event.signature} {sum(indexed)}.")
    topics = iter(log.topics[1:])
    in_data = [component for component, is_topic in zip(event.inputs, indexed, strict=True) if not is_topic]
    try:
        data = iter(decode([collapse_if_tuple(component) for component in in_data], log.data))
        return {
            parameter.name: _topic(component, next(topics)) if is_topic else to_json(component, next(data))
            for parameter, component, is_topic in zip(
                inputs_of({"inputs": event.inputs}), event.inputs, indexed, strict=True
            )
        }
    except (DecodingError, ValueError, OverflowError):
        raise LogUnreadable(f"The log's data is not what {event.signature} emits.") from None


def _topic(component: dict[str, Any], topic: bytes) -> Any:
    if component["type"] in HASHED or component["type"].endswith("]"):
        return "0x" + topic.hex()
    return to_json(component, decode([component["type"]], topic)[0])
