"""What signed bytes say, read without any code of the portal."""

from dataclasses import dataclass

import rlp
from eth_account import Account
from eth_utils.crypto import keccak


@dataclass(frozen=True)
class RawTransaction:
    hash: str
    sender: str
    chain_id: int | None
    nonce: int
    max_fee_wei: int
    max_priority_fee_wei: int
    gas_limit: int
    to: str
    """Lower case; empty where it creates a contract."""
    value_wei: int
    data: bytes

    @property
    def payload(self) -> tuple[str, int, str, int, bytes]:
        """What makes two transactions the same deed: sender, nonce, target, value and data."""
        return (self.sender, self.nonce, self.to, self.value_wei, self.data)

    @property
    def does_nothing(self) -> bool:
        """Whether it only uses up its nonce: nothing sent from the signer to itself."""
        return self.to == self.sender.lower() and self.value_wei == 0 and self.data == b""


def decode_raw(raw: bytes) -> RawTransaction:
    """EIP-1559 or legacy bytes."""
    number = int.from_bytes
    if raw[0] == 2:
        chain, nonce, tip, fee, gas, to, value, data, *_ = rlp.decode(raw[1:])
        chain_id: int | None = number(chain)
    else:
        nonce, fee, gas, to, value, data, v, *_ = rlp.decode(raw)
        tip, chain_id = fee, (number(v) - 35) // 2 if number(v) >= 35 else None
    return RawTransaction(
        hash="0x" + keccak(raw).hex(),
        sender=Account.recover_transaction(raw),
        chain_id=chain_id,
        nonce=number(nonce),
        max_fee_wei=number(fee),
        max_priority_fee_wei=number(tip),
        gas_limit=number(gas),
        to="0x" + to.hex() if to else "",
        value_wei=number(value),
        data=bytes(data),
    )
