"""Makes keys, asks for those of others, signs, and says on a signer why it cannot sign just now. Worker only."""

import asyncio
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import asyncpg

from portal.chain.signers import aws_kms, local, web3signer
from portal.chain.signers.encoding import (
    SignedTransaction,
    TransactionFields,
    check_signed,
    encode_payload,
    encode_signed,
)
from portal.chain.signers.errors import SignatureNotOurs, SignerNotActive, SignerUnavailable
from portal.chain.signers.keepers import Keeper
from portal.chain.signers.signatures import Signature
from portal.chain.tables import Signer, SignerKind, SignerStatus
from portal.db.engine import run_sql
from portal.db.notices import announce
from portal.errors import SettingInvalid
from portal.sealing import SealBroken, key_id_of

PROBE = b"Signal Portal asks whether this key signs; this text is no transaction."
"""Signed when a remote key is checked: to read its address is one right at its keeper, to sign with it another."""
REMOTE: dict[str, Keeper] = {SignerKind.AWS_KMS: aws_kms, SignerKind.WEB3SIGNER: web3signer}
CHECKED_AT_ONCE = 500
"""Without their sealing key all end users' keys are in trouble: remote keys come first, then others at random."""
TAKEN = "Another signer has this key already. One key is one address, and has one signer."

_checked: set[UUID] = set()
"""Remote signers whose key this process has seen, so that each is checked again after a start."""
_failed: set[UUID] = set()
"""Signers that could not sign here since they were last checked."""

Row = dict[str, Any]
SIGNERS = """
    SELECT signer.id, signer.organization, signer.kind, signer.status, signer.address, signer.encrypted_key,
           signer.key_reference, signer.trouble, organization.slug
    FROM signer JOIN organization ON organization.id = signer.organization
"""
TO_CHECK = """
    SELECT id FROM signer WHERE kind <> 'local' OR trouble IS NOT NULL ORDER BY kind = 'local', random() LIMIT {}
"""


async def load_signers(signer_ids: Iterable[UUID]) -> dict[UUID, Row]:
    """What `sign` needs to know of each signer, by its id."""
    return {row["id"]: row for row in await run_sql(SIGNERS + "WHERE signer.id = ANY({}::uuid[])", list(signer_ids))}


async def sign(signer: Row, fields: TransactionFields) -> SignedTransaction:
    """Sign `fields` by one of `load_signers`; a remote key is asked over the network, for at most five seconds.

    The signed bytes are decoded again: they say exactly `fields` and recover to the signer's address, or
    `SignatureNotOurs` is raised. Raises `SignerNotActive` for a disabled or pending signer, `SignerUnavailable` where a
    remote key did not answer, `SealBroken` or `SettingInvalid` where a local one cannot be opened. All but the first
    are looked into by the next `check_signers` of this process.
    """
    if signer["status"] != SignerStatus.ACTIVE:
        raise SignerNotActive(f"The signer is {signer['status']}; only an active signer signs.")
    try:
        signed = encode_signed(fields, await _sign_payload(signer, signer["address"], encode_payload(fields)))
        check_signed(signed.raw, fields, signer["address"])
    except (SignerUnavailable, SignatureNotOurs, SealBroken, SettingInvalid):
        _failed.add(signer["id"])
        raise
    return signed


async def make_pending_keys() -> int:
    """Make every pending signer active that can be: how many were. Safe to run twice at once.

    A local one gets a key. Of a remote one the key's address is read and a signature tried; what is wrong with it is
    said on the signer, and it stays pending.
    """
    made = 0
    for row in await run_sql(SIGNERS + "WHERE signer.status = 'pending' AND signer.kind = 'local'"):
        address, sealed = local.make_key(row["id"])
        made += await _activate(
            row, {Signer.address: address, Signer.encrypted_key: sealed, Signer.sealed_with: key_id_of(sealed)}
        )
    remote = await run_sql(SIGNERS + "WHERE signer.status = 'pending' AND signer.kind <> 'local' LIMIT 20")
    return made + sum(await asyncio.gather(*(_adopt(row) for row in remote)))


async def check_signers() -> int:
    """Look whether signers can sign whose trouble is known or suspected, and once a process those with a remote key.

    What is wrong is said on the signer and goes away by itself. Returns of how many the trouble changed.
    """
    suspects = list(_failed)
    listed = await run_sql(TO_CHECK, CHECKED_AT_ONCE)
    rows = await run_sql(
        SIGNERS + "WHERE signer.status = 'active' AND signer.id = ANY({}::uuid[])",
        [*suspects, *(row["id"] for row in listed)],
    )
    due = [row for row in rows if row["trouble"] or row["id"] in _failed or row["id"] not in _checked]
    _failed.difference_update(suspects)
    return sum(await asyncio.gather(*(_check(row) for row in due)))


async def _check(signer: Row) -> bool:
    trouble = await _find_trouble(signer)
    if trouble is None:
        _checked.add(signer["id"])
    return trouble != signer["trouble"] and await _say(signer, trouble)


async def _find_trouble(signer: Row) -> str | None:
    if signer["kind"] == SignerKind.LOCAL:
        try:
            local.open_key(signer["id"], bytes(signer["encrypted_key"]))
        except SettingInvalid:
            return local.NO_KEY_FOR_IT
        except SealBroken:
            return local.CANNOT_OPEN
        return None
    address, trouble = await _try_remote(signer)
    if address is not None and address != signer["address"]:
        return f"Its key has the address {address} now, and is not used: it is another key than the one that was added."
    return trouble


async def _try_remote(signer: Row) -> tuple[str | None, str | None]:
    """The address of a remote key, as far as it could be read, and what keeps it from signing."""
    address = None
    try:
        address = await REMOTE[signer["kind"]].read_address(signer["key_reference"], signer["slug"])
        await _sign_payload(signer, address, PROBE)
    except SignerUnavailable as unavailable:
        return address, unavailable.detail
    except SignatureNotOurs as wrong:
        return address, f"{wrong} Nothing is signed with it."
    return address, None


async def _adopt(signer: Row) -> int:
    address, trouble = await _try_remote(signer)
    if address is not None and trouble is None:
        try:
            made = await _activate(signer, {Signer.address: address, Signer.trouble: None})
        except asyncpg.UniqueViolationError:
            trouble = TAKEN
        else:
            _checked.add(signer["id"])
            return made
    if trouble != signer["trouble"]:
        await _say(signer, trouble)
    return 0


async def _activate(signer: Row, change: dict[Any, Any]) -> int:
    changed = (
        await Signer.update({**change, Signer.status: SignerStatus.ACTIVE})
        .where(Signer.id == signer["id"], Signer.status == SignerStatus.PENDING)
        .returning(Signer.id)
    )
    if changed:
        announce("signer", signer["organization"])
    return len(changed)


async def _say(signer: Row, trouble: str | None) -> bool:
    changed = await run_sql(
        "UPDATE signer SET trouble = {} WHERE id = {} AND trouble IS DISTINCT FROM {} RETURNING id",
        *(trouble, signer["id"], trouble),
    )
    if changed:
        announce("signer", signer["organization"])
    return bool(changed)


async def _sign_payload(signer: Row, address: str, payload: bytes) -> Signature:
    if signer["kind"] == SignerKind.LOCAL:
        return local.sign_payload(signer["id"], bytes(signer["encrypted_key"]), payload)
    keeper = REMOTE[signer["kind"]]
    return await keeper.sign_payload(signer["key_reference"], signer["slug"], address, payload)
