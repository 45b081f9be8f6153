"""What chains say of many addresses at once."""

from collections.abc import Sequence

import msgspec

from portal.chain.results import NONSENSE, parse_count, parse_number
from portal.chain.rpc import NodeUnavailable, get_node


class Account(msgspec.Struct, frozen=True):
    """An address by the newest block."""

    balance_wei: int
    transaction_count: int
    """The next nonce."""


async def read_accounts(chain_id: int, addresses: Sequence[str]) -> list[Account]:
    """The accounts at these addresses, in order. Raises `NodeUnavailable`."""
    asked = [
        (method, [address, "latest"])
        for address in addresses
        for method in ("eth_getBalance", "eth_getTransactionCount")
    ]
    answers = await get_node(chain_id).ask(asked)
    try:
        balances = [parse_number(answer["result"]) for answer in answers[::2]]
        counts = [parse_count(answer["result"]) for answer in answers[1::2]]
    except NONSENSE:
        raise NodeUnavailable(f"The node of chain {chain_id} does not say what its accounts hold.") from None
    return [Account(*pair) for pair in zip(balances, counts, strict=True)]
