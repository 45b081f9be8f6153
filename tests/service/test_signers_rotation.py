"""Another sealing key: keys are sealed anew while everything signs, and nobody has to guess when the old one can go."""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from portal.chain.jobs import reseal_signer_keys
from portal.chain.queries import get_signer
from portal.chain.service import insert_signer
from portal.chain.signers import TransactionFields, check_signers, local, make_pending_keys, service
from portal.chain.tables import Signer
from portal.db.engine import transaction
from portal.errors import SettingInvalid
from portal.ops import checks
from portal.sealing import SealBroken, key_id, unseal
from portal.settings import get_settings
from tests.keepers import given_settings, sign
from tests.people import Cast

FIELDS = TransactionFields(31337, 7, None, 0, b"\xfe", 50_000, 10**10, 10**9)
NEW = base64.b64encode(os.urandom(32)).decode()
OLD = get_settings().signer_key or ""


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    service._checked.clear()
    service._failed.clear()
    checks._kept.clear()
    yield
    checks._kept.clear()


async def make_signers(cast: Cast, number: int) -> list[UUID]:
    async with transaction():
        ids = [await insert_signer(cast.organization_id, f"Signer {place}") for place in range(number)]
    await make_pending_keys()
    return ids


@contextmanager
def rotated(**changes: Any) -> Iterator[None]:
    with given_settings(signer_key=NEW, signer_key_previous=OLD, **changes):
        yield


async def told() -> checks.Check:
    checks._kept.clear()
    return next(check for check in await checks.check_installation() if check.name == "sealing of keys")


async def test_keys_are_sealed_anew_and_sign_before_during_and_after(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "RESEALED_AT_ONCE", 2)
    ids = await make_signers(cast, 5)
    before = {id: (await sign(id, FIELDS)).hash for id in ids}
    with rotated():
        assert {id: (await sign(id, FIELDS)).hash for id in ids} == before, "still sealed with the previous one"
        assert await local.reseal_keys() == 2
        assert {id: (await sign(id, FIELDS)).hash for id in ids} == before, "some with each"
        assert (await told()).state == checks.State.DEGRADED
        assert await reseal_signer_keys() == 3
        assert await reseal_signer_keys() == 0
    assert (await told()).state == checks.State.OK
    assert key_id(NEW) in (await told()).message
    with given_settings(signer_key=NEW):
        assert {id: (await sign(id, FIELDS)).hash for id in ids} == before, "the old key is not needed any more"
    with pytest.raises(SettingInvalid):
        await sign(ids[0], FIELDS)  # with the old one alone


async def test_what_a_reading_of_the_database_gives_is_still_sealed(cast: Cast) -> None:
    [id] = await make_signers(cast, 1)
    with rotated():
        await reseal_signer_keys()
    sealed = bytes((await Signer.select(Signer.encrypted_key).where(Signer.id == id))[0]["encrypted_key"])
    with pytest.raises(SettingInvalid):
        unseal(OLD, sealed, purpose=f"signer-key:{id}")
    with pytest.raises(SealBroken):
        unseal(NEW, sealed, purpose="signer-key:another")


async def test_a_worker_without_the_old_key_says_so_on_the_signer_until_it_has_it(cast: Cast) -> None:
    [id] = await make_signers(cast, 1)
    with given_settings(signer_key=NEW):
        assert await reseal_signer_keys() == 0
        assert "PORTAL_SIGNER_KEY_PREVIOUS" in ((await get_signer(cast.organization_id, id)).trouble or "")
        with pytest.raises(SettingInvalid):
            await sign(id, FIELDS)
        assert await check_signers() == 0, "it is said already"
    with rotated():
        assert await check_signers() == 1
        assert (await get_signer(cast.organization_id, id)).trouble is None
        assert await reseal_signer_keys() == 1
        await sign(id, FIELDS)


async def test_keys_of_end_users_are_sealed_anew_once_the_old_key_is_given(cast: Cast) -> None:
    ids = await make_signers(cast, 3)
    with given_settings(signer_key=NEW):
        await reseal_signer_keys()
    with rotated():
        assert await reseal_signer_keys() == 3, "without waiting for anything else to look at them"
        for id in ids:
            assert (await get_signer(cast.organization_id, id)).trouble is None


async def test_a_spoilt_key_is_said_and_keeps_no_other_from_being_sealed_anew(cast: Cast) -> None:
    spoilt, sound, moved = await make_signers(cast, 3)
    await Signer.update({Signer.encrypted_key: await sealed_of(moved)}).where(Signer.id == spoilt)
    with rotated():
        assert await reseal_signer_keys() == 2
        assert "cannot be opened" in ((await get_signer(cast.organization_id, spoilt)).trouble or "")
        for id in (sound, moved):
            assert (await get_signer(cast.organization_id, id)).trouble is None
            await sign(id, FIELDS)


async def test_a_key_that_does_not_open_when_it_signs_is_said_and_goes_away_by_itself(cast: Cast) -> None:
    [id] = await make_signers(cast, 1)
    good = await sealed_of(id)
    await Signer.update({Signer.encrypted_key: good[:-1] + bytes([good[-1] ^ 1])}).where(Signer.id == id)
    with pytest.raises(SealBroken):
        await sign(id, FIELDS)
    assert await check_signers() == 1
    assert "cannot be opened" in ((await get_signer(cast.organization_id, id)).trouble or "")
    await Signer.update({Signer.encrypted_key: good}).where(Signer.id == id)
    assert await check_signers() == 1
    assert (await get_signer(cast.organization_id, id)).trouble is None
    await sign(id, FIELDS)


async def sealed_of(signer_id: UUID) -> bytes:
    return bytes((await Signer.select(Signer.encrypted_key).where(Signer.id == signer_id))[0]["encrypted_key"])
