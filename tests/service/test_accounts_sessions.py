"""Signing in: what proves a person, what a session is worth, and what guessing costs."""

import asyncio
import hashlib
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

import pytest
import time_machine
from argon2 import PasswordHasher

from portal import clock
from portal.accounts import proofs, sessions, throttle
from portal.accounts.jobs import prune_accounts
from portal.accounts.proofs import SecondFactorInvalid, SecondFactorMissing, SignInFailed
from portal.accounts.tables import Person
from portal.db.engine import run_sql, transaction
from portal.errors import NotFound, NotSignedIn, TooManyRequests
from tests.people import PASSWORD, Cast, Player

IP = "203.0.113.7"


async def sign_in(player: Player, *, ip: str = IP, code: str | None = None, password: str = PASSWORD) -> Any:
    return await sessions.sign_in(player.email, password, code, ip=ip, user_agent="Firefox")


async def sign_in_completely(player: Player, steps: int = 0) -> Any:
    return await sign_in(player, code=player.code(steps))


async def without_second_factor(player: Player) -> None:
    await Person.update({Person.totp_secret: None}).where(Person.id == player.person_id)


async def audited(organization_id: UUID) -> list[tuple[str, str]]:
    rows = await run_sql(
        "SELECT kind, actor_label FROM audit_entry WHERE organization = {} ORDER BY sequence", organization_id
    )
    return [(row["kind"], row["actor_label"]) for row in rows]


async def test_the_password_alone_gives_a_session_that_waits_for_its_second_factor(cast: Cast) -> None:
    signed_in = await sign_in(cast.alice)
    current = await sessions.find_session(signed_in.token)
    assert current is not None
    assert not current.complete
    assert current.has_second_factor
    assert current.email == "alice@example.org"


async def test_password_and_code_give_a_complete_session_at_once(cast: Cast) -> None:
    signed_in = await sign_in_completely(cast.alice)
    assert signed_in.session.complete
    assert (await sessions.find_session(signed_in.token)).complete  # type: ignore[union-attr]


async def test_without_a_second_factor_the_password_is_enough(cast: Cast) -> None:
    await without_second_factor(cast.carol)
    assert (await sign_in(cast.carol)).session.complete


async def test_the_address_may_be_typed_in_capitals_and_with_blanks(cast: Cast) -> None:
    signed_in = await sessions.sign_in(" Alice@Example.ORG ", PASSWORD, ip=IP, user_agent="")
    assert (await sessions.find_session(signed_in.token)).person_id == cast.alice.person_id  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("email", "password", "code"),
    [
        ("alice@example.org", "wrong", None),
        ("alice@example.org", "", None),
        ("alice@example.org", PASSWORD, "000000"),
        ("nobody@example.org", PASSWORD, None),
        ("not an address", PASSWORD, None),
        ("alice@example.org\x00", PASSWORD, None),
        ("", "", ""),
        ("x" * 100_000, "y" * 100_000, "z" * 100_000),
    ],
)
async def test_every_refusal_is_the_same_sentence(cast: Cast, email: str, password: str, code: str | None) -> None:
    with pytest.raises(SignInFailed) as refused:
        await sessions.sign_in(email, password, code, ip=IP, user_agent="")
    assert refused.value.detail == SignInFailed().detail
    assert refused.value.status == 401


async def test_a_refusal_takes_as_long_without_an_account_as_with_one(cast: Cast) -> None:
    async def refusal_seconds(email: str, n: int) -> float:
        started = perf_counter()
        with pytest.raises(SignInFailed):
            await sessions.sign_in(email, "wrong", ip=f"198.51.100.{n}", user_agent="")
        return perf_counter() - started

    known = [await refusal_seconds(email, n) for n, email in enumerate(["alice@example.org", "bob@example.org"] * 2)]
    unknown = [await refusal_seconds(f"nobody{n}@example.org", 100 + n) for n in range(4)]
    assert abs(median(known) - median(unknown)) < 0.05


async def test_an_unknown_account_still_costs_one_argon2(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str | None] = []

    async def verify(password_hash: str | None, password: str) -> bool:
        verified.append(password_hash)
        return False

    monkeypatch.setattr("portal.accounts.passwords.verify_password", verify)
    for email in ("nobody@example.org", "alice@example.org"):
        with pytest.raises(SignInFailed):
            await sessions.sign_in(email, "wrong", ip=IP, user_agent="")
    assert verified[0] is None
    assert verified[1] is not None


async def test_a_disabled_person_is_refused_and_their_session_dead(cast: Cast) -> None:
    token = (await sign_in_completely(cast.alice)).token
    await Person.update({Person.disabled_at: clock.now()}).where(Person.id == cast.alice.person_id)
    assert await sessions.find_session(token) is None
    with pytest.raises(SignInFailed):
        await sign_in(cast.alice)


async def test_the_second_factor_brings_a_new_token_and_kills_the_old_one(cast: Cast) -> None:
    first = await sign_in(cast.alice)
    second = await sessions.give_second_factor(first.token, cast.alice.code())
    assert second.token != first.token
    assert second.session.complete
    assert second.session.expires_at == first.session.expires_at
    assert await sessions.find_session(first.token) is None
    assert (await sessions.find_session(second.token)).complete  # type: ignore[union-attr]


