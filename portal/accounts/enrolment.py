"""Setting up a second factor. The secret travels sealed in the form and is stored only once a code proves it."""

import base64
from uuid import UUID

from portal import clock, sealing
from portal.accounts import totp
from portal.accounts.people import record
from portal.accounts.proofs import SecondFactorInvalid, use_second_factor
from portal.accounts.schemas import Enrolment, SignedIn
from portal.accounts.sessions import end_sessions, find_session, replace_session
from portal.accounts.tables import Person
from portal.db.engine import transaction
from portal.errors import Conflict, InputInvalid, NotFound, NotSignedIn, SettingInvalid
from portal.logging import get_logger
from portal.settings import secret_key

log = get_logger(__name__)


class SecondFactorChanged(Conflict):
    """It was set up or changed elsewhere in the meantime."""


async def start_enrolment(person_id: UUID, sealed: str | None = None) -> Enrolment:
    """A second factor to scan; the same one again for the `sealed` of a form that came back. Nothing is stored.

    Raises `NotFound`, or `InputInvalid` if `sealed` was made for somebody else or changed.
    """
    person = await Person.select(Person.email).where(Person.id == person_id).first()
    if person is None:
        raise NotFound("There is no such person.")
    secret = totp.new_secret() if sealed is None else _unseal(person_id, sealed)
    uri = totp.provisioning_uri(secret, person["email"])
    return Enrolment(secret=secret, uri=uri, qr_svg=totp.qr_svg(uri), sealed=sealed or _seal(person_id, secret))


async def confirm_enrolment(
    person_id: UUID, sealed: str, code: str, *, session_token: str, current_code: str | None = None
) -> SignedIn:
    """Put the second factor of `sealed` in force, proven by a `code` of it and a `current_code` of the one it replaces.

    The session gets a new token, every other session of the person ends. Raises `NotSignedIn`, `InputInvalid`,
    `SecondFactorInvalid`, `TooManyRequests`, `SecondFactorChanged`.
    """
    session = await find_session(session_token)
    if session is None or session.person_id != person_id or not session.complete:
        raise NotSignedIn("This session has ended. Sign in again.")
    secret, now = _unseal(person_id, sealed), clock.now()
    step = totp.matching_step(secret, code, now)
    if step is None:
        raise SecondFactorInvalid(
            "This is not the code that the app shows for the new entry now. Check the phone's clock and try again."
        )
    row = await Person.select(Person.totp_secret).where(Person.id == person_id).first()
    before = row["totp_secret"] if row else None
    if before is not None:
        await use_second_factor(person_id, current_code or "")
    async with transaction():
        unchanged = Person.totp_secret.is_null() if before is None else Person.totp_secret == before
        changed = await (
            Person.update({Person.totp_secret: totp.seal_secret(person_id, secret), Person.totp_last_step: step})
            .where(Person.id == person_id, unchanged)
            .returning(Person.id)
        )
        if not changed:
            raise SecondFactorChanged("The second factor was changed elsewhere just now. Start again.")
        signed_in = await replace_session(session_token, second_factor_at=now)
        ended = await end_sessions(person_id, keep=signed_in.session.id)
        kind = "second_factor.enrolled" if before is None else "second_factor.replaced"
        await record(person_id, kind, "person", person_id, {"sessions_ended": ended})
    log.info(kind, person_id=str(person_id))
    return signed_in


def _seal(person_id: UUID, secret: str) -> str:
    sealed = sealing.seal(secret_key(), secret.encode(), purpose=_purpose(person_id))
    return base64.urlsafe_b64encode(sealed).decode()


def _unseal(person_id: UUID, sealed: str) -> str:
    try:
        raw = base64.urlsafe_b64decode(sealed.encode("ascii"))
        return sealing.unseal(secret_key(), raw, purpose=_purpose(person_id)).decode()
    except (ValueError, SettingInvalid, sealing.SealBroken):
        raise InputInvalid.at("/sealed", "This form is not valid any more. Start again.") from None


def _purpose(person_id: UUID) -> str:
    return f"totp-enrolment:{person_id}"
