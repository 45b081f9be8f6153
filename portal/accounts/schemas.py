"""Who acts. Every service function takes an `Actor` first, and every query is scoped to its organisation."""

from enum import StrEnum
from uuid import UUID

import msgspec

from portal.accounts.permissions import GRANTS, Permission, Role
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


def system_actor(organization_id: UUID, label: str) -> Actor:
    """A job named `label`. It may do what no person decides: never approve."""
    return Actor(
        kind=ActorKind.SYSTEM,
        organization_id=organization_id,
        label=label,
        permissions=frozenset(Permission) - {Permission.ACTIONS_APPROVE},
    )


def command_actor(organization_id: UUID) -> Actor:
    """The `portal` command, run by somebody who has the server's settings."""
    return Actor(
        kind=ActorKind.COMMAND,
        organization_id=organization_id,
        label="portal command",
        permissions=frozenset(Permission) - {Permission.ACTIONS_APPROVE},
    )
