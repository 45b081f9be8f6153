"""What proves that somebody is who they say: their password, and one-time codes. Guessing either is slowed down."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts import passwords, throttle, totp
from portal.accounts.emails import normal_email
from portal.accounts.people import record
from portal.accounts.schemas import ProvenPerson
from portal.accounts.tables import Person
from portal.db.engine import run_sql, transaction
from portal.errors import Forbidden, InputInvalid, NotSignedIn
from portal.logging import get_logger

log = get_logger(__name__)

KNOWN_ADDRESS = timedelta(days=30)
"""For how long an address stays known from which a person signed in; their sessions are kept that long."""


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
        await record_refusal(person["id"] if person else None, "password", ip)
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


async def record_refusal(person_id: UUID | None, reason: str, ip: str | None) -> None:
    """Log a refused sign-in and, where there is such a person, record it in a db transaction of its own."""
    log.warning("session.refused", person_id=str(person_id) if person_id else None, reason=reason, ip=ip)
    if person_id is not None:
        async with transaction():
            await record(person_id, "session.refused", "person", person_id, {"reason": reason, "ip": ip})


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
