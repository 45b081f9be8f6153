"""Proposing calls: encoded from the registered ABI, described, and bound to a digest and a policy version."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, ActorKind
from portal.accounts.tables import EndUser
from portal.actions import effects, queries
from portal.actions.batches import MULTICALL, batch_arguments, check_batch, check_readable, read_batch
from portal.actions.checks import checked
from portal.actions.digest import CanonicalCall, digest_of
from portal.actions.errors import ContractNotCallable, SignerNotReady
from portal.actions.happenings import happening_of
from portal.actions.schemas import ActionInput, ActionView, BatchedCall, ProposedCall
from portal.actions.senders import Sender, Senders, is_shared, read_senders
from portal.actions.tables import Action, ActionStatus
from portal.audit import service as audit
from portal.chain.abi import ContractFunction, EncodedCall, get_function
from portal.chain.tables import ContractStatus, SignerStatus
from portal.db.columns import new_id
from portal.db.engine import in_transaction, run_sql, transaction
from portal.errors import InputInvalid, NotFound, PortalError
from portal.jobs.queue import ring
from portal.logging import correlation_id
from portal.notify.outbox import record_many

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
    signer_id: UUID
    signer_address: str
    signer_name: str
    signer_status: str
    signer_group: UUID | None
    """Whose signers may send it, too."""
    template: str | None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of a policy, which binds what is proposed now."""

    version_id: UUID
    number: int
    expires_after_seconds: int


class PreparedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that may be proposed: its contract is callable, its arguments are encoded."""

    actor: Actor
    call: ProposedCall
    target: Target
    terms: Terms
    encoded: EncodedCall
    to: str | None
    """The contract's address; None deploys it."""


async def propose_in_transaction(actor: Actor, call: ProposedCall) -> UUID | None:
    """Propose `call` within the caller's db transaction; the new action's id, or None if its signal and rule have one.

    Raises before anything is written: `NotFound`, `InputInvalid` (arguments, function), `ContractNotCallable`,
    `SignerNotReady`. The caller rings `simulate_actions` after its commit.
    """
    [prepared] = await prepare_many([(actor, call)])
    if isinstance(prepared, PortalError):
        raise prepared
    if call.end_user_id and not await EndUser.exists().where(
        EndUser.id == call.end_user_id, EndUser.organization == actor.organization_id
    ):
        raise NotFound("There is no such end user.")
    return await propose_prepared(prepared)


async def propose_prepared(prepared: PreparedCall) -> UUID | None:
    """Store one prepared call in the caller's db transaction; its action's id, or None if it exists already."""
    [action_id], entries = await store_many(prepared.actor.organization_id, [prepared])
    await audit.append_many(entries)
    return action_id


async def prepare_many(calls: Sequence[tuple[Actor, ProposedCall]]) -> list[PreparedCall | PortalError]:
    """Each call encoded and ready to be stored, or why it cannot be proposed; writes nothing.

    It is not checked whether their end users exist: those of rules are made in the db transaction that proposes.
    """
    targets = await _find_targets({call.contract_id for _, call in calls})
    grouped = [target for target in targets.values() if target.signer_group]
    senders = await read_senders(
        {each.signer_group for each in grouped if each.signer_group}, {each.signer_id for each in grouped}
    )
    terms = await _find_terms({call.policy_id for _, call in calls})
    functions: dict[tuple[UUID, str], ContractFunction] = {}
    prepared: list[PreparedCall | PortalError] = []
    for actor, call in calls:
        organization_id = actor.organization_id
        try:
            actor.require(Permission.ACTIONS_PROPOSE)
            target = _found(targets.get((organization_id, call.contract_id)))
            _check_callable(target, call.function)
            bound = _known(terms.get((organization_id, call.policy_id)))
            name = (call.contract_id, call.function)
            function = functions.get(name) or functions.setdefault(name, get_function(target.abi, call.function))
            encoded = function.encode(call.arguments)
            if call.function == MULTICALL:
                check_batch(encoded.calldata, target.allowed_functions, target.contract_name, call.value_wei)
                check_readable(target.abi, encoded.calldata)
            target = _with_sender(target, call.function, senders)
        except PortalError as error:
            prepared.append(error)
        else:
            prepared.append(
                PreparedCall(actor=actor, call=call, target=target, terms=bound, encoded=encoded, to=target.address)
            )
    return prepared


def _check_callable(target: Target, function: str) -> None:
    if target.status != ContractStatus.ACTIVE:
        raise ContractNotCallable(f"The contract {target.contract_name} is {target.status}, so it cannot be called.")
    # Of a batch it is each of its calls that must be allowed.
    if function not in target.allowed_functions and function != MULTICALL:
        allowed = ", ".join(target.allowed_functions)
        raise InputInvalid.at(
            "/function", f"{target.contract_name} has no allowed function {function}; allowed: {allowed}."
        )


