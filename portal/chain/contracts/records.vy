# pragma version ==0.4.3
"""
@title Records
@notice An append-only log. Its owner, the organisation's signer, appends content under a key; every entry keeps its
        place and time for ever. There is no function that changes or removes one.
"""

from snekmate.auth import ownable

initializes: ownable

exports: (ownable.owner, ownable.transfer_ownership)


struct Record:
    content: String[1024]
    appended_at: uint256


event RecordAppended:
    key: indexed(bytes32)
    position: indexed(uint256)
    content: String[1024]


_name: immutable(String[64])
total: public(uint256)
count: public(HashMap[bytes32, uint256])
_records: HashMap[bytes32, HashMap[uint256, Record]]


@deploy
def __init__(name: String[64]):
    """
    @param name What the log is called.
    """
    ownable.__init__()
    _name = name


@external
@view
def name() -> String[64]:
    """
    @notice What the log is called.
    """
    return _name


@external
def append(key: bytes32, content: String[1024]) -> uint256:
    """
    @notice Append `content` under `key`. Only the owner may.
    @return The position among the entries of the key; they count from 0.
    """
    ownable._check_owner()
    position: uint256 = self.count[key]
    self._records[key][position] = Record(content=content, appended_at=block.timestamp)
    self.count[key] = position + 1
    self.total += 1
    log RecordAppended(key=key, position=position, content=content)
    return position


@external
@view
def record(key: bytes32, position: uint256) -> Record:
    """
    @notice The entry of `key` at `position`.
    """
    assert position < self.count[key], "records: there is no such entry"
    return self._records[key][position]
