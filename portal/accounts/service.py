"""What is done to organisations and members.

The verbs of invitations and of setting up a second factor are found here, too; those of signing in, of API keys, of
passwords and of making end users in `sessions`, `api_keys`, `password_change` and `end_users`.
"""

from uuid import UUID

from portal import clock
from portal.accounts import passwords
from portal.accounts.emails import normal_email
from portal.accounts.enrolment import confirm_enrolment, start_enrolment
from portal.accounts.invitations import (
    accept_invitation,
    find_invitation,
    invite_end_user,
    invite_member,
    invite_owner,
    withdraw_invitation,
)
from portal.accounts.people import (
    PersonExists,
    check_name,
    insert_organization,
    insert_person,
    join_organization,
    keep_an_owner,
    require_authority,
)
from portal.accounts.permissions import GRANTS, Permission, Role
from portal.accounts.proofs import SignInFailed, prove_password
from portal.accounts.queries import find_person, get_member, list_memberships
from portal.accounts.schemas import (
    Actor,
    ActorKind,
    MemberView,
    OrganizationView,
    PersonView,
    command_actor,
)
from portal.accounts.sessions import end_sessions
from portal.accounts.tables import Member, Person
from portal.accounts.totp import seal_secret
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict, Forbidden, PreconditionFailed

__all__ = [
    "accept_invitation",
    "add_member",
    "change_role",
    "confirm_enrolment",
    "create_organization",
    "disable_member",
    "find_invitation",
    "invite_end_user",
    "invite_member",
    "invite_owner",
    "reset_second_factor",
    "start_enrolment",
    "withdraw_invitation",
]


class MemberDisabled(Conflict):
    """The member was disabled before."""


class SecondFactorNotEnrolled(Conflict):
    """There is no second factor to reset."""


class MemberElsewhere(Conflict):
    """The person works in other organisations too, which rely on their second factor."""


async def create_organization(name: str, slug: str | None = None) -> OrganizationView:
    """An organisation without members yet; for the command line. Raises `InputInvalid`, `SlugTaken`."""
    async with transaction():
        made = await insert_organization(name, slug)
        await audit.append(command_actor(made.id), "organization.created", "organization", made.id, {"slug": made.slug})
    return made


async def add_member(
    actor: Actor, email: str, name: str, password: str, role: Role, *, totp_secret: str | None = None
) -> MemberView:
    """Make a member who can sign in at once; for the command line, since whoever knows a password can be that person.

    Somebody who has an account keeps it as it is, and `password` must be its own. Raises `Forbidden`, `PersonExists`
    if it is not, `AlreadyMember`, `InputInvalid`.
    """
    require_authority(actor, role)
    if actor.kind is not ActorKind.COMMAND:
        raise Forbidden("Only the command line sets a password for somebody. Invite them instead.")
    email = normal_email(email)
    known = await find_person(email)
    person = known or PersonView(id=new_id(), email=email, name=check_name(name, path="/name"))
    if known is not None:
        await _prove_account(email, password)
    else:
        passwords.check_password_rules(password, email=email)
        password_hash = await passwords.hash_password(password)
    async with transaction():
        if known is None:
            sealed = seal_secret(person.id, totp_secret) if totp_secret else None
            await insert_person(person, password_hash, totp_secret=sealed)
        member_id = await join_organization(actor.organization_id, person.id, role)
        await audit.append(actor, "member.added", "member", member_id, {"email": email, "role": role.value})
    return await get_member(actor.organization_id, member_id)


async def _prove_account(email: str, password: str) -> None:
    try:
        await prove_password(email, password, ip=None)
    except SignInFailed:
        raise PersonExists(f"There is an account for {email} already, with another password. Invite them.") from None


