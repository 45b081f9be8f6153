"""Setting up a second factor, and what a thief of a session cannot do."""

import base64

import pyotp
import pytest

from portal import clock
from portal.accounts import proofs, sessions
from portal.accounts.enrolment import confirm_enrolment, start_enrolment
from portal.accounts.proofs import SecondFactorInvalid
from portal.accounts.schemas import Enrolment
from portal.accounts.tables import Person
from portal.db.engine import run_sql
from portal.errors import InputInvalid, NotSignedIn
from tests.people import PASSWORD, Cast, Player


def code_of(enrolment: Enrolment, steps: int = 0) -> str:
    return pyotp.TOTP(enrolment.secret).at(clock.now(), counter_offset=steps)


async def sign_in(player: Player, code: str | None = None) -> str:
    return (await sessions.sign_in(player.email, PASSWORD, code, ip="203.0.113.7", user_agent="")).token


async def without_second_factor(player: Player) -> Player:
    await Person.update({Person.totp_secret: None}).where(Person.id == player.person_id)
    return player


async def test_a_second_factor_is_in_force_once_a_code_proved_it(cast: Cast) -> None:
    bob = await without_second_factor(cast.bob)
    token = await sign_in(bob)
    enrolment = await start_enrolment(bob.person_id)
    assert not (await sessions.find_session(token)).has_second_factor  # type: ignore[union-attr]
    signed_in = await confirm_enrolment(bob.person_id, enrolment.sealed, code_of(enrolment), session_token=token)
    assert signed_in.token != token
    assert signed_in.session.complete
    assert await sessions.find_session(token) is None
    assert (await sessions.find_session(await sign_in(bob))).complete is False  # type: ignore[union-attr]
    kinds = await run_sql("SELECT kind FROM audit_entry WHERE kind LIKE 'second_factor.%'")
    assert [row["kind"] for row in kinds] == ["second_factor.enrolled"]


async def test_the_code_of_the_enrolment_is_spent_by_it(cast: Cast) -> None:
    bob = await without_second_factor(cast.bob)
    enrolment = await start_enrolment(bob.person_id)
    code = code_of(enrolment)
    await confirm_enrolment(bob.person_id, enrolment.sealed, code, session_token=await sign_in(bob))
    with pytest.raises(SecondFactorInvalid):
        await proofs.use_second_factor(bob.person_id, code)
    assert await proofs.use_second_factor(bob.person_id, code_of(enrolment, 1)) == "totp"


async def test_a_wrong_code_changes_nothing_and_the_same_picture_comes_back(cast: Cast) -> None:
    bob = await without_second_factor(cast.bob)
    token = await sign_in(bob)
    enrolment = await start_enrolment(bob.person_id)
    with pytest.raises(SecondFactorInvalid):
        await confirm_enrolment(bob.person_id, enrolment.sealed, "000000", session_token=token)
    session = await sessions.find_session(token)
    assert session is not None
    assert not session.has_second_factor
    assert await start_enrolment(bob.person_id, enrolment.sealed) == enrolment


async def test_every_other_session_ends(cast: Cast) -> None:
    bob = await without_second_factor(cast.bob)
    elsewhere, here = await sign_in(bob), await sign_in(bob)
    enrolment = await start_enrolment(bob.person_id)
    signed_in = await confirm_enrolment(bob.person_id, enrolment.sealed, code_of(enrolment), session_token=here)
    assert await sessions.find_session(elsewhere) is None
    assert [view.id for view in await sessions.list_sessions(bob.person_id)] == [signed_in.session.id]


async def test_replacing_one_takes_a_code_of_the_old_one(cast: Cast) -> None:
    token = await sign_in(cast.bob, cast.bob.code())
    enrolment = await start_enrolment(cast.bob.person_id)
    for current in (None, "", "000000", code_of(enrolment), cast.bob.code()):
        with pytest.raises(SecondFactorInvalid):
            await confirm_enrolment(
                cast.bob.person_id,
                enrolment.sealed,
                code_of(enrolment),
                session_token=token,
                current_code=current,
            )
        await run_sql("DELETE FROM sign_in_throttle")
    await confirm_enrolment(
        cast.bob.person_id,
        enrolment.sealed,
        code_of(enrolment),
        session_token=token,
        current_code=cast.bob.code(1),
    )
    with pytest.raises(SecondFactorInvalid):
        await proofs.use_second_factor(cast.bob.person_id, cast.bob.code(1))
    assert await proofs.use_second_factor(cast.bob.person_id, code_of(enrolment, 1)) == "totp"


async def test_a_form_of_somebody_else_or_a_changed_one_is_refused(cast: Cast) -> None:
    bob = await without_second_factor(cast.bob)
    token = await sign_in(bob)
    enrolment = await start_enrolment(bob.person_id)
    changed = bytearray(base64.urlsafe_b64decode(enrolment.sealed))
    changed[-1] ^= 1
    for sealed in (
        (await start_enrolment(cast.alice.person_id)).sealed,
        base64.urlsafe_b64encode(changed).decode(),
        enrolment.secret,
        "",
        "é",
        "=",
    ):
        with pytest.raises(InputInvalid):
            await confirm_enrolment(bob.person_id, sealed, code_of(enrolment), session_token=token)


async def test_only_ones_own_complete_session_sets_one_up(cast: Cast) -> None:
    bob = await without_second_factor(cast.bob)
    enrolment = await start_enrolment(bob.person_id)
    waiting = await sign_in(cast.alice)
    for token in (waiting, await sign_in(cast.alice, cast.alice.code()), "made up"):
        with pytest.raises(NotSignedIn):
            await confirm_enrolment(bob.person_id, enrolment.sealed, code_of(enrolment), session_token=token)
    alices = await start_enrolment(cast.alice.person_id)
    with pytest.raises(NotSignedIn):
        await confirm_enrolment(
            cast.alice.person_id,
            alices.sealed,
            code_of(alices),
            session_token=waiting,
            current_code=cast.alice.code(1),
        )
