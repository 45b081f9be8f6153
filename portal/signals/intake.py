"""Takes deliveries in: verified, stored once, and only then acknowledged.

Order matters. What reveals nothing about sources is refused first (headers), then the source is looked up, then the
signature is verified, with a dummy secret where there is no such source. Only an authentic sender learns anything else.
"""

import hashlib
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.schemas import system_actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import PortalError
from portal.jobs.queue import ring
from portal.logging import correlation_id
from portal.sealing import unseal
from portal.settings import get_settings
from portal.signals import schemes
from portal.signals.errors import BodyTooLarge, SignalConflict, SignatureInvalid, SourcePaused
from portal.signals.metrics import DELIVERIES, STAGE_SECONDS
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.schemas import DEFAULT_BODY_BYTES, Receipt
from portal.signals.schemes import Headers, Verified
from portal.signals.tables import SignalStatus, SourceStatus

KEPT_REJECTIONS = 1000


class ActiveSecret(msgspec.Struct, frozen=True):
    """A secret that the source signs with now, decrypted."""

    id: UUID
    text: str
    last_used_at: datetime | None


class Sender(msgspec.Struct, frozen=True):
    """A source as the intake needs it. `organization_id` is None for an address that is no source."""

    id: UUID
    organization_id: UUID | None
    scheme: str
    status: str
    body_cap_bytes: int
    secrets: list[ActiveSecret]
    """The newest first."""


async def receive(source_id: UUID | str, headers: Headers, body: bytes, ip: str) -> Receipt:
    """Verify and store one delivery; returns only after the commit.

    A body that is not readable JSON is stored as `quarantined`. Raises `HeadersInvalid`, `SignatureInvalid` (for an
    unknown source too), `BodyTooLarge`, `SourcePaused`, `SignalConflict`, each recorded with the source, if it exists.
    """
    with STAGE_SECONDS.labels("receive").time():
        id, sender = _as_id(source_id), None
        try:
            schemes.check_headers(headers)
            sender = await _find_sender(id, headers)
            receipt = await _take_in(sender, headers, body)
        except PortalError as error:
            await _record_rejection(id, headers, body, ip, error)
            DELIVERIES.labels(sender.scheme if sender else "unknown", error.code).inc()
            raise
    DELIVERIES.labels(sender.scheme, "duplicate" if receipt.duplicate else receipt.status.value).inc()
    if receipt.status == SignalStatus.RECEIVED and not receipt.duplicate:
        ring("assess_signals")
    return receipt


async def _take_in(sender: Sender, headers: Headers, body: bytes) -> Receipt:
    now = clock.now()
    verified = schemes.verify(sender.scheme, None, headers, body, [secret.text for secret in sender.secrets], now=now)
    if sender.organization_id is None:
        raise SignatureInvalid("there is no such source")
    if len(body) > sender.body_cap_bytes:
        raise BodyTooLarge(f"The body has {len(body)} bytes; at most {sender.body_cap_bytes} are taken.")
    if sender.status == SourceStatus.PAUSED:
        raise SourcePaused("The source is paused, so the delivery was not stored. Send it again once it is resumed.")
    receipt = await _store(sender, headers, body, verified, now)
    await _touch_secret(sender.secrets[verified.secret_index], now)
    return receipt


def _as_id(source_id: UUID | str) -> UUID:
    """The id; one that no source has for a text that is no id, so that it goes the way of an unknown source."""
    try:
        return source_id if isinstance(source_id, UUID) else UUID(source_id)
    except ValueError:
        return UUID(int=0)


async def _find_sender(id: UUID, headers: Headers) -> Sender:
    """The source with its active secrets; for an unknown one a stand-in that takes as long to refuse."""
    rows = await run_sql(
        """SELECT s.organization, s.scheme, s.status, s.body_cap_bytes, k.id AS secret_id, k.ciphertext, k.last_used_at
           FROM source s LEFT JOIN source_secret k ON k.source = s.id AND (k.ends_at IS NULL OR k.ends_at > {})
           WHERE s.id = {} ORDER BY k.id DESC""",
        clock.now(),
        id,
    )
    if not rows:
        scheme = schemes.likely_scheme(headers)
        return Sender(id, None, scheme, SourceStatus.ACTIVE, DEFAULT_BODY_BYTES, [_dummy_secret(scheme)])
    source, key = rows[0], get_settings().secret_key
    assert key is not None, "the web process requires the secret key"
    return Sender(
        id=id,
        organization_id=source["organization"],
        scheme=source["scheme"],
        status=source["status"],
        body_cap_bytes=source["body_cap_bytes"],
        secrets=[
            ActiveSecret(
                id=row["secret_id"],
                text=unseal(key, bytes(row["ciphertext"]), purpose=secret_purpose(row["secret_id"])).decode(),
                last_used_at=row["last_used_at"],
            )
            for row in rows
            if row["secret_id"]
        ],
    )


