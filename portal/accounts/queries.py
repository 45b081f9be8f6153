"""Reads of organisations, members, end users, API keys and invitations."""

from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import SCOPES, Permission, Role
from portal.accounts.schemas import (
    Actor,
    ApiKeyView,
    EndUserProfile,
    EndUserView,
    LoginState,
    Membership,
    MemberView,
    OrganizationView,
    PersonView,
    member_actor,
)
from portal.accounts.tables import Organization, Person
from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Page, check_limit, decode_cursor, page_of
from portal.errors import InputInvalid, NotFound

MEMBERS = """SELECT m.id, m.person AS person_id, p.email, p.name, m.role, m.created_at, m.disabled_at,
    p.totp_secret IS NOT NULL AS has_second_factor
    FROM member m JOIN person p ON p.id = m.person"""

API_KEYS = """
    SELECT k.*, p.email AS maker_email FROM api_key k
    LEFT JOIN member m ON m.id = k.created_by LEFT JOIN person p ON p.id = m.person
"""

END_USERS = """SELECT e.id, e.subject, e.name, e.email, e.address, e.person AS person_id, e.created_at,
    CASE WHEN e.person IS NOT NULL THEN 'active'
         WHEN EXISTS (SELECT 1 FROM invitation i
                      WHERE i.end_user = e.id AND i.used_at IS NULL AND i.expires_at > {}) THEN 'invited'
         ELSE 'none' END AS login
    FROM end_user e"""


async def find_organization(slug: str) -> OrganizationView | None:
    """The organisation of this slug."""
    row = await Organization.select().where(Organization.slug == slug).first()
    return OrganizationView(**row) if row else None


async def list_organizations() -> list[OrganizationView]:
    """All organisations of this portal, the oldest first; for the command line."""
    return [OrganizationView(**row) for row in await Organization.select().order_by(Organization.id)]


async def find_person(email: str) -> PersonView | None:
    """The person who signs in with this e-mail address."""
    row = await Person.select(Person.id, Person.email, Person.name).where(Person.email == email.lower()).first()
    return PersonView(**row) if row else None


async def list_memberships(person_id: UUID) -> list[Membership]:
    """The organisations in which this person works now, by name."""
    rows = await run_sql(
        """SELECT o.id AS organization_id, o.slug, o.name, m.id AS member_id, m.role, p.email
           FROM member m JOIN organization o ON o.id = m.organization JOIN person p ON p.id = m.person
           WHERE m.person = {} AND m.disabled_at IS NULL AND p.disabled_at IS NULL ORDER BY o.name, o.id""",
        person_id,
    )
    return [Membership(**{**row, "role": Role(row["role"])}) for row in rows]


async def get_actor(person_id: UUID, slug: str) -> Actor:
    """The person as a member of the organisation `slug`. Raises `NotFound` if it does not exist or they are not one."""
    rows = await run_sql(
        """SELECT o.id AS organization_id, m.id AS member_id, m.role, p.email
           FROM member m JOIN organization o ON o.id = m.organization JOIN person p ON p.id = m.person
           WHERE m.person = {} AND o.slug = {} AND m.disabled_at IS NULL AND p.disabled_at IS NULL""",
        person_id,
        slug.replace("\x00", "/"),  # PostgreSQL has no such text, and no slug has a slash
    )
    if not rows:
        raise NotFound("There is no such organisation, or you are not a member of it.")
    row = rows[0]
    return member_actor(
        organization_id=row["organization_id"],
        member_id=row["member_id"],
        person_id=person_id,
        role=Role(row["role"]),
        email=row["email"],
    )


async def get_sole_actor(person_id: UUID) -> Actor:
    """The person as a member of the one organisation they work in.

    Raises `NotFound` if there is none, `InputInvalid` if there are several and one must be named.
    """
    memberships = await list_memberships(person_id)
    if not memberships:
        raise NotFound("This account is not a member of an organisation.")
    if len(memberships) > 1:
        raise InputInvalid.at(
            "/headers/x-organization",
            "This account is a member of several organisations. Name the one to act in by its slug in X-Organization.",
        )
    only = memberships[0]
    return member_actor(
        organization_id=only.organization_id,
        member_id=only.member_id,
        person_id=person_id,
        role=only.role,
        email=only.email,
    )


