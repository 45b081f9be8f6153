# pragma version ==0.4.3
"""
@title Certificates
@notice An ERC-721 collection: its owner, the organisation's signer, issues numbered certificates, each with an address
        of its content. A certificate's content address never changes.
"""

from ethereum.ercs import IERC165
from ethereum.ercs import IERC721
from snekmate.auth import ownable
from snekmate.tokens import erc721

implements: IERC165
implements: IERC721

initializes: ownable
initializes: erc721[ownable := ownable]

exports: (
    erc721.owner,
    erc721.name,
    erc721.symbol,
    erc721.supportsInterface,
    erc721.balanceOf,
    erc721.ownerOf,
    erc721.tokenURI,
    erc721.totalSupply,
    erc721.tokenByIndex,
    erc721.tokenOfOwnerByIndex,
    erc721.approve,
    erc721.getApproved,
    erc721.setApprovalForAll,
    erc721.isApprovedForAll,
    erc721.transferFrom,
    erc721.safeTransferFrom,
    erc721.transfer_ownership,
)


@deploy
def __init__(name: String[25], symbol: String[5]):
    """
    @param name What the collection is called.
    @param symbol Its short name, such as CERT.
    """
    ownable.__init__()
    erc721.__init__(name, symbol, "", name, "1")


@external
def mint(to: address, uri: String[432]) -> uint256:
    """
    @notice Issue the next certificate to `to`, with the address of its content. Only the owner may.
    @return The number of the certificate; they count from 0.
    """
    ownable._check_owner()
    number: uint256 = erc721._counter
    erc721._counter = number + 1
    erc721._mint(to, number)
    erc721._set_token_uri(number, uri)
    return number
