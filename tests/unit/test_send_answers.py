"""Texts that real clients answer to a send, and the class each must get."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.chain.send_answers import MAX_MESSAGE, SendKind, answer_of, classify, clean, error_text

TEXTS = {
    SendKind.FATAL: [
        "intrinsic gas too low",
        "intrinsic gas too low: gas 20000, minimum needed 21000",
        "exceeds block gas limit",
        "Intrinsic gas exceeds gas limit",
        "Transaction gas limit exceeds block gas limit",
        "oversized data: transaction size 131585, limit 131072",
        "invalid sender",
        "Invalid signature",
        "invalid chain id for signer: have 1 want 5",
        "negative value",
        "gas uint64 overflow",
        "forbidden sender address",
        "execution reverted: not the owner",
        "call failed: SenderIsContract",
        "GasLimitExceeded, Gas limit: 100, gas limit of rejected tx: 200",
        "call failed: Invalid",
        "max priority fee per gas higher than max fee per gas",
        "Transaction cost exceeds current gas limit. Limit: 1, got: 2. Try decreasing supplied gas.",
        "Failed to decode transaction",
        "Transaction gas limit cap exceeded",
        "transaction gas limit too high (cap: 16777216, tx: 30000000)",
        "Max priority fee per gas exceeds max fee per gas",
        "max fee per gas higher than 2^64-1",
        "Wrong chainId",
        "ChainId not supported",
        "Invalid transaction type",
        "fork supporting this transaction type is not activated yet",
        "Sender account not authorized to send transactions",
        "max initcode size exceeded: code size 49153 limit 49152",
        "initcode too large",
        "INTERNAL_ERROR: RLPTooLong",
        "INTERNAL_ERROR: IntrinsicGas",
        "GasUintOverflow",
        "Transaction gas limit provided '20000' is insufficient of intrinsic gas required '21000'",
        "transaction fee failed: status INVALID_SIGNATURE",
        "Failed to pay the fee to the operator",
        "not enough keccak counters to continue the execution",
        "sender not an eoa: address 0x336394A3219e71D9d9bd18201d34E95C1Bb7122C, codehash: 0x00",
        "typed transaction too short",
        "Gas limit too low",
    ],
    SendKind.NONCE_TOO_LOW: [
        "nonce too low",
        "Nonce too low",
        "nonce too low: address 0x336394A3219e71D9d9bd18201d34E95C1Bb7122C, tx: 8089 state: 8090",
        "transaction rejected: nonce too low",
        "Transaction nonce is too low. Try incrementing the nonce.",
        "invalid transaction nonce",
        "call failed: OldNonce, Current nonce: 22, nonce of rejected tx: 17",
        "nonce too low. allowed nonce range: 427 - 447, actual: 426",
        "failed to forward tx to sequencer, please try again. Error message: 'nonce too low'",
        "Pool(Stale)",
        "transaction already finalized",
        "INTERNAL_ERROR: nonce too low",
        "nonce too low: address 0x336394A3219e71D9d9bd18201d34E95C1Bb7122C current nonce (22) > tx nonce (17)",
        "nonce too low: next nonce 9, tx nonce 8",
        "tx nonce is lower than account nonce",
        "mined",
    ],
    SendKind.REPLACEMENT_UNDERPRICED: [
        "replacement transaction underpriced",
        "Replacement transaction underpriced",
        "there is another tx which has the same nonce in the tx pool",
        "Transaction gas price 100wei is too low. There is another transaction with same nonce in the queue with gas "
        "price 150wei. Try increasing the gas price or incrementing the nonce.",
        "call failed: OwnNonceAlreadyUsed",
        "ReplacementNotAllowed",
        "INTERNAL_ERROR: could not replace existing tx",
        "replaced by transaction with higher tip",
        "'replacement transaction underpriced'",
        "failed to forward tx to sequencer, please try again. Error message: 'replacement transaction underpriced'",
    ],
    SendKind.KNOWN: [
        "already known",
        "known transaction: 0x7f657507aee0511e36d2d1972a6b22e917cc89f92b6c12c4dbd57eaabb236960",
        "Known transaction (7f65)",
        "Transaction with the same hash was already imported.",
        "transaction already imported",
        "call failed: AlreadyKnown",
        "known transaction. transaction with hash 0x6013…3053 is already in the system",
        "tx already exists in cache",
        "INTERNAL_ERROR: existing tx with same hash",
        "existing txn with same hash",
        "tx already in mempool",
        "alreadyknown",
        "submit transaction to pool failed: Pool(AlreadyImported(Any { .. }))",
        "Pool(AlreadyImported)",
        "failed to forward tx to sequencer, please try again. Error message: 'already known'",
    ],
    SendKind.UNDERPRICED: [
        "transaction underpriced",
        "transaction underpriced: tip needed 1000000000, tip permitted 1",
        "transaction gas price below minimum: gas tip cap 25000000000 wei, minimum needed 26000000000 wei",
        "Gas price below configured minimum gas price",
        "Transaction gas price is too low. It does not satisfy your node's minimal gas price (minimal: 100 got: 50).",
        "gas price too low",
        "FeeTooLow, EffectivePriorityFeePerGas too low 10 < 20, BaseFee: 30",
        "FeeTooLowToCompete",
        "INTERNAL_ERROR: underpriced",
        "fee too low",
        "Gas price below current base fee",
        "gasprice is less than gas price minimum floor",
        "gas price too low: 1 wei, use at least tx.gasPrice = 2 wei",
        "max fee per gas less than block base fee",
        "max fee per gas less than block base fee: address 0x00, maxFeePerGas: 1, baseFee: 2",
        "gas price less than block base fee",
        "Gas price '830000000000' is below configured minimum gas price '950000000000'",
    ],
    SendKind.NONCE_TOO_HIGH: [
        "nonce too high",
        "call failed: NonceGap, Future nonce. Expected nonce: 10",
        "Transaction nonce is too distant from current sender nonce",
        "An invalid transaction with a lower nonce exists",
        "tx nonce is higher than account nonce",
        "Pool(Future)",
        "nonce too high. allowed nonce range: 427 - 477, actual: 527",
    ],
    SendKind.FUNDS: [
        "insufficient funds for gas * price + value",
        "Insufficient funds for gas * price + value",
        "insufficient funds for gas * price + value: balance 0, tx cost 9327080000000000, overshot 9327080000000000",
        "Upfront cost exceeds account balance",
        "call failed: InsufficientFunds, Account balance: 47, cumulative cost: 220",
        "not enough funds for gas",
        "transaction would cause overdraft",
        "insufficient balance for transfer",
        "INTERNAL_ERROR: insufficient funds",
        "failed precheck with status INSUFFICIENT_PAYER_BALANCE",
        "InsufficientFunds, Balance is 0 less than sending value + gas 9",
        "Signer had insufficient balance",
    ],
    SendKind.FEE_CAP: [
        "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)",
        "tx fee (1.10 of currency celo) exceeds the configured cap (1.00 celo)",
        "Transaction fee cap exceeded",
    ],
    SendKind.UNAVAILABLE: [
        "txpool is full",
        "There are too many transactions in the queue. Your transaction was dropped due to limit.",
        "sequencer pending tx pool full, please try again",
        "503 Service Temporarily Unavailable",
        "502 Bad Gateway: <html><head>",
        "i/o timeout",
        "network is unreachable",
        "Your app has exceeded its compute units per second capacity.",
        "rate limit exceeded",
        "Internal error",
        "pending sub-pool is full",
        "future transaction tries to replace pending",
        "project ID request rate exceeded",
        "Initial sync is still in progress",
        "Number of requests exceeds max batch size",
    ],
    SendKind.ACCOUNT_LIMITED: [
        "in-flight transaction limit reached for delegated accounts",
        "gapped-nonce tx from delegated accounts",
        "gapped-nonce tx from delegated accounts is temporarily not allowed",
        "address already reserved",
        "EIP-7702 transaction with authority already reserved",
        "account limit exceeded",
        "PendingTxsOfConflictingType",
        "NotCurrentNonceForDelegation",
        "DelegatorHasPendingTx",
        "spammer",
    ],
    SendKind.UNKNOWN: ["unknown transaction", "Unknown transaction type hint", "some old words", ""],
}
CASES = [(text, kind) for kind, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_text_of_a_client(text: str, kind: SendKind) -> None:
    assert classify(text) is kind


@pytest.mark.parametrize(("text", "kind"), [case for case in CASES if case[1] is not SendKind.UNKNOWN])
@given(prefix=st.sampled_from(["", "call failed: ", "RPC error: rpc: "]), upper=st.booleans())
def test_wrapping_and_case_do_not_matter(text: str, kind: SendKind, prefix: str, upper: bool) -> None:
    assert classify(prefix + (text.upper() if upper else text)) is kind


@given(st.text())
def test_any_text_has_a_class_and_is_never_taken_for_acceptance(text: str) -> None:
    assert classify(text) is not SendKind.ACCEPTED


def test_error_with_the_reason_in_its_data() -> None:
    answer = answer_of({"code": -32000, "message": "transaction failed", "data": {"message": "nonce too low"}})
    assert answer.kind is SendKind.NONCE_TOO_LOW
    assert answer.message == "transaction failed: nonce too low"


def test_revert_data_is_not_shown_as_a_reason() -> None:
    assert error_text({"code": 3, "message": "execution reverted", "data": "0x08c379a0"}) == "execution reverted"


@pytest.mark.parametrize("error", [None, "nonce too low", 5, {}, {"message": None}, {"code": -1}])
def test_odd_errors_are_classified_too(error: object) -> None:
    assert answer_of(error).kind in (SendKind.UNKNOWN, SendKind.NONCE_TOO_LOW)


@given(st.text(), st.text(alphabet="abcdef0123456789", min_size=8))
def test_message_never_holds_the_address_of_the_node(text: str, key: str) -> None:
    shown = clean(f"{text} cannot post to https://mainnet.example.org/v3/{key} now")
    assert key not in shown or key in text
    assert "example.org" not in shown
    assert len(shown) <= MAX_MESSAGE
    assert shown.isprintable()
