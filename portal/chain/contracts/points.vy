# pragma version ==0.4.3
"""
@title Points
@notice An ERC-20 token with 18 decimals. Its owner, the organisation's signer, may create more of it and says who
        else may.
"""

from ethereum.ercs import IERC20
from ethereum.ercs import IERC20Detailed
from snekmate.auth import ownable
from snekmate.tokens import erc20

implements: IERC20
implements: IERC20Detailed

initializes: ownable
initializes: erc20[ownable := ownable]

exports: (
    erc20.owner,
    erc20.name,
    erc20.symbol,
    erc20.decimals,
    erc20.totalSupply,
    erc20.balanceOf,
    erc20.allowance,
    erc20.transfer,
    erc20.approve,
    erc20.transferFrom,
    erc20.burn,
    erc20.is_minter,
    erc20.set_minter,
    erc20.transfer_ownership,
)


@deploy
def __init__(name: String[25], symbol: String[5]):
    """
    @param name What the points are called.
    @param symbol Their short name, such as ACME.
    """
    ownable.__init__()
    erc20.__init__(name, symbol, 18, name, "1")


@external
def mint(to: address, amount: uint256):
    """
    @notice Create `amount` (in units of 10^-18) for `to`. Only the owner and those whom it made minters may.
    """
    assert erc20.is_minter[msg.sender], "erc20: access is denied"
    erc20._mint(to, amount)
