"""Choosing another password, by somebody who is signed in and knows the present one."""

from portal.accounts import passwords
from portal.accounts.people import record
from portal.accounts.proofs import SignInFailed, prove_password
from portal.accounts.schemas import CurrentSession
from portal.accounts.sessions import end_sessions
from portal.accounts.tables import Person
from portal.db.engine import transaction
from portal.errors import InputInvalid


async def change_password(session: CurrentSession, current: str, new: str) -> None:
    """Replace the person's password and end their other sessions.

    Raises `InputInvalid` at `/current_password` or `/password`, and `TooManyRequests`; guesses count as at sign-in.
    """
    try:
        await prove_password(session.email, current, ip=session.ip)
    except SignInFailed:
        raise InputInvalid.at("/current_password", "This is not your present password.") from None
    passwords.check_password_rules(new, email=session.email)
    hashed = await passwords.hash_password(new)
    async with transaction():
        await Person.update({Person.password_hash: hashed}).where(Person.id == session.person_id)
        ended = await end_sessions(session.person_id, keep=session.session_id)
        await record(session.person_id, "password.changed", "person", session.person_id, {"sessions_ended": ended})
