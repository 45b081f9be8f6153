"""Who may do what: the table of rights, said again in words."""

from uuid import uuid4

import pytest

from portal.accounts.people import require_authority
from portal.accounts.permissions import GRANTS, SCOPES, Permission, Role
from portal.accounts.schemas import Actor, ActorKind, command_actor, member_actor, system_actor
from portal.errors import Forbidden


def member(role: Role) -> Actor:
    return member_actor(
        organization_id=uuid4(), member_id=uuid4(), person_id=uuid4(), role=role, email=f"{role}@example.org"
    )


def api_key(*scopes: Permission) -> Actor:
    return Actor(kind=ActorKind.API_KEY, organization_id=uuid4(), label="key", permissions=frozenset(scopes))


WHO_MAY = {
    Permission.ACTIONS_APPROVE: {Role.OWNER, Role.ADMIN, Role.APPROVER},
    Permission.ACTIONS_PROPOSE: {Role.OWNER, Role.ADMIN, Role.OPERATOR},
    Permission.ACTIONS_CANCEL: {Role.OWNER, Role.ADMIN, Role.OPERATOR},
    Permission.RULES_WRITE: {Role.OWNER, Role.ADMIN, Role.OPERATOR},
    Permission.SOURCES_WRITE: {Role.OWNER, Role.ADMIN, Role.OPERATOR},
    Permission.END_USERS_WRITE: {Role.OWNER, Role.ADMIN, Role.OPERATOR},
    Permission.TRANSACTIONS_WRITE: {Role.OWNER, Role.ADMIN, Role.OPERATOR},
    Permission.PAUSES_WRITE: {Role.OWNER, Role.ADMIN, Role.OPERATOR, Role.APPROVER},
    Permission.POLICIES_WRITE: {Role.OWNER, Role.ADMIN},
    Permission.CONTRACTS_WRITE: {Role.OWNER, Role.ADMIN},
    Permission.SIGNERS_WRITE: {Role.OWNER, Role.ADMIN},
    Permission.MEMBERS_WRITE: {Role.OWNER, Role.ADMIN},
    Permission.API_KEYS_WRITE: {Role.OWNER, Role.ADMIN},
    Permission.WEBHOOKS_WRITE: {Role.OWNER, Role.ADMIN},
    Permission.ORGANIZATION_WRITE: {Role.OWNER, Role.ADMIN},
}


@pytest.mark.parametrize("permission", [permission for permission in Permission if ":" in permission])
def test_which_roles_have_a_permission(permission: Permission) -> None:
    expected = set(Role) if permission.endswith(":read") else WHO_MAY[permission]
    assert {role for role in Role if permission in GRANTS[role]} == expected


def test_nobody_is_granted_what_everybody_has() -> None:
    for granted in GRANTS.values():
        assert not granted & {Permission.PUBLIC, Permission.ACCOUNT}


def test_whoever_may_propose_alone_may_not_approve() -> None:
    assert Permission.ACTIONS_APPROVE not in GRANTS[Role.OPERATOR]
    assert Permission.ACTIONS_PROPOSE not in GRANTS[Role.APPROVER]


def test_only_people_approve() -> None:
    assert Permission.ACTIONS_APPROVE not in SCOPES
    for actor in (system_actor(uuid4(), "job"), command_actor(uuid4())):
        with pytest.raises(Forbidden):
            actor.require(Permission.ACTIONS_APPROVE)


def test_a_refusal_names_the_permission_and_the_actor() -> None:
    with pytest.raises(Forbidden) as refused:
        member(Role.AUDITOR).require(Permission.RULES_WRITE)
    assert "rules:write" in refused.value.detail
    assert "auditor@example.org" in refused.value.detail


@pytest.mark.parametrize(
    ("actor", "may"),
    [
        (member(Role.OWNER), set(Role)),
        (member(Role.ADMIN), set(Role) - {Role.OWNER}),
        (member(Role.APPROVER), set()),
        (member(Role.OPERATOR), set()),
        (member(Role.AUDITOR), set()),
        (command_actor(uuid4()), set(Role)),
        (api_key(*SCOPES), {Role.OPERATOR, Role.AUDITOR}),
        (api_key(Permission.MEMBERS_WRITE), set()),
    ],
    ids=lambda value: value.label if isinstance(value, Actor) else "",
)
def test_nobody_makes_a_member_who_may_do_more_than_they(actor: Actor, may: set[Role]) -> None:
    def allowed(role: Role) -> bool:
        try:
            require_authority(actor, role)
        except Forbidden:
            return False
        return True

    assert {role for role in Role if allowed(role)} == may
