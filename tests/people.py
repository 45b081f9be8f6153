"""The cast: people with names, so that tests of access read as sentences."""

from dataclasses import dataclass
from functools import cache
from uuid import UUID

import pyotp

from portal import clock
from portal.accounts.permissions import GRANTS, Role
from portal.accounts.schemas import Actor, ActorKind
from portal.accounts.tables import Member, Organization, Person
from portal.db.columns import new_id

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Player:
    """A member as a test knows them, secrets included."""

    person_id: UUID
    email: str
    totp_secret: str
    actor: Actor
    password: str = PASSWORD

    def code(self, steps: int = 0) -> str:
        """The code of the current time step, or of one `steps` later or earlier."""
        return pyotp.TOTP(self.totp_secret).at(clock.now(), counter_offset=steps)


@dataclass(frozen=True)
class Cast:
    organization_id: UUID
    slug: str
    alice: Player
    """Owner."""
    bob: Player
    """Approver."""
    carol: Player
    """Auditor: reads everything, changes nothing."""
    oscar: Player
    """Operator: proposes, does not approve."""
    dave: Player
    """Owner of another organisation."""


async def make_cast() -> Cast:
    acme, other = await make_organization("acme"), await make_organization("other")
    return Cast(
        organization_id=acme,
        slug="acme",
        alice=await make_member(acme, "alice", Role.OWNER),
        bob=await make_member(acme, "bob", Role.APPROVER),
        carol=await make_member(acme, "carol", Role.AUDITOR),
        oscar=await make_member(acme, "oscar", Role.OPERATOR),
        dave=await make_member(other, "dave", Role.OWNER),
    )


async def make_organization(slug: str) -> UUID:
    id = new_id()
    await Organization.insert(Organization(id=id, slug=slug, name=slug.capitalize(), created_at=clock.now()))
    return id


async def make_member(organization_id: UUID, name: str, role: Role) -> Player:
    """A member with a second factor, made without the ceremony of invitations."""
    from portal.accounts.totp import new_secret, seal_secret

    person_id, member_id, email, secret = new_id(), new_id(), f"{name}@example.org", new_secret()
    await Person.insert(
        Person(
            id=person_id,
            email=email,
            name=name.capitalize(),
            password_hash=_password_hash(),
            totp_secret=seal_secret(person_id, secret),
            totp_last_step=None,
            created_at=clock.now(),
        )
    )
    await Member.insert(
        Member(id=member_id, organization=organization_id, person=person_id, role=role, created_at=clock.now())
    )
    actor = Actor(
        kind=ActorKind.MEMBER,
        organization_id=organization_id,
        label=email,
        permissions=GRANTS[role],
        id=member_id,
        person_id=person_id,
        role=role,
    )
    return Player(person_id=person_id, email=email, totp_secret=secret, actor=actor)


async def make_end_user(
    organization_id: UUID, subject: str = "github:eve", name: str = "Eve", email: str | None = None
) -> UUID:
    """An end user as a rule makes one, with an address whose key nobody has."""
    from portal.accounts.end_users import NewEndUser, check_end_user, make_end_users
    from portal.audit.service import append_many
    from portal.db.engine import transaction

    id, (name, email) = new_id(), check_end_user(subject, name, email)
    address = "0x" + id.hex + "0" * 8
    async with transaction():
        person = NewEndUser(id=id, subject=subject, name=name, email=email, address=address, correlation_id=id.hex)
        await append_many(await make_end_users(organization_id, [person]))
    return id


@cache
def _password_hash() -> str:
    from portal.accounts.passwords import HASHER

    return HASHER.hash(PASSWORD)
