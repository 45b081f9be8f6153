"""Why nothing was signed, or why what was signed must not be sent."""

from portal.errors import Conflict, Unavailable


class SignerNotActive(Conflict):
    """The signer has no key yet, or is disabled."""


class SignerUnavailable(Unavailable):
    """The key's keeper did not answer in time, cannot be reached or refused: as far as we know, nothing was signed."""


class SignatureNotOurs(Exception):
    """What came out of signing is not what went in: never send it."""
