"""The till: a contract for tests that moves money and tokens, emits events, and takes several calls in one."""

import asyncio
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from portal.actions.schemas import ContractInput
from portal.actions.service import register_contract
from portal.chain.abi import encode_constructor
from portal.chain.compiler import EVM_VERSION
from tests.actions import CHAIN, Stage, deploy

SOURCE = Path(__file__).resolve().parent / "contracts" / "till.vy"
PAY, HAND_OUT, NOTE = "pay(address,uint256)", "hand_out(address,address,uint256)", "note(bytes32,string)"
SHARE = "share(address,(address,uint256)[])"
MULTICALL = "multicall(bytes[])"


@cache
def _compile() -> tuple[list[dict[str, Any]], bytes]:
    import subprocess

    command = ["-m", "vyper.cli.vyper_compile", "-f", "abi,bytecode", "--evm-version", EVM_VERSION, str(SOURCE)]
    output = subprocess.run([sys.executable, *command], capture_output=True, check=True, text=True).stdout
    abi, bytecode = output.splitlines()
    return json.loads(abi), bytes.fromhex(bytecode.removeprefix("0x"))


async def compiled() -> tuple[list[dict[str, Any]], bytes]:
    """Its ABI and creation code, compiled once a process."""
    return await asyncio.to_thread(_compile)


async def make_till(stage: Stage, *, allowed: list[str], wei: int = 0, **more: Any) -> tuple[UUID, str]:
    """A registered till of the stage's signer with `wei` in it: its id and address."""
    abi, bytecode = await compiled()
    creation = encode_constructor(abi, bytecode, {"owner": stage.signer_address})
    address = deploy(stage.node, stage.signer_address, creation.calldata)
    stage.node.fund(address, wei)
    given = {"name": "Till", "chain_id": CHAIN, "signer_id": stage.signer_id, **more}
    contract = await register_contract(
        stage.cast.alice.actor, ContractInput(address=address, abi=abi, allowed_functions=allowed, **given)
    )
    return contract.id, address