async def test_a_wrong_code_leaves_the_session_waiting(cast: Cast) -> None:
    token = (await sign_in(cast.alice)).token
    with pytest.raises(SecondFactorInvalid):
        await sessions.give_second_factor(token, "000000")
    assert not (await sessions.find_session(token)).complete  # type: ignore[union-attr]


async def test_a_second_factor_for_no_session_is_refused(cast: Cast) -> None:
    with pytest.raises(NotSignedIn):
        await sessions.give_second_factor("made up", cast.alice.code())


async def test_two_second_factors_for_one_session_make_one_session(cast: Cast) -> None:
    token = (await sign_in(cast.alice)).token
    answers = await asyncio.gather(
        *(sessions.give_second_factor(token, cast.alice.code(steps)) for steps in (-1, 0, 1)), return_exceptions=True
    )
    assert len([answer for answer in answers if not isinstance(answer, Exception)]) == 1
    assert len(await sessions.list_sessions(cast.alice.person_id)) == 1


async def test_the_token_is_not_in_the_database(cast: Cast) -> None:
    token = (await sign_in(cast.alice)).token
    rows = await run_sql("SELECT s::text AS row, token_hash FROM session s")
    assert token not in rows[0]["row"]
    assert bytes(rows[0]["token_hash"]) == hashlib.sha256(token.encode()).digest()
    assert len(token) >= 43  # 256 bits


