"""What must be true of the engine at any moment, whatever went wrong: its rows compared with the chain and the wire.

`Facts` are read at once. `check` holds after anything in any order; `check_limits` and `check_told` where the chain's
and the policy's limits are those of the facts, and nothing published what was told.
"""

import json
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from portal.db.engine import run_sql
from tests.anvil import Anvil
from tests.faults.node_proxy import BLOCK, COUNT, RECEIPT
from tests.faults.raw_transactions import RawTransaction, decode_raw

if TYPE_CHECKING:
    from tests.faults.world import World

IN_FLIGHT = frozenset({"nonced", "signed", "broadcast", "closing", "suspect"})
INCLUDED = frozenset({"mined", "confirmed", "finalized"})
UNSIGNED_ENDS = frozenset({"refused", "expired", "cancelled"})
BUMP_PERCENT, CAP_MULTIPLE = 10, 5
LEADS_TO = {
    "queued": "queued",
    "requeued": "queued",
    "nonced": "nonced",
    "signed": "signed",
    "closing": "closing",
    "broadcast": "broadcast",
    "mined": "mined",
    "confirmed": "confirmed",
    "finalized": "finalized",
    "suspected": "suspect",
    "suspicion_withdrawn": "broadcast closing",
    "reorganised": "broadcast closing",
    **{end: end for end in ("refused", "rejected", "expired", "cancelled", "displaced")},
}
"""What a transaction is after what subscribers were told."""
NO_MOVES = frozenset({"repriced", "held", "gap_filled"})
"""What is told of a transaction that stays what it is."""
MAY_FOLLOW = {
    None: "queued",
    "queued": "nonced refused expired cancelled",
    "requeued": "nonced refused expired cancelled",
    "nonced": "signed requeued closing refused expired cancelled",
    "signed": "broadcast closing rejected",
    "broadcast": "mined closing suspected",
    "closing": "mined suspected",
    "suspected": "mined suspicion_withdrawn displaced",
    "suspicion_withdrawn": "mined closing suspected",
    "mined": "confirmed reorganised",
    "confirmed": "finalized reorganised",
    "reorganised": "mined closing suspected",
}
"""The specification's table of states (transactions, 2.5), by what is told of each move."""
WISHES = ("transaction.cancel_requested", "transaction.hurry_requested")

READ = """SELECT json_build_object(
    'transactions', (SELECT coalesce(json_agg(t), '[]') FROM (
        SELECT transaction.*, v.most_cost_wei FROM transaction JOIN action a ON a.id = transaction.action
            JOIN policy_terms v ON v.id = a.policy_version ORDER BY transaction.id) t),
    'attempts', (SELECT coalesce(json_agg(x ORDER BY x.id), '[]') FROM attempt x),
    'actions', (SELECT coalesce(json_agg(a), '[]') FROM (
        SELECT id, to_address, calldata, value_wei FROM action WHERE id IN (SELECT action FROM transaction)) a),
    'lanes', (SELECT coalesce(json_agg(l), '[]') FROM (
        SELECT lane.id, next_nonce, address, in_flight_limit, confirmations, most_fee_wei FROM lane
            JOIN signer ON signer.id = lane.signer JOIN chain ON chain.id = lane.chain WHERE next_nonce > 0) l),
    'fillers', (SELECT coalesce(json_agg(detail->>'raw_bytes'), '[]') FROM audit_entry
        WHERE kind = 'transaction.gap_filled'),
    'entries', (SELECT coalesce(json_agg(json_build_array(kind, subject_id) ORDER BY sequence), '[]') FROM audit_entry
        WHERE subject_kind = 'transaction' AND organization = {} AND sequence > {}),
    'told', (SELECT coalesce(json_agg(json_build_array(kind, subject_id, payload) ORDER BY number), '[]') FROM outbox
        WHERE subject_kind = 'transaction')
) AS facts"""


