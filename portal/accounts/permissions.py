"""What can be done, and which role may do it: the only place where rights are granted."""

from enum import StrEnum


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    APPROVER = "approver"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class Permission(StrEnum):
    """`noun:verb`. Every handler declares one; API keys carry some of them as scopes."""

    PUBLIC = "public"
    """Anyone, signed in or not."""
    ACCOUNT = "account"
    """Any person who has signed in completely: own sessions, own second factor, own pages."""

    SIGNALS_READ = "signals:read"
    SOURCES_READ = "sources:read"
    SOURCES_WRITE = "sources:write"
    RULES_READ = "rules:read"
    RULES_WRITE = "rules:write"
    ACTIONS_READ = "actions:read"
    ACTIONS_PROPOSE = "actions:propose"
    ACTIONS_APPROVE = "actions:approve"
    ACTIONS_CANCEL = "actions:cancel"
    POLICIES_READ = "policies:read"
    POLICIES_WRITE = "policies:write"
    TRANSACTIONS_READ = "transactions:read"
    TRANSACTIONS_WRITE = "transactions:write"
    """Cancel a transaction, or raise its fees."""
    PAUSES_READ = "pauses:read"
    PAUSES_WRITE = "pauses:write"
    """Stop the organisation, a chain, a contract or a signer. To go on takes the right to approve."""
    CONTRACTS_READ = "contracts:read"
    CONTRACTS_WRITE = "contracts:write"
    SIGNERS_READ = "signers:read"
    SIGNERS_WRITE = "signers:write"
    CHAINS_READ = "chains:read"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    END_USERS_READ = "end-users:read"
    END_USERS_WRITE = "end-users:write"
    API_KEYS_READ = "api-keys:read"
    API_KEYS_WRITE = "api-keys:write"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    """Say where events are sent: out of the portal."""
    EVENTS_READ = "events:read"
    AUDIT_READ = "audit:read"
    HEALTH_READ = "health:read"
    ORGANIZATION_WRITE = "organization:write"
    """What holds for all that the organisation keeps: how long the bodies of signals stay."""


READ = frozenset(permission for permission in Permission if permission.endswith(":read"))
OPERATE = frozenset(
    {
        Permission.SOURCES_WRITE,
        Permission.RULES_WRITE,
        Permission.ACTIONS_PROPOSE,
        Permission.ACTIONS_CANCEL,
        Permission.END_USERS_WRITE,
        Permission.TRANSACTIONS_WRITE,
        Permission.PAUSES_WRITE,
    }
)
APPROVE = frozenset({Permission.ACTIONS_APPROVE})
ADMINISTER = OPERATE | frozenset(
    {
        Permission.POLICIES_WRITE,
        Permission.CONTRACTS_WRITE,
        Permission.SIGNERS_WRITE,
        Permission.MEMBERS_WRITE,
        Permission.API_KEYS_WRITE,
        Permission.WEBHOOKS_WRITE,
        Permission.ORGANIZATION_WRITE,
    }
)

GRANTS: dict[Role, frozenset[Permission]] = {
    Role.OWNER: READ | ADMINISTER | APPROVE,
    Role.ADMIN: READ | ADMINISTER | APPROVE,
    Role.APPROVER: READ | APPROVE | {Permission.PAUSES_WRITE},
    Role.OPERATOR: READ | OPERATE,
    Role.AUDITOR: READ,
}

SCOPES = (READ | ADMINISTER) - APPROVE
"""What an API key may be given: never the right to approve."""
