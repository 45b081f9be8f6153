"""Proposing calls: encoded from the registered ABI, described, and bound to a digest and a policy version."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from structlog.contextvars import bound_contextvars

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, ActorKind
from portal.accounts.tables import EndUser
from portal.actions import effects, queries
from portal.actions.checks import checked
from portal.actions.digest import CanonicalCall, digest_of
from portal.actions.errors import ContractNotCallable, SignerNotReady
from portal.actions.schemas import ActionInput, ActionView, ProposedCall
from portal.actions.tables import Action, ActionStatus
from portal.audit import service as audit
from portal.chain.abi import EncodedCall, encode_call
from portal.chain.tables import ContractStatus, SignerStatus
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound
from portal.jobs.queue import ring
from portal.logging import correlation_id

MAX_WEI = 2**256 - 1


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The contract that would be called and the signer that would send it."""

    contract_id: UUID
    contract_name: str
    status: str
    address: str | None
    abi: list[dict[str, Any]]
    allowed_functions: list[str]
    symbol: str | None
    decimals: int | None
    chain_id: int
    currency: str
    signer_address: str
    signer_name: str
    signer_status: str


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of a policy, which binds what is proposed now."""

    version_id: UUID
    number: int
    expires_after_seconds: int


async def propose_in_transaction(actor: Actor, call: ProposedCall) -> UUID | None:
    """Propose `call` within the caller's db transaction; the new action's id, or None if its signal and rule have one.

    Raises before anything is written: `NotFound`, `InputInvalid` (arguments, function), `ContractNotCallable`,
    `SignerNotReady`. The caller rings `simulate_actions` after its commit.
    """
    actor.require(Permission.ACTIONS_PROPOSE)
    target = await get_target(actor.organization_id, call.contract_id)
    if target.status != ContractStatus.ACTIVE:
        raise ContractNotCallable(f"The contract {target.contract_name} is {target.status}, so it cannot be called.")
    if call.function not in target.allowed_functions:
        allowed = ", ".join(target.allowed_functions)
        raise InputInvalid.at(
            "/function", f"{target.contract_name} has no allowed function {call.function}; allowed: {allowed}."
        )
    terms = await get_terms(actor.organization_id, call.policy_id)
    if call.end_user_id and not await EndUser.exists().where(
        EndUser.id == call.end_user_id, EndUser.organization == actor.organization_id
    ):
        raise NotFound("There is no such end user.")
    encoded = encode_call(target.abi, call.function, call.arguments)
    return await insert_action(actor, call, target, terms, encoded, to=target.address)


async def propose(actor: Actor, given: ActionInput) -> ActionView:
    """Propose a call by hand or by an API key. Raises what `propose_in_transaction` raises."""
    given = checked(given)
    if int(given.value_wei) > MAX_WEI:
        raise InputInvalid.at("/value_wei", f"At most {MAX_WEI} wei can be sent.")
    call = ProposedCall(
        contract_id=given.contract_id,
        function=given.function,
        arguments=given.arguments,
        policy_id=given.policy_id,
        value_wei=int(given.value_wei),
        end_user_id=given.end_user_id,
    )
    async with transaction():
        action_id = await propose_in_transaction(actor, call)
    assert action_id, "only a rule's proposal can exist already"
    ring("simulate_actions")
    return await queries.get_action(actor.organization_id, action_id)


async def get_target(organization_id: UUID, contract_id: UUID) -> Target:
    """The contract with its signer. Raises `NotFound`, and `SignerNotReady` while the key is not made or disabled."""
    rows = await run_sql(
        """SELECT c.id AS contract_id, c.name AS contract_name, c.status, c.address, c.abi, c.allowed_functions,
                  c.symbol, c.decimals, c.chain AS chain_id, chain.currency,
                  s.address AS signer_address, s.name AS signer_name, s.status AS signer_status
           FROM contract c JOIN signer s ON s.id = c.signer JOIN chain ON chain.id = c.chain
           WHERE c.id = {} AND c.organization = {}""",
        contract_id,
        organization_id,
    )
    if not rows:
        raise NotFound("There is no such contract.")
    row = rows[0]
    check_signer(row["signer_name"], row["signer_status"])
    for column in ("abi", "allowed_functions"):
        row[column] = msgspec.json.decode(row[column])
    return msgspec.convert(row, Target)


def check_signer(name: str, status: str) -> None:
    """Raise `SignerNotReady` unless a signer of this status can sign."""
    if status == SignerStatus.PENDING:
        raise SignerNotReady(f"The key of the signer {name} is still being made. Try again in a few seconds.")
    if status != SignerStatus.ACTIVE:
        raise SignerNotReady(f"The signer {name} is {status}, so it sends nothing.")


async def get_terms(organization_id: UUID, policy_id: UUID) -> Terms:
    """The newest version of a policy. Raises `NotFound`."""
    rows = await run_sql(
        """SELECT v.id AS version_id, v.number, v.expires_after_seconds
           FROM policy_version v JOIN policy p ON p.id = v.policy
           WHERE p.id = {} AND p.organization = {} ORDER BY v.number DESC LIMIT 1""",
        policy_id,
        organization_id,
    )
    if not rows:
        raise NotFound("There is no such policy.")
    return msgspec.convert(rows[0], Terms)


async def insert_action(
    actor: Actor, call: ProposedCall, target: Target, terms: Terms, encoded: EncodedCall, *, to: str | None
) -> UUID | None:
    """Store the encoded call with its digest, sentence and deadline, and its audit entry; None if it exists already."""
    now, action_id, story = clock.now(), new_id(), call.correlation_id or correlation_id()
    digest = _digest(actor, call, target, terms, encoded, to=to)
    summary = await _summary(actor, call, target, encoded)
    inserted = (
        await Action.insert(
            Action(
                id=action_id,
                organization=actor.organization_id,
                signal=call.signal_id,
                rule=call.rule_id,
                rule_version=call.rule_version_id,
                end_user=call.end_user_id,
                contract=target.contract_id,
                chain=target.chain_id,
                function=encoded.function,
                arguments=encoded.arguments,
                to_address=to,
                calldata=encoded.calldata,
                value_wei=call.value_wei,
                digest=digest,
                policy_version=terms.version_id,
                status=ActionStatus.PROPOSED,
                summary=summary,
                proposed_by=actor.id if actor.kind == ActorKind.MEMBER else None,
                correlation_id=story,
                proposed_at=now,
                expires_at=now + timedelta(seconds=terms.expires_after_seconds),
            )
        )
        .on_conflict(target=(Action.signal, Action.rule), action="DO NOTHING")
        .returning(Action.id)
    )
    if not inserted:
        return None
    said = {
        "digest": digest.hex(),
        "summary": summary,
        "contract_id": target.contract_id,
        "function": encoded.function,
        "policy_version_id": terms.version_id,
        "signal_id": call.signal_id,
        "rule_id": call.rule_id,
    }
    detail = {name: str(value) for name, value in said.items() if value is not None}
    with bound_contextvars(correlation_id=story):
        await audit.append(actor, "action.proposed", "action", action_id, detail)
    return action_id


def _digest(
    actor: Actor, call: ProposedCall, target: Target, terms: Terms, encoded: EncodedCall, *, to: str | None
) -> bytes:
    return digest_of(
        CanonicalCall(
            organization_id=actor.organization_id,
            chain_id=target.chain_id,
            to=to,
            function=encoded.function,
            arguments=encoded.arguments,
            calldata=encoded.calldata,
            value_wei=call.value_wei,
            policy_version_id=terms.version_id,
            policy_version_number=terms.number,
            signer=target.signer_address,
        )
    )


async def _summary(actor: Actor, call: ProposedCall, target: Target, encoded: EncodedCall) -> str:
    return effects.summarize(
        effects.Effect(
            contract_name=target.contract_name,
            function=encoded.function,
            arguments=encoded.arguments,
            symbol=target.symbol,
            decimals=target.decimals,
            names=await queries.names_of(actor.organization_id, effects.addresses_in(encoded.arguments)),
            value_wei=call.value_wei,
            currency=target.currency,
        )
    )
