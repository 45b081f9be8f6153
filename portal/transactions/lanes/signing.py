"""From a queued transaction to stored signed bytes, in two db transactions, each under the lane's lease.

First the nonce is claimed and committed. Then, in one db transaction, the gate is passed, the bytes are signed,
compared with what was approved, and stored. Whatever fails in between, it goes on with its own nonce.

Replacements, and no-ops that close a nonce, are signed by the same db transaction. No node is asked inside either; a
signer that is a service of its own is, with a deadline.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from portal.actions.errors import GateRefused
from portal.actions.schemas import SigningOrder
from portal.actions.service import verify_for_signing
from portal.audit import service as audit
from portal.chain.rpc import Fees
from portal.chain.signers import (
    SignatureNotOurs,
    SignerNotActive,
    SignerUnavailable,
    TransactionFields,
    load_signers,
    read_fields,
    sign,
)
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import SettingInvalid
from portal.logging import get_logger
from portal.notify import outbox
from portal.sealing import SealBroken
from portal.transactions.attempts import NewAttempt, Offer, StoredAttempt, insert_attempts
from portal.transactions.controls.pauses import find_pauses
from portal.transactions.costs import spending
from portal.transactions.costs.limits import Limits, TooCostly, first_fees, next_fees
from portal.transactions.lanes import leases
from portal.transactions.lanes.leases import LaneLost, Lease
from portal.transactions.lanes.noting import end_hurry
from portal.transactions.moves import Step, Work, correlated, entry_of, move_many, record_many
from portal.transactions.tables import AttemptKind, ClosingReason
from portal.transactions.tables import TransactionStatus as Status

log = get_logger(__name__)


class Overtaken(Exception):
    """The transaction is not any more what it was read as: whoever changed it knows how it goes on."""


class NotSigned(Exception):
    """It cannot be signed now; the text says why, as a sentence. Trying again later may help."""


class NotNow(NotSigned):
    """Something that may pass speaks against signing it, and its signer was not asked."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to sign."""

    lease: Lease
    work: Work
    kind: AttemptKind
    gas_limit: int
    market: Fees
    """What a new transaction would offer."""
    most_fee_wei: int | None
    """The chain's limit."""
    is_legacy: bool
    head_number: int
    earlier: Sequence[Offer] = ()
    """All attempts that are stored, the cheapest first."""
    closing_reason: ClosingReason | None = None
    """Why its nonce is closed, where this begins to close it."""


class Claim(msgspec.Struct, frozen=True):
    lease: Lease
    work: Work


async def claim_all(claims: Sequence[Claim]) -> list[Work | Exception]:
    """Give each queued transaction its lane's next nonce while the lane has room; at most one of each lane.

    What comes back for each is the transaction with its nonce, `LaneLost`, or `Overtaken`.
    """
    async with transaction():
        lanes = await leases.held(claim.lease for claim in claims)
        rows = await run_sql(
            """WITH claimed AS (
                   UPDATE transaction t SET nonce = l.next_nonce, status = 'nonced', reason = NULL
                   FROM lane l JOIN chain c ON c.id = l.chain
                   WHERE t.id = ANY({}::uuid[]) AND t.lane = l.id AND l.id = ANY({}::uuid[])
                       AND t.status = 'queued' AND t.nonce IS NULL AND t.cancel_requested_at IS NULL
                       AND c.in_flight_limit > (SELECT count(*) FROM transaction o WHERE o.lane = l.id
                           AND o.status IN ('nonced', 'signed', 'broadcast', 'closing', 'suspect'))
                   RETURNING t.id, t.lane, t.nonce
               )
               UPDATE lane SET next_nonce = claimed.nonce + 1 FROM claimed WHERE lane.id = claimed.lane
               RETURNING claimed.id, claimed.nonce""",
            [claim.work.id for claim in claims],
            list(lanes),
        )
        nonces = {row["id"]: row["nonce"] for row in rows}
        results: list[Work | Exception] = []
        for claim in claims:
            if (nonce := nonces.get(claim.work.id)) is not None:
                results.append(msgspec.structs.replace(claim.work, nonce=nonce, status=Status.NONCED, reason=None))
            else:
                results.append(Overtaken() if claim.lease.lane_id in lanes else LaneLost())
        claimed = [each for each in results if isinstance(each, Work)]
        await record_many([(work, "nonced", {"nonce": work.nonce}) for work in claimed])
    return results


