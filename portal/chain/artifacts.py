"""Compiled contracts as people's own tools write them: Foundry, Hardhat, solc and Vyper. Pure."""

from typing import Any

from portal.chain.abi import Abi, parse_abi
from portal.chain.compiler import Compiled
from portal.chain.values import HEX
from portal.errors import FieldError, InputInvalid

MOST_INIT_CODE = 49_152
"""Bytes of creation code with its arguments, by EIP-3860, which all chains of our presets have."""


def read_artifact(artifact: dict[str, Any]) -> Compiled:
    """The ABI and the creation code of the one contract in `artifact`. Raises `InputInvalid` at `/artifact/...`.

    Known forms: `{"abi", "bytecode": "0x..."}` (Hardhat, Truffle, Vyper), `{"abi", "bytecode": {"object": "0x..."}}`
    (Foundry), `{"abi", "evm": {"bytecode": {"object"}}}` (solc), or an object with one of these inside (Vyper's
    `combined_json`, solc by file and name).
    """
    found = _find(artifact, depth=4)
    if len(found) != 1:
        trouble = f"{len(found)} contracts; give the one to deploy" if found else "no contract: it has no abi"
        raise InputInvalid.at("/artifact", f"This artifact holds {trouble}.")
    return Compiled(_abi(found[0]["abi"]), _bytecode(found[0]))


def check_size(init_code: bytes) -> None:
    """Raise `InputInvalid` for creation code, arguments included, that no chain takes."""
    if len(init_code) > MOST_INIT_CODE:
        raise InputInvalid.at(
            "/artifact",
            f"The creation code takes {len(init_code):,} bytes with its arguments; chains take at most "
            f"{MOST_INIT_CODE:,} (EIP-3860). Compile it with the optimizer, or split it.",
        )


def _find(value: Any, depth: int) -> list[dict[str, Any]]:
    if not isinstance(value, dict) or not depth:
        return []
    if "abi" in value:
        return [value]
    return [found for each in value.values() for found in _find(each, depth - 1)]


def _abi(value: Any) -> Abi:
    try:
        return parse_abi(value)
    except InputInvalid as error:
        fields = [FieldError("/artifact" + field.path, field.message) for field in error.fields]
        raise InputInvalid(error.detail, fields=fields) from None


def _bytecode(contract: dict[str, Any]) -> bytes:
    evm = contract.get("evm")
    code = contract.get("bytecode") or (evm.get("bytecode") if isinstance(evm, dict) else None)
    code = code.get("object") if isinstance(code, dict) else code
    if not isinstance(code, str) or code in ("", "0x"):
        raise InputInvalid.at(
            "/artifact", "There is no creation code in it: it is an interface, abstract, or not compiled to bytecode."
        )
    code = code if code.startswith("0x") else "0x" + code
    if "__" in code:
        raise InputInvalid.at("/artifact", "It uses a library that is not linked yet. Link it, and give the result.")
    if not HEX.fullmatch(code):
        raise InputInvalid.at("/artifact", "Its bytecode is not 0x and an even number of hex digits.")
    return bytes.fromhex(code[2:])
