"""Keys in our own database, each sealed with a key that only the worker has.

A key is plain only inside one of these functions. It is sealed with `settings.signer_key` for the purpose of its
signer's id, so that a sealed key moved to another row does not open. While `settings.signer_key_previous` is given,
what is sealed with that one opens, too, and is sealed anew.
"""

from collections.abc import Mapping
from uuid import UUID

import msgspec
from coincurve import PrivateKey
from eth_utils.crypto import keccak

from portal import clock
from portal.chain.signers.signatures import Signature, address_of
from portal.chain.tables import SignerPurpose, SignerStatus
from portal.db.columns import new_id
from portal.db.engine import in_transaction, run_sql, transaction
from portal.sealing import SealBroken, key_id, key_id_of, seal, unseal
from portal.settings import get_settings

RESEALED_AT_ONCE = 500
CANNOT_OPEN = "Its key cannot be opened: it was changed, or belongs to another signer. Nothing is signed with it."
NO_KEY_FOR_IT = (
    "Its key was encrypted with another PORTAL_SIGNER_KEY than the worker has. Give that one to the worker as "
    "PORTAL_SIGNER_KEY_PREVIOUS."
)


class HoldingKey(msgspec.Struct, frozen=True):
    """A key that is to hold what an end user owns, sealed for a signer that is not stored yet."""

    signer_id: UUID
    address: str
    sealed: bytes


def make_key(signer_id: UUID) -> tuple[str, bytes]:
    """A fresh key: its address, and the key sealed for this signer. Worker only."""
    key = PrivateKey()  # of the system's random bytes; without eth-account's own detours
    return address_of(key.public_key), seal(sealing_keys()[0], key.secret, purpose=_purpose(signer_id))


def new_holding_key() -> HoldingKey:
    """A fresh key; it is nobody's until `store_holding_keys`. Worker only."""
    signer_id = new_id()
    return HoldingKey(signer_id, *make_key(signer_id))


async def store_holding_keys(organization_id: UUID, keys: Mapping[UUID, HoldingKey]) -> None:
    """Store the keys by the end users for whom they hold, each of whom has none yet (else `UniqueViolationError`).

    Must run inside the db transaction that writes the addresses to the end users.
    """
    assert in_transaction(), "a holding key is stored in the db transaction that uses it"
    await run_sql(
        """INSERT INTO signer (id, organization, name, purpose, status, end_user, address, encrypted_key, sealed_with,
                               created_at)
           SELECT id, {}, 'Holds for end user ' || end_user, {}, {}, end_user, address, sealed, sealed_with, {}
           FROM unnest({}::uuid[], {}::uuid[], {}::text[], {}::bytea[], {}::text[])
                AS made (id, end_user, address, sealed, sealed_with)""",
        *(organization_id, SignerPurpose.HOLDS.value, SignerStatus.ACTIVE.value, clock.now()),
        [key.signer_id for key in keys.values()],
        list(keys),
        [key.address for key in keys.values()],
        [key.sealed for key in keys.values()],
        [key_id_of(key.sealed) for key in keys.values()],
    )


def sign_payload(signer_id: UUID, sealed: bytes, payload: bytes) -> Signature:
    """Sign the Keccak-256 of `payload`, deterministically (RFC 6979). Raises what `open_key` raises."""
    signed = PrivateKey(open_key(signer_id, sealed)).sign_recoverable(keccak(payload), hasher=None)
    return Signature(int.from_bytes(signed[:32], "big"), int.from_bytes(signed[32:64], "big"), signed[64])


def open_key(signer_id: UUID, sealed: bytes) -> bytes:
    """The plain key. Raises `SettingInvalid` without the key it is sealed with, `SealBroken` for changed bytes."""
    keys = sealing_keys()
    fitting = next((key for key in keys if key_id(key) == key_id_of(sealed)), keys[0])
    return unseal(fitting, sealed, purpose=_purpose(signer_id))


async def reseal_keys() -> int:
    """Seal anew a batch of what is sealed with the previous sealing key; how many keys. Worker only.

    A key that neither opens is said on its signer. Safe to run twice at once.
    """
    keys = sealing_keys()
    await _name_unopened(sorted(key_id(key) for key in keys))
    if len(keys) == 1:
        return 0
    current, previous = keys
    done: dict[UUID, bytes] = {}
    async with transaction():
        for row in await run_sql(
            """SELECT id, encrypted_key FROM signer WHERE sealed_with = {} AND trouble IS NULL
               ORDER BY id LIMIT {} FOR NO KEY UPDATE SKIP LOCKED""",
            key_id(previous),
            RESEALED_AT_ONCE,
        ):
            try:
                plain = unseal(previous, bytes(row["encrypted_key"]), purpose=_purpose(row["id"]))
            except SealBroken:
                await run_sql("UPDATE signer SET trouble = {} WHERE id = {}", CANNOT_OPEN, row["id"])
            else:
                done[row["id"]] = seal(current, plain, purpose=_purpose(row["id"]))
        await run_sql(
            """UPDATE signer SET encrypted_key = sealed, sealed_with = {}
               FROM unnest({}::uuid[], {}::bytea[]) AS made (made_for, sealed) WHERE signer.id = made_for""",
            key_id(current),
            list(done),
            list(done.values()),
        )
    return len(done)


async def _name_unopened(known: list[str]) -> None:
    """Say on signers that none of the keys that are known fits, and take it back where one does by now."""
    low, high = known[0], known[-1]
    await run_sql(  # as ranges, which the index of `sealed_with` answers
        """UPDATE signer SET trouble = {} WHERE trouble IS NULL AND
             (sealed_with < {} OR (sealed_with > {} AND sealed_with < {}) OR sealed_with > {})""",
        NO_KEY_FOR_IT,
        *(low, low, high, high),
    )
    await run_sql(
        "UPDATE signer SET trouble = NULL WHERE trouble = {} AND sealed_with = ANY({}::text[])", NO_KEY_FOR_IT, known
    )


def sealing_keys() -> list[str]:
    """What keys are sealed with now, then the one before it, if it is given. Raises `SettingInvalid` without any."""
    settings = get_settings()
    settings.require("signer_key")
    return [key for key in (settings.signer_key, settings.signer_key_previous) if key]


def _purpose(signer_id: UUID) -> str:
    return f"signer-key:{signer_id}"
