"""How clients word what they answer to `eth_sendRawTransaction`: code and message by client and by what is meant.

Collected from the clients' sources (geth, Erigon, Nethermind, Besu, Reth, OpenEthereum, Nitro, zkSync Era, Frontier)
and from anvil itself; tests give them back in place of anvil's own words.
"""

from enum import StrEnum

from tests.faults.node_proxy import Say, refuse


class Meaning(StrEnum):
    KNOWN = "known"
    NONCE_TOO_LOW = "nonce_too_low"
    NONCE_TOO_HIGH = "nonce_too_high"
    REPLACEMENT = "replacement_underpriced"
    UNDERPRICED = "underpriced"
    FUNDS = "funds"
    FULL = "pool_full"
    FATAL = "fatal"
    FEE_CAP = "fee_cap"


WORDS: dict[str, dict[Meaning, tuple[int, str]]] = {
    "geth": {
        Meaning.KNOWN: (-32000, "already known"),
        Meaning.NONCE_TOO_LOW: (-32000, "nonce too low: next nonce 9, tx nonce 8"),
        Meaning.NONCE_TOO_HIGH: (-32000, "nonce too high"),
        Meaning.REPLACEMENT: (-32000, "replacement transaction underpriced"),
        Meaning.UNDERPRICED: (-32000, "transaction underpriced: gas tip cap 1, minimum needed 1000000000"),
        Meaning.FUNDS: (-32000, "insufficient funds for gas * price + value: balance 0, tx cost 9, overshot 9"),
        Meaning.FULL: (-32000, "txpool is full"),
        Meaning.FATAL: (-32000, "intrinsic gas too low: gas 20000, minimum needed 21000"),
        Meaning.FEE_CAP: (-32000, "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)"),
    },
    "erigon": {
        Meaning.KNOWN: (-32000, "INTERNAL_ERROR: existing tx with same hash"),
        Meaning.NONCE_TOO_LOW: (-32000, "INTERNAL_ERROR: nonce too low"),
        Meaning.REPLACEMENT: (-32000, "INTERNAL_ERROR: could not replace existing tx"),
        Meaning.UNDERPRICED: (-32000, "transaction underpriced"),
        Meaning.FUNDS: (-32000, "INTERNAL_ERROR: insufficient funds"),
        Meaning.FATAL: (-32000, "rlp: expected input list for types.LegacyTx"),
    },
    "nethermind": {
        Meaning.KNOWN: (-32010, "AlreadyKnown"),
        Meaning.NONCE_TOO_LOW: (-32010, "OldNonce, Current nonce: 22, nonce of rejected tx: 17"),
        Meaning.NONCE_TOO_HIGH: (-32010, "NonceGap, Future nonce. Expected nonce: 10"),
        Meaning.REPLACEMENT: (-32010, "ReplacementNotAllowed"),
        Meaning.UNDERPRICED: (-32010, "FeeTooLow, EffectivePriorityFeePerGas too low 10 < 20, BaseFee: 30"),
        Meaning.FUNDS: (-32010, "InsufficientFunds, Account balance: 47, cumulative cost: 220"),
        Meaning.FATAL: (-32010, "GasLimitExceeded, Gas limit: 100, gas limit of rejected tx: 200"),
    },
    "besu": {
        Meaning.KNOWN: (-32000, "Known transaction"),
        Meaning.NONCE_TOO_LOW: (-32001, "Nonce too low"),
        Meaning.REPLACEMENT: (-32000, "Replacement transaction underpriced"),
        Meaning.UNDERPRICED: (-32009, "Gas price below configured minimum gas price"),
        Meaning.FUNDS: (-32004, "Upfront cost exceeds account balance"),
        Meaning.FATAL: (-32003, "Intrinsic gas exceeds gas limit"),
        Meaning.FEE_CAP: (-32000, "Transaction fee cap exceeded"),
    },
    "reth": {
        Meaning.KNOWN: (-32000, "already known"),
        Meaning.NONCE_TOO_LOW: (-32000, "nonce too low: next nonce 9, tx nonce 8"),
        Meaning.REPLACEMENT: (-32000, "replacement transaction underpriced"),
        Meaning.UNDERPRICED: (-32000, "transaction underpriced"),
        Meaning.FUNDS: (-32000, "insufficient funds for gas * price + value: have 0 want 9"),
        Meaning.FULL: (-32000, "txpool is full"),
        Meaning.FATAL: (-32000, "max priority fee per gas higher than max fee per gas"),
    },
    "openethereum": {
        Meaning.KNOWN: (-32010, "Transaction with the same hash was already imported."),
        Meaning.NONCE_TOO_LOW: (-32010, "Transaction nonce is too low. Try incrementing the nonce."),
        Meaning.REPLACEMENT: (
            -32010,
            "Transaction gas price 100wei is too low. There is another transaction with same nonce in the queue with "
            "gas price 150wei. Try increasing the gas price or incrementing the nonce.",
        ),
        Meaning.UNDERPRICED: (
            -32010,
            "Transaction gas price is too low. It does not satisfy your node's minimal gas price (minimal: 2 got: 1).",
        ),
        Meaning.FUNDS: (
            -32010,
            "Insufficient funds. The account you tried to send transaction from does not have enough funds. "
            "Required 9 and got: 0.",
        ),
        Meaning.FULL: (
            -32010,
            "There are too many transactions in the queue. Your transaction was dropped due to limit.",
        ),
        Meaning.FATAL: (-32010, "Transaction cost exceeds current gas limit. Limit: 1, got: 2."),
    },
    "nitro": {
        Meaning.KNOWN: (-32000, "failed to forward tx to sequencer, please try again. Error message: 'already known'"),
        Meaning.NONCE_TOO_LOW: (-32000, "nonce too low: address 0x336394A3219e71D9d9bd18201d34E95C1Bb7122C, tx: 8"),
        Meaning.UNDERPRICED: (-32000, "max fee per gas less than block base fee: address 0x00, maxFeePerGas: 1"),
        Meaning.FULL: (-32000, "sequencer pending tx pool full, please try again"),
    },
    "zksync": {
        Meaning.KNOWN: (3, "known transaction. transaction with hash 0x6013 is already in the system"),
        Meaning.NONCE_TOO_LOW: (3, "nonce too low. allowed nonce range: 427 - 447, actual: 426"),
        Meaning.NONCE_TOO_HIGH: (3, "nonce too high. allowed nonce range: 427 - 477, actual: 527"),
        Meaning.UNDERPRICED: (3, "max fee per gas less than block base fee"),
        Meaning.FATAL: (3, "exceeds block gas limit"),
    },
    "frontier": {
        Meaning.KNOWN: (-32603, "submit transaction to pool failed: Pool(AlreadyImported(Any { .. }))"),
        Meaning.NONCE_TOO_LOW: (-32603, "submit transaction to pool failed: Pool(Stale)"),
        Meaning.NONCE_TOO_HIGH: (-32603, "submit transaction to pool failed: Pool(Future)"),
    },
    "anvil": {
        Meaning.KNOWN: (-32003, "transaction already imported"),
        Meaning.NONCE_TOO_LOW: (-32003, "nonce too low"),
        Meaning.REPLACEMENT: (-32003, "replacement transaction underpriced"),
        Meaning.UNDERPRICED: (-32003, "max fee per gas less than block base fee"),
        Meaning.FUNDS: (-32003, "Insufficient funds for gas * price + value"),
        Meaning.FATAL: (-32000, "intrinsic gas too low"),
    },
}


def dialects(meaning: Meaning, *, after: bool = False) -> list[Say]:
    """The answers of all clients that say so in words of their own; with `after`, anvil has got the bytes first."""
    said = dict.fromkeys(words[meaning] for words in WORDS.values() if meaning in words)
    return [refuse(message, code, after=after) for code, message in said]
