"""Who may sign in, where they belong, and what proves that it is they."""

from enum import StrEnum

from piccolo.constraints import Check, Unique
from piccolo.table import Table

from portal.accounts.permissions import Role
from portal.db import columns


class Organization(Table, tablename="organization"):
    """A tenant: every other row belongs to one."""

    id = columns.key()
    slug = columns.text(unique=True)
    name = columns.text()
    body_retention_days = columns.integer(null=True)
    """After how many days the bodies of signals expire, their digests staying; null keeps them for ever."""
    created_at = columns.moment()

    slug_is_plain = Check("slug ~ '^[a-z0-9](-?[a-z0-9])*$' AND length(slug) <= 40")


class Person(Table, tablename="person"):
    """Somebody with an e-mail address and a password: a member, an end user, or both."""

    id = columns.key()
    email = columns.text(unique=True)
    """Lower case; the name to sign in with."""
    name = columns.text()
    password_hash = columns.text()
    totp_secret = columns.binary(null=True)
    """Encrypted with the secret key; null until a second factor is enrolled."""
    totp_last_step = columns.integer(null=True)
    """The last accepted time step (RFC 6238): no step at or before it is accepted again."""
    created_at = columns.moment()
    disabled_at = columns.moment(null=True)

    email_is_lower_case = Check("email = lower(email) AND email <> ''")


class Member(Table, tablename="member"):
    """A person who works in an organisation, with a role."""

    id = columns.key()
    organization = columns.reference(Organization)
    person = columns.reference(Person, index=True)
    role = columns.text()
    created_at = columns.moment()
    disabled_at = columns.moment(null=True)

    one_membership = Unique(["organization", "person"])
    role_is_known = columns.one_of("role", Role)


class EndUser(Table, tablename="end_user"):
    """A person whom the organisation acts for, known by the subject that signals name."""

    id = columns.key()
    organization = columns.reference(Organization)
    subject = columns.text()
    """How the organisation's systems call this person, such as `github:octocat`."""
    name = columns.text()
    email = columns.text(null=True)
    address = columns.text(null=True)
    """The EIP-55 address whose key the organisation holds for this person."""
    person = columns.reference(Person, null=True, index=True)
    """The login; null until the invitation is accepted."""
    created_at = columns.moment()

    one_end_user = Unique(["organization", "subject"])
    subject_is_given = Check("subject <> ''")


class Session(Table, tablename="session"):
    """One signed-in browser or API client; the token itself is not stored."""

    id = columns.key()
    person = columns.reference(Person, index=True)
    token_hash = columns.binary(unique=True)
    """SHA-256 of the token in the cookie or bearer header."""
    second_factor_at = columns.moment(null=True)
    """When this session gave its second factor; null while only the password is known."""
    user_agent = columns.text()
    ip = columns.text()
    created_at = columns.moment()
    last_seen_at = columns.moment()
    expires_at = columns.moment()
    """Absolute end, 12 hours after sign-in; a new token keeps it."""
    revoked_at = columns.moment(null=True)


class InvitationKind(StrEnum):
    OWNER = "owner"
    """Makes an organisation and its first owner."""
    MEMBER = "member"
    END_USER = "end_user"


class Invitation(Table, tablename="invitation"):
    """A one-time link by which somebody sets a password."""

    id = columns.key()
    kind = columns.text()
    organization = columns.reference(Organization, null=True, index=True)
    """Null for `owner`, which makes the organisation."""
    email = columns.text(null=True)
    role = columns.text(null=True)
    end_user = columns.reference(EndUser, null=True)
    token_hash = columns.binary(unique=True)
    created_at = columns.moment()
    expires_at = columns.moment()
    used_at = columns.moment(null=True)

    kind_is_known = columns.one_of("kind", InvitationKind)


class ApiKey(Table, tablename="api_key"):
    """A key by which a program acts for the organisation within scopes; it can never approve."""

    id = columns.key()
    organization = columns.reference(Organization, index=True)
    name = columns.text()
    prefix = columns.text(unique=True)
    """The public part, by which the key is looked up and recognised."""
    secret_hash = columns.binary()
    scopes = columns.json()
    created_by = columns.reference(Member, null=True)
    """The member who made it, or who made the key that made it; never changes. Null where a command did."""
    created_at = columns.moment()
    last_used_at = columns.moment(null=True)
    expires_at = columns.moment(null=True)
    revoked_at = columns.moment(null=True)


class SignInThrottle(Table, tablename="sign_in_throttle"):
    """Failed sign-ins by account and by address; slows down guessing without locking anybody out for long."""

    key = columns.text(unique=True)
    failures = columns.integer()
    last_failed_at = columns.moment()
    blocked_until = columns.moment(null=True)


class IdempotencyKey(Table, tablename="idempotency_key"):
    """The answer once given to a POST, repeated for the same key and the same request."""

    id = columns.key()
    caller = columns.text()
    """Who asked: the API key's or the person's id."""
    key = columns.text()
    fingerprint = columns.binary()
    """SHA-256 over method, path and body: the same key with another request is refused."""
    status = columns.integer(null=True)
    """Null while the first request still runs."""
    content_type = columns.text(null=True)
    body = columns.binary(null=True)
    created_at = columns.moment()

    one_answer = Unique(["caller", "key"])