async def change_role(actor: Actor, member_id: UUID, role: Role, *, expected: MemberView | None = None) -> MemberView:
    """Give a member another role. Whoever gains a permission by it signs in anew.

    Raises `NotFound`, `Forbidden` for a role beyond the actor's own, `MemberDisabled`, `LastOwner`, and
    `PreconditionFailed` unless the member is still as `expected`.
    """
    async with transaction():
        member = await _lock_member(actor, member_id)
        if expected not in (None, member):
            raise PreconditionFailed("The member was changed since you read it. Read it again, then decide.")
        require_authority(actor, role)
        if role is member.role:
            return member
        if member.role is Role.OWNER:
            await keep_an_owner(actor.organization_id, member_id)
        await Member.update({Member.role: role.value}).where(Member.id == member_id, Member.role == member.role.value)
        if GRANTS[role] - GRANTS[member.role]:
            await end_sessions(member.person_id)
        detail = {"email": member.email, "from": member.role.value, "to": role.value}
        await audit.append(actor, "member.role_changed", "member", member_id, detail)
    return await get_member(actor.organization_id, member_id)


async def disable_member(actor: Actor, member_id: UUID) -> MemberView:
    """Take away a member's access: at once, with all their sessions and open invitations to the organisation.

    They may still sign in where else they belong. Raises `NotFound`, `Forbidden`, `MemberDisabled`, `LastOwner`.
    """
    async with transaction():
        member = await _lock_member(actor, member_id)
        if member.role is Role.OWNER:
            await keep_an_owner(actor.organization_id, member_id)
        now = clock.now()
        await Member.update({Member.disabled_at: now}).where(Member.id == member_id, Member.disabled_at.is_null())
        await run_sql(
            """UPDATE invitation SET expires_at = {} WHERE organization = {} AND kind = 'member' AND email = {}
               AND used_at IS NULL AND expires_at > {}""",
            now,
            actor.organization_id,
            member.email,
            now,
        )
        ended = await end_sessions(member.person_id)
        detail = {"email": member.email, "sessions_ended": ended}
        await audit.append(actor, "member.disabled", "member", member_id, detail)
    return await get_member(actor.organization_id, member_id)


async def reset_second_factor(actor: Actor, member_id: UUID) -> MemberView:
    """Remove the second factor of a member who lost it, after proving who they are; all their sessions end.

    Not one's own, which takes a code of it, and not that of somebody other organisations rely on, unless by the
    command line. Raises `NotFound`, `Forbidden`, `MemberDisabled`, `MemberElsewhere`, `SecondFactorNotEnrolled`.
    """
    async with transaction():
        member = await _lock_member(actor, member_id)
        if actor.person_id == member.person_id:
            raise Forbidden("Replace your own second factor in your account, or ask another administrator.")
        if actor.kind is not ActorKind.COMMAND and len(await list_memberships(member.person_id)) > 1:
            raise MemberElsewhere(f"{member.email} works in other organisations too. Ask whoever runs this portal.")
        reset = await (
            Person.update({Person.totp_secret: None, Person.totp_last_step: None})
            .where(Person.id == member.person_id, Person.totp_secret.is_not_null())
            .returning(Person.id)
        )
        if not reset:
            raise SecondFactorNotEnrolled(f"{member.email} has no second factor; they can set one up after signing in.")
        ended = await end_sessions(member.person_id)
        detail = {"email": member.email, "sessions_ended": ended}
        await audit.append(actor, "second_factor.reset", "member", member_id, detail)
    return await get_member(actor.organization_id, member_id)


async def _lock_member(actor: Actor, member_id: UUID) -> MemberView:
    """The enabled member on whom the actor may act, locked until the db transaction ends."""
    actor.require(Permission.MEMBERS_WRITE)
    # The organisation first: two owners who demote each other must see what the other did.
    await run_sql("SELECT id FROM organization WHERE id = {} FOR NO KEY UPDATE", actor.organization_id)
    member = await get_member(actor.organization_id, member_id)
    require_authority(actor, member.role)
    if member.disabled_at is not None:
        raise MemberDisabled(f"{member.email} is disabled. Invite them again to bring them back.")
    return member