async def sign_all(orders: Sequence[Order]) -> list[StoredAttempt | Exception]:
    """Pass the gate, sign, compare, and store, for each alone but in one db transaction.

    What comes back for each is the stored attempt, or `LaneLost`, `Overtaken`, `GateRefused`, `TooCostly` or
    `NotSigned`; then nothing of it was stored. For `TooCostly` and `NotNow` no signer was asked.
    """
    async with transaction():
        paused = await find_pauses(order.work.id for order in orders if order.work.status is Status.NONCED)
        lanes = await leases.held(order.lease for order in orders)
        current = await _lock_current([order.work for order in orders if order.lease.lane_id in lanes])
        approved = await verify_for_signing(
            order.work.action_id for order in orders if order.work.id in current and order.kind is AttemptKind.CALL
        )
        purse = await spending.open_purse(approved)
        signers = await load_signers({order.work.signer_id for order in orders})
        signed: list[tuple[Order, TransactionFields, StoredAttempt]] = []
        results: list[StoredAttempt | Exception] = []
        for order in orders:
            work = order.work
            try:
                if work.id not in current:
                    raise Overtaken if order.lease.lane_id in lanes else LaneLost
                if reason := paused.get(work.id):
                    raise NotNow(reason)
                fields, attempt = await _sign(order, approved.get(work.action_id), signers[work.signer_id], purse)
            except (LaneLost, Overtaken, GateRefused, TooCostly, NotSigned) as error:
                results.append(error)
            else:
                signed.append((order, fields, attempt))
                results.append(attempt)
        await _store(signed)
    return results


async def sign_filler(order: Order) -> StoredAttempt:
    """Sign a no-op for a nonce that no transaction has; `order.work`, with that nonce, is one that waits behind it.

    Its bytes are in the audit entry, since no transaction could keep them; subscribers are told its hash alone. Raises
    as `sign_all` gives back.
    """
    async with transaction():
        await leases.hold(order.lease)
        signers = await load_signers([order.work.signer_id])
        fields, attempt = await _sign(order, None, signers[order.work.signer_id], spending.Purse([]))
        work, detail = order.work, {"nonce": fields.nonce, "hash": attempt.hash}
        told = entry_of(work, "gap_filled", detail)
        await outbox.record(
            work.organization_id, told.kind, "transaction", work.id, told.detail, correlation_id=work.correlation_id
        )
        await audit.append_many([entry_of(work, "gap_filled", detail | {"raw_bytes": "0x" + attempt.raw_bytes.hex()})])
    return attempt


async def _lock_current(works: Sequence[Work]) -> set[UUID]:
    """Which of them are still in the state that they were read in; they stay so."""
    rows = await run_sql(
        """SELECT t.id FROM transaction t
           JOIN unnest({}::uuid[], {}::text[]) AS read (id, status) ON t.id = read.id AND t.status = read.status
           FOR NO KEY UPDATE OF t""",
        [work.id for work in works],
        [work.status.value for work in works],
    )
    return {row["id"] for row in rows}


async def _sign(
    order: Order, approved: SigningOrder | GateRefused | None, signer: dict[str, Any], purse: spending.Purse
) -> tuple[TransactionFields, StoredAttempt]:
    if order.kind is AttemptKind.NOOP:
        fields = _fields(order, order.work.signer_address, 0, b"", _limits(order, 0))
        return fields, await _signed(order.work, signer, fields, None)
    assert approved is not None, "an action is never deleted"
    if isinstance(approved, GateRefused):
        raise approved
    if (approved.signer_id, approved.chain_id) != (order.work.signer_id, order.work.chain_id):
        raise GateRefused("The contract has another signer or chain than when this transaction was queued.")
    limits = msgspec.structs.replace(
        _limits(order, approved.value_wei),
        most_cost_wei=approved.most_cost_wei,
        left_today_wei=purse.left(order.work, approved.policy_id, approved.most_cost_a_day_wei),
    )
    fields = _fields(order, approved.to, approved.value_wei, approved.data, limits)
    attempt = await _signed(order.work, signer, fields, approved)
    purse.spend(order.work, approved, fields)
    return fields, attempt


def _limits(order: Order, value_wei: int) -> Limits:
    return Limits(
        value_wei=value_wei,
        gas_limit=order.gas_limit,
        currency=order.work.currency,
        most_fee_wei=order.most_fee_wei,
    )


