"""Keys behind the eth1 signing API of Web3Signer, or of what is compatible with it.

`POST {base}/api/v1/eth1/sign/{public key}` with `{"data": "0x..."}` hashes the data with Keccak-256 itself and answers
with 65 bytes in hex, r, s and v; `GET {base}/api/v1/eth1/publicKeys` lists the keys (Web3Signer's OpenAPI document,
eth1). A reference here is `base#public key`. Only the bases of the worker's setting PORTAL_WEB3SIGNER_URLS are ever
asked, exactly as they stand there, without redirects and proxies: what an administrator names opens no other door.
"""

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from eth_utils.crypto import keccak

from portal.chain.signers.keepers import SIGN_SECONDS, is_allowed, refuse
from portal.chain.signers.signatures import Signature, address_of, complete, read_public_key
from portal.settings import get_settings

MOST_BYTES = 2**20
WHAT = "The signing service"
SIGNATURE = re.compile(rb'"?0x([0-9a-fA-F]{130})"?\s*')
PUBLIC_KEY = re.compile(r"(?:0x)?(?:04)?([0-9a-fA-F]{128})")


def make_reference(base: str, public_key: str) -> str:
    """The key behind a service at a base address. Raises what `check_url` and `check_public_key` raise."""
    return f"{check_url(base)}#0x{check_public_key(public_key)}"


def check_url(text: str) -> str:
    """The base address of a service without its last slash. Raises `ValueError` with a readable reason."""
    base = text.strip().rstrip("/")
    url = urlsplit(base)
    if url.scheme not in ("http", "https") or not url.hostname or not base.isprintable() or "," in base:
        raise ValueError("it must be of the form https://signer.example.org:9000")
    if url.username or url.password or url.query or url.fragment or "#" in base or "?" in base:
        raise ValueError("it must hold neither a user nor anything after ? or #")
    return base


def check_public_key(text: str) -> str:
    """The 128 hex digits of a key's point. Raises `ValueError` with a readable reason."""
    found = PUBLIC_KEY.fullmatch(text.strip())
    try:
        assert found
        read_public_key(bytes.fromhex(found[1]))
    except (AssertionError, ValueError):
        raise ValueError("it must be 0x and 128 hex digits, as the service lists it") from None
    return found[1].lower()


def address_in(reference: str) -> str:
    """The EIP-55 address of the key that a reference names."""
    return address_of(read_public_key(bytes.fromhex(_key(reference)[2:])))


async def read_address(reference: str, organization: str) -> str:
    """The address of the key, once the service says that it has it. Raises `SignerUnavailable`."""
    answer = await _ask(reference, organization, "GET", "/api/v1/eth1/publicKeys")
    try:
        listed = {key.lower().removeprefix("0x") for key in msgspec.json.decode(answer, type=list[str])}
    except msgspec.DecodeError:
        refuse(WHAT, "answers something else than a list of keys.")
    if _key(reference)[2:] not in listed:
        refuse(WHAT, "does not have this key.")
    return address_in(reference)


async def sign_payload(reference: str, organization: str, address: str, payload: bytes) -> Signature:
    """Sign the Keccak-256 of `payload`. Raises `SignerUnavailable`, `SignatureNotOurs` for another's key."""
    path = f"/api/v1/eth1/sign/{_key(reference)}"
    answer = await _ask(reference, organization, "POST", path, {"data": "0x" + payload.hex()})
    found = SIGNATURE.fullmatch(answer)
    if not found:
        refuse(WHAT, "answers something else than a signature.")
    r, s = (int(found[1][place : place + 64], 16) for place in (0, 64))
    return complete(keccak(payload), r, s, address)


def _key(reference: str) -> str:
    return reference.rpartition("#")[2]


async def _ask(reference: str, organization: str, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    base = reference.rpartition("#")[0]
    if not is_allowed(base, organization, get_settings().web3signer_urls):
        refuse(WHAT, "was not asked: the worker's setting PORTAL_WEB3SIGNER_URLS does not allow this address.")
    try:
        async with (
            asyncio.timeout(SIGN_SECONDS),
            aiohttp.ClientSession(trust_env=False) as session,
            session.request(method, base + path, json=body, allow_redirects=False) as response,
        ):
            if response.status != 200:
                refuse(WHAT, f"refuses with HTTP status {response.status}.")
            answer = b""
            async for part in response.content.iter_any():
                answer += part
                if len(answer) > MOST_BYTES:
                    refuse(WHAT, "answers more than is read.")
            return answer
    except TimeoutError:
        refuse(WHAT, f"did not answer within {SIGN_SECONDS} seconds.")
    except aiohttp.ClientError:
        refuse(WHAT, "cannot be reached.")
