"""Sealed secrets come back whole, and only to whom they were sealed for."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.errors import SettingInvalid
from portal.sealing import SealBroken, seal, unseal

KEY, OTHER = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))


@given(st.binary(max_size=300), st.text(max_size=40))
def test_what_was_sealed_comes_back(secret: bytes, purpose: str) -> None:
    assert unseal(KEY, seal(KEY, secret, purpose=purpose), purpose=purpose) == secret


@given(st.integers(min_value=5), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(position: int, flip: int) -> None:
    sealed = bytearray(seal(KEY, b"secret", purpose="test"))
    sealed[5 + position % (len(sealed) - 5)] ^= flip
    with pytest.raises(SealBroken):
        unseal(KEY, bytes(sealed), purpose="test")


def test_a_seal_cannot_be_moved_to_another_row() -> None:
    with pytest.raises(SealBroken):
        unseal(KEY, seal(KEY, b"secret", purpose="source-secret:1"), purpose="source-secret:2")


def test_another_key_is_named_as_the_reason() -> None:
    with pytest.raises(SettingInvalid, match="another key"):
        unseal(OTHER, seal(KEY, b"secret", purpose="test"), purpose="test")


def test_the_same_secret_never_looks_the_same_twice() -> None:
    assert seal(KEY, b"secret", purpose="test") != seal(KEY, b"secret", purpose="test")
