"""Authenticated encryption of secrets at rest: AES-256-GCM (NIST SP 800-38D) with a key id for rotation.

Format: 1 byte version, 4 bytes key id, 12 bytes nonce, ciphertext and tag.
"""

import base64
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from portal.errors import SettingInvalid

VERSION = b"\x01"


class SealBroken(Exception):
    """The bytes were sealed for another purpose or were changed."""


def seal(key: str, plaintext: bytes, *, purpose: str) -> bytes:
    """Encrypt with the base64 `key`; only `unseal` with the same key and `purpose` gives the plaintext back."""
    raw = base64.b64decode(key)
    nonce = os.urandom(12)
    return VERSION + _id_of(raw) + nonce + AESGCM(raw).encrypt(nonce, plaintext, purpose.encode())


def unseal(key: str, sealed: bytes, *, purpose: str) -> bytes:
    """Decrypt what `seal` made. Raises `SettingInvalid` for another key, `SealBroken` for changed bytes."""
    raw = base64.b64decode(key)
    if sealed[:5] != VERSION + _id_of(raw):
        raise SettingInvalid("The data was encrypted with another key than the one in the settings.")
    try:
        return AESGCM(raw).decrypt(sealed[5:17], sealed[17:], purpose.encode())
    except InvalidTag as error:
        raise SealBroken(purpose) from error


def key_id(key: str) -> str:
    """8 hex digits that tell the base64 `key` from others and say nothing of it."""
    return _id_of(base64.b64decode(key)).hex()


def key_id_of(sealed: bytes) -> str:
    """The `key_id` of the key that this was sealed with."""
    return sealed[1:5].hex()


def _id_of(raw: bytes) -> bytes:
    return hashlib.sha256(b"key-id" + raw).digest()[:4]
