"""Keeps what was refused, so that it can be explained and, once the cause is mended, accepted after all.

Bounded per source, without waiting for the disk and shared by all that are refused at the same time: a flood of bad
deliveries must not slow the good ones down. For an address that is no source the same statements keep nothing.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.sealing import seal, unseal
from portal.settings import secret_key
from portal.signals.schemes import Headers
from portal.together import Together

PROVEN = ["address_not_allowed", "payload_invalid", "rate_limited", "signal_conflict", "source_paused"]
"""Causes that only a sender with a right signature is told. They have room of their own: whoever knows no more than an
address could otherwise push out what is waiting to be accepted."""
KEPT = 1000
"""Of a source: so many whose signature was right, and so many others."""
LARGE_BYTES = 32 * 1024
KEPT_LARGE_BYTES = 32 * 1024 * 1024
"""Of bodies above `LARGE_BYTES`, likewise; with 1,000 smaller ones and their headers, each kind holds 72 MB at most."""
MOST_HEADER_BYTES = 8 * 1024
"""No honest sender needs more to be verified, the query included; a delivery with more is kept without its body."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was refused, as it is kept if its source exists."""

    source_id: UUID
    cause: str
    detail: str
    external_id: str | None
    body_bytes: int
    body: bytes | None
    """None where it was not read or is over the source's cap."""
    headers: Headers
    """Those that the scheme reads; kept sealed, and only along with the body."""
    ip: str
    correlation_id: str
    at: datetime


RECORD = """
    WITH relaxed AS (SELECT set_config('synchronous_commit', 'off', true)),
         made AS (
             SELECT given.*, s.organization FROM relaxed,
                 unnest({}::uuid[], {}::uuid[], {}::text[], {}::text[], {}::text[], {}::bigint[], {}::bytea[],
                        {}::bytea[], {}::text[], {}::text[], {}::timestamptz[])
                 AS given (id, source, cause, detail, external_id, body_bytes, body, headers, ip,
                           correlation_id, at)
                 JOIN source s ON s.id = given.source),
         counted AS (
             INSERT INTO source_hour (organization, source, hour, outcome, number)
             SELECT organization, source, date_trunc('hour', at, 'UTC'), cause, count(*) FROM made
             GROUP BY 1, 2, 3, 4 ORDER BY 2, 3, 4
             ON CONFLICT (source, hour, outcome) DO UPDATE SET number = source_hour.number + excluded.number)
    INSERT INTO rejected_delivery (id, organization, source, cause, detail, external_id, body_bytes, body,
                                   headers, ip, correlation_id, received_at)
    SELECT id, organization, source, cause, detail, external_id, body_bytes, body, headers, ip, correlation_id,
           at FROM made"""


async def record(refusal: Refusal) -> None:
    """Keep the refusal among the newest of its source, and count it. Raises what the database driver raises."""
    await _recording.do(refusal, weight=len(refusal.body or b"") + 1024)


def seal_headers(rejected_id: UUID, headers: Headers) -> bytes:
    """Some headers are secrets, so they are readable only with the secret key and for this row."""
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return seal(secret_key(), msgspec.json.encode(pairs), purpose=_purpose(rejected_id))


def unseal_headers(rejected_id: UUID, sealed: bytes) -> Headers:
    """The headers of a kept refusal as they came. Raises `SealBroken`, `SettingInvalid`."""
    pairs = msgspec.json.decode(unseal(secret_key(), sealed, purpose=_purpose(rejected_id)), type=list[tuple[str, str]])
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def _purpose(rejected_id: UUID) -> str:
    return f"rejected:{rejected_id}"


async def _record_all(refusals: list[Refusal]) -> list[None]:
    ids = [new_id() for _ in refusals]
    bodies = [refusal.body if _is_modest(refusal.headers) else None for refusal in refusals]
    await run_sql(
        RECORD,
        ids,
        [refusal.source_id for refusal in refusals],
        [refusal.cause for refusal in refusals],
        [_storable(refusal.detail) for refusal in refusals],
        [refusal.external_id for refusal in refusals],
        [refusal.body_bytes for refusal in refusals],
        bodies,
        [
            seal_headers(id, refusal.headers) if body is not None else None
            for id, refusal, body in zip(ids, refusals, bodies, strict=True)
        ],
        [_storable(refusal.ip) for refusal in refusals],
        [refusal.correlation_id for refusal in refusals],
        [refusal.at for refusal in refusals],
    )
    await _make_room({refusal.source_id for refusal in refusals})
    large = {
        refusal.source_id for refusal, body in zip(refusals, bodies, strict=True) if body and len(body) > LARGE_BYTES
    }
    if large:
        await _drop_large_bodies(large)
    return [None] * len(refusals)


def _is_modest(headers: Headers) -> bool:
    return sum(len(name) + len(value) for name, value in headers) <= MOST_HEADER_BYTES


def _storable(text: str) -> str:
    """What a header may bring and PostgreSQL cannot hold as text."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


async def _make_room(source_ids: set[UUID]) -> None:
    # Skipping what is locked, so that two processes that make room for one source never wait for each other.
    await run_sql(
        """WITH relaxed AS (SELECT set_config('synchronous_commit', 'off', true))
           DELETE FROM rejected_delivery WHERE id IN (
               SELECT r.id
               FROM relaxed, unnest({}::uuid[]) AS asked (source), (VALUES (true), (false)) AS kind (proven),
                   LATERAL (
                       SELECT id FROM rejected_delivery
                       WHERE source = asked.source AND (cause = ANY({})) = kind.proven
                       ORDER BY id DESC OFFSET {}) AS past,
                   rejected_delivery r WHERE r.id = past.id FOR UPDATE OF r SKIP LOCKED)""",
        list(source_ids),
        PROVEN,
        KEPT,
    )


async def _drop_large_bodies(source_ids: set[UUID]) -> None:
    await run_sql(
        """WITH relaxed AS (SELECT set_config('synchronous_commit', 'off', true)),
                summed AS (
                    SELECT id, sum(body_bytes) OVER (PARTITION BY source, cause = ANY({}) ORDER BY id DESC) AS bytes
                    FROM rejected_delivery WHERE source = ANY({}) AND body_bytes > {} AND body IS NOT NULL)
           UPDATE rejected_delivery SET body = NULL, headers = NULL WHERE id IN (
               SELECT r.id FROM relaxed, summed, rejected_delivery r
               WHERE r.id = summed.id AND summed.bytes > {} FOR UPDATE OF r SKIP LOCKED)""",
        PROVEN,
        list(source_ids),
        LARGE_BYTES,
        KEPT_LARGE_BYTES,
    )


_recording: Together[Refusal, None] = Together(_record_all)