async def propose(actor: Actor, given: ActionInput) -> ActionView:
    """Propose a call, or several in one, by hand or by an API key. Raises what `propose_in_transaction` raises."""
    given = checked(given)
    if (given.function is None) == (given.calls is None):
        raise InputInvalid.at("/function", "Name the function that is called, or give several calls; not both.")
    if int(given.value_wei) > MAX_WEI:
        raise InputInvalid.at("/value_wei", f"At most {MAX_WEI} wei can be sent.")
    call = ProposedCall(
        contract_id=given.contract_id,
        function=given.function or MULTICALL,
        arguments=given.arguments if given.calls is None else await _batched(actor, given.contract_id, given.calls),
        policy_id=given.policy_id,
        value_wei=int(given.value_wei),
        end_user_id=given.end_user_id,
    )
    async with transaction():
        action_id = await propose_in_transaction(actor, call)
    assert action_id, "only a rule's proposal can exist already"
    ring("simulate_actions")
    return await queries.get_action(actor.organization_id, action_id)


async def _batched(actor: Actor, contract_id: UUID, calls: list[BatchedCall]) -> dict[str, Any]:
    target = _found((await _find_targets([contract_id])).get((actor.organization_id, contract_id)))
    return batch_arguments(target.abi, calls, target.allowed_functions, target.contract_name)


async def get_target(organization_id: UUID, contract_id: UUID) -> Target:
    """The contract with its signer. Raises `NotFound`, and `SignerNotReady` while the key is not made or disabled."""
    target = _found((await _find_targets([contract_id])).get((organization_id, contract_id)))
    check_signer(target.signer_name, target.signer_status)
    return target


async def _find_targets(contract_ids: Collection[UUID]) -> dict[tuple[UUID, UUID], Target]:
    """The contracts with their signers, by organisation and id."""
    rows = await run_sql(
        """SELECT c.organization, c.id AS contract_id, c.name AS contract_name, c.status, c.address, c.abi,
                  c.allowed_functions, c.symbol, c.decimals, c.chain AS chain_id, chain.currency,
                  s.id AS signer_id, s.address AS signer_address, s.name AS signer_name, s.status AS signer_status,
                  c.signer_group, c.template
           FROM contract c JOIN signer s ON s.id = c.signer JOIN chain ON chain.id = c.chain
           WHERE c.id = ANY({}::uuid[])""",
        list(contract_ids),
    )
    for row in rows:
        for column in ("abi", "allowed_functions"):
            row[column] = msgspec.json.decode(row[column])
    return {(row["organization"], row["contract_id"]): msgspec.convert(row, Target) for row in rows}


def _found(target: Target | None) -> Target:
    if target is None:
        raise NotFound("There is no such contract.")
    return target


def _with_sender(target: Target, function: str, senders: Senders) -> Target:
    """The target with the signer that is to send this call. Raises `SignerNotReady` where nobody can."""
    if target.signer_group and is_shared(target.template, target.abi, function):
        own = Sender(
            id=target.signer_id, name=target.signer_name, address=target.signer_address, status=target.signer_status
        )
        chosen = senders.choose(own, target.signer_group)
        target = msgspec.structs.replace(
            target,
            signer_id=chosen.id,
            signer_address=chosen.address,
            signer_name=chosen.name,
            signer_status=chosen.status,
        )
    check_signer(target.signer_name, target.signer_status)
    return target


def check_signer(name: str, status: str) -> None:
    """Raise `SignerNotReady` unless a signer of this status can sign."""
    if status == SignerStatus.PENDING:
        raise SignerNotReady(f"The key of the signer {name} is still being made. Try again in a few seconds.")
    if status != SignerStatus.ACTIVE:
        raise SignerNotReady(f"The signer {name} is {status}, so it sends nothing.")


async def get_terms(organization_id: UUID, policy_id: UUID) -> Terms:
    """The newest version of a policy. Raises `NotFound`."""
    return _known((await _find_terms([policy_id])).get((organization_id, policy_id)))


async def _find_terms(policy_ids: Collection[UUID]) -> dict[tuple[UUID, UUID], Terms]:
    """The newest versions of the policies, by organisation and id of the policy."""
    rows = await run_sql(
        """SELECT DISTINCT ON (p.id) p.organization, p.id, v.id AS version_id, v.number, v.expires_after_seconds
           FROM policy_version v JOIN policy p ON p.id = v.policy
           WHERE p.id = ANY({}::uuid[]) ORDER BY p.id, v.number DESC""",
        list(policy_ids),
    )
    return {(row["organization"], row["id"]): msgspec.convert(row, Terms) for row in rows}


def _known(terms: Terms | None) -> Terms:
    if terms is None:
        raise NotFound("There is no such policy.")
    return terms