def secret_purpose(secret_id: UUID) -> str:
    """What binds a sealed secret to its row."""
    return f"source-secret:{secret_id}"


@cache
def _dummy_secret(scheme: str) -> ActiveSecret:
    made = schemes.SCHEMES[scheme].new_secret
    assert made is not None, "a likely scheme is one that needs nobody's public key"
    return ActiveSecret(id=UUID(int=0), text=made(None), last_used_at=None)


async def _store(sender: Sender, headers: Headers, body: bytes, verified: Verified, now: datetime) -> Receipt:
    type, status, reasons = verified.type, SignalStatus.RECEIVED, []
    try:
        payload = parse_payload(body)
        type = type or _type_in(payload)
    except PayloadUnreadable as error:
        status, reasons = SignalStatus.QUARANTINED, [{"rule_id": None, "message": str(error)}]
    digest, id = hashlib.sha256(body).digest(), new_id()
    inserted = await run_sql(
        """INSERT INTO signal (id, organization, source, external_id, type, status, reasons, content_type, body,
                               body_bytes, body_digest, secret, skew_ms, correlation_id, received_at)
           VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})
           ON CONFLICT (source, external_id) DO NOTHING RETURNING id""",
        id,
        sender.organization_id,
        sender.id,
        verified.external_id,
        type or schemes.UNKNOWN_TYPE,
        status.value,
        msgspec.json.encode(reasons).decode(),
        _content_type(headers),
        body,
        len(body),
        digest,
        sender.secrets[verified.secret_index].id,
        verified.skew_ms,
        correlation_id(),
        now,
    )
    if inserted:
        return Receipt(id, status, duplicate=False)
    return await _find_duplicate(sender, verified, digest)


def _type_in(payload: Any) -> str:
    named = payload.get("type") if isinstance(payload, dict) else None
    return named if isinstance(named, str) and schemes.TYPE.fullmatch(named) else schemes.UNKNOWN_TYPE


def _content_type(headers: Headers) -> str:
    value = next((value for name, value in headers if name == b"content-type"), b"").decode("latin-1")[:200]
    return value if value.isascii() and value.isprintable() else ""


async def _find_duplicate(sender: Sender, verified: Verified, digest: bytes) -> Receipt:
    rows = await run_sql(
        "SELECT id, status, body_digest FROM signal WHERE source = {} AND external_id = {}",
        sender.id,
        verified.external_id,
    )
    stored = rows[0]
    if bytes(stored["body_digest"]) == digest:
        return Receipt(stored["id"], SignalStatus(stored["status"]), duplicate=True)
    assert sender.organization_id is not None
    async with transaction():
        await audit.append(
            system_actor(sender.organization_id, "intake"),
            "signal.conflicted",
            "signal",
            stored["id"],
            {"source_id": str(sender.id), "external_id": verified.external_id, "body_digest": digest.hex()},
        )
    raise SignalConflict(
        f"The delivery {verified.external_id} is stored already, as signal {stored['id']}, with another body. "
        "Nothing was changed; a new fact needs a new id."
    )


async def _touch_secret(secret: ActiveSecret, now: datetime) -> None:
    """Note that the secret was used, at most once a minute: a row that every delivery updates would be a bottleneck."""
    before = now - timedelta(minutes=1)
    if secret.last_used_at is None or secret.last_used_at < before:
        await run_sql(
            "UPDATE source_secret SET last_used_at = {} WHERE id = {} AND (last_used_at IS NULL OR last_used_at < {})",
            now,
            secret.id,
            before,
        )


async def _record_rejection(source_id: UUID, headers: Headers, body: bytes, ip: str, error: PortalError) -> None:
    """Keep the newest refusals of the source. One statement, without waiting for the disk, whether or not it exists:
    it must neither slow a flood's victim down nor tell by its time which sources there are."""
    await run_sql(
        f"""WITH relaxed AS (SELECT set_config('synchronous_commit', 'off', true)),
                 trimmed AS (DELETE FROM rejected_delivery WHERE source = {{}} AND id <= (
                     SELECT id FROM rejected_delivery WHERE source = {{}} ORDER BY id DESC
                     OFFSET {KEPT_REJECTIONS - 1} LIMIT 1))
            INSERT INTO rejected_delivery (id, organization, source, cause, detail, external_id, body_bytes, ip,
                                           correlation_id, received_at)
            SELECT {{}}, source.organization, source.id, {{}}, {{}}, {{}}, {{}}, {{}}, {{}}, {{}}
            FROM source, relaxed WHERE source.id = {{}}""",  # noqa: S608
        source_id,
        source_id,
        new_id(),
        error.code,
        error.reason if isinstance(error, SignatureInvalid) else error.detail,
        schemes.claimed_id(headers),
        len(body),
        ip,
        correlation_id(),
        clock.now(),
        source_id,
    )
