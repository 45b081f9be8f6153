"""One-time links by which somebody comes in: the first owner, a member, an end user.

Only the SHA-256 of a link's token is stored; it works once, for seven days, and a newer link to the same somebody ends
it. A link never touches an account that exists: whoever follows it proves that account's own password instead.
"""

import hashlib
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts import passwords
from portal.accounts.emails import normal_email
from portal.accounts.people import (
    AlreadyMember,
    check_name,
    insert_organization,
    insert_person,
    join_organization,
    require_authority,
)
from portal.accounts.permissions import Permission, Role
from portal.accounts.proofs import SignInFailed, prove_password
from portal.accounts.queries import find_person, get_end_user, list_memberships
from portal.accounts.schemas import Actor, EndUserActor, InvitationView, PersonView, member_actor
from portal.accounts.tables import EndUser, Invitation, InvitationKind
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict, InputInvalid, NotFound

VALID = timedelta(days=7)

INVITATIONS = """
    SELECT i.id, i.kind, i.organization AS organization_id, o.name AS organization_name, i.email, i.role,
           i.end_user AS end_user_id, i.created_at, i.expires_at,
           EXISTS (SELECT 1 FROM person p WHERE p.email = i.email) AS person_exists
    FROM invitation i LEFT JOIN organization o ON o.id = i.organization
    WHERE i.used_at IS NULL AND i.expires_at > {}
"""


class InvitationNotOpen(NotFound):
    """The link was never one of ours, was used, was replaced or withdrawn, or is older than seven days."""

    title = "This link does not work any more"

    def __init__(self) -> None:
        super().__init__("This link was used, replaced or withdrawn, or has expired. Ask for a new one.")


class EndUserHasLogin(Conflict):
    """The end user accepted an invitation before."""


async def invite_owner(email: str | None = None) -> str:
    """The token of a link by which somebody makes an organisation and becomes its owner; for the command line."""
    email = None if email is None else normal_email(email)
    async with transaction():
        _, token = await _invite(InvitationKind.OWNER, email=email)
    return token


async def invite_member(actor: Actor, email: str, role: Role) -> tuple[InvitationView, str]:
    """Invite somebody to work in the actor's organisation, and the token of their link.

    Raises `Forbidden` for a role beyond the actor's own, `AlreadyMember`.
    """
    require_authority(actor, role)
    email = normal_email(email)
    person = await find_person(email)
    memberships = await list_memberships(person.id) if person else []
    if any(membership.organization_id == actor.organization_id for membership in memberships):
        raise AlreadyMember(f"{email} is a member already; change their role instead.")
    async with transaction():
        id, token = await _invite(InvitationKind.MEMBER, organization_id=actor.organization_id, email=email, role=role)
        await audit.append(actor, "member.invited", "invitation", id, {"email": email, "role": role.value})
    return await _get_open(id), token


async def invite_end_user(actor: Actor, end_user_id: UUID) -> tuple[InvitationView, str]:
    """Invite an end user to have a login, and the token of their link. Raises `NotFound`, `EndUserHasLogin`."""
    actor.require(Permission.END_USERS_WRITE)
    async with transaction():
        end_user = await get_end_user(actor.organization_id, end_user_id)
        if end_user.person_id is not None:
            raise EndUserHasLogin(f"{end_user.name} has a login already; a link is not needed.")
        id, token = await _invite(
            InvitationKind.END_USER,
            organization_id=actor.organization_id,
            email=end_user.email,
            end_user_id=end_user_id,
        )
        await audit.append(actor, "end_user.invited", "end_user", end_user_id, {"invitation_id": str(id)})
    return await _get_open(id), token


async def withdraw_invitation(actor: Actor, invitation_id: UUID) -> None:
    """End an open invitation of the actor's organisation. Raises `InvitationNotOpen`."""
    actor.require(Permission.MEMBERS_WRITE)
    async with transaction():
        ended = await run_sql(
            """UPDATE invitation SET expires_at = {} WHERE id = {} AND organization = {} AND used_at IS NULL
               AND expires_at > {} RETURNING email""",
            clock.now(),
            invitation_id,
            actor.organization_id,
            clock.now(),
        )
        if not ended:
            raise InvitationNotOpen
        await audit.append(actor, "invitation.withdrawn", "invitation", invitation_id, {"email": ended[0]["email"]})


async def find_invitation(token: str) -> InvitationView | None:
    """The open invitation of this link."""
    rows = await run_sql(f"{INVITATIONS} AND i.token_hash = {{}}", clock.now(), _token_hash(token))
    return _view(rows[0]) if rows else None


