"""What the keepers of remote keys share: which keys an organisation may use, and what becomes of no answer."""

from typing import NoReturn, Protocol

from portal.chain.signers.errors import SignerUnavailable
from portal.chain.signers.signatures import Signature

SIGN_SECONDS = 5
"""A key that takes longer holds up its lane, and nobody waits for it."""


class Keeper(Protocol):
    """Somebody else who has the key; a module is one. `organization` is the slug of whose signer it is."""

    async def read_address(self, reference: str, organization: str, /) -> str: ...
    async def sign_payload(self, reference: str, organization: str, address: str, payload: bytes, /) -> Signature: ...


def is_allowed(reference: str, organization: str, allowed: str) -> bool:
    """Whether `reference` is in a setting of `key` or `slug=key` entries, comma-separated, for this organisation."""
    entries = [entry.strip().rstrip("/") for entry in allowed.split(",")]
    return reference in entries or f"{organization}={reference}" in entries


def refuse(what: str, why: str) -> NoReturn:
    """Raise `SignerUnavailable` with a sentence that shows nothing of addresses or credentials."""
    raise SignerUnavailable(f"{what} {why} Nothing was signed; it is tried again.")
