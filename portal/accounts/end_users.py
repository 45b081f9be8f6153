"""End users as rules meet them: found by what the organisation's systems call them, made many at once."""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.emails import normal_email
from portal.accounts.people import check_name
from portal.accounts.schemas import EndUserKey, system_actor
from portal.audit.service import Entry
from portal.db.engine import in_transaction, run_sql
from portal.errors import Conflict, InputInvalid

MAX_SUBJECT = 200


class EndUserExists(Conflict):
    """Somebody else made this end user meanwhile."""


class NewEndUser(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is to be made, or to get an address: checked by `check_end_user`."""

    id: UUID
    subject: str
    name: str
    email: str | None
    address: str
    """EIP-55; its key is stored in the same db transaction."""
    correlation_id: str
    """Of the signal that named them first."""


def check_end_user(subject: str, name: str, email: str | None = None) -> tuple[str, str | None]:
    """Name and e-mail address of an end user in normal form. Raises `InputInvalid` for what nobody can have."""
    if not 1 <= len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise InputInvalid.at("/subject", f"A subject has 1 to {MAX_SUBJECT} printable characters.")
    return check_name(name or subject[:100], path="/name"), normal_email(email) if email else None


async def find_end_users(organization_id: UUID, subjects: Collection[str]) -> dict[str, EndUserKey]:
    """By subject those of them who exist."""
    rows = await run_sql(
        "SELECT subject, id, address FROM end_user WHERE organization = {} AND subject = ANY({}::text[])",
        organization_id,
        list(subjects),
    )
    return {row["subject"]: EndUserKey(id=row["id"], address=row["address"]) for row in rows}


async def make_end_users(organization_id: UUID, people: Sequence[NewEndUser]) -> list[Entry]:
    """Make those who do not exist, and note the address of those who have none, in the caller's db transaction.

    The caller appends the returned audit entries. Raises `EndUserExists` where another one has a subject, with an
    address already or under another id.
    """
    assert in_transaction(), "an end user is made in the db transaction of what is done for them"
    rows = await run_sql(
        """INSERT INTO end_user (id, organization, subject, name, email, address, created_at)
           SELECT id, {}, subject, name, email, address, {}
           FROM unnest({}::uuid[], {}::text[], {}::text[], {}::text[], {}::text[])
                AS made (id, subject, name, email, address)
           ON CONFLICT (organization, subject) DO UPDATE SET address = excluded.address WHERE end_user.address IS NULL
           RETURNING id, xmax = 0 AS created""",
        *(organization_id, clock.now()),
        *([getattr(each, name) for each in people] for name in ("id", "subject", "name", "email", "address")),
    )
    made = {row["id"]: row["created"] for row in rows}
    if others := [each.subject for each in people if each.id not in made]:
        raise EndUserExists(f"{others[0]} is an end user already.")
    maker, giver = (system_actor(organization_id, label) for label in ("assess_signals", "make_signer_keys"))
    entries = [
        Entry(maker, "end_user.created", "end_user", each.id, {"subject": each.subject}, each.correlation_id)
        for each in people
        if made[each.id]
    ]
    return entries + [
        Entry(giver, "end_user.address_set", "end_user", each.id, {"address": each.address}, each.correlation_id)
        for each in people
    ]
