"""Every fault of the register has a test that is named by its id."""

import re
from pathlib import Path

REGISTER = {
    "crash": {
        1: "kill after the approval is committed, before a nonce",
        2: "kill after the nonce is saved, before the signature is",
        3: "kill after signing is committed, before sending",
        4: "kill after the node accepted, before the database knows",
        5: "as 4, and already mined",
        6: "restart with other gas settings",
        7: "restart, the node is down",
        8: "restart, the node says fatal",
        9: "kill between saving a replacement and sending it",
        10: "the commit fails after the node accepted",
        11: "kill between the final state and the publication of its event",
        12: "stop a worker past its lease, a peer takes over, let it go on",
        13: "kill -9 at every await",
    },
    "concurrency": {
        14: "fifty approvals at once, one signer",
        15: "two preparations of the same transaction",
        16: "a job delivered twice",
        17: "two signers, one blocked",
        18: "the limit in flight is reached",
        19: "a second signed and unsent one for a signer",
        20: "nodes that say stale or lower nonces, in turns",
        21: "the first question for the nonce fails",
        22: "cancelled while its fees are estimated",
    },
    "answers": {
        23: "already known, in six dialects",
        24: "unknown transaction",
        25: "nonce too low, an older attempt is mined",
        26: "nonce too low, the receipt comes a minute later",
        27: "nonce too low before anything was sent: a foreign transaction",
        28: "nonce too low again and again after it is mined",
        29: "too low twice, then mined, reorganised, too low once more",
        30: "replacement underpriced at the first send",
        31: "replacement underpriced at a replacement",
        32: "underpriced twice, then taken",
        33: "a price rise of 0 %",
        34: "a rise above the cap, and exactly at the cap",
        35: "the fee exceeds the node's own cap",
        36: "insufficient funds at the first send, then topped up",
        37: "insufficient funds at a replacement",
        38: "nonce too high three times",
        39: "fatal at the first send",
        40: "fatal at a replacement",
        41: "an error that nobody knows",
        42: "the reply is lost after the node accepted",
        43: "429, 502, 503, HTML, truncated JSON, a wrong id, a hang",
        44: "wrong chain id after a failover",
        45: "the node names another hash",
        46: "the gas estimate reverts or fails",
        47: "the fee oracle fails",
        48: "never reaches any pool",
        49: "the pool is full",
        50: "limits of EIP-7702 accounts",
    },
    "fees": {
        51: "dropped by the pool",
        52: "stuck for several blocks",
        53: "fee vectors",
        54: "fees of one wei and of the largest integer",
        55: "the original or the replacement is mined after both were sent",
        56: "the original is mined while its replacement is made",
        57: "cancelled before, with and after a nonce",
        58: "the cancellation loses the race",
        59: "expires with a nonce",
        60: "a foreign wallet uses the key",
        61: "a lower nonce is missing",
        62: "many signed and never sent",
        63: "a private pool",
        64: "address already reserved",
    },
    "watching": {
        65: "confirmations N-1 and N",
        66: "the receipt call fails once",
        67: "a reorganisation removes it",
        68: "a reorganisation includes it with another status",
        69: "a reorganisation puts another one at its nonce",
        70: "a reorganisation after it was confirmed",
        71: "a cancelled one is reorganised",
        72: "the finalized head moves back, or is missing",
        73: "the stored block hash is not the canonical one at finality",
        74: "a bad receipt",
        75: "it reverts on chain",
        76: "the nonce is used, and there is no receipt at finality",
        77: "one node has the receipt, the other has not",
        78: "an outage of an hour with many waiting",
    },
    "signer": {
        79: "the signer fails at the first signature",
        80: "the signer fails at a replacement",
        81: "the signer signs with another key or something else",
        82: "the key is disabled with transactions in flight",
        83: "an approval does not count any more at the signature",
        84: "the call was edited after the approval",
        85: "a graceful stop while sending and while waiting",
        86: "settings that make no sense",
        87: "the clock jumps by an hour",
    },
}
MISSING = {71}
"""Not written yet. Whoever writes one takes it out; in the end the set is empty, and goes."""


def test_every_fault_of_the_register_has_a_test_of_its_id() -> None:
    known = {id for faults in REGISTER.values() for id in faults}
    assert known == set(range(1, 88))
    sources = [file.read_text() for file in Path(__file__).parent.glob("test_tx_*.py")]
    named = {int(id) for source in sources for id in re.findall(r"^(?:async )?def test_tx_(\d\d)_", source, re.M)}
    assert named | MISSING == known, "a test has gone, or has an id that is not in the register"
    assert not named & MISSING, "written by now: take it out of MISSING"
