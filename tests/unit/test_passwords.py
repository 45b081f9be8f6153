"""Passwords: what may be set, how they are kept, and that checking them does not stall everybody else."""

import asyncio
import time

import pytest

from portal.accounts.emails import normal_email
from portal.accounts.passwords import check_password_rules, hash_password, needs_rehash, verify_password
from portal.errors import InputInvalid


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "kluger Dachs im Regen",
        "x7$Kq!2mZp0&",
        "пароль-из-трёх-слов",
        "山の上の古い小屋に住む熊たち",
        "9402718365524",
        "a" * 3 + " very long one" * 8,
    ],
)
def test_what_may_be_a_password(password: str) -> None:
    check_password_rules(password, email="ada@example.org")


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "eleven char",
        "x1" * 65,
        "aaaaaaaaaaaaaaaa",
        "abcabcabcabcabc",
        "123456789012",
        "098765432109",
        "qwertyuiop[]",
        "abcdefghijklmn",
        "Password123456",
        "P@ssw0rd2026!!",
        "passwordpassword",
        "Welcome-Admin-2026",
        "letmein!letmein!",
        "111222333444",
        "ada@example.org",
        "ADA@example.org1",
        "1q2w3e4r5t6y",
    ],
)
def test_what_may_not(password: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        check_password_rules(password, email="ada@example.org")
    assert refused.value.fields[0].path == "/password"
    assert password not in refused.value.detail


async def test_only_the_password_itself_is_right() -> None:
    hashed = await hash_password("correct horse battery staple")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert not needs_rehash(hashed)
    assert await verify_password(hashed, "correct horse battery staple")
    assert not await verify_password(hashed, "correct horse battery staple ")
    assert not await verify_password(hashed, "")
    assert hashed != await hash_password("correct horse battery staple")


async def test_a_password_is_never_cut_off() -> None:
    longest = "0123456789abcdef" * 8
    hashed = await hash_password(longest)
    assert await verify_password(hashed, longest)
    assert not await verify_password(hashed, longest[:-1])
    assert not await verify_password(hashed, longest + "x")


@pytest.mark.parametrize("kept", ["", "not a hash", "$argon2id$v=19$m=19456,t=2,p=1$broken"])
async def test_a_broken_hash_is_nobodys(kept: str) -> None:
    assert not await verify_password(kept, "")


async def test_no_account_has_no_password_not_even_ours() -> None:
    assert not await verify_password(None, "nobody has this password")


async def test_many_sign_ins_at_once_leave_the_loop_free() -> None:
    hashed = await hash_password("correct horse battery staple")
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - started)

    watching = asyncio.create_task(others())
    started = time.perf_counter()
    assert all(await asyncio.gather(*(verify_password(hashed, "correct horse battery staple") for _ in range(40))))
    whole = time.perf_counter() - started
    watching.cancel()
    assert longest < whole / 3


@pytest.mark.parametrize("text", ["ada@example.org", "  Ada@Example.ORG ", "a.b+c@sub.example-mail.co"])
def test_an_address(text: str) -> None:
    assert normal_email(text) == text.strip().lower()


@pytest.mark.parametrize(
    "text",
    ["", "ada", "ada@", "@example.org", "ada@example", "a b@example.org", "ada@exämple.org", "ada@-x.org", "a@b..c"],
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        normal_email(text)
    assert refused.value.fields[0].path == "/email"


def test_an_address_is_refused_at_length_and_at_once() -> None:
    started = time.thread_time()
    with pytest.raises(InputInvalid):
        normal_email("a" * 100_000 + "@" + "b-" * 100_000)
    assert time.thread_time() - started < 0.1
