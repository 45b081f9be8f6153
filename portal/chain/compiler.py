"""The contracts that the portal itself can deploy, compiled from `contracts/*.vy` with vyper and snekmate."""

import asyncio
import sys
from pathlib import Path

import msgspec

from portal.chain.abi import Abi, signature
from portal.errors import NotFound

FOLDER = Path(__file__).resolve().parent / "contracts"
EVM_VERSION = "cancun"  # the newest that every chain of `presets.PRESETS` runs


class Template(msgspec.Struct, frozen=True):
    """A contract of ours, as a person chooses it."""

    name: str
    label: str
    description: str
    allowed_functions: list[str]
    """What actions may call unless somebody chooses otherwise."""
    shared_functions: list[str]
    """Those that several signers may be allowed to send; only its owner sends the others."""
    decimals: int | None
    """Of its amounts; None where it has none."""
    limits: dict[str, dict[str, int]]
    """Most bytes (UTF-8) of text arguments by function: a longer one would revert without saying why."""


TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "points",
            "Points",
            "A balance for each person that only your organisation can credit (ERC-20, 18 decimals).",
            ["mint(address,uint256)", "set_minter(address,bool)", "transfer_ownership(address)"],
            ["mint(address,uint256)"],
            18,
            {"constructor(string,string)": {"name": 25, "symbol": 5}},
        ),
        Template(
            "certificates",
            "Certificates",
            "Numbered certificates that your organisation issues to people (ERC-721).",
            ["mint(address,string)", "transfer_ownership(address)"],
            [],
            None,
            {"constructor(string,string)": {"name": 25, "symbol": 5}, "mint(address,string)": {"uri": 432}},
        ),
        Template(
            "records",
            "Records",
            "An append-only log: what was written stays readable for ever, and nobody can change it.",
            ["append(bytes32,string)", "transfer_ownership(address)"],
            [],
            None,
            {"constructor(string)": {"name": 64}, "append(bytes32,string)": {"content": 1024}},
        ),
    )
}


class Compiled(msgspec.Struct, frozen=True):
    abi: Abi
    bytecode: bytes
    """Creation code without the constructor's arguments."""


class CompilationFailed(Exception):
    """One of our own contracts does not compile: the installation is broken."""


_compiled: dict[str, Compiled] = {}


def get_template(name: str) -> Template:
    """The template `name`. Raises `NotFound`."""
    if name not in TEMPLATES:
        raise NotFound(f"There is no contract template {name!r}; there are {', '.join(TEMPLATES)}.")
    return TEMPLATES[name]


async def compile_template(name: str) -> Compiled:
    """The template compiled, once a process, in a process of its own: vyper takes about a second and 100 MB.

    In its ABI a text argument with a limit carries `maxLength`, which `encode_call` checks. Raises `NotFound`.
    """
    template = get_template(name)
    if name not in _compiled:
        _compiled[name] = await _compile(template)
    return _compiled[name]


async def _compile(template: Template) -> Compiled:
    source = FOLDER / f"{template.name}.vy"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "vyper.cli.vyper_compile", "-f", "abi,bytecode", "--evm-version", EVM_VERSION, str(source)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise CompilationFailed(f"{source.name}: {errors.decode(errors='replace')[-2000:]}")
    abi, bytecode = output.decode().splitlines()
    return _read_output(template, abi, bytecode)


def _read_output(template: Template, abi: str, bytecode: str) -> Compiled:
    elements: Abi = msgspec.json.decode(abi)
    for element in elements:
        if element["type"] in ("function", "constructor"):
            limits = template.limits.get(signature(element), {})
            for parameter in element["inputs"]:
                if parameter["name"] in limits:
                    parameter["maxLength"] = limits[parameter["name"]]
    return Compiled(elements, bytes.fromhex(bytecode.removeprefix("0x")))
