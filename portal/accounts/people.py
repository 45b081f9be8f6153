"""Rows of organisations, persons and members and what is recorded of them, all inside the caller's db transaction;
and who may act on whom.
"""

import re
import unicodedata
from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts.permissions import GRANTS, Permission, Role
from portal.accounts.queries import list_memberships
from portal.accounts.schemas import Actor, ActorKind, OrganizationView, PersonView, member_actor
from portal.accounts.tables import Organization, Person
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.errors import Conflict, Forbidden, InputInvalid

SLUG = re.compile(r"[a-z0-9](-?[a-z0-9])*", re.ASCII)
MAX_SLUG = 40
MAX_NAME = 100


class SlugTaken(Conflict):
    """Another organisation has this slug."""


class PersonExists(Conflict):
    """Somebody has an account with this e-mail address."""


class AlreadyMember(Conflict):
    """The person is a member of the organisation already."""


class LastOwner(Conflict):
    """The organisation would have no owner left."""


def check_name(text: str, *, path: str) -> str:
    """`text` trimmed. Raises `InputInvalid` at `path` unless it has 1 to 100 printable characters."""
    name = text.strip()
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InputInvalid.at(path, f"A name has 1 to {MAX_NAME} characters, on one line.")
    return name


def require_authority(actor: Actor, role: Role) -> None:
    """Raise `Forbidden` unless the actor may bring a member into `role`, or act on one who has it.

    Nobody gives or takes what they do not have themselves: so an API key, which can never approve, cannot make
    approvers either. Owners answer to owners only.
    """
    actor.require(Permission.MEMBERS_WRITE)
    if actor.kind is ActorKind.COMMAND:
        return
    if role is Role.OWNER and actor.role is not Role.OWNER:
        raise Forbidden("Only an owner can make, change or disable an owner.")
    if not GRANTS[role] <= actor.permissions:
        raise Forbidden(f"{actor.label} cannot act on the role {role.value}: it may do more than {actor.label} may.")


async def insert_organization(name: str, slug: str | None) -> OrganizationView:
    """A new organisation; without a `slug`, one is made from the name. Raises `InputInvalid` or `SlugTaken`."""
    name = check_name(name, path="/organization_name")
    if slug is not None and not (SLUG.fullmatch(slug) and len(slug) <= MAX_SLUG):
        raise InputInvalid.at("/slug", "A slug has up to 40 letters a to z, digits, and single hyphens between them.")
    view = OrganizationView(id=new_id(), slug=slug or await _free_slug(name), name=name, created_at=clock.now())
    made = await (
        Organization.insert(Organization(id=view.id, slug=view.slug, name=view.name, created_at=view.created_at))
        .on_conflict(target=Organization.slug, action="DO NOTHING")
        .returning(Organization.id)
    )
    if not made:
        raise SlugTaken(f"There is an organisation with the slug {view.slug} already. Choose another one.")
    return view


def slug_of(name: str) -> str:
    """The slug that an organisation of this name gets if it is free: plain letters, digits and single hyphens."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[: MAX_SLUG - 6].strip("-") or "organization"


async def _free_slug(name: str) -> str:
    base = slug_of(name)
    rows = await run_sql("SELECT slug FROM organization WHERE slug = {} OR slug LIKE {}", base, f"{base}-%")
    taken, number = {row["slug"] for row in rows}, 2
    if base not in taken:
        return base
    while f"{base}-{number}" in taken:
        number += 1
    return f"{base}-{number}"


async def insert_person(person: PersonView, password_hash: str, *, totp_secret: bytes | None = None) -> None:
    """A new person. Raises `PersonExists`: nothing here ever changes an account that exists."""
    made = await (
        Person.insert(
            Person(
                id=person.id,
                email=person.email,
                name=person.name,
                password_hash=password_hash,
                totp_secret=totp_secret,
                created_at=clock.now(),
            )
        )
        .on_conflict(target=Person.email, action="DO NOTHING")
        .returning(Person.id)
    )
    if not made:
        raise PersonExists(f"There is an account for {person.email} already; its own password is needed.")


async def join_organization(organization_id: UUID, person_id: UUID, role: Role) -> UUID:
    """Make the person a member, or a disabled member one again; the member's id. Raises `AlreadyMember`."""
    rows = await run_sql(
        """INSERT INTO member AS m (id, organization, person, role, created_at) VALUES ({}, {}, {}, {}, {})
           ON CONFLICT (organization, person) DO UPDATE SET role = excluded.role, disabled_at = NULL
           WHERE m.disabled_at IS NOT NULL RETURNING id""",
        new_id(),
        organization_id,
        person_id,
        role.value,
        clock.now(),
    )
    if not rows:
        raise AlreadyMember("This person is a member of the organisation already; change their role instead.")
    member_id: UUID = rows[0]["id"]
    return member_id


async def keep_an_owner(organization_id: UUID, member_id: UUID) -> None:
    """Raise `LastOwner` if `member_id` is the only owner left. The caller holds the lock of the organisation's row."""
    others = await run_sql(
        "SELECT 1 FROM member WHERE organization = {} AND role = 'owner' AND disabled_at IS NULL AND id <> {} LIMIT 1",
        organization_id,
        member_id,
    )
    if not others:
        raise LastOwner("This is the last owner. Make somebody else an owner first.")


async def record(person_id: UUID, kind: str, subject_kind: str, subject_id: UUID, detail: dict[str, Any]) -> None:
    """Append an audit entry about this person to the chain of each organisation they are a member of."""
    # In one order, so that two people of the same organisations do not wait for each other's chain heads.
    for membership in sorted(await list_memberships(person_id), key=lambda each: each.organization_id):
        actor = member_actor(
            organization_id=membership.organization_id,
            member_id=membership.member_id,
            person_id=person_id,
            role=membership.role,
            email=membership.email,
        )
        await audit.append(actor, kind, subject_kind, subject_id, detail)
