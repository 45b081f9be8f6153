"""What each role means, in one sentence for the person who gets it."""

from portal.accounts.permissions import Role

MEANINGS: dict[Role, str] = {
    Role.OWNER: "everything, and may make other owners.",
    Role.ADMIN: "sets up sources, rules, policies and people, and approves.",
    Role.APPROVER: "looks at everything, approves, and may pause.",
    Role.OPERATOR: "sets up sources and rules, pauses, cancels and speeds up, and does not approve.",
    Role.AUDITOR: "looks at everything and changes nothing.",
}
