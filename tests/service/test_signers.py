"""Keys: made by the worker only, sealed for one row, and what they sign is what was asked for."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from coincurve import PrivateKey
from eth_account import Account
from hexbytes import HexBytes

from portal import clock
from portal.accounts.tables import EndUser
from portal.chain.jobs import make_signer_keys
from portal.chain.queries import get_signer, list_signers
from portal.chain.service import insert_signer
from portal.chain.signers import (
    SignatureNotOurs,
    SignerNotActive,
    TransactionFields,
    local,
    make_pending_keys,
    new_holding_key,
    read_fields,
    store_holding_keys,
)
from portal.chain.tables import Signer, SignerPurpose, SignerStatus
from portal.db.columns import new_id
from portal.db.engine import transaction
from portal.errors import NotFound, SettingInvalid
from portal.sealing import SealBroken
from portal.settings import Settings
from tests.keepers import sign
from tests.people import Cast

FIELDS = TransactionFields(
    chain_id=31337,
    nonce=7,
    to_address="0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    value_wei=3,
    data=b"\x12\x34",
    gas_limit=50_000,
    max_fee_wei=10**10,
    max_priority_fee_wei=10**9,
)
CREATION = TransactionFields(1, 0, None, 0, b"\xfe", 10**6, 2**64, 0)


async def make_signer(cast: Cast, name: str = "Treasury") -> Any:
    async with transaction():
        return await insert_signer(cast.organization_id, name)


async def make_end_user(cast: Cast) -> Any:
    id = new_id()
    await EndUser.insert(
        EndUser(
            id=id, organization=cast.organization_id, subject=str(id), name="Erin", address=None, created_at=clock.now()
        )
    )
    return id


async def test_a_signer_waits_for_the_worker_and_then_signs(cast: Cast) -> None:
    id = await make_signer(cast)
    waiting = await get_signer(cast.organization_id, id)
    assert (waiting.status, waiting.address, waiting.purpose) == ("pending", None, "sends")
    with pytest.raises(SignerNotActive, match="pending"):
        await sign(id, FIELDS)

    assert await make_signer_keys() == 1
    assert await make_signer_keys() == 0
    active = await get_signer(cast.organization_id, id)
    assert active.status == "active"
    for fields in (FIELDS, CREATION):
        signed = await sign(id, fields)
        assert read_fields(signed.raw) == fields
        assert Account.recover_transaction(HexBytes(signed.raw)) == active.address
        assert (await sign(id, fields)).hash == signed.hash, "the same bytes again (RFC 6979)"


async def test_two_workers_make_one_key(cast: Cast) -> None:
    id = await make_signer(cast)
    assert sum(await asyncio.gather(*(make_pending_keys() for _ in range(5)))) == 1
    address = (await get_signer(cast.organization_id, id)).address
    assert Account.recover_transaction(HexBytes((await sign(id, FIELDS)).raw)) == address


async def test_no_key_is_readable_in_the_database(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PrivateKey] = []
    monkeypatch.setattr(local, "PrivateKey", lambda: made.append(PrivateKey()) or made[-1])
    await make_signer(cast)
    await make_pending_keys()
    row = (await Signer.select())[0]
    key = made[0].secret
    assert Account.from_key(key).address == row["address"]
    assert key not in bytes(row["encrypted_key"])
    assert key.hex() not in repr(row)


async def test_a_key_moved_to_another_signer_does_not_open(cast: Cast) -> None:
    rich, poor = await make_signer(cast, "Rich"), await make_signer(cast, "Poor")
    await make_pending_keys()
    sealed = (await Signer.select(Signer.encrypted_key).where(Signer.id == rich))[0]["encrypted_key"]
    await Signer.update({Signer.encrypted_key: sealed}).where(Signer.id == poor)
    with pytest.raises(SealBroken):
        await sign(poor, FIELDS)


async def test_an_address_changed_in_the_database_is_noticed_before_anything_is_sent(cast: Cast) -> None:
    id = await make_signer(cast)
    await make_pending_keys()
    await Signer.update({Signer.address: FIELDS.to_address}).where(Signer.id == id)
    with pytest.raises(SignatureNotOurs):
        await sign(id, FIELDS)


async def test_a_disabled_signer_signs_nothing(cast: Cast) -> None:
    id = await make_signer(cast)
    await make_pending_keys()
    await Signer.update({Signer.status: SignerStatus.DISABLED}).where(Signer.id == id)
    with pytest.raises(SignerNotActive, match="disabled"):
        await sign(id, FIELDS)


async def test_the_web_process_can_neither_make_nor_use_a_key(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await make_signer(cast)
    await make_pending_keys()
    monkeypatch.setattr(local, "get_settings", lambda: Settings(signer_key=None))
    with pytest.raises(SettingInvalid, match="PORTAL_SIGNER_KEY"):
        await sign(id, FIELDS)
    await make_signer(cast)
    with pytest.raises(SettingInvalid, match="PORTAL_SIGNER_KEY"):
        await make_pending_keys()


async def test_an_end_user_has_one_holding_key(cast: Cast) -> None:
    people = [await make_end_user(cast) for _ in range(3)]
    keys = {person: new_holding_key() for person in people}
    async with transaction():
        await store_holding_keys(cast.organization_id, keys)
    with pytest.raises(asyncpg.UniqueViolationError):
        async with transaction():
            await store_holding_keys(cast.organization_id, {people[0]: new_holding_key()})
    assert (await list_signers(cast.organization_id)).items == []
    held = (await list_signers(cast.organization_id, purpose=SignerPurpose.HOLDS)).items
    assert {(each.id, each.address, each.end_user_id, each.status) for each in held} == {
        (key.signer_id, key.address, person, "active") for person, key in keys.items()
    }
    for signer in held:
        signed = await sign(signer.id, FIELDS)
        assert Account.recover_transaction(HexBytes(signed.raw)) == signer.address


async def test_a_holding_key_that_was_rolled_back_never_was(cast: Cast) -> None:
    end_user = await make_end_user(cast)
    with suppress(ZeroDivisionError):
        async with transaction():
            await store_holding_keys(cast.organization_id, {end_user: new_holding_key()})
            raise ZeroDivisionError
    assert (await list_signers(cast.organization_id, purpose=SignerPurpose.HOLDS)).items == []


async def test_signers_of_another_organisation_do_not_exist(cast: Cast) -> None:
    id = await make_signer(cast)
    other = cast.dave.actor.organization_id
    with pytest.raises(NotFound):
        await get_signer(other, id)
    assert (await list_signers(other)).items == []