@dataclass
class Attempt:
    row: dict[str, Any]
    raw: bytes
    said: RawTransaction
    receipt: Any = None
    """What the chain itself has."""

    @property
    def is_call(self) -> bool:
        return bool(self.row["kind"] == "call")

    @property
    def executed(self) -> bool:
        return self.is_call and bool(self.receipt) and self.receipt["status"] == "0x1"

    def moment(self, name: str) -> datetime | None:
        return datetime.fromisoformat(self.row[name]) if self.row[name] else None


@dataclass
class Facts:
    rows: dict[str, Any]
    sent: Sequence[bytes]
    """All signed bytes that came to the node, in their order."""
    attempts: list[Attempt]
    head: int
    final: int
    """The chain's own `finalized` block."""
    counts: dict[str, tuple[int, int]]
    """The nonces that the chain has used of each lane's signer: at the head and at the final block."""
    canonical: dict[int, str] = field(default_factory=dict)

    @property
    def transactions(self) -> list[dict[str, Any]]:
        return list(self.rows["transactions"])

    @cached_property
    def attempts_of(self) -> dict[str, list[Attempt]]:
        """The oldest first."""
        found: defaultdict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts:
            found[attempt.row["transaction"]].append(attempt)
        return found

    @cached_property
    def lane_of(self) -> dict[str, dict[str, Any]]:
        return {lane["id"]: lane for lane in self.rows["lanes"]}


DECODED: dict[bytes, RawTransaction] = {}


def decode_once(raw: bytes) -> RawTransaction:
    """To recover a sender takes longer than all else that is compared."""
    if raw not in DECODED:
        DECODED[raw] = decode_raw(raw)
    return DECODED[raw]


async def read_facts(world: "World", *, since: int = 0, approved: Mapping[str, dict[str, Any]] | None = None) -> Facts:
    """What the database, the chain and the wire say now; of the audit what comes after the entry `since`.

    `approved` are the rows of actions as they were when they were approved, by id, where somebody changed them since.
    """
    sent = [each.raw for each in world.proxy.sent]
    rows = json.loads((await run_sql(READ, world.play.organization_id, since))[0]["facts"])
    rows["actions"] = [(approved or {}).get(row["id"], row) for row in rows["actions"]]
    raws = [bytes.fromhex(row["raw_bytes"].removeprefix("\\x")) for row in rows["attempts"]]
    attempts = [Attempt(row, raw, decode_once(raw)) for row, raw in zip(rows["attempts"], raws, strict=True)]
    addresses = [lane["address"] for lane in rows["lanes"]]
    included = sorted({row["block_number"] for row in rows["transactions"] if row["block_number"] is not None})
    head, final, *answers = ask_all(
        world.node,
        [
            (BLOCK, ["latest", False]),
            (BLOCK, ["finalized", False]),
            *((COUNT, [address, tag]) for address in addresses for tag in ("latest", "finalized")),
            *((BLOCK, [hex(number), False]) for number in included),
            *((RECEIPT, [attempt.row["hash"]]) for attempt in attempts),
        ],
    )
    counts = [int(answers.pop(0), 16) for _ in addresses for _ in range(2)]
    canonical = {number: block["hash"] for number in included if (block := answers.pop(0))}
    for attempt, receipt in zip(attempts, answers, strict=True):
        attempt.receipt = receipt
    return Facts(
        rows,
        sent,
        attempts,
        int(head["number"], 16),
        int(final["number"], 16),
        dict(zip(addresses, zip(counts[::2], counts[1::2], strict=True), strict=True)),
        canonical,
    )