async def get_member(organization_id: UUID, member_id: UUID) -> MemberView:
    """Raises `NotFound`."""
    rows = await run_sql(f"{MEMBERS} WHERE m.organization = {{}} AND m.id = {{}}", organization_id, member_id)
    if not rows:
        raise NotFound("There is no such member.")
    return _member(rows[0])


async def list_members(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[MemberView]:
    """Members, disabled ones included, the newest first."""
    where, arguments = _page_filter("m", organization_id, cursor)
    rows = await run_sql(f"{MEMBERS} {where} ORDER BY m.id DESC LIMIT {{}}", *arguments, check_limit(limit) + 1)
    return page_of(rows, limit, _member)


async def get_end_user(organization_id: UUID, end_user_id: UUID) -> EndUserView:
    """Raises `NotFound`."""
    rows = await run_sql(
        f"{END_USERS} WHERE e.organization = {{}} AND e.id = {{}}", clock.now(), organization_id, end_user_id
    )
    if not rows:
        raise NotFound("There is no such end user.")
    return _end_user(rows[0])


async def list_end_users(
    organization_id: UUID, *, text: str | None = None, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[EndUserView]:
    """End users, the newest first; `text` is looked for in subject, name, e-mail and address."""
    where, arguments = _page_filter("e", organization_id, cursor)
    if text:
        where += " AND position(lower({}) in lower(concat_ws(' ', e.subject, e.name, e.email, e.address))) > 0"
        arguments.append(text.replace("\x00", ""))
    rows = await run_sql(
        f"{END_USERS} {where} ORDER BY e.id DESC LIMIT {{}}", clock.now(), *arguments, check_limit(limit) + 1
    )
    return page_of(rows, limit, _end_user)


async def list_end_user_profiles(person_id: UUID) -> list[EndUserProfile]:
    """As whom each organisation knows this person, by the organisation's name."""
    rows = await run_sql(
        """SELECT e.id AS end_user_id, o.id AS organization_id, o.slug AS organization_slug,
                  o.name AS organization_name, e.subject, e.name, e.address
           FROM end_user e JOIN organization o ON o.id = e.organization WHERE e.person = {} ORDER BY o.name, e.id""",
        person_id,
    )
    return [EndUserProfile(**row) for row in rows]


async def get_api_key(organization_id: UUID, api_key_id: UUID) -> ApiKeyView:
    """Raises `NotFound`."""
    rows = await run_sql(f"{API_KEYS} WHERE k.organization = {{}} AND k.id = {{}}", organization_id, api_key_id)
    if not rows:
        raise NotFound("There is no such API key.")
    return _api_key(rows[0])


async def list_api_keys(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[ApiKeyView]:
    """API keys, revoked ones included, the newest first."""
    where, arguments = _page_filter("k", organization_id, cursor)
    rows = await run_sql(f"{API_KEYS} {where} ORDER BY k.id DESC LIMIT {{}}", *arguments, check_limit(limit) + 1)
    return page_of(rows, limit, _api_key)


def scopes_of(stored: str) -> list[Permission]:
    """The scopes of a stored key that still are scopes."""
    known = {scope.value: scope for scope in SCOPES}
    return sorted(known[scope] for scope in msgspec.json.decode(stored, type=list[str]) if scope in known)


def _page_filter(alias: str, organization_id: UUID, cursor: str | None) -> tuple[str, list[Any]]:
    if cursor is None:
        return f"WHERE {alias}.organization = {{}}", [organization_id]
    return f"WHERE {alias}.organization = {{}} AND {alias}.id < {{}}", [organization_id, decode_cursor(cursor)]


def _member(row: dict[str, Any]) -> MemberView:
    return MemberView(**{**row, "role": Role(row["role"])})


def _end_user(row: dict[str, Any]) -> EndUserView:
    return EndUserView(**{**row, "login": LoginState(row["login"])})


def _api_key(row: dict[str, Any]) -> ApiKeyView:
    return ApiKeyView(
        id=row["id"],
        name=row["name"],
        prefix=row["prefix"],
        scopes=scopes_of(row["scopes"]),
        created_by=row["maker_email"],
        created_by_member_id=row["created_by"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
