"""Signing in, sessions and one-time codes.

A session token is 256 random bits of which only the SHA-256 is stored. It is new at sign-in and again when the second
factor is given; it ends after 30 idle minutes, 12 hours, a sign-out, or when the person's access changes.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts import passwords, throttle, totp
from portal.accounts.emails import normal_email
from portal.accounts.queries import list_memberships
from portal.accounts.schemas import CurrentSession, ProvenPerson, SessionView, SignedIn, member_actor
from portal.accounts.tables import Person, Session
from portal.audit.service import append
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Forbidden, InputInvalid, NotFound, NotSignedIn
from portal.logging import get_logger

log = get_logger(__name__)

COOKIE = "__Host-session"
IDLE = timedelta(minutes=30)
ABSOLUTE = timedelta(hours=12)
TOUCH = timedelta(minutes=1)
KNOWN_ADDRESS = timedelta(days=30)
REFUSAL_SECONDS = 0.25
"""Every refusal takes at least this long, so that what was checked on the way to it does not show."""


class SignInFailed(NotSignedIn):
    """One sentence for every reason, so that it says nothing about which accounts exist."""

    title = "Sign-in failed"

    def __init__(self) -> None:
        super().__init__("The e-mail address, the password or the code is not right.")


class SecondFactorInvalid(Forbidden):
    """The one-time code is wrong, too old, or was used before."""

    title = "The code is not valid"


class SecondFactorMissing(SecondFactorInvalid):
    """The person has no second factor yet."""

    title = "A second factor is needed"


async def sign_in(email: str, password: str, code: str | None = None, *, ip: str, user_agent: str) -> SignedIn:
    """A new session: complete if the person has no second factor or gave a valid `code`, else for the password alone.

    Raises `SignInFailed` for whatever is wrong, after the same time and in the same words, and `TooManyRequests`.
    """
    started = time.monotonic()
    try:
        person = await prove_password(email, password, ip=ip)
        with_code = person.has_second_factor and bool(code)
        if with_code:
            await _use_code_to_sign_in(person.id, str(code), ip)
    except SignInFailed:
        await asyncio.sleep(started + REFUSAL_SECONDS - time.monotonic())
        raise
    now = clock.now()
    async with transaction():
        signed_in = await start_session(
            person, ip=ip, user_agent=user_agent, second_factor_at=now if with_code else None, expires_at=now + ABSOLUTE
        )
        detail = {"ip": signed_in.session.ip, "complete": signed_in.session.complete}
        await record(person.id, "session.started", "session", signed_in.session.id, detail)
    log.info("session.started", person_id=str(person.id), complete=signed_in.session.complete)
    return signed_in


async def prove_password(email: str, password: str, *, ip: str | None) -> ProvenPerson:
    """The person whose password this is. Raises `SignInFailed` or `TooManyRequests`; each failure is recorded.

    Whether or not the account exists, one hash is verified and the same allowances are charged.
    """
    try:
        email = normal_email(email)
    except InputInvalid:
        email = email[:200]
    person = await _find_person(email)
    account = throttle.account_allowance(email, known_ip=await _known_ip(person, ip))
    address = throttle.address_allowance(ip) if ip is not None else None
    if address:
        await throttle.charge(address)
    await throttle.charge(account)
    proven = await passwords.verify_password(person["password_hash"] if person else None, password)
    if person is None or person["disabled_at"] is not None or not proven:
        await _record_refusal(person["id"] if person else None, "password", ip)
        raise SignInFailed
    await throttle.forgive(account)
    if address:
        await throttle.refund(address)
    if passwords.needs_rehash(person["password_hash"]):
        await Person.update({Person.password_hash: await passwords.hash_password(password)}).where(
            Person.id == person["id"], Person.password_hash == person["password_hash"]
        )
    return ProvenPerson(
        id=person["id"], email=email, name=person["name"], has_second_factor=person["totp_secret"] is not None
    )


async def _find_person(email: str) -> dict[str, Any] | None:
    if "\x00" in email:  # PostgreSQL has no such text
        return None
    return (
        await Person.select(Person.id, Person.name, Person.password_hash, Person.totp_secret, Person.disabled_at)
        .where(Person.email == email)
        .first()
    )


async def _known_ip(person: dict[str, Any] | None, ip: str | None) -> str | None:
    known = await run_sql(
        "SELECT 1 FROM session WHERE person = {} AND ip = {} AND created_at > {} LIMIT 1",
        person["id"] if person else None,
        ip,
        clock.now() - KNOWN_ADDRESS,
    )
    return ip if known else None


async def _use_code_to_sign_in(person_id: UUID, code: str, ip: str) -> None:
    try:
        await use_second_factor(person_id, code)
    except SecondFactorInvalid:
        await _record_refusal(person_id, "second_factor", ip)
        raise SignInFailed from None


async def _record_refusal(person_id: UUID | None, reason: str, ip: str | None) -> None:
    log.warning("session.refused", person_id=str(person_id) if person_id else None, reason=reason, ip=ip)
    if person_id is not None:
        async with transaction():
            await record(person_id, "session.refused", "person", person_id, {"reason": reason, "ip": ip})


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
        await append(actor, kind, subject_kind, subject_id, detail)


async def start_session(
    person: ProvenPerson, *, ip: str, user_agent: str, second_factor_at: datetime | None, expires_at: datetime
) -> SignedIn:
    """A session with a token that never was. Runs in the caller's db transaction, which says why it may start."""
    token, now = secrets.token_urlsafe(32), clock.now()
    view = SessionView(
        id=new_id(),
        created_at=now,
        last_seen_at=now,
        expires_at=expires_at,
        ip="".join(c for c in ip if c.isprintable())[:64],
        user_agent="".join(c for c in user_agent if c.isprintable())[:300],
        complete=not person.has_second_factor or second_factor_at is not None,
    )
    await Session.insert(
        Session(
            id=view.id,
            person=person.id,
            token_hash=_token_hash(token),
            second_factor_at=second_factor_at,
            user_agent=view.user_agent,
            ip=view.ip,
            created_at=now,
            last_seen_at=now,
            expires_at=expires_at,
        )
    )
    return SignedIn(token=token, session=view)


