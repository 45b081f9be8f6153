"""What an approval binds to: the SHA-256 of the exact call. Pure, and exact enough for a third party to recompute.

The canonical call is one JSON object in UTF-8, in the form of RFC 8785 (keys sorted, no white space, only `"`, `\\` and
control characters escaped), with exactly these members:

    arguments        array of {"name", "type", "value"} in the order of the ABI
    calldata         the bytes sent to the contract (to deploy: init code and encoded arguments), `0x` and lower hex
    chain_id         EIP-155 id
    function         canonical signature, `mint(address,uint256)`
    organization_id  UUID
    policy           {"number", "version_id"} of the policy version that it was proposed under
    signer           EIP-55 address that will send it
    to               EIP-55 address of the contract; null deploys
    value_wei        wei sent along
    version          "1"; another value would mean another list of members

Every integer, inside `arguments` too, is a decimal string, so that no reader can lose precision; bytes are `0x` and
lower hex; booleans are JSON booleans. UUIDs are in lower case with hyphens. The digest is the SHA-256 of those bytes.
"""

import hashlib
import hmac
import json
from typing import Any
from uuid import UUID

import msgspec

VERSION = 1


class CanonicalCall(msgspec.Struct, frozen=True, kw_only=True):
    """All that an approval covers. Changing any of it changes the digest."""

    organization_id: UUID
    chain_id: int
    to: str | None
    function: str
    arguments: list[dict[str, Any]]
    calldata: bytes
    value_wei: int
    policy_version_id: UUID
    policy_version_number: int
    signer: str


def canonical_bytes(call: CanonicalCall) -> bytes:
    """The bytes that are hashed. Raises `TypeError` for a value that has no exact form, such as a float."""
    document = {
        "arguments": call.arguments,
        "calldata": call.calldata,
        "chain_id": call.chain_id,
        "function": call.function,
        "organization_id": str(call.organization_id),
        "policy": {"number": call.policy_version_number, "version_id": str(call.policy_version_id)},
        "signer": call.signer,
        "to": call.to,
        "value_wei": call.value_wei,
        "version": VERSION,
    }
    return json.dumps(_exact(document), ensure_ascii=False, separators=(",", ":")).encode()


def digest_of(call: CanonicalCall) -> bytes:
    """SHA-256 of the canonical call, 32 bytes."""
    return hashlib.sha256(canonical_bytes(call)).digest()


def fingerprint(digest: bytes) -> str:
    """The first 8 bytes for a person to compare between two screens: `a1b2 c3d4 e5f6 0718`."""
    return digest[:8].hex(" ", 2)


def equals(digest: bytes, digest_hex: str) -> bool:
    """Whether `digest_hex` (`0x` and case do not matter) is `digest`; takes the same time wherever they differ."""
    given = digest_hex.lower().removeprefix("0x")
    return hmac.compare_digest(digest.hex().encode(), given.encode(errors="replace"))


def _utf16(name: str) -> bytes:
    """What keys are sorted by (RFC 8785, section 3.2.3): characters beyond U+FFFF come before some below it."""
    return name.encode("utf-16-be")


def _exact(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, (list, tuple)):
        return [_exact(item) for item in value]
    if isinstance(value, dict):
        return {name: _exact(value[name]) for name in sorted(value, key=_utf16)}
    raise TypeError(f"a {type(value).__name__} has no exact form in a canonical call")
