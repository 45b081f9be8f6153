"""What a node's answer to `eth_sendRawTransaction` means. Clients agree on no codes, only roughly on words.

The order matters: one text can hold the words of two classes, and the first class wins. It is the order of Chainlink's
transaction manager, whose public table of client texts (chainlink-evm, `pkg/client/errors.go`) was read for this.
"""

import re
from enum import StrEnum
from typing import Any

import msgspec

from portal.chain.values import printable

MAX_MESSAGE = 500
BUSY = re.compile(r"\brate\b|too many requests|capacity|throughput|per second|quota|\bbusy\b|compute units", re.I)
"""What nodes say of themselves rather than of a question."""
ADDRESS_OF_NODE = re.compile(r"\b(?:https?|wss?)://\S+", re.I)


class SendKind(StrEnum):
    ACCEPTED = "accepted"
    KNOWN = "known"
    """These very bytes are in the pool already: as good as accepted."""
    NONCE_TOO_LOW = "nonce_too_low"
    """The nonce is used on chain, perhaps by us: receipts decide."""
    REPLACEMENT_UNDERPRICED = "replacement_underpriced"
    """Another transaction with this nonce waits in the pool and pays about as much or more."""
    UNDERPRICED = "underpriced"
    """Below what the node or the block asks for: the same nonce with a higher fee is the way out."""
    NONCE_TOO_HIGH = "nonce_too_high"
    """The node does not know of a transaction before it."""
    ACCOUNT_LIMITED = "account_limited"
    """The node takes no more of this account for now: one at a time of a delegated account (EIP-7702), none beside one
    of another type. Fewer in flight is the way out."""
    FUNDS = "funds"
    FEE_CAP = "fee_cap"
    """This node's own limit on the fee of one transaction; others may have accepted it."""
    FATAL = "fatal"
    """No node will ever accept these bytes."""
    UNAVAILABLE = "unavailable"
    """No answer, or one about the node rather than the transaction: it may have been accepted."""
    UNKNOWN = "unknown"
    """Words we do not know: it may have been accepted."""


NOT_TAKEN = frozenset(
    {SendKind.UNDERPRICED, SendKind.NONCE_TOO_HIGH, SendKind.ACCOUNT_LIMITED, SendKind.FUNDS, SendKind.FATAL}
)
"""After any other answer the node may have the bytes."""


class SendAnswer(msgspec.Struct, frozen=True):
    """What the node said to one send; `message` is its text, bounded and without the node's address."""

    kind: SendKind
    message: str = ""


def _pattern(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(texts), re.I)