async def give_second_factor(token: str, code: str) -> SignedIn:
    """Complete the session of `token` with a one-time code: a new token, the old one is dead.

    Raises `NotSignedIn` if the session has ended, `SecondFactorInvalid`, `TooManyRequests`.
    """
    current = await find_session(token)
    if current is None:
        raise NotSignedIn("This session has ended. Sign in again.")
    try:
        await use_second_factor(current.person_id, code)
    except SecondFactorInvalid:
        await _record_refusal(current.person_id, "second_factor", current.ip)
        raise
    async with transaction():
        signed_in = await replace_session(token, second_factor_at=clock.now())
        await record(current.person_id, "session.completed", "session", signed_in.session.id, {"ip": current.ip})
    log.info("session.completed", person_id=str(current.person_id))
    return signed_in


async def replace_session(token: str, *, second_factor_at: datetime) -> SignedIn:
    """Give the session of `token` a new token and a second factor; its absolute end stays.

    Runs in the caller's db transaction. Raises `NotSignedIn` if the session has ended.
    """
    ended = await run_sql(
        """UPDATE session SET revoked_at = {} FROM person
           WHERE token_hash = {} AND revoked_at IS NULL AND expires_at > {} AND person.id = session.person
           RETURNING session.ip, session.user_agent, session.expires_at, person.id, person.email, person.name""",
        clock.now(),
        _token_hash(token),
        clock.now(),
    )
    if not ended:
        raise NotSignedIn("This session has ended. Sign in again.")
    old = ended[0]
    person = ProvenPerson(id=old["id"], email=old["email"], name=old["name"], has_second_factor=True)
    return await start_session(
        person,
        ip=old["ip"],
        user_agent=old["user_agent"],
        second_factor_at=second_factor_at,
        expires_at=old["expires_at"],
    )


async def find_session(token: str) -> CurrentSession | None:
    """The live session of `token`, or None: unknown, ended, idle for 30 minutes, or of a disabled person.

    Notes at most once a minute that it was seen.
    """
    now = clock.now()
    rows = await run_sql(
        """SELECT s.id, s.ip, s.last_seen_at, s.second_factor_at, p.id AS person_id, p.email, p.name,
                  p.totp_secret IS NOT NULL AS has_second_factor
           FROM session s JOIN person p ON p.id = s.person
           WHERE s.token_hash = {} AND s.revoked_at IS NULL AND s.expires_at > {} AND s.last_seen_at > {}
             AND p.disabled_at IS NULL""",
        _token_hash(token),
        now,
        now - IDLE,
    )
    if not rows:
        return None
    row = rows[0]
    if row["last_seen_at"] < now - TOUCH:
        await Session.update({Session.last_seen_at: now}).where(
            Session.id == row["id"], Session.last_seen_at < now - TOUCH
        )
    return CurrentSession(
        person_id=row["person_id"],
        session_id=row["id"],
        email=row["email"],
        name=row["name"],
        ip=row["ip"],
        complete=not row["has_second_factor"] or row["second_factor_at"] is not None,
        has_second_factor=row["has_second_factor"],
    )


