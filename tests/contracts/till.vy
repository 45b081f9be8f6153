# pragma version ==0.4.3
"""
@title Till
@notice For tests: keeps money and tokens, pays them out to whom its owner says, and takes several calls in one.
"""

from ethereum.ercs import IERC20

event Noted:
    key: indexed(bytes32)
    content: String[200]


struct Share:
    to: address
    amount: uint256


owner: public(address)
names: public(HashMap[address, String[40]])


@deploy
@payable
def __init__(owner: address):
    self.owner = owner


@external
@payable
def deposit():
    pass


@external
def pay(to: address, amount: uint256):
    assert msg.sender == self.owner, "only its owner"
    raw_call(to, b"", value=amount)


@external
def hand_out(token: address, to: address, amount: uint256):
    assert msg.sender == self.owner, "only its owner"
    extcall IERC20(token).transfer(to, amount)


@external
def share(token: address, shares: DynArray[Share, 10]):
    assert msg.sender == self.owner, "only its owner"
    for each: Share in shares:
        extcall IERC20(token).transfer(each.to, each.amount)


@external
def note(key: bytes32, content: String[200]):
    assert len(content) > 0, "nothing to note"
    log Noted(key=key, content=content)


@external
def call_me(who: address, name: String[40]):
    self.names[who] = name


@external
@payable
def multicall(data: DynArray[Bytes[1024], 20]) -> DynArray[Bytes[64], 20]:
    results: DynArray[Bytes[64], 20] = []
    for each: Bytes[1024] in data:
        results.append(raw_call(self, each, max_outsize=64, is_delegate_call=True))
    return results
