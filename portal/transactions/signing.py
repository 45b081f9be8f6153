"""From a queued transaction to stored signed bytes, through the gate. No node is asked inside a db transaction.

The key is local and quick, so nonce, signature and bytes are stored in one db transaction and `nonced` is never seen
outside it. A remote signer would commit in between; `sign_nonced` is how such a transaction goes on with its own nonce.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from portal import clock
from portal.actions.errors import GateRefused
from portal.actions.schemas import SigningOrder
from portal.actions.service import verify_for_signing
from portal.chain.queries import get_fee_settings
from portal.chain.rpc import Call, Fees, Node
from portal.chain.signers import SignatureNotOurs, TransactionFields, read_fields, sign
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import SettingInvalid
from portal.logging import get_logger
from portal.sealing import SealBroken
from portal.transactions.deployments import end_deployment
from portal.transactions.fees import fee_cap, gas_limit, replacement_fees
from portal.transactions.moves import Work, correlated, hold, move, record
from portal.transactions.tables import Attempt
from portal.transactions.tables import TransactionStatus as Status

log = get_logger(__name__)
IN_FLIGHT_LIMIT = 16
"""Unmined transactions of one lane: what a node's pool keeps executable for one address."""


class Quote(msgspec.Struct, frozen=True):
    """What the node says about a call just now."""

    gas_limit: int
    fees: Fees


async def quote(work: Work, node: Node) -> Quote | None:
    """Gas and fees for an unsigned transaction; None if it must not be signed now, with the reason stored."""
    try:
        async with transaction():
            order = await verify_for_signing(work.action_id)
    except GateRefused as refusal:
        await _stop(work, refusal)
        return None
    simulation = await node.simulate(
        Call(from_address=order.signer_address, to_address=order.to, calldata=order.data, value_wei=order.value_wei)
    )
    if simulation.gas is None:
        await hold(work, f"It would fail now, so it is not sent but tried again: {simulation.revert_reason}")
        return None
    return Quote(gas_limit(simulation.gas), await node.fees(await get_fee_settings(work.chain_id)))


async def sign_queued(work: Work, quoted: Quote) -> bool:
    """Claim the lane's next nonce, pass the gate, sign and store, all or nothing; whether it was done.

    False where another process has the lane, an earlier transaction is unsent, the lane is full, or the gate refused.
    """

    async def claim_and_sign() -> bool:
        # NO KEY: whoever queues a transaction refers to this row, and must not wait for us.
        lanes = await run_sql("SELECT next_nonce FROM lane WHERE id = {} FOR NO KEY UPDATE SKIP LOCKED", work.lane_id)
        if not lanes or not await _has_room(work):
            return False
        nonce = lanes[0]["next_nonce"]
        claimed = await run_sql(
            """UPDATE transaction SET nonce = {}, status = 'nonced', reason = NULL
               WHERE id = {} AND status = 'queued' AND nonce IS NULL RETURNING id""",
            nonce,
            work.id,
        )
        if not claimed:
            return False
        await run_sql("UPDATE lane SET next_nonce = {} WHERE id = {}", nonce + 1, work.lane_id)
        return await _sign_claimed(msgspec.structs.replace(work, nonce=nonce, status=Status.NONCED), quoted)

    return await _through_gate(work, claim_and_sign)


async def sign_nonced(work: Work, quoted: Quote) -> bool:
    """Sign a transaction that owns a nonce already, with that nonce; whether it was done."""
    return await _through_gate(work, lambda: _sign_claimed(work, quoted))


async def sign_replacement(work: Work, node: Node) -> bool:
    """Store an attempt at the same nonce with higher fees; False if that would exceed the cap or the gate refuses."""
    rows = await run_sql(
        "SELECT gas_limit, max_fee_wei, max_priority_fee_wei FROM attempt WHERE transaction = {} ORDER BY max_fee_wei",
        work.id,
    )
    first, newest = _fees_of(rows[0]), rows[-1]
    market = await node.fees(await get_fee_settings(work.chain_id))
    fees = replacement_fees(_fees_of(newest), market, cap_wei=fee_cap(first))
    if fees is None:
        with correlated(work):
            log.warning("transaction.fees_at_cap", nonce=work.nonce, max_fee_wei=str(newest["max_fee_wei"]))
        return False

    async def replace() -> bool:
        unchanged = await run_sql(
            """SELECT id FROM transaction WHERE id = {} AND status = {}
                  AND (SELECT max(max_fee_wei) FROM attempt WHERE attempt.transaction = {}) = {} FOR NO KEY UPDATE""",
            work.id,
            work.status.value,
            work.id,
            newest["max_fee_wei"],
        )
        if not unchanged:
            return False
        hash = await _store_attempt(work, Quote(newest["gas_limit"], fees))
        await record(work, "repriced", hash=hash, nonce=work.nonce, max_fee_wei=str(fees.max_fee_wei))
        return True

    return await _through_gate(work, replace)