async def sign_out(token: str) -> None:
    """End the session of `token`; nothing happens if it has ended."""
    async with transaction():
        ended = (
            await Session.update({Session.revoked_at: clock.now()})
            .where(Session.token_hash == _token_hash(token), Session.revoked_at.is_null())
            .returning(Session.id, Session.person)
        )
        for row in ended:
            await record(row["person"], "session.ended", "session", row["id"], {})


async def revoke_session(person_id: UUID, session_id: UUID) -> None:
    """End one of the person's own sessions. Raises `NotFound` if it is not theirs or has ended."""
    async with transaction():
        ended = (
            await Session.update({Session.revoked_at: clock.now()})
            .where(Session.id == session_id, Session.person == person_id, Session.revoked_at.is_null())
            .returning(Session.id)
        )
        if not ended:
            raise NotFound("There is no such session, or it has ended.")
        await record(person_id, "session.revoked", "session", session_id, {})


async def end_sessions(person_id: UUID, *, keep: UUID | None = None) -> int:
    """End the sessions of a person whose access changes, but `keep`, in the caller's db transaction; how many ended."""
    ended = await run_sql(
        """UPDATE session SET revoked_at = {} WHERE person = {} AND revoked_at IS NULL AND id IS DISTINCT FROM {}
           RETURNING id""",
        clock.now(),
        person_id,
        keep,
    )
    return len(ended)


async def prune() -> int:
    """Delete sessions that ended, by now, longer ago than an address stays known; returns how many."""
    rows = await run_sql("DELETE FROM session WHERE expires_at < {} RETURNING id", clock.now() - KNOWN_ADDRESS)
    return len(rows)


async def list_sessions(person_id: UUID) -> list[SessionView]:
    """The person's live sessions, the latest seen first."""
    now = clock.now()
    rows = await run_sql(
        """SELECT s.*, p.totp_secret IS NOT NULL AS has_second_factor FROM session s JOIN person p ON p.id = s.person
           WHERE s.person = {} AND s.revoked_at IS NULL AND s.expires_at > {} AND s.last_seen_at > {}
           ORDER BY s.last_seen_at DESC, s.id DESC LIMIT 200""",
        person_id,
        now,
        now - IDLE,
    )
    return [
        SessionView(
            id=row["id"],
            created_at=row["created_at"],
            last_seen_at=row["last_seen_at"],
            expires_at=row["expires_at"],
            ip=row["ip"],
            user_agent=row["user_agent"],
            complete=not row["has_second_factor"] or row["second_factor_at"] is not None,
        )
        for row in rows
    ]


async def use_second_factor(person_id: UUID, code: str) -> str:
    """Spend a one-time code and return the method, `totp`. Each time step is accepted once, whichever process asks.

    Works inside a db transaction, which then undoes the spending but not the count of a failure, and outside of one.
    Raises `SecondFactorMissing`, `SecondFactorInvalid`, `TooManyRequests`.
    """
    person = (
        await Person.select(Person.totp_secret)
        .where(Person.id == person_id, Person.disabled_at.is_null(), Person.totp_secret.is_not_null())
        .first()
    )
    if person is None:
        raise SecondFactorMissing("Set up a second factor in your account first, then try again.")
    allowance = throttle.code_allowance(person_id)
    await throttle.charge(allowance)
    sealed = person["totp_secret"]
    step = totp.matching_step(totp.unseal_secret(person_id, sealed), code, clock.now())
    if step is None or not await _spend_step(person_id, sealed, step):
        raise SecondFactorInvalid(
            "This code is not valid, or it was used already. Wait for the next one in your authenticator app."
        )
    await throttle.forgive(allowance)
    return "totp"


async def _spend_step(person_id: UUID, sealed: bytes, step: int) -> bool:
    spent = await (
        Person.update({Person.totp_last_step: step})
        .where(
            Person.id == person_id,
            Person.totp_secret == sealed,
            (Person.totp_last_step < step) | Person.totp_last_step.is_null(),
        )
        .returning(Person.id)
    )
    return len(spent) == 1


def csrf_token(session_token: str) -> str:
    """What a form of this session must carry: derived from the token, so that nothing is stored and it dies with it."""
    return hmac.new(session_token.encode(), b"csrf", hashlib.sha256).hexdigest()


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