async def accept_invitation(
    token: str,
    *,
    name: str,
    password: str,
    organization_name: str | None = None,
    email: str | None = None,
    ip: str | None = None,
) -> PersonView:
    """Follow a link, once: the person who came in; they sign in next.

    If the address has an account, `password` must be that account's and `name` is not used; guesses are counted as at
    sign-in. Raises `InvitationNotOpen`, `InputInvalid`, `TooManyRequests`, `AlreadyMember`, `PersonExists`.
    """
    invitation = await find_invitation(token)
    if invitation is None:
        raise InvitationNotOpen
    address = normal_email(invitation.email or email or "")
    if email and normal_email(email) != address:
        raise InputInvalid.at("/email", f"This invitation is for {address}.")
    known = await _prove_existing(address, password, ip)
    person = known or PersonView(id=new_id(), email=address, name=check_name(name, path="/name"))
    if known is None:
        passwords.check_password_rules(password, email=address)
        password_hash = await passwords.hash_password(password)
    async with transaction():
        await _use(invitation)
        if known is None:
            await insert_person(person, password_hash)
        if invitation.kind is InvitationKind.END_USER:
            await _become_end_user(invitation, person)
        else:
            await _become_member(invitation, person, organization_name)
    return person


async def _prove_existing(email: str, password: str, ip: str | None) -> PersonView | None:
    if await find_person(email) is None:
        return None
    try:
        person = await prove_password(email, password, ip=ip)
    except SignInFailed:
        raise InputInvalid.at(
            "/password", f"There is an account for {email} already. Give its own password; this link cannot change it."
        ) from None
    return PersonView(id=person.id, email=person.email, name=person.name)


async def _use(invitation: InvitationView) -> None:
    now = clock.now()
    used = await (
        Invitation.update({Invitation.used_at: now})
        .where(Invitation.id == invitation.id, Invitation.used_at.is_null(), Invitation.expires_at > now)
        .returning(Invitation.id)
    )
    if not used:
        raise InvitationNotOpen


async def _become_member(invitation: InvitationView, person: PersonView, organization_name: str | None) -> None:
    organization_id, role, created = invitation.organization_id, invitation.role or Role.OWNER, None
    if organization_id is None:
        created = await insert_organization(organization_name or "", None)
        organization_id = created.id
    member_id = await join_organization(organization_id, person.id, role)
    actor = member_actor(
        organization_id=organization_id, member_id=member_id, person_id=person.id, role=role, email=person.email
    )
    if created is not None:
        await audit.append(actor, "organization.created", "organization", created.id, {"slug": created.slug})
    detail = {"email": person.email, "role": role.value, "invitation_id": str(invitation.id)}
    await audit.append(actor, "member.joined", "member", member_id, detail)


async def _become_end_user(invitation: InvitationView, person: PersonView) -> None:
    assert invitation.organization_id is not None
    assert invitation.end_user_id is not None
    bound = await (
        EndUser.update({EndUser.person: person.id})
        .where(EndUser.id == invitation.end_user_id, EndUser.person.is_null())
        .returning(EndUser.id)
    )
    if not bound:
        raise EndUserHasLogin("This end user has a login already.")
    actor = EndUserActor(organization_id=invitation.organization_id, id=invitation.end_user_id, label=person.email)
    await audit.append(
        actor, "end_user.joined", "end_user", invitation.end_user_id, {"invitation_id": str(invitation.id)}
    )


async def _invite(
    kind: InvitationKind,
    *,
    organization_id: UUID | None = None,
    email: str | None = None,
    role: Role | None = None,
    end_user_id: UUID | None = None,
) -> tuple[UUID, str]:
    """Insert an invitation and end the open ones to the same somebody."""
    token, id, now = secrets.token_urlsafe(32), new_id(), clock.now()
    await run_sql(
        """UPDATE invitation SET expires_at = {} WHERE kind = {} AND organization IS NOT DISTINCT FROM {}
           AND end_user IS NOT DISTINCT FROM {} AND (end_user IS NOT NULL OR email IS NOT DISTINCT FROM {})
           AND used_at IS NULL AND expires_at > {}""",
        now,
        kind.value,
        organization_id,
        end_user_id,
        email,
        now,
    )
    await Invitation.insert(
        Invitation(
            id=id,
            kind=kind.value,
            organization=organization_id,
            email=email,
            role=role.value if role else None,
            end_user=end_user_id,
            token_hash=_token_hash(token),
            created_at=now,
            expires_at=now + VALID,
        )
    )
    return id, token


async def list_invitations(organization_id: UUID) -> list[InvitationView]:
    """The organisation's open invitations, the newest first."""
    rows = await run_sql(
        f"{INVITATIONS} AND i.organization = {{}} ORDER BY i.id DESC LIMIT 200", clock.now(), organization_id
    )
    return [_view(row) for row in rows]


async def _get_open(id: UUID) -> InvitationView:
    return _view((await run_sql(f"{INVITATIONS} AND i.id = {{}}", clock.now(), id))[0])


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _view(row: dict[str, Any]) -> InvitationView:
    role = Role(row["role"]) if row["role"] else None
    return InvitationView(**{**row, "kind": InvitationKind(row["kind"]), "role": role})
