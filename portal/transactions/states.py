"""The states of a transaction and the moves between them. Pure.

    queued → nonced → signed → broadcast → mined → confirmed → finalized
       ↓                 ↓         ↑─────────┴─────────┘  a reorganisation undid the block
    refused          rejected

A transaction that holds a nonce leaves it only to a mined transaction, or hands it back as the lane's next one before
its bytes ever left (`rejected`). Not knowing is no state: what may have been sent counts as sent.
"""

from portal.transactions.tables import TransactionStatus as Status

MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.NONCED, Status.REFUSED}),
    Status.NONCED: frozenset({Status.SIGNED}),
    Status.SIGNED: frozenset({Status.BROADCAST, Status.REJECTED}),
    Status.BROADCAST: frozenset({Status.MINED}),
    Status.MINED: frozenset({Status.CONFIRMED, Status.BROADCAST}),
    Status.CONFIRMED: frozenset({Status.FINALIZED, Status.BROADCAST}),
    Status.FINALIZED: frozenset(),
    Status.REFUSED: frozenset(),
    Status.REJECTED: frozenset(),
}

TERMINAL = frozenset(status for status, moves in MOVES.items() if not moves)
UNMINED = frozenset({Status.NONCED, Status.SIGNED, Status.BROADCAST})
"""These hold a nonce that the chain has not used up: what the limit in flight counts."""


def may_move(before: Status, after: Status) -> bool:
    """Whether a transaction may go from `before` to `after`."""
    return after in MOVES[before]


def depth(block_number: int, head_number: int) -> int:
    """How many blocks confirm a transaction, its own included; 0 where the node's head is not there yet."""
    return max(0, head_number - block_number + 1)
