"""The answer to a POST is kept for 24 hours and repeated for the same caller, key and request.

Follows the IETF draft "The Idempotency-Key HTTP Header Field": the same key with another request is refused with 422,
while the first one still runs with 409.
"""

from datetime import timedelta
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.tables import IdempotencyKey
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.errors import Conflict, InputInvalid, PortalError

KEPT = timedelta(hours=24)
ABANDONED = timedelta(minutes=2)
"""No request runs this long; one that has no answer by then died with its process."""
MAX_KEY = 255


class IdempotencyKeyInUse(Conflict):
    """The first request with this key has no answer yet."""


class IdempotencyKeyReused(PortalError):
    """The key came with another request before."""

    status = 422
    title = "The idempotency key belongs to another request"


class Fresh(msgspec.Struct, frozen=True):
    """Nobody answered this yet: carry it out, then `finish` or `release`."""

    id: UUID


class Replay(msgspec.Struct, frozen=True):
    """The answer that was given; give it again."""

    status: int
    content_type: str
    body: bytes


async def begin(caller: str, key: str, fingerprint: bytes) -> Fresh | Replay:
    """Claim `key` for this request of `caller` (an id), or find the answer to it; exactly one of many at once claims.

    `fingerprint` is a SHA-256 over method, path and body. Raises `InputInvalid`, `IdempotencyKeyInUse`,
    `IdempotencyKeyReused`. Must run outside a db transaction, so that others see the claim.
    """
    if not 1 <= len(key) <= MAX_KEY or not key.isprintable():
        raise InputInvalid.at("/headers/idempotency-key", f"The key is a text of 1 to {MAX_KEY} characters.")
    now, id = clock.now(), new_id()
    # An expired or abandoned key is claimed anew under another id, so that a late `finish` of the old one is void.
    claimed = await run_sql(
        """INSERT INTO idempotency_key AS k (id, caller, key, fingerprint, created_at) VALUES ({}, {}, {}, {}, {})
           ON CONFLICT (caller, key) DO UPDATE SET id = excluded.id, fingerprint = excluded.fingerprint,
             created_at = excluded.created_at, status = NULL, content_type = NULL, body = NULL
           WHERE k.created_at < {} OR (k.status IS NULL AND k.created_at < {} AND k.fingerprint = excluded.fingerprint)
           RETURNING id""",
        id,
        caller,
        key,
        fingerprint,
        now,
        now - KEPT,
        now - ABANDONED,
    )
    return Fresh(id) if claimed else await _find_answer(caller, key, fingerprint)


async def _find_answer(caller: str, key: str, fingerprint: bytes) -> Replay:
    row = await IdempotencyKey.select().where(IdempotencyKey.caller == caller, IdempotencyKey.key == key).first()
    if row is not None and bytes(row["fingerprint"]) != fingerprint:
        raise IdempotencyKeyReused("This Idempotency-Key came with another request before. Use a new key for this one.")
    if row is None or row["status"] is None:
        raise IdempotencyKeyInUse(
            "The first request with this Idempotency-Key is still running. Send it again in a moment.",
            retry_after_seconds=1,
        )
    return Replay(status=row["status"], content_type=row["content_type"], body=bytes(row["body"]))


async def finish(claim: Fresh, *, status: int, content_type: str, body: bytes) -> None:
    """Keep the answer for whoever sends the same again."""
    await IdempotencyKey.update(
        {
            IdempotencyKey.status: status,
            IdempotencyKey.content_type: content_type,
            IdempotencyKey.body: body,
        }
    ).where(IdempotencyKey.id == claim.id, IdempotencyKey.status.is_null())


async def release(claim: Fresh) -> None:
    """Give the key back: nothing was done, so the same request may be carried out later (after a 5xx or a crash)."""
    await IdempotencyKey.delete().where(IdempotencyKey.id == claim.id, IdempotencyKey.status.is_null())


async def prune() -> int:
    """Delete what is older than 24 hours; returns how many keys."""
    deleted = await (
        IdempotencyKey.delete().where(IdempotencyKey.created_at < clock.now() - KEPT).returning(IdempotencyKey.id)
    )
    return len(deleted)