CLASSES: list[tuple[SendKind, re.Pattern[str]]] = [
    (
        SendKind.FATAL,
        _pattern(
            r"intrinsic gas (?:too low|exceeds gas limit)",
            r"insufficient of intrinsic gas|(?:^|: )intrinsicgas$|gas limit too low",
            r"exceeds (?:the )?block gas limit",
            r"exceeds current gas limit",
            r"supplied gas is beyond limit",
            r"gas ?limit ?exceeded",
            r"exceeds (?:the )?(?:transaction|maximum) gas (?:limit|cap)",
            r"gas limit (?:is )?too high|gas limit cap exceeded",
            r"gas ?uint(?:64)? ?overflow",
            r"int256overflow",
            r"gas is too low\. there is not enough gas",
            r"floor data gas",
            r"oversized data|tx too large|rlptoolong|transaction(?:'s)? size exceeds",
            r"failed to decode",
            r"transaction is too big",
            r"max initcode size exceeded|initcode too large",
            r"negative value",
            r"invalid[ _](?:sender|signature|rlp|message format|chain ?id|transaction (?:v, r, s|type)|shard)",
            r"(?:wrong|incorrect|mismatch\w*) chain ?id",
            r"chain ?id (?:does not match|doesn't match|not supported|is required)",
            r"forbidden sender|is banned in local queue|transaction is not permitted|in blacklist",
            r"sender ?is ?contract|sender not an eoa|failedtoresolvesender|from a non-account",
            r"not authorized to send transactions",
            r"transaction type (?:not supported|is not activated)",
            r"max priority fee per gas (?:higher than|exceeds) max fee per gas",
            r"fee per (?:gas|pubdata byte) higher than 2\^",
            r"nonce has max value",
            r"not enough gas for transaction validation|failed to pay the fee to the operator",
            r"counters to continue the execution|out of counters at node level",
            r"(?:rlp: |typed transaction too short)",
            r"execution reverted",
            r"(?:^|: )invalid(?:, transaction hash is null)?$",
        ),
    ),
    (
        SendKind.NONCE_TOO_LOW,
        _pattern(
            r"nonce (?:is )?too low",
            r"\boldnonce\b",
            r"invalid transaction nonce",
            r"pool\(stale\)|transaction is (?:stale|outdated)",
            r"transaction already (?:finalized|mined)",
            r"nonce has already been used",
            r"nonce is lower than account nonce",
            r"(?:^|: )mined$",
        ),
    ),
    (
        SendKind.REPLACEMENT_UNDERPRICED,
        _pattern(
            r"replacement (?:transaction|tx|fee) (?:is )?(?:underpriced|too low)",
            r"another (?:transaction|tx) (?:with|which has the) same nonce",
            r"ownnoncealreadyused|replacementnotallowed",
            r"could not replace existing|replaced by transaction with higher tip",
        ),
    ),
    (
        SendKind.ACCOUNT_LIMITED,
        _pattern(
            r"(?:address|authority) already reserved",
            r"delegated accounts?|cannot be delegated",
            r"notcurrentnoncefordelegation|delegatorhaspendingtx|pendingtxsofconflictingtype",
            r"account limit exceeded",
            r"(?:^|: )spammer$",
        ),
    ),
    (
        SendKind.KNOWN,
        _pattern(
            r"already ?known",
            r"\bknown transaction",
            r"already imported",
            r"alreadyimported",
            r"already (?:exists in|in) (?:the )?(?:cache|mempool|pool|txpool|system)",
            r"existing txn? with same hash",
        ),
    ),
    (
        SendKind.UNDERPRICED,
        _pattern(
            r"transaction underpriced|(?:^|: )underpriced$",
            r"gas ?price (?:is )?(?:too low|below|less than)",
            r"gas price '\d+' is below",
            r"\bfeetoolow|\bfee too low\b|insufficient fee\b",
            r"(?:fee per gas|fee cap|gas price|maxfeepergas) (?:is )?(?:less|lower) than (?:the )?(?:block )?base ?fee",
            r"(?:tip|priority fee)\w* .{0,40}(?:below|too low|less than)",
            r"unacceptable gas price|fair pubdata price too high",
        ),
    ),
    (
        SendKind.NONCE_TOO_HIGH,
        _pattern(
            r"nonce (?:is )?too high",
            r"\bnoncegap\b",
            r"nonce gap",
            r"pool\(future\)",
            r"future nonce",
            r"nonce is (?:too distant|higher than account nonce)|transaction with a lower nonce exists",
        ),
    ),
    (
        SendKind.FUNDS,
        _pattern(
            r"insufficient ?(?:funds|balance)",
            r"insufficient_payer_balance",
            r"not enough funds",
            r"does not have enough funds",
            r"upfront cost exceeds account balance",
            r"would cause overdraft",
        ),
    ),
    (
        SendKind.UNAVAILABLE,
        _pattern(
            r"pool is full|queue full|pool full|too many transactions in the queue|txpool is overflowing",
            r"future transaction tries to replace pending",
            r"rate limit|too many requests|limit exceeded|exceeded .{0,40}(?:rate|quota|capacity|compute units)",
            r"\b(?:408|429|500|502|503|504)\b",
            r"service (?:temporarily )?unavailable|bad gateway|gateway time-?out|internal (?:server )?error",
            r"time[d]?[ -]?out|deadline exceeded|connection (?:reset|refused|closed)|network is unreachable",
            r"no (?:healthy |available )?(?:backend|upstream|node)s?\b",
            r"not (?:yet )?(?:synced|ready|available)|syncing|sync is still in progress|try again",
            r"transaction pool not enabled|world state unavailable|exceeds max batch size",
            r"returns a null value",
            BUSY.pattern,
        ),
    ),
    (
        SendKind.FEE_CAP,
        _pattern(r"exceeds the configured cap", r"fee cap exceeded", r"exceeds .{0,30}(?:rpc )?(?:tx ?fee|fee) ?cap"),
    ),
]


def classify(text: str) -> SendKind:
    """The class of a node's error text; `UNKNOWN` for words that no client known to us says."""
    return next((kind for kind, pattern in CLASSES if pattern.search(text)), SendKind.UNKNOWN)


def error_text(error: Any) -> str:
    """The words in a JSON-RPC error: its message, and what some gateways hide in `data`. Safe to show: see `clean`."""
    if not isinstance(error, dict):
        return clean(str(error))
    data = error.get("data")
    if isinstance(data, dict):
        data = data.get("message") or data.get("reason")
    parts = [str(error.get("message") or "")]
    if isinstance(data, str) and data and not data.startswith("0x"):
        parts.append(data)
    return clean(": ".join(filter(None, parts)) or f"error {error.get('code')}")


def clean(text: str) -> str:
    """`text` on one line, at most 500 characters, without the address of a node: that can hold a key."""
    return ADDRESS_OF_NODE.sub("[address]", printable(text)).strip()[:MAX_MESSAGE]


def is_busy(error: Any) -> bool:
    """Whether a JSON-RPC error asks for fewer requests. The words of a contract, which a revert quotes, never do."""
    said = error if isinstance(error, dict) else {"message": error}
    text = str(said.get("message") or "")
    of_a_call = said.get("code") == 3 or "revert" in text.lower() or str(said.get("data") or "").startswith("0x")
    return not of_a_call and bool(BUSY.search(text))


def answer_of(error: Any) -> SendAnswer:
    """The answer that a JSON-RPC error object is."""
    text = error_text(error)
    return SendAnswer(classify(text), text)