def ask_all(node: Anvil, asked: Iterable[tuple[str, list[Any]]]) -> list[Any]:
    """The results of many calls by one request, past the proxy."""
    calls = [{"jsonrpc": "2.0", "id": n, "method": method, "params": given} for n, (method, given) in enumerate(asked)]
    request = urllib.request.Request(node.url, json.dumps(calls).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        answers = {answer["id"]: answer["result"] for answer in json.load(response)}
    return [answers[n] for n in range(len(calls))]


def check(facts: Facts) -> None:
    """What holds in every test."""
    _bytes_were_stored_first(facts)
    _one_nonce_and_one_payload_each(facts)
    _executed_once_at_most(facts)
    _no_gaps(facts)


def _bytes_were_stored_first(facts: Facts) -> None:
    """As an attempt; or, where no transaction has the nonce, in the audit entry of what fills the gap."""
    stored = {attempt.raw for attempt in facts.attempts}
    stored |= {bytes.fromhex(raw.removeprefix("0x")) for raw in facts.rows["fillers"]}
    assert set(facts.sent) <= stored, "bytes went out that are stored nowhere"


def _one_nonce_and_one_payload_each(facts: Facts) -> None:
    actions = {row["id"]: row for row in facts.rows["actions"]}
    for row in facts.transactions:
        attempts = facts.attempts_of[row["id"]]
        action = actions[row["action"]]
        calldata = bytes.fromhex(action["calldata"].removeprefix("\\x"))
        approved = ((action["to_address"] or "").lower(), calldata, int(action["value_wei"]))
        for attempt in attempts:
            said = attempt.said
            if attempt.is_call:
                assert (said.to, said.data, said.value_wei) == approved, "other bytes were signed than approved"
            else:
                assert said.does_nothing, "what closes a nonce does something"
            assert row["nonce"] in (None, said.nonce), "an attempt has another nonce than its transaction"
        assert len({attempt.said.nonce for attempt in attempts}) <= 1, "a transaction was signed with two nonces"


def _executed_once_at_most(facts: Facts) -> None:
    for attempts in facts.attempts_of.values():
        assert sum(attempt.executed for attempt in attempts) <= 1, "an action was executed twice"


def _no_gaps(facts: Facts) -> None:
    for lane in facts.rows["lanes"]:
        rows = [row for row in facts.transactions if row["lane"] == lane["id"] and row["nonce"] is not None]
        missing = set(range(facts.counts[lane["address"]][0], lane["next_nonce"])) - {row["nonce"] for row in rows}
        assert not missing, f"nobody has the nonces {sorted(missing)}, and the lane is past them"
        holding = IN_FLIGHT | {"mined", "confirmed"}
        beyond = [row["nonce"] for row in rows if row["status"] in holding and row["nonce"] >= lane["next_nonce"]]
        assert not beyond, f"the nonces {beyond} would be given out again"


def check_limits(facts: Facts) -> None:
    """What is paid, how many are out, and what each state is worth by the chain."""
    came_back = {subject for kind, subject, _ in facts.rows["told"] if kind == "transaction.reorganised"}
    for lane in facts.rows["lanes"]:
        of_lane = [row for row in facts.transactions if row["lane"] == lane["id"] and row["id"] not in came_back]
        out = [row for row in of_lane if row["status"] in IN_FLIGHT]
        assert len(out) <= lane["in_flight_limit"], "more are in flight than the chain's setting allows"
    for row in facts.transactions:
        attempts, lane = facts.attempts_of[row["id"]], facts.lane_of.get(row["lane"])
        if lane:
            _offers_rise_within_limits(row, attempts, lane)
            _state_is_true(row, attempts, lane, facts)
        _closed_for_good(attempts, facts)


def _offers_rise_within_limits(row: dict[str, Any], attempts: list[Attempt], lane: dict[str, Any]) -> None:
    first: dict[bool, int] = {}
    for before, attempt in zip([None, *attempts], attempts, strict=False):
        said = attempt.said
        cost = said.value_wei + said.gas_limit * said.max_fee_wei
        assert not (attempt.is_call and row["most_cost_wei"]) or cost <= row["most_cost_wei"], "above the policy's cap"
        assert lane["most_fee_wei"] is None or said.max_fee_wei <= lane["most_fee_wei"], "above the chain's highest fee"
        cap = CAP_MULTIPLE * first.setdefault(attempt.is_call, said.max_fee_wei)
        assert said.max_fee_wei <= cap, "above five times what was offered first"
        if before:
            for new, old in (
                (said.max_fee_wei, before.said.max_fee_wei),
                (said.max_priority_fee_wei, before.said.max_priority_fee_wei),
            ):
                assert new > old, "a replacement does not offer more"
                assert new * 100 >= old * (100 + BUMP_PERCENT), "a replacement that no pool takes"


def _state_is_true(row: dict[str, Any], attempts: list[Attempt], lane: dict[str, Any], facts: Facts) -> None:
    status, nonce = row["status"], row["nonce"]
    if status in UNSIGNED_ENDS:
        assert nonce is None, f"{status} with a nonce"
        assert not attempts, f"{status}, but it was signed"
    if status in ("signed", "broadcast", "suspect") or status in INCLUDED:
        assert attempts, f"{status}, but nothing was signed"
    if status == "broadcast":
        assert any(attempt.row["first_sent_at"] for attempt in attempts), "said to be out, but nobody may have it"
    if status in INCLUDED:
        own = {attempt.row["hash"]: attempt for attempt in attempts}
        assert row["mined_hash"] in own, "mined by another's receipt"
    if status == "confirmed":
        assert row["block_number"] + lane["confirmations"] <= facts.head + 1, "confirmed by too few blocks"
    if status == "finalized":
        assert row["block_number"] <= facts.final, "final before its block is"
        assert facts.canonical.get(row["block_number"]) == row["block_hash"], "final in a block that is none"
        mined = own[row["mined_hash"]]
        assert mined.receipt, "final without a receipt"
        assert mined.receipt["blockHash"] == row["block_hash"], "final in another block than its receipt"
        outcome = ("ok" if mined.executed else "reverted") if mined.is_call else "cancelled"
        assert row["outcome"] == outcome, "the chain says something else"
    if status == "rejected":
        assert "funds" not in attempts[-1].row["last_answer"], "given up, though funds were all that was missing"
    if status == "displaced":
        assert facts.counts[lane["address"]][1] > nonce, "displaced before that is final"
        assert not any(attempt.receipt for attempt in attempts), "displaced, but it was mined"


def _closed_for_good(attempts: list[Attempt], facts: Facts) -> None:
    """Once one that does nothing is signed in its place, the call does not go out any more."""
    closed_at = min((attempt.moment("signed_at") for attempt in attempts if not attempt.is_call), default=None)
    calls = [attempt for attempt in attempts if attempt.is_call]
    if closed_at is None or not calls:
        return
    late = [call for call in calls if (sent := call.moment("last_sent_at")) and sent > closed_at]
    assert not late, "the call went out after what closes its nonce was signed"
    kinds = {attempt.raw: attempt.is_call for attempt in attempts}
    went = [kinds[raw] for raw in facts.sent if raw in kinds]
    assert went == sorted(went, reverse=True), "the call went out after what closes its nonce"


def check_told(facts: Facts) -> None:
    """Every move was written to the audit and told to subscribers, in the order that the specification allows."""
    stories: defaultdict[str, list[str]] = defaultdict(list)
    for kind, subject, payload in facts.rows["told"]:
        stories[subject].append(kind)
        if kind == "transaction.confirmed":
            lane = next(facts.lane_of[row["lane"]] for row in facts.transactions if row["id"] == subject)
            assert payload["confirmations"] >= lane["confirmations"], "told to be confirmed by too few blocks"
    written: defaultdict[str, list[str]] = defaultdict(list)
    for kind, subject in facts.rows["entries"]:
        if kind not in WISHES:
            written[subject].append(kind)
    for row in facts.transactions:
        told = stories[row["id"]]
        assert told == written[row["id"]], "subscribers were told something else than the audit"
        verbs = [verb for kind in told if (verb := kind.removeprefix("transaction.")) not in NO_MOVES]
        for before, verb in zip([None, *verbs], verbs, strict=False):
            assert verb in MAY_FOLLOW.get(before, "").split(), f"{verb} after {before}"
        assert verbs, "nobody was told of it"
        assert row["status"] in LEADS_TO[verbs[-1]].split(), f"{row['status']}, and the last that was told: {verbs[-1]}"