def _fields(order: Order, to: str | None, value_wei: int, data: bytes, limits: Limits) -> TransactionFields:
    assert order.work.nonce is not None
    fees = _fees(order, limits)
    return TransactionFields(
        chain_id=order.work.chain_id,
        nonce=order.work.nonce,
        to_address=to,
        value_wei=value_wei,
        data=data,
        gas_limit=order.gas_limit,
        max_fee_wei=fees.max_fee_wei,
        max_priority_fee_wei=fees.max_priority_fee_wei,
        is_legacy=order.is_legacy,
    )


def _fees(order: Order, limits: Limits) -> Fees:
    if not order.earlier:
        return first_fees(order.market, limits)
    newest = order.earlier[-1].fees
    # The first no-op outbids the calls before it, whatever they offered: it counts as the first of its kind.
    first = next((offer.fees for offer in order.earlier if offer.kind is order.kind), newest)
    return next_fees(order.market, first, newest, limits)


async def _signed(
    work: Work, signer: dict[str, Any], fields: TransactionFields, approved: SigningOrder | None
) -> StoredAttempt:
    """Sign, and compare what the signed bytes say with what was approved, or with what a no-op may say."""
    try:
        signed = await sign(signer, fields)
        _compare(read_fields(signed.raw), work, approved)
    except SignatureNotOurs as wrong:
        with correlated(work):
            log.error("security.signature_refused", signer_id=str(work.signer_id), reason=str(wrong))
        raise NotSigned(f"{wrong} Nothing was sent.") from wrong
    except SignerNotActive as disabled:
        raise NotNow(disabled.detail) from disabled
    except SignerUnavailable as trouble:
        raise NotSigned(trouble.detail) from trouble
    except (SealBroken, SettingInvalid) as closed:
        with correlated(work):
            log.error("signer.key_not_opened", signer_id=str(work.signer_id), reason=str(closed))
        key = f"The key of the signer {work.signer_address}"
        raise NotSigned(f"{key} cannot be opened with PORTAL_SIGNER_KEY.") from closed
    return StoredAttempt(id=new_id(), hash=signed.hash, raw_bytes=signed.raw, may_be_out=False)


def _compare(said: TransactionFields, work: Work, approved: SigningOrder | None) -> None:
    if (said.chain_id, said.nonce) != (work.chain_id, work.nonce):
        raise SignatureNotOurs("The signed bytes are for another chain or nonce.")
    if approved is None:
        if (said.to_address, said.value_wei, said.data) != (work.signer_address, 0, b""):
            raise SignatureNotOurs("The signed bytes are not those of an empty transaction.")
    elif not approved.matches(to=said.to_address, data=said.data, value_wei=said.value_wei, chain_id=said.chain_id):
        raise SignatureNotOurs("The signed bytes are not the call that was approved.")


async def _store(signed: Sequence[tuple[Order, TransactionFields, StoredAttempt]]) -> None:
    """Store the attempts, then what they mean for their transactions, whose rows are locked as they were read."""
    await insert_attempts(
        [
            NewAttempt(
                attempt=attempt,
                organization_id=order.work.organization_id,
                transaction_id=order.work.id,
                kind=order.kind,
                fields=fields,
                head_number=order.head_number,
            )
            for order, fields, attempt in signed
        ]
    )
    steps: dict[tuple[Status, str], list[Step]] = {}
    repriced: list[tuple[Work, str, dict[str, Any]]] = []
    for order, fields, attempt in signed:
        detail = {"hash": attempt.hash, "nonce": fields.nonce}
        if order.work.status is Status.NONCED and order.kind is AttemptKind.CALL:
            detail["signer"] = order.work.signer_address
            steps.setdefault((Status.SIGNED, "signed"), []).append(Step(work=order.work, detail=detail))
        elif order.closing_reason:
            reason = order.closing_reason.value
            step = Step(work=order.work, changes={"closing_reason": reason}, detail={**detail, "reason": reason})
            steps.setdefault((Status.CLOSING, "closing"), []).append(step)
        else:
            repriced.append((order.work, "repriced", {**detail, "max_fee_wei": str(fields.max_fee_wei)}))
    if repriced:
        await end_hurry([work.id for work, _, _ in repriced])
        await record_many(repriced)
    for (after, verb), taken in steps.items():
        await move_many(taken, after, verb)
