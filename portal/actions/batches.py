"""Several calls of one contract as one: `multicall(bytes[])` of OpenZeppelin's `Multicall`, all or nothing. Pure.

The contract carries out each call on itself, as whoever sends the batch, and reverts altogether if one of them does. So
a batch may hold only what may be called alone: each call by an allowed function. No money goes along with one, because
calls that share a transaction would each count it as theirs.
"""

from collections.abc import Sequence
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import function_signature_to_4byte_selector

from portal.actions.schemas import BatchedCall
from portal.chain.abi import Abi, EncodedCall, decode_call, elements_by_selector, get_function
from portal.errors import FieldError, InputInvalid

MULTICALL = "multicall(bytes[])"


def takes_batches(abi: Abi) -> bool:
    """Whether a contract with this ABI carries out several calls as one."""
    try:
        get_function(abi, MULTICALL)
    except InputInvalid:
        return False
    return True


def batch_arguments(
    abi: Abi, calls: Sequence[BatchedCall], allowed: Sequence[str], contract_name: str
) -> dict[str, Any]:
    """The arguments of `MULTICALL` that carry out `calls` in order. Raises `InputInvalid` at `/calls/...`."""
    if not takes_batches(abi):
        raise InputInvalid.at(
            "/calls",
            f"{contract_name} has no {MULTICALL}, so its calls cannot share a transaction. Propose them one by one.",
        )
    problems: list[FieldError] = []
    encoded: list[str] = []
    for place, call in enumerate(calls):
        try:
            _check_function(call.function, allowed, contract_name)
            encoded.append("0x" + get_function(abi, call.function).encode(call.arguments).calldata.hex())
        except InputInvalid as error:
            problems += [FieldError(f"/calls/{place}{field.path}", field.message) for field in error.fields]
    if problems:
        raise InputInvalid(problems[0].message, fields=problems)
    return {get_function(abi, MULTICALL).inputs[0].name: encoded}


def check_batch(calldata: bytes, allowed: Sequence[str], contract_name: str, value_wei: int) -> None:
    """Raise `InputInvalid` unless each call in the `MULTICALL` that `calldata` is may be made alone."""
    if value_wei:
        raise InputInvalid.at("/value_wei", "No money can be sent along with several calls: each would count it.")
    selectors = {function_signature_to_4byte_selector(function) for function in allowed if function != MULTICALL}
    inner = inner_calls(calldata)
    if not inner:
        raise InputInvalid.at("/calls", "A batch needs at least one call.")
    for place, call in enumerate(inner):
        if call[:4] not in selectors:
            raise InputInvalid.at(
                f"/calls/{place}/function",
                f"Call {place + 1} of the batch is of no function of {contract_name} that is allowed.",
            )


def inner_calls(calldata: bytes) -> list[bytes]:
    """The calldata of each call in a `MULTICALL`. Raises `InputInvalid` for bytes that are none."""
    try:
        return list(decode(["bytes[]"], calldata[4:])[0])
    except (DecodingError, ValueError, OverflowError):
        raise InputInvalid.at("/calldata", f"These bytes are not a well-formed call of {MULTICALL}.") from None


def read_batch(abi: Abi, calldata: bytes) -> list[EncodedCall]:
    """The calls in a `MULTICALL`, decoded; one that is not of the ABI has no function and no arguments."""
    elements = elements_by_selector(abi)
    return [_read(elements, call) for call in inner_calls(calldata)]


def check_readable(abi: Abi, calldata: bytes) -> None:
    """Raise `InputInvalid` for a call in the `MULTICALL` that people could not be shown.

    A contract may carry it out all the same: what stands behind the arguments, for one, it does not read.
    """
    for place, call in enumerate(read_batch(abi, calldata), start=1):
        if not call.function:
            raise InputInvalid.at(
                f"/calls/{place - 1}", f"Call {place} of the batch is not well-formed, so nobody could read it."
            )


def _read(elements: dict[bytes, dict[str, Any]], calldata: bytes) -> EncodedCall:
    try:
        return decode_call(elements, calldata)
    except InputInvalid:
        return EncodedCall("", calldata, [])


def _check_function(function: str, allowed: Sequence[str], contract_name: str) -> None:
    if function == MULTICALL:
        raise InputInvalid.at("/function", "A batch cannot hold another batch.")
    if function not in allowed:
        known = ", ".join(each for each in allowed if each != MULTICALL)
        raise InputInvalid.at(
            "/function", f"{contract_name} has no allowed function {function[:200]}; allowed: {known}."
        )
