"""Which transaction used a nonce: looked for in the blocks, for a node that does not show its receipt."""

from collections.abc import Iterable
from typing import Any

import msgspec

from portal.chain.endpoint import Answer
from portal.chain.results import NONSENSE, parse_count
from portal.chain.rpc import Node

FARTHEST = 20
"""Powers of two back from where the search begins: a million blocks, further than a suspicion ever is."""
PROBES = 16
"""In one request, once it is known between which two blocks it was."""


class Use(msgspec.Struct, frozen=True):
    """The transaction that used a nonce."""

    hash: str
    block_number: int


async def find_use(node: Node, address: str, nonce: int, up_to: int) -> Use | None:
    """What used `nonce` of `address`, which the node counts as used by the block `up_to`.

    None where the node keeps too few old states to tell, and where no transaction of the address is in the block: a
    delegation (EIP-7702) uses a nonce, too. Some five requests. Raises `NodeUnavailable`.
    """
    used, unused = up_to, None
    probes = sorted({max(0, up_to - 2**power) for power in range(FARTHEST + 1)})
    while probes:
        counts = await _counts(node, address, probes)
        used = min((number for number, count in counts.items() if count > nonce), default=used)
        unused = max((number for number, count in counts.items() if count <= nonce and number < used), default=unused)
        if not counts or unused is None:
            return None
        probes = list(range(unused + 1, used, -(-(used - unused) // PROBES)))
    if unused is None:
        return None
    [answer] = await node.ask([("eth_getBlockByNumber", [hex(used), True])])
    hash = _find(answer, used, address, nonce)
    return Use(hash, used) if hash else None


async def _counts(node: Node, address: str, numbers: Iterable[int]) -> dict[int, int]:
    """The next nonce by each block whose state the node has."""
    wanted = list(numbers)
    answers = await node.ask([("eth_getTransactionCount", [address, hex(number)]) for number in wanted])
    counts = {}
    for number, answer in zip(wanted, answers, strict=True):
        try:
            counts[number] = parse_count(answer.get("result"))
        except NONSENSE:
            continue
    return counts


def _find(answer: Answer, number: int, address: str, nonce: int) -> str | None:
    try:
        block: Any = answer["result"]
        if parse_count(block["number"]) == number:
            for each in block["transactions"]:
                if each["from"].lower() == address.lower() and parse_count(each["nonce"]) == nonce:
                    return str(each["hash"]).lower()
    except NONSENSE:
        pass  # a node that cannot tell; what it says of receipts counts all the same
    return None