async def test_a_session_ends_after_thirty_idle_minutes_but_not_while_it_is_used(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        token = (await sign_in_completely(cast.alice)).token
        for _ in range(3):
            traveller.shift(timedelta(minutes=29))
            assert await sessions.find_session(token) is not None
        traveller.shift(timedelta(minutes=31))
        assert await sessions.find_session(token) is None


async def test_a_session_ends_after_twelve_hours_however_busy(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        token = (await sign_in_completely(cast.alice)).token
        for _ in range(35):
            traveller.shift(timedelta(minutes=20))
            assert await sessions.find_session(token) is not None
        traveller.shift(timedelta(minutes=21))
        assert await sessions.find_session(token) is None


async def test_being_seen_is_written_down_once_a_minute(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        token = (await sign_in(cast.alice)).token
        started = clock.now()
        traveller.shift(timedelta(seconds=50))
        await sessions.find_session(token)
        assert (await sessions.list_sessions(cast.alice.person_id))[0].last_seen_at == started
        traveller.shift(timedelta(seconds=20))
        await sessions.find_session(token)
        assert (await sessions.list_sessions(cast.alice.person_id))[0].last_seen_at == clock.now()


async def test_signing_out_ends_the_session_on_the_server(cast: Cast) -> None:
    token = (await sign_in(cast.alice)).token
    await sessions.sign_out(token)
    await sessions.sign_out(token)
    assert await sessions.find_session(token) is None
    assert await sessions.list_sessions(cast.alice.person_id) == []


async def test_one_ends_ones_own_sessions_and_nobody_elses(cast: Cast) -> None:
    kept, ended = await sign_in(cast.alice), await sign_in(cast.alice)
    bobs = await sign_in(cast.bob)
    await sessions.revoke_session(cast.alice.person_id, ended.session.id)
    assert await sessions.find_session(ended.token) is None
    assert [view.id for view in await sessions.list_sessions(cast.alice.person_id)] == [kept.session.id]
    for not_alices in (bobs.session.id, ended.session.id):
        with pytest.raises(NotFound):
            await sessions.revoke_session(cast.alice.person_id, not_alices)
    assert await sessions.find_session(bobs.token) is not None


async def test_a_code_is_accepted_once_even_by_many_at_once(cast: Cast) -> None:
    code = cast.bob.code()
    answers = await asyncio.gather(
        *(proofs.use_second_factor(cast.bob.person_id, code) for _ in range(4)), return_exceptions=True
    )
    assert answers.count("totp") == 1
    assert all(isinstance(answer, SecondFactorInvalid) for answer in answers if answer != "totp")


async def test_an_older_code_is_refused_after_a_newer_one(cast: Cast) -> None:
    await proofs.use_second_factor(cast.bob.person_id, cast.bob.code(1))
    for steps in (-1, 0, 1):
        with pytest.raises(SecondFactorInvalid):
            await proofs.use_second_factor(cast.bob.person_id, cast.bob.code(steps))


async def test_a_code_of_somebody_else_or_none_is_refused(cast: Cast) -> None:
    with pytest.raises(SecondFactorInvalid):
        await proofs.use_second_factor(cast.bob.person_id, cast.alice.code())
    await without_second_factor(cast.carol)
    with pytest.raises(SecondFactorMissing):
        await proofs.use_second_factor(cast.carol.person_id, "123456")


async def test_guessed_codes_are_counted_even_where_the_db_transaction_is_undone(cast: Cast) -> None:
    for _ in range(5):
        with pytest.raises(SecondFactorInvalid):
            async with transaction():
                await proofs.use_second_factor(cast.bob.person_id, "000000")
    with pytest.raises(TooManyRequests):
        async with transaction():
            await proofs.use_second_factor(cast.bob.person_id, cast.bob.code())


async def test_guessing_waits_longer_each_time_but_never_more_than_a_quarter_of_an_hour(cast: Cast) -> None:
    allowance, waits = throttle.account_allowance("a@example.org", known_ip=None), []
    with time_machine.travel(clock.now(), tick=False) as traveller:
        for _ in range(5):
            await throttle.charge(allowance)
        for _ in range(11):
            with pytest.raises(TooManyRequests) as refused:
                await throttle.charge(allowance)
            seconds = refused.value.retry_after_seconds or 0
            waits.append(seconds)
            traveller.shift(timedelta(seconds=seconds))
            await throttle.charge(allowance)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]


async def test_a_guessed_account_makes_even_the_right_password_wait_and_then_lets_it_in(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        for _ in range(5):
            with pytest.raises(SignInFailed):
                await sign_in(cast.alice, password="wrong")
        with pytest.raises(TooManyRequests) as refused:
            await sign_in(cast.alice)
        assert refused.value.retry_after_seconds == 1
        traveller.shift(timedelta(seconds=1))
        assert await sign_in(cast.alice)
        for _ in range(4):  # forgiven: it counts from the beginning
            with pytest.raises(SignInFailed):
                await sign_in(cast.alice, password="wrong")
        assert await sign_in(cast.alice)


async def test_an_account_that_is_not_there_waits_as_well(cast: Cast) -> None:
    for _ in range(5):
        with pytest.raises(SignInFailed):
            await sessions.sign_in("nobody@example.org", "wrong", ip=IP, user_agent="")
    with pytest.raises(TooManyRequests):
        await sessions.sign_in("nobody@example.org", "wrong", ip=IP, user_agent="")


async def test_a_strangers_guessing_does_not_keep_the_owner_out(cast: Cast) -> None:
    await sign_in(cast.alice, ip="203.0.113.7")
    for _ in range(5):
        with pytest.raises(SignInFailed):
            await sign_in(cast.alice, ip="198.51.100.1", password="wrong")
    with pytest.raises(TooManyRequests):
        await sign_in(cast.alice, ip="198.51.100.2")
    assert await sign_in(cast.alice, ip="203.0.113.7")


async def test_guessing_many_accounts_from_one_address_waits_too(cast: Cast) -> None:
    allowance = throttle.address_allowance(IP)
    for _ in range(50):
        await throttle.charge(allowance)
    with pytest.raises(TooManyRequests):
        await sign_in(cast.alice)
    assert await sign_in(cast.alice, ip="198.51.100.1")


async def test_parallel_guesses_gain_nothing(cast: Cast) -> None:
    answers = await asyncio.gather(
        *(sign_in(cast.alice, password=f"guess {n}") for n in range(20)), return_exceptions=True
    )
    assert len([answer for answer in answers if isinstance(answer, SignInFailed)]) == 5
    assert len([answer for answer in answers if isinstance(answer, TooManyRequests)]) == 15


async def test_what_is_forgotten_is_deleted(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        await throttle.charge(throttle.address_allowance(IP))
        assert await throttle.prune() == 0
        traveller.shift(timedelta(minutes=61))
        assert await throttle.prune() == 1


async def test_ended_sessions_are_deleted_once_their_address_is_not_known_any_more(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        await sign_in(cast.alice)
        traveller.shift(timedelta(days=30))
        assert await prune_accounts() == 1  # the throttle's row
        traveller.shift(timedelta(hours=13))
        assert await prune_accounts() == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("", "testclient", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (throttle.address_allowance(one) == throttle.address_allowance(other)) is same


async def test_signing_in_renews_a_hash_of_old_parameters(cast: Cast) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=8_192, parallelism=1).hash(PASSWORD)
    await Person.update({Person.password_hash: old}).where(Person.id == cast.alice.person_id)
    await sign_in(cast.alice)
    row = await Person.select(Person.password_hash).where(Person.id == cast.alice.person_id).first()
    assert row is not None
    assert "m=19456,t=2,p=1" in row["password_hash"]
    assert await sign_in(cast.alice)


async def test_every_organisation_of_a_person_learns_of_their_sign_ins(cast: Cast) -> None:
    token = (await sign_in(cast.alice)).token
    await sessions.give_second_factor(token, cast.alice.code())
    with pytest.raises(SignInFailed):
        await sign_in(cast.alice, password="wrong")
    assert await audited(cast.organization_id) == [
        ("session.started", "alice@example.org"),
        ("session.completed", "alice@example.org"),
        ("session.refused", "alice@example.org"),
    ]
    assert await audited(cast.dave.actor.organization_id) == []


def test_the_csrf_token_belongs_to_one_session_token() -> None:
    assert sessions.csrf_token("one") == sessions.csrf_token("one")
    assert sessions.csrf_token("one") != sessions.csrf_token("two")
    assert len(sessions.csrf_token("one")) == 64
    assert "one" not in sessions.csrf_token("one")
