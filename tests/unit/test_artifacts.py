"""Artifacts as compilers and their tools write them, and those that cannot be deployed."""

from typing import Any

import pytest

from portal.chain.artifacts import MOST_INIT_CODE, check_size, read_artifact
from portal.errors import InputInvalid

ABI = [{"type": "constructor", "inputs": [{"name": "owner", "type": "address"}]}]


@pytest.mark.parametrize(
    "artifact",
    [
        {"abi": ABI, "bytecode": "0x6001"},
        {"abi": ABI, "bytecode": "6001", "contractName": "Till", "deployedBytecode": "0x"},
        {"abi": ABI, "bytecode": {"object": "0x6001", "linkReferences": {}}, "metadata": {"settings": {}}},
        {"abi": ABI, "evm": {"bytecode": {"object": "6001"}}},
        {"contracts": {"src/Till.sol": {"Till": {"abi": ABI, "evm": {"bytecode": {"object": "6001"}}}}}},
        {"till.vy": {"abi": ABI, "bytecode": "0x6001"}, "version": "0.4.3"},
    ],
)
def test_what_the_tools_write_is_read(artifact: dict[str, Any]) -> None:
    found = read_artifact(artifact)
    assert (found.abi, found.bytecode) == (ABI, b"\x60\x01")


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        ({}, "no contract"),
        ({"a": {"abi": ABI, "bytecode": "0x60"}, "b": {"abi": ABI, "bytecode": "0x60"}}, "2 contracts"),
        ({"abi": ABI, "bytecode": "0x"}, "no creation code"),
        ({"abi": ABI}, "no creation code"),
        ({"abi": ABI, "bytecode": {"object": "0x73__$0123456789$__63"}}, "not linked"),
        ({"abi": ABI, "bytecode": "0x123"}, "hex digits"),
        ({"abi": ABI, "bytecode": "solidity"}, "hex digits"),
        ({"abi": ABI, "bytecode": 96}, "no creation code"),
        ({"abi": [], "bytecode": "0x60"}, "JSON array"),
        ({"abi": [{"type": "function"}], "bytecode": "0x60"}, "no name"),
    ],
)
def test_what_cannot_be_deployed_says_why_at_the_artifact(artifact: dict[str, Any], said: str) -> None:
    with pytest.raises(InputInvalid, match=said) as refused:
        read_artifact(artifact)
    assert refused.value.fields[0].path.startswith("/artifact")


def test_creation_code_is_as_long_as_chains_take_at_most() -> None:
    check_size(b"\0" * MOST_INIT_CODE)
    with pytest.raises(InputInvalid, match="EIP-3860"):
        check_size(b"\0" * (MOST_INIT_CODE + 1))
