"""Signing in, and the sessions it starts.

A session token is 256 random bits of which only the SHA-256 is stored. It is new at sign-in and again when the second
factor is given; it ends after 30 idle minutes, 12 hours, a sign-out, or when the person's access changes.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from datetime import datetime, timedelta
from uuid import UUID

from portal import clock
from portal.accounts.people import record
from portal.accounts.proofs import (
    KNOWN_ADDRESS,
    SecondFactorInvalid,
    SignInFailed,
    prove_password,
    record_refusal,
    use_second_factor,
)
from portal.accounts.schemas import CurrentSession, ProvenPerson, SessionView, SignedIn
from portal.accounts.tables import Session
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import NotFound, NotSignedIn
from portal.logging import get_logger

log = get_logger(__name__)

COOKIE = "__Host-session"
IDLE = timedelta(minutes=30)
ABSOLUTE = timedelta(hours=12)
TOUCH = timedelta(minutes=1)
REFUSAL_SECONDS = 0.25
"""Every refusal takes at least this long, so that what was checked on the way to it does not show."""


async def sign_in(email: str, password: str, code: str | None = None, *, ip: str, user_agent: str) -> SignedIn:
    """A new session: complete if the person has no second factor or gave a valid `code`, else for the password alone.

    Raises `SignInFailed` for whatever is wrong, after the same time and in the same words, and `TooManyRequests`.
    """
    started = time.monotonic()
    try:
        person = await prove_password(email, password, ip=ip)
        given = code if person.has_second_factor else None
        if given:
            await _use_code_to_sign_in(person.id, given, ip)
    except SignInFailed:
        await asyncio.sleep(started + REFUSAL_SECONDS - time.monotonic())
        raise
    now = clock.now()
    async with transaction():
        signed_in = await start_session(
            person, ip=ip, user_agent=user_agent, second_factor_at=now if given else None, expires_at=now + ABSOLUTE
        )
        detail = {"ip": signed_in.session.ip, "complete": signed_in.session.complete}
        await record(person.id, "session.started", "session", signed_in.session.id, detail)
    log.info("session.started", person_id=str(person.id), complete=signed_in.session.complete)
    return signed_in


async def _use_code_to_sign_in(person_id: UUID, code: str, ip: str) -> None:
    try:
        await use_second_factor(person_id, code)
    except SecondFactorInvalid:
        await record_refusal(person_id, "second_factor", ip)
        raise SignInFailed from None


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
        await record_refusal(current.person_id, "second_factor", current.ip)
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


async def find_session(token: str, *, used: bool = True) -> CurrentSession | None:
    """The live session of `token`, or None: unknown, ended, idle for 30 minutes, or of a disabled person.

    Notes at most once a minute that it was seen, unless nobody `used` it: a page asked in the background.
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
    if used and row["last_seen_at"] < now - TOUCH:
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


def csrf_token(session_token: str) -> str:
    """What a form of this session must carry: derived from the token, so that nothing is stored and it dies with it."""
    return hmac.new(session_token.encode(), b"csrf", hashlib.sha256).hexdigest()


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
