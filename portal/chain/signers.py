"""The only place that holds key material: makes keys, seals them for the database, signs with them.

A key is plain only inside one of these functions. It is sealed with `settings.signer_key`, which only the worker has,
for the purpose of its signer's id, so that a sealed key moved to another row does not open.
"""

from collections.abc import Mapping
from uuid import UUID

import msgspec
from coincurve import PrivateKey
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from portal import clock
from portal.chain.tables import Signer, SignerPurpose, SignerStatus
from portal.chain.values import checksum_address
from portal.db.columns import new_id
from portal.db.engine import in_transaction, run_sql
from portal.db.notices import announce
from portal.errors import Conflict, NotFound
from portal.sealing import seal, unseal
from portal.settings import get_settings


class SignerNotActive(Conflict):
    """The signer has no key yet, or is disabled."""


class SignatureNotOurs(Exception):
    """What came out of signing is not what went in: never send it."""


class TransactionFields(msgspec.Struct, frozen=True):
    """Everything that an EIP-1559 transaction says; `to_address` None creates a contract."""

    chain_id: int
    nonce: int
    to_address: str | None
    value_wei: int
    data: bytes
    gas_limit: int
    max_fee_wei: int
    max_priority_fee_wei: int


class SignedTransaction(msgspec.Struct, frozen=True):
    raw: bytes
    hash: str
    """`0x` and lower-case hex."""


async def make_pending_keys() -> int:
    """Give every pending signer a key and make it active; how many were. Worker only. Safe to run twice at once."""
    made = 0
    for row in await Signer.select(Signer.id).where(Signer.status == SignerStatus.PENDING):
        address, sealed = _make_key(row["id"])
        changed = (
            await Signer.update(
                {Signer.address: address, Signer.encrypted_key: sealed, Signer.status: SignerStatus.ACTIVE}
            )
            .where(Signer.id == row["id"], Signer.status == SignerStatus.PENDING)
            .returning(Signer.organization)
        )
        made += len(changed)
        for signer in changed:
            announce("signer", signer["organization"])
    return made


class HoldingKey(msgspec.Struct, frozen=True):
    """A key that is to hold what an end user owns, sealed for a signer that is not stored yet."""

    signer_id: UUID
    address: str
    sealed: bytes


def new_holding_key() -> HoldingKey:
    """A fresh key; it is nobody's until `store_holding_keys`. Worker only."""
    signer_id = new_id()
    return HoldingKey(signer_id, *_make_key(signer_id))


async def store_holding_keys(organization_id: UUID, keys: Mapping[UUID, HoldingKey]) -> None:
    """Store the keys by the end users for whom they hold, each of whom has none yet (else `UniqueViolationError`).

    Must run inside the db transaction that writes the addresses to the end users.
    """
    assert in_transaction(), "a holding key is stored in the db transaction that uses it"
    await run_sql(
        """INSERT INTO signer (id, organization, name, purpose, status, end_user, address, encrypted_key, created_at)
           SELECT id, {}, 'Holds for end user ' || end_user, {}, {}, end_user, address, sealed, {}
           FROM unnest({}::uuid[], {}::uuid[], {}::text[], {}::bytea[]) AS made (id, end_user, address, sealed)""",
        *(organization_id, SignerPurpose.HOLDS.value, SignerStatus.ACTIVE.value, clock.now()),
        [key.signer_id for key in keys.values()],
        list(keys),
        [key.address for key in keys.values()],
        [key.sealed for key in keys.values()],
    )


async def sign(signer_id: UUID, fields: TransactionFields) -> SignedTransaction:
    """Sign `fields` as an EIP-1559 transaction. Worker only; makes no network call.

    The signed bytes are decoded again: they say exactly `fields` and recover to the signer's address, or
    `SignatureNotOurs` is raised. Raises `SignerNotActive` for a disabled or pending signer, `NotFound` for none.
    """
    rows = await Signer.select(Signer.status, Signer.address, Signer.encrypted_key).where(Signer.id == signer_id)
    if not rows:
        raise NotFound("There is no such signer.")
    signer = rows[0]
    if signer["status"] != SignerStatus.ACTIVE:
        raise SignerNotActive(f"The signer is {signer['status']}; only an active signer signs.")
    signed = Account.sign_transaction(_transaction(fields), _open_key(signer_id, bytes(signer["encrypted_key"])))
    raw = bytes(signed.raw_transaction)
    _check(raw, fields, signer["address"])
    return SignedTransaction(raw=raw, hash="0x" + bytes(signed.hash).hex())


def _make_key(signer_id: UUID) -> tuple[str, bytes]:
    key = PrivateKey()  # of the system's random bytes; without eth-account's own detours
    address = checksum_address("0x" + keccak(key.public_key.format(compressed=False)[1:])[-20:].hex())
    return address, seal(_sealing_key(), key.secret, purpose=_purpose(signer_id))


def _open_key(signer_id: UUID, sealed: bytes) -> bytes:
    return unseal(_sealing_key(), sealed, purpose=_purpose(signer_id))


def _sealing_key() -> str:
    settings = get_settings()
    settings.require("signer_key")
    assert settings.signer_key
    return settings.signer_key


def _purpose(signer_id: UUID) -> str:
    return f"signer-key:{signer_id}"


def _transaction(fields: TransactionFields) -> dict[str, object]:
    shape: dict[str, object] = {
        "type": 2,
        "chainId": fields.chain_id,
        "nonce": fields.nonce,
        "value": fields.value_wei,
        "data": fields.data,
        "gas": fields.gas_limit,
        "maxFeePerGas": fields.max_fee_wei,
        "maxPriorityFeePerGas": fields.max_priority_fee_wei,
    }
    return shape | ({"to": fields.to_address} if fields.to_address else {})


def _check(raw: bytes, fields: TransactionFields, address: str) -> None:
    if read_fields(raw) != fields or Account.recover_transaction(raw) != address:
        raise SignatureNotOurs("The signed bytes are not the transaction that was to be signed.")


def read_fields(raw: bytes) -> TransactionFields:
    """What signed EIP-1559 bytes say, whoever signed them. Raises `SignatureNotOurs` for any other bytes."""
    try:
        said = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        assert said["type"] == 2
        assert not said["accessList"]
        return TransactionFields(
            chain_id=said["chainId"],
            nonce=said["nonce"],
            to_address=to_checksum_address(bytes(said["to"])) if said["to"] else None,
            value_wei=said["value"],
            data=bytes(said["data"]),
            gas_limit=said["gas"],
            max_fee_wei=said["maxFeePerGas"],
            max_priority_fee_wei=said["maxPriorityFeePerGas"],
        )
    except Exception as error:
        # The decoder raises whatever its parts raise; anything means the same here.
        raise SignatureNotOurs("These bytes are not a signed EIP-1559 transaction.") from error
