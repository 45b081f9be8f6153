"""Passwords: argon2id with OWASP's parameters, hashed in threads, and the rules for a new one."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from portal.errors import InputInvalid

HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
MIN_LENGTH = 12
MAX_LENGTH = 128
MIN_DISTINCT = 5

# Bounds both the memory (19 MiB each) and the cores that a flood of sign-ins can take.
_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="argon2")

# Verified where there is no account, so that its absence takes as long as a wrong password.
_NOBODY = HASHER.hash("nobody has this password")

_STEMS = """
    abc abcd abcdef access account admin administrator amazon andrea angel apple asdf asdfgh asdfghjkl baseball
    batman blockchain changeit changeme charlie chocolate company computer correct daniel default demo dragon
    facebook flower football forever freedom friend google guest hannah hello helloworld hockey hunter iloveyou
    internet jennifer jessica jordan killer letmein letmeinnow linkedin liverpool login lovely master maverick
    michael michelle microsoft monkey mustang nothing office organization owner pass passphrase password
    passwort pepper phoenix pokemon portal princess qazwsx qazwsxedc qwert qwerty qwertyuiop qwertz qwertzuiop
    root samsung secret secure security service shadow signal signalportal spring starwars summer sunshine
    superman superuser system temp temporary test tester testing thankyou thomas tiger trustno trustnoone user
    username wallet welcome whatever winter zaq zxcvbn zxcvbnm
"""
COMMON_STEMS = frozenset(_STEMS.split())
"""What passwords are most often made of: alone, repeated, or with digits and signs around, they are first guesses."""

KEYBOARD_WALKS = (
    "01234567890123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiop[]asdfghjkl;'zxcvbnm,./",
    "qwertzuiopasdfghjklyxcvbnm",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
)
UNLEET = str.maketrans("01345789@$!", "oleastbgasi")


async def hash_password(password: str) -> str:
    """An argon2id hash with its parameters, in PHC format."""
    return await asyncio.get_running_loop().run_in_executor(_threads, HASHER.hash, password)


async def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether `password` is the one hashed; with None it is not, and finding that out takes the same time."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _verify, password_hash, password)


def _verify(password_hash: str | None, password: str) -> bool:
    try:
        return HASHER.verify(password_hash or _NOBODY, password[: MAX_LENGTH + 1]) and password_hash is not None
    except (Argon2Error, InvalidHashError):
        return False


def needs_rehash(password_hash: str) -> bool:
    """Whether it was made with other parameters than today's."""
    return HASHER.check_needs_rehash(password_hash)


def check_password_rules(password: str, *, email: str = "") -> None:
    """Raise `InputInvalid` unless `password` may be set: 12 to 128 characters, not the e-mail, not a first guess.

    No rules of composition (ASVS 5.0, 6.2.5): length and not being guessed first are what counts.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise _refused(f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters; this one has {len(password)}.")
    lowered = password.lower()
    if email and (lowered == email or lowered.startswith(email.partition("@")[0] + "@")):
        raise _refused("The e-mail address is no password; choose something that only you know.")
    if _is_common(lowered):
        raise _refused("This is one of the first passwords that would be guessed. Several unrelated words are better.")


def _refused(message: str) -> InputInvalid:
    return InputInvalid.at("/password", message)


def _is_common(lowered: str) -> bool:
    if len(set(lowered)) < MIN_DISTINCT or _shortest_period(lowered) <= len(lowered) // 3:
        return True
    if any(lowered in walk * 2 or lowered[::-1] in walk * 2 for walk in KEYBOARD_WALKS):
        return True
    for spelling in (lowered, re.sub(r"[^a-z]+$", "", lowered).translate(UNLEET)):
        words = re.findall(r"[a-z]+", spelling)
        if words and all(_stem(word) in COMMON_STEMS for word in words):
            return True
    return not re.search(r"[^\W\d_]", lowered) and len(set(lowered)) < 8


def _stem(word: str) -> str:
    """What `word` repeats: `password` for `passwordpassword`."""
    period = _shortest_period(word)
    return word[:period] if len(word) % period == 0 else word


def _shortest_period(text: str) -> int:
    return next(period for period in range(1, len(text) + 1) if text[period:] == text[: len(text) - period])
