"""API keys: `sp_<prefix>_<secret><checksum>`.

The prefix finds the row and may be shown; of the secret (256 random bits) only the SHA-256 is stored; the checksum lets
a scanner know a leaked key for one of ours, and refuses a mistyped one without asking the database.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from datetime import datetime, timedelta
from uuid import UUID

from portal import clock
from portal.accounts.people import check_name
from portal.accounts.permissions import SCOPES, Permission
from portal.accounts.queries import get_api_key, scopes_of
from portal.accounts.schemas import Actor, ActorKind, ApiKeyView
from portal.accounts.tables import ApiKey
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import Conflict, Forbidden, InputInvalid

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX_LENGTH = 10
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
SHAPE = re.compile(rf"sp_([0-9A-Za-z]{{{PREFIX_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9A-Za-z]{{6}})", re.ASCII)
TOUCH = timedelta(minutes=1)


class ApiKeyRevoked(Conflict):
    """The key was revoked before."""


async def create_api_key(
    actor: Actor, name: str, scopes: list[str], expires_at: datetime | None = None
) -> tuple[ApiKeyView, str]:
    """A new key and its token, which is shown this once.

    Raises `InputInvalid` for a scope that a key cannot have, `Forbidden` for one that the actor does not have.
    """
    actor.require(Permission.API_KEYS_WRITE)
    granted = _check_scopes(actor, scopes)
    name = check_name(name, path="/name")
    if expires_at is not None and clock.in_utc(expires_at, path="/expires_at") <= clock.now():
        raise InputInvalid.at("/expires_at", "The key would have expired already.")
    prefix, secret = _random_text(PREFIX_LENGTH), _random_text(SECRET_LENGTH)
    id, body = new_id(), f"sp_{prefix}_{secret}"
    async with transaction():
        await ApiKey.insert(
            ApiKey(
                id=id,
                organization=actor.organization_id,
                name=name,
                prefix=prefix,
                secret_hash=_secret_hash(secret),
                scopes=[scope.value for scope in granted],
                created_by=await _maker(actor),
                created_at=clock.now(),
                expires_at=expires_at,
            )
        )
        detail = {"name": name, "prefix": prefix, "scopes": [scope.value for scope in granted]}
        await audit.append(actor, "api_key.created", "api_key", id, detail)
    return await get_api_key(actor.organization_id, id), body + checksum(body)


async def find_api_key(token: str) -> Actor | None:
    """The key as an actor with its scopes, or None: mistyped, unknown, revoked or expired.

    Notes at most once a minute that it was used.
    """
    shape = SHAPE.fullmatch(token)
    if shape is None or not hmac.compare_digest(checksum(token[:-CHECKSUM_LENGTH]), shape[3]):
        return None
    now = clock.now()
    rows = await run_sql(
        """SELECT id, organization, name, secret_hash, scopes, last_used_at FROM api_key
           WHERE prefix = {} AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > {})""",
        shape[1],
        now,
    )
    if not rows or not hmac.compare_digest(bytes(rows[0]["secret_hash"]), _secret_hash(shape[2])):
        return None
    row = rows[0]
    if row["last_used_at"] is None or row["last_used_at"] < now - TOUCH:
        await ApiKey.update({ApiKey.last_used_at: now}).where(
            ApiKey.id == row["id"], (ApiKey.last_used_at < now - TOUCH) | ApiKey.last_used_at.is_null()
        )
    return Actor(
        kind=ActorKind.API_KEY,
        organization_id=row["organization"],
        label=row["name"],
        permissions=frozenset(scopes_of(row["scopes"])),
        id=row["id"],
    )


async def revoke_api_key(actor: Actor, api_key_id: UUID) -> ApiKeyView:
    """End the key; its next request is refused. Raises `NotFound`, or `ApiKeyRevoked` if it was ended before."""
    actor.require(Permission.API_KEYS_WRITE)
    async with transaction():
        before = await get_api_key(actor.organization_id, api_key_id)
        revoked = (
            await ApiKey.update({ApiKey.revoked_at: clock.now()})
            .where(ApiKey.id == api_key_id, ApiKey.revoked_at.is_null())
            .returning(ApiKey.id)
        )
        if not revoked:
            raise ApiKeyRevoked(f"The key {before.name} was revoked before; nothing was changed.")
        await audit.append(
            actor, "api_key.revoked", "api_key", api_key_id, {"name": before.name, "prefix": before.prefix}
        )
    return await get_api_key(actor.organization_id, api_key_id)


def checksum(body: str) -> str:
    """CRC-32 of `sp_<prefix>_<secret>` in base 62, six characters."""
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        text = BASE62[digit] + text
    return text


async def _maker(actor: Actor) -> UUID | None:
    """The member behind the actor: a key that makes keys does not put itself between them and what they propose."""
    if actor.kind == ActorKind.API_KEY:
        rows = await ApiKey.select(ApiKey.created_by).where(ApiKey.id == actor.id)
        return rows[0]["created_by"] if rows else None
    return actor.id if actor.kind == ActorKind.MEMBER else None


def _check_scopes(actor: Actor, scopes: list[str]) -> list[Permission]:
    known = {scope.value: scope for scope in SCOPES}
    unknown = sorted(set(scopes) - set(known))
    if unknown or not scopes:
        raise InputInvalid.at(
            "/scopes",
            f"A key cannot have the scope {unknown[0]}." if unknown else "Give the key at least one scope.",
        )
    granted = sorted({known[scope] for scope in scopes})
    for scope in granted:
        if scope not in actor.permissions:
            raise Forbidden(f"Nobody can give a key more than they have: {actor.label} does not have {scope.value}.")
    return granted


def _random_text(length: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(length))


def _secret_hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
