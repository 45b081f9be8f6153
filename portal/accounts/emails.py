"""E-mail addresses as names to sign in with."""

import re

from portal.errors import InputInvalid

# ASCII only: two addresses that look alike in print are then two addresses in the database, too.
ADDRESS = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([a-z0-9](-?[a-z0-9])*\.)+[a-z0-9](-?[a-z0-9])*")
MAX_LENGTH = 254


def normal_email(text: str, *, path: str = "/email") -> str:
    """`text` trimmed and in lower case. Raises `InputInvalid` at `path` if it is not an e-mail address."""
    email = text.strip().lower()
    if len(email) > MAX_LENGTH or not ADDRESS.fullmatch(email):
        raise InputInvalid.at(path, "This is not an e-mail address, such as ada@example.org.")
    return email
