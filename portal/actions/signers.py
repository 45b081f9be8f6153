"""Who signs: making signers, disabling them, groups that share the work, and which of them send a contract's calls."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.actions.checks import checked_text
from portal.actions.errors import NameTaken
from portal.actions.happenings import happening_of
from portal.actions.proposals import check_signer
from portal.actions.rights import check_may_share, check_owns
from portal.actions.tables import ActionStatus
from portal.audit import service as audit
from portal.chain import queries as chain
from portal.chain.schemas import ContractView, SignerGroupView, SignerView
from portal.chain.service import insert_signer
from portal.chain.signers import web3signer
from portal.chain.tables import ContractStatus, Signer, SignerGroup, SignerKind, SignerPurpose, SignerStatus
from portal.db.columns import new_id
from portal.db.engine import in_transaction, run_sql, transaction
from portal.errors import Conflict, FieldError, InputInvalid, NotFound
from portal.jobs.queue import ring
from portal.notify.outbox import record_many

MOST_IN_A_GROUP = 64
"""More lanes side by side gain nothing: no chain takes so many transactions of one organisation."""


async def create_signer(
    actor: Actor,
    name: str,
    *,
    kind: str = SignerKind.LOCAL,
    kms_key: str | None = None,
    service_url: str | None = None,
    public_key: str | None = None,
) -> SignerView:
    """A signer that is pending until a worker has its key: usually within a second, where it makes one itself.

    An `aws_kms` one needs `kms_key` (id, ARN or alias), a `web3signer` one `service_url` and `public_key`; the worker
    asks for its address and for a signature, and until both are right says on the signer what is wrong. Whether the
    address may be asked at all, the worker's settings say. Raises `InputInvalid`, and `NameTaken` where another signer
    of the organisation that sends is called so.
    """
    actor.require(Permission.SIGNERS_WRITE)
    name = checked_text(name, "/name")
    kind = SignerKind(kind)
    reference = _checked_reference(kind, kms_key, service_url, public_key)
    async with transaction():
        await _check_name_free(actor.organization_id, name)
        signer_id = await insert_signer(actor.organization_id, name, kind=kind, key_reference=reference)
        # Not where the key lies: whoever may read the audit need not know, and the signer's row keeps it.
        await audit.append(actor, "signer.created", "signer", signer_id, {"name": name, "kind": kind.value})
    ring("make_signer_keys")
    return await chain.get_signer(actor.organization_id, signer_id)


async def _check_name_free(organization_id: UUID, name: str) -> None:
    """Under a lock, not by a constraint: older organisations may have signers of one name, which nobody can change."""
    await run_sql("SELECT id FROM organization WHERE id = {} FOR NO KEY UPDATE", organization_id)
    if await Signer.exists().where(
        Signer.organization == organization_id, Signer.name == name, Signer.purpose == SignerPurpose.SENDS
    ):
        raise NameTaken(f"There is a signer called {name} already. Choose another name.")


async def disable_signer(actor: Actor, signer_id: UUID) -> SignerView:
    """Nothing new is signed with its key from now on; what is out is followed and sent again (same bytes).

    Proposals that name it stay open, and what is approved waits unsigned until it is enabled again, is cancelled or
    expires. Raises `NotFound` and `Conflict` unless it is active.
    """
    return await _turn(actor, signer_id, SignerStatus.ACTIVE, SignerStatus.DISABLED, "signer.disabled")


async def enable_signer(actor: Actor, signer_id: UUID) -> SignerView:
    """Let it sign again. Raises `NotFound` and `Conflict` unless it is disabled."""
    return await _turn(actor, signer_id, SignerStatus.DISABLED, SignerStatus.ACTIVE, "signer.enabled")


async def remove_signer(actor: Actor, signer_id: UUID) -> None:
    """Take back a signer that never had a key. Raises `NotFound` and `Conflict` unless it is pending."""
    actor.require(Permission.SIGNERS_WRITE)
    signer = await get_sender(actor, signer_id)
    async with transaction():
        if (
            not await Signer.delete()
            .where(Signer.id == signer_id, Signer.status == SignerStatus.PENDING)
            .returning(Signer.id)
        ):
            raise Conflict(f"The signer {signer.name} has a key, so it stays. Disable it instead: its history is kept.")
        await audit.append(actor, "signer.removed", "signer", signer_id, {"name": signer.name})


async def create_group(actor: Actor, name: str) -> SignerGroupView:
    """A group without signers. Raises `InputInvalid` and `NameTaken`."""
    actor.require(Permission.SIGNERS_WRITE)
    name, group_id = checked_text(name, "/name"), new_id()
    async with transaction():
        made = (
            await SignerGroup.insert(
                SignerGroup(id=group_id, organization=actor.organization_id, name=name, created_at=clock.now())
            )
            .on_conflict(target=(SignerGroup.organization, SignerGroup.name), action="DO NOTHING")
            .returning(SignerGroup.id)
        )
        if not made:
            raise _name_taken(name)
        await audit.append(actor, "signer_group.created", "signer_group", group_id, {"name": name})
    return await chain.get_signer_group(actor.organization_id, group_id)


async def change_group(actor: Actor, group_id: UUID, name: str, signer_ids: Sequence[UUID]) -> SignerGroupView:
    """Give the group this name and exactly these signers.

    Open proposals of a contract that a signer taken out may not send any more are cancelled: their digest names it, so
    nobody else could. Raises `NotFound`, `InputInvalid` (a signer that does not exist, or is in another group),
    `NameTaken`, and `Conflict` or `NodeUnavailable` where a new one may not send what the group's contracts share.
    """
    actor.require(Permission.SIGNERS_WRITE)
    name = checked_text(name, "/name")
    before = await chain.get_signer_group(actor.organization_id, group_id)
    known = {member.id for member in before.signers}
    added = [await _get_addable(actor, group_id, place, id) for place, id in enumerate(signer_ids) if id not in known]
    if len(set(signer_ids)) > MOST_IN_A_GROUP:
        raise InputInvalid.at("/signer_ids", f"A group has at most {MOST_IN_A_GROUP} signers.")
    for contract_id in before.contract_ids:
        contract = await chain.get_contract(actor.organization_id, contract_id)
        await check_may_share(actor.organization_id, contract, added)
    async with transaction():
        await _lock_group(actor, group_id)
        try:
            await SignerGroup.update({SignerGroup.name: name}).where(SignerGroup.id == group_id)
        except asyncpg.UniqueViolationError:
            raise _name_taken(name) from None
        await _set_members(group_id, list(signer_ids))
        cancelled = await _cancel_unsendable(actor, f"Its signer was taken out of the group {name}.")
        detail = {"name": name, "signer_ids": [str(id) for id in signer_ids], "cancelled": cancelled}
        await audit.append(actor, "signer_group.changed", "signer_group", group_id, detail)
    return await chain.get_signer_group(actor.organization_id, group_id)


async def remove_group(actor: Actor, group_id: UUID) -> None:
    """Dissolve a group; its signers stay. Raises `NotFound`, and `Conflict` while a contract uses it."""
    actor.require(Permission.SIGNERS_WRITE)
    async with transaction():
        await _lock_group(actor, group_id)
        group = await chain.get_signer_group(actor.organization_id, group_id)
        if group.contract_ids:
            raise Conflict(f"{len(group.contract_ids)} contracts use the group {group.name}. Change those first.")
        await _set_members(group_id, [])
        await SignerGroup.delete().where(SignerGroup.id == group_id)
        await audit.append(actor, "signer_group.removed", "signer_group", group_id, {"name": group.name})


async def change_senders(actor: Actor, contract_id: UUID, signer_id: UUID, group_id: UUID | None) -> ContractView:
    """Let this signer, and the active ones of this group, send the calls of the contract from now on.

    Open proposals that name a signer which may not send them any more are cancelled, and approved actions that are not
    signed yet are refused at signing: the digest that people approved names the signer. Raises `NotFound`,
    `SignerNotReady`, and `Conflict` where the contract is not active, or where it is one of ours and does not know the
    signer as its owner or one of the group as somebody who may call it; `NodeUnavailable` where that cannot be read.
    """
    actor.require(Permission.CONTRACTS_WRITE)
    actor.require(Permission.SIGNERS_WRITE)
    contract = await chain.get_contract(actor.organization_id, contract_id)
    signer = await get_sender(actor, signer_id)
    check_signer(signer.name, signer.status)
    if contract.status != ContractStatus.ACTIVE:
        raise Conflict(f"The contract {contract.name} is {contract.status}, not active; its signer stays.")
    if signer_id != contract.signer_id:
        await check_owns(contract, signer)
    if group_id:
        group = await chain.get_signer_group(actor.organization_id, group_id)
        others = [member for member in group.signers if member.id != signer_id]
        await check_may_share(actor.organization_id, contract, others)
    async with transaction():
        changed = await run_sql(
            """UPDATE contract SET signer = {}, signer_group = {} WHERE id = {} AND organization = {}
               AND (signer, signer_group) IS DISTINCT FROM ({}::uuid, {}::uuid) RETURNING id""",
            *(signer_id, group_id, contract_id, actor.organization_id, signer_id, group_id),
        )
        if changed:
            cancelled = await _cancel_unsendable(actor, f"Another signer sends the calls of {contract.name} now.")
            detail = {"signer_id": str(signer_id), "before": str(contract.signer_id), "cancelled": cancelled}
            groups = {"signer_group_id": str(group_id)} if group_id else {}
            await audit.append(actor, "contract.signer_changed", "contract", contract_id, detail | groups)
    return await chain.get_contract(actor.organization_id, contract_id)


async def _turn(actor: Actor, signer_id: UUID, before: SignerStatus, after: SignerStatus, kind: str) -> SignerView:
    actor.require(Permission.SIGNERS_WRITE)
    signer = await get_sender(actor, signer_id)
    async with transaction():
        turned = (
            await Signer.update({Signer.status: after})
            .where(Signer.id == signer_id, Signer.status == before)
            .returning(Signer.id)
        )
        if not turned:
            raise Conflict(f"The signer {signer.name} is {signer.status}, not {before}; nothing was changed.")
        await audit.append(actor, kind, "signer", signer_id, {"name": signer.name})
    ring("run_lanes")
    return await chain.get_signer(actor.organization_id, signer_id)


async def get_sender(actor: Actor, signer_id: UUID) -> SignerView:
    """The signer. Raises `NotFound`, for one that sends nothing too."""
    signer = await chain.get_signer(actor.organization_id, signer_id)
    if signer.purpose != SignerPurpose.SENDS:
        raise NotFound("There is no such signer.")  # a key that holds what an end user owns sends nothing
    return signer


async def _get_addable(actor: Actor, group_id: UUID, place: int, signer_id: UUID) -> SignerView:
    try:
        signer = await get_sender(actor, signer_id)
    except NotFound as error:
        raise InputInvalid.at(f"/signer_ids/{place}", error.detail) from None
    if signer.signer_group_id not in (None, group_id):
        raise InputInvalid.at(
            f"/signer_ids/{place}",
            f"{signer.name} is in the group {signer.signer_group_name}. Take it out there first.",
        )
    return signer


async def _lock_group(actor: Actor, group_id: UUID) -> None:
    if not await run_sql(
        "SELECT id FROM signer_group WHERE id = {} AND organization = {} FOR UPDATE", group_id, actor.organization_id
    ):
        raise NotFound("There is no such group of signers.")


async def _set_members(group_id: UUID, signer_ids: list[UUID]) -> None:
    await run_sql(
        """UPDATE signer SET signer_group = CASE WHEN id = ANY({}::uuid[]) THEN {}::uuid END
           WHERE signer_group = {} OR (id = ANY({}::uuid[]) AND signer_group IS NULL)""",
        *(signer_ids, group_id, group_id, signer_ids),
    )


async def _cancel_unsendable(actor: Actor, reason: str) -> int:
    """Cancel the open proposals whose signer may not send for their contract any more; how many.

    Nobody could ever carry them out: better that they leave the inbox than that people approve them first.
    """
    assert in_transaction(), "proposals are cancelled in the db transaction that takes their signer away"
    rows: list[dict[str, Any]] = await run_sql(
        """UPDATE action a SET status = {}, decided_at = {} FROM contract c, signer s
           WHERE a.organization = {} AND a.status = 'proposed' AND c.id = a.contract AND s.id = a.signer
             AND a.signer <> c.signer AND (c.signer_group IS NULL OR s.signer_group IS DISTINCT FROM c.signer_group)
           RETURNING a.*""",
        *(ActionStatus.CANCELLED.value, clock.now(), actor.organization_id),
    )
    kind, said = f"action.{ActionStatus.CANCELLED}", {"reason": reason}
    await record_many([happening_of(row, ActionStatus.CANCELLED, **said) for row in rows])
    await audit.append_many(
        [audit.Entry(actor, kind, "action", row["id"], said, row["correlation_id"]) for row in rows]
    )
    return len(rows)


def _checked_reference(
    kind: SignerKind, kms_key: str | None, service_url: str | None, public_key: str | None
) -> str | None:
    if kind == SignerKind.LOCAL:
        return None
    if kind == SignerKind.AWS_KMS:
        key = (kms_key or "").strip()
        if not 1 <= len(key) <= 300 or not key.isprintable() or "," in key or "=" in key:
            raise InputInvalid.at("/kms_key", "Give the id, the ARN or the alias of the key in AWS KMS.")
        return key
    problems = []
    try:
        web3signer.check_url(service_url or "")
    except ValueError as error:
        problems.append(FieldError("/service_url", f"This is no address of a service: {error}."))
    try:
        web3signer.check_public_key(public_key or "")
    except ValueError as error:
        problems.append(FieldError("/public_key", f"This is no public key: {error}."))
    if problems:
        raise InputInvalid(problems[0].message, fields=problems)
    return web3signer.make_reference(service_url or "", public_key or "")


def _name_taken(name: str) -> NameTaken:
    return NameTaken(f"There is a group called {name} already. Choose another name.")
