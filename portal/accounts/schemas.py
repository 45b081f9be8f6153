"""Who acts, and what is shown of accounts.

Every service function takes an `Actor` first, and every query is scoped to its organisation.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from portal.accounts.permissions import GRANTS, Permission, Role
from portal.accounts.tables import InvitationKind
from portal.errors import Forbidden


class ActorKind(StrEnum):
    MEMBER = "member"
    API_KEY = "api_key"
    SYSTEM = "system"
    """A job, carrying out what people or rules decided."""
    COMMAND = "command"
    """Somebody with a shell on the server."""


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody acting in one organisation, with what they may do there."""

    kind: ActorKind
    organization_id: UUID
    label: str
    """For the audit: an e-mail address, a key's name, a job's name."""
    permissions: frozenset[Permission]
    id: UUID | None = None
    """Of the member or the API key; None for `system` and `command`."""
    person_id: UUID | None = None
    role: Role | None = None

    def require(self, permission: Permission) -> None:
        """Raise `Forbidden` unless the actor has `permission`."""
        if permission not in self.permissions:
            raise Forbidden(f"This needs the permission {permission.value}, which {self.label} does not have.")


def member_actor(*, organization_id: UUID, member_id: UUID, person_id: UUID, role: Role, email: str) -> Actor:
    return Actor(
        kind=ActorKind.MEMBER,
        organization_id=organization_id,
        label=email,
        permissions=GRANTS[role],
        id=member_id,
        person_id=person_id,
        role=role,
    )


NOT_TO_DECIDE = frozenset(Permission) - {Permission.ACTIONS_APPROVE}
"""What is done without a person may do all but that."""


def system_actor(organization_id: UUID, label: str) -> Actor:
    """A job named `label`. It may do what no person decides: never approve."""
    return Actor(
        kind=ActorKind.SYSTEM,
        organization_id=organization_id,
        label=label,
        permissions=NOT_TO_DECIDE,
    )


def command_actor(organization_id: UUID) -> Actor:
    """The `portal` command, run by somebody who has the server's settings."""
    return Actor(
        kind=ActorKind.COMMAND,
        organization_id=organization_id,
        label="portal command",
        permissions=NOT_TO_DECIDE,
    )


class OrganizationView(msgspec.Struct, frozen=True):
    id: UUID
    slug: str
    name: str
    created_at: datetime
    body_retention_days: int | None = None
    """After how many days the bodies of signals expire; None keeps them for ever."""


class Membership(msgspec.Struct, frozen=True):
    """An organisation that a person works in, now."""

    organization_id: UUID
    slug: str
    name: str
    member_id: UUID
    role: Role
    email: str


class MemberView(msgspec.Struct, frozen=True):
    id: UUID
    person_id: UUID
    email: str
    name: str
    role: Role
    has_second_factor: bool
    created_at: datetime
    disabled_at: datetime | None


class PersonView(msgspec.Struct, frozen=True):
    id: UUID
    email: str
    name: str


class ProvenPerson(msgspec.Struct, frozen=True):
    """A person whose password was just verified."""

    id: UUID
    email: str
    name: str
    has_second_factor: bool


class SessionView(msgspec.Struct, frozen=True):
    id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    ip: str
    user_agent: str
    complete: bool
    """False while a second factor is still to be given: such a session may do nothing else."""


class SignedIn(msgspec.Struct, frozen=True):
    """A session and its token, which is known only here."""

    token: str
    session: SessionView


class CurrentSession(msgspec.Struct, frozen=True):
    """Who sends this request, as their session says."""

    person_id: UUID
    session_id: UUID
    email: str
    name: str
    ip: str
    complete: bool
    has_second_factor: bool


class Enrolment(msgspec.Struct, frozen=True):
    """A second factor that is not yet in force. Show the first three, send `sealed` back with a code."""

    secret: str
    uri: str
    qr_svg: str
    sealed: str


class InvitationView(msgspec.Struct, frozen=True):
    id: UUID
    kind: InvitationKind
    organization_id: UUID | None
    organization_name: str | None
    email: str | None
    """Whom it is for; None lets the person who opens the link say."""
    role: Role | None
    end_user_id: UUID | None
    created_at: datetime
    expires_at: datetime
    person_exists: bool
    """Whether `email` has an account already: then its own password is asked for, not a new one."""


class LoginState(StrEnum):
    NONE = "none"
    INVITED = "invited"
    ACTIVE = "active"


class EndUserView(msgspec.Struct, frozen=True):
    id: UUID
    subject: str
    name: str
    email: str | None
    address: str | None
    person_id: UUID | None
    login: LoginState
    created_at: datetime


class EndUserKey(msgspec.Struct, frozen=True):
    """An end user as rules need them; `address` is None until a key is made."""

    id: UUID
    address: str | None


class EndUserActor(msgspec.Struct, frozen=True):
    """An end user in the audit: they act for themselves only and have no permissions in the organisation."""

    organization_id: UUID
    id: UUID
    label: str
    kind: str = "end_user"


class EndUserProfile(msgspec.Struct, frozen=True):
    """A person as one organisation knows them."""

    end_user_id: UUID
    organization_id: UUID
    organization_slug: str
    organization_name: str
    subject: str
    name: str
    address: str | None


class ApiKeyView(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    prefix: str
    scopes: list[Permission]
    created_by: str | None
    """E-mail of the member who made it, or who made the key that made it; None where a command did."""
    created_by_member_id: UUID | None
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