async def store_many(
    organization_id: UUID, calls: Sequence[PreparedCall]
) -> tuple[list[UUID | None], list[audit.Entry]]:
    """Store calls of one organisation, each with its digest, sentence and deadline, in the caller's db transaction.

    Returns the new action's id for each, or None where its signal and rule have one, and the audit entries, which the
    caller appends, last of all: from then on nobody else writes to the organisation's chain.
    """
    assert in_transaction(), "what is proposed and its audit entry are written in one db transaction"
    addresses = {
        address for each in calls for call in _single_calls(each) for address in effects.addresses_in(call.arguments)
    }
    names = await queries.names_of(organization_id, addresses)
    rows = [_row(each, names) for each in calls]
    inserted = {row["id"] for row in await _insert(rows)}
    await record_many([happening_of(row, ActionStatus.PROPOSED) for row in rows if row["id"] in inserted])
    stored = [row["id"] if row["id"] in inserted else None for row in rows]
    return stored, [_entry(each, row) for each, row in zip(calls, rows, strict=True) if row["id"] in inserted]


def _row(prepared: PreparedCall, names: dict[str, str]) -> dict[str, Any]:
    """The new action, by the names of its columns."""
    actor, call, target, encoded = prepared.actor, prepared.call, prepared.target, prepared.encoded
    now = clock.now()
    return {
        "id": new_id(),
        "organization": actor.organization_id,
        "signal": call.signal_id,
        "rule": call.rule_id,
        "rule_version": call.rule_version_id,
        "end_user": call.end_user_id,
        "contract": target.contract_id,
        "chain": target.chain_id,
        "signer": target.signer_id,
        "function": encoded.function,
        "arguments": msgspec.json.encode(encoded.arguments).decode(),
        "to_address": prepared.to,
        "calldata": encoded.calldata,
        "value_wei": call.value_wei,
        "digest": _digest(prepared),
        "policy_version": prepared.terms.version_id,
        "summary": _summary(prepared, names),
        "proposed_by": actor.id if actor.kind == ActorKind.MEMBER else None,
        "proposed_by_key": actor.id if actor.kind == ActorKind.API_KEY else None,
        "correlation_id": call.correlation_id or correlation_id(),
        "proposed_at": now,
        "expires_at": now + timedelta(seconds=prepared.terms.expires_after_seconds),
    }


async def _insert(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    names = rows[0].keys()
    arrays = ", ".join(f"{{}}::{Action._meta.get_column_by_name(name).column_type}[]" for name in names)
    return await run_sql(
        f"""INSERT INTO action ({", ".join(names)}, status) SELECT made.*, {{}} FROM unnest({arrays}) AS made
            ON CONFLICT (signal, rule) DO NOTHING RETURNING id""",  # noqa: S608  names of columns
        ActionStatus.PROPOSED.value,
        *([row[name] for row in rows] for name in names),
    )


def _entry(prepared: PreparedCall, row: dict[str, Any]) -> audit.Entry:
    said = {
        "digest": row["digest"].hex(),
        "summary": row["summary"],
        "contract_id": row["contract"],
        "function": row["function"],
        "policy_version_id": row["policy_version"],
        "signal_id": row["signal"],
        "rule_id": row["rule"],
    }
    detail = {name: str(value) for name, value in said.items() if value is not None}
    return audit.Entry(prepared.actor, "action.proposed", "action", row["id"], detail, row["correlation_id"])


def _digest(prepared: PreparedCall) -> bytes:
    return digest_of(
        CanonicalCall(
            organization_id=prepared.actor.organization_id,
            chain_id=prepared.target.chain_id,
            to=prepared.to,
            function=prepared.encoded.function,
            arguments=prepared.encoded.arguments,
            calldata=prepared.encoded.calldata,
            value_wei=prepared.call.value_wei,
            policy_version_id=prepared.terms.version_id,
            policy_version_number=prepared.terms.number,
            signer=prepared.target.signer_address,
        )
    )


def _single_calls(prepared: PreparedCall) -> list[EncodedCall]:
    encoded = prepared.encoded
    return read_batch(prepared.target.abi, encoded.calldata) if encoded.function == MULTICALL else [encoded]


def _summary(prepared: PreparedCall, names: dict[str, str]) -> str:
    target = prepared.target
    calls = [
        effects.Effect(
            contract_name=target.contract_name,
            function=call.function,
            arguments=call.arguments,
            symbol=target.symbol,
            decimals=target.decimals,
            names=names,
            value_wei=prepared.call.value_wei,
            currency=target.currency,
        )
        for call in _single_calls(prepared)
    ]
    return effects.summarize_batch(calls) if prepared.encoded.function == MULTICALL else effects.summarize(calls[0])