async def hand_back_nonce(work: Work) -> bool:
    """Make its nonce the lane's next one again, in the caller's db transaction, which must take it from `work`.

    False if a later one was given out, or if `work` is no longer as it was read; what was read is locked.
    """
    assert work.nonce is not None
    rows = await run_sql(
        """WITH held AS (SELECT lane FROM transaction WHERE id = {} AND status = {} AND nonce = {} FOR NO KEY UPDATE)
           UPDATE lane SET next_nonce = {} FROM held WHERE lane.id = held.lane AND next_nonce = {} RETURNING lane.id""",
        work.id,
        work.status.value,
        work.nonce,
        work.nonce,
        work.nonce + 1,
    )
    return bool(rows)


async def _through_gate(work: Work, change: Callable[[], Awaitable[bool]]) -> bool:
    """Run `change` in one db transaction; nothing of it remains if the gate or the signer objects."""
    try:
        async with transaction():
            return await change()
    except GateRefused as refusal:
        await _stop(work, refusal)
    except SignatureNotOurs as wrong:
        with correlated(work):
            log.error("security.signature_refused", signer_id=str(work.signer_id), reason=str(wrong))
        await hold(work, f"{wrong} Nothing was sent.")
    except (SealBroken, SettingInvalid) as closed:
        with correlated(work):
            log.error("signer.key_not_opened", signer_id=str(work.signer_id), reason=str(closed))
        await hold(work, f"The key of the signer {work.signer_address} cannot be opened with PORTAL_SIGNER_KEY.")
    return False


async def _stop(work: Work, refusal: GateRefused) -> None:
    """The call is not what was approved: a security event. It ends here, unless it holds a nonce: then it waits."""
    with correlated(work):
        log.error("security.transaction_refused", action_id=str(work.action_id), reason=refusal.detail)
    if work.status is not Status.QUEUED:
        await hold(work, f"It is not signed again: {refusal.detail}")
        return
    async with transaction():
        if await move(work, Status.REFUSED, "refused", {"reason": refusal.detail}, reason=refusal.detail):
            await end_deployment(work, None)


async def _has_room(work: Work) -> bool:
    rows = await run_sql(
        """SELECT count(*) AS in_flight, count(*) FILTER (WHERE status <> 'broadcast') AS unsent FROM transaction
           WHERE lane = {} AND status IN ('nonced', 'signed', 'broadcast')""",
        work.lane_id,
    )
    return bool(rows[0]["in_flight"] < IN_FLIGHT_LIMIT and not rows[0]["unsent"])


async def _sign_claimed(work: Work, quoted: Quote) -> bool:
    hash = await _store_attempt(work, quoted)
    return await move(work, Status.SIGNED, "signed", {}, hash=hash, nonce=work.nonce, signer=work.signer_address)


async def _store_attempt(work: Work, quoted: Quote) -> str:
    """Pass the gate, sign, compare the signed bytes with what was approved, and store them; their hash."""
    assert work.nonce is not None
    order = await verify_for_signing(work.action_id)
    if (order.signer_id, order.chain_id) != (work.signer_id, work.chain_id):
        raise GateRefused("The contract has another signer or chain than when this transaction was queued.")
    signed = await sign(order.signer_id, _fields(order, work.nonce, quoted))
    said = read_fields(signed.raw)
    if not order.matches(to=said.to_address, data=said.data, value_wei=said.value_wei, chain_id=said.chain_id):
        raise SignatureNotOurs("The signed bytes are not the call that was approved.")
    await Attempt.insert(
        Attempt(
            id=new_id(),
            organization=work.organization_id,
            transaction=work.id,
            hash=signed.hash,
            raw_bytes=signed.raw,
            gas_limit=quoted.gas_limit,
            max_fee_wei=quoted.fees.max_fee_wei,
            max_priority_fee_wei=quoted.fees.max_priority_fee_wei,
            signed_at=clock.now(),
        )
    )
    return signed.hash


def _fields(order: SigningOrder, nonce: int, quoted: Quote) -> TransactionFields:
    return TransactionFields(
        chain_id=order.chain_id,
        nonce=nonce,
        to_address=order.to,
        value_wei=order.value_wei,
        data=order.data,
        gas_limit=quoted.gas_limit,
        max_fee_wei=quoted.fees.max_fee_wei,
        max_priority_fee_wei=quoted.fees.max_priority_fee_wei,
    )


def _fees_of(attempt: dict[str, Any]) -> Fees:
    return Fees(int(attempt["max_fee_wei"]), int(attempt["max_priority_fee_wei"]))
