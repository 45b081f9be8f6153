"""The states of a transaction and the moves between them. Pure.

    queued ⇄ nonced → signed → broadcast → mined → confirmed → finalized
       ↓        ↓        ↓         ↓ ↑       ↑
    refused     └──── closing ─────┘ │       │     a reorganisation takes mined and confirmed back to
    expired            (no-op)       │       │     broadcast or closing, whichever was last
    cancelled          rejected   suspect ───┤
                                             └──── displaced, at finality

A transaction that holds a nonce leaves it only to a mined transaction, or hands it back as the lane's next one before
its bytes ever left (`rejected`; `refused`, `expired`, `cancelled` and `queued` again where nothing was signed yet). Not
knowing is no state: what may have been sent counts as sent.
"""

from portal.transactions.tables import TransactionStatus as Status

UNSIGNED_ENDS = frozenset({Status.REFUSED, Status.EXPIRED, Status.CANCELLED})
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.NONCED}) | UNSIGNED_ENDS,
    Status.NONCED: frozenset({Status.SIGNED, Status.QUEUED, Status.CLOSING}) | UNSIGNED_ENDS,
    Status.SIGNED: frozenset({Status.BROADCAST, Status.CLOSING, Status.REJECTED}),
    Status.BROADCAST: frozenset({Status.MINED, Status.CLOSING, Status.SUSPECT}),
    Status.CLOSING: frozenset({Status.MINED, Status.SUSPECT}),
    Status.SUSPECT: frozenset({Status.MINED, Status.BROADCAST, Status.CLOSING, Status.DISPLACED}),
    Status.MINED: frozenset({Status.CONFIRMED, Status.BROADCAST, Status.CLOSING}),
    Status.CONFIRMED: frozenset({Status.FINALIZED, Status.BROADCAST, Status.CLOSING}),
    **dict.fromkeys((Status.FINALIZED, Status.REJECTED, Status.DISPLACED, *UNSIGNED_ENDS), frozenset()),
}

TERMINAL = frozenset(status for status, moves in MOVES.items() if not moves)
UNMINED = frozenset({Status.NONCED, Status.SIGNED, Status.BROADCAST, Status.CLOSING, Status.SUSPECT})
"""These hold a nonce that the chain has not used up: what the limit in flight counts."""

CANCELLABLE = frozenset({Status.QUEUED, Status.NONCED, Status.SIGNED, Status.BROADCAST})
"""What a cancellation can still change: from `closing` on there is nothing left to ask for."""
HURRIABLE = frozenset({Status.BROADCAST, Status.CLOSING})
"""What is out and waits for a block: only its fees decide."""


def may_move(before: Status, after: Status) -> bool:
    """Whether a transaction may go from `before` to `after`."""
    return after in MOVES[before]


def depth(block_number: int, head_number: int) -> int:
    """How many blocks confirm a transaction, its own included; 0 where the node's head is not there yet."""
    return max(0, head_number - block_number + 1)
