"""Takes deliveries in: verified, checked, stored once, and only then acknowledged.

Order matters. What reveals nothing about sources is refused first (headers), then the signature is verified, with a
dummy secret where there is no such source. Only an authentic sender learns anything else.
"""

import hashlib
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.schemas import system_actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import database_unavailable, is_unreachable, run_sql, transaction
from portal.db.notices import announce
from portal.errors import FieldError, PortalError, Unavailable
from portal.logging import correlation_id, get_logger
from portal.settings import get_settings
from portal.signals import schemes
from portal.signals.errors import (
    AddressNotAllowed,
    BodyTooLarge,
    PayloadInvalid,
    SignalConflict,
    SignatureInvalid,
    SourceChanged,
    SourcePaused,
)
from portal.signals.intake import flush, limits, refusals
from portal.signals.intake.flush import Fate, Outcome, Row
from portal.signals.intake.senders import MOST_KEPT, ActiveSecret, Sender, find_kept, load_sender, lookups, stand_in
from portal.signals.json_schemas import validation
from portal.signals.metrics import RECEIVE_SECONDS, count_delivery
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.schemas import DEFAULT_BODY_BYTES, Receipt
from portal.signals.schemes import Headers, Verified
from portal.signals.tables import SchemaFailure, SignalStatus, SourceStatus
from portal.signals.words import words_of

log = get_logger(__name__)
ONE_MINUTE = timedelta(minutes=1)
NO_ID = UUID(int=0)
LONGEST_ID = len("urn:uuid:{00000000-0000-0000-0000-000000000000}")
ATTEMPTS = 4
"""How often a delivery is checked whose source changes again and again while it is."""


class PulledFact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a pull source has fetched; stored once by its `external_id`, whatever comes later."""

    external_id: str
    type: str | None = None
    """None where it is the `type` in the body."""
    body: bytes
    content_type: str = "application/json"
    trouble: str | None = None
    """Why it cannot be used as it is, although its body can be read; then it is quarantined."""


async def receive(source_id: UUID | str, headers: Headers, body: bytes, ip: str) -> Receipt:
    """Verify, check and store one delivery; returns only after the commit.

    A body that is not readable JSON or fails the schema of its type is stored as `quarantined`. Raises, each recorded
    with the source, if it exists: `HeadersInvalid`, `SignatureInvalid` (for an unknown source too); and to an authentic
    sender only `AddressNotAllowed`, `SourcePaused`, `BodyTooLarge`, `RateLimited`, `PayloadInvalid`, `SignalConflict`.
    Raises `Unavailable`, unrecorded, where nothing can be stored now.
    """
    started = time.perf_counter()
    id = as_id(source_id)
    sender = find_kept(id) or stand_in(id, headers)
    try:
        schemes.check_headers(headers)
        receipt = await _take_in(sender, headers, body, ip)
    except Unavailable:
        raise
    except PortalError as error:
        await refuse(id, headers, error, body_bytes=len(body), body=body, ip=ip)
        raise
    RECEIVE_SECONDS.observe(time.perf_counter() - started)
    return receipt


async def refuse(
    source_id: UUID, headers: Headers, error: PortalError, *, body_bytes: int, body: bytes | None, ip: str
) -> None:
    """Record why a delivery is refused. A body above the source's cap, or one that was not read, is not kept."""
    sender = find_kept(source_id) or await load_sender(source_id)
    scheme = sender.scheme if sender else "unknown"
    count_delivery(scheme, error.code)
    if sender:
        verified_by = schemes.headers_of(scheme, sender.settings) if scheme in schemes.SCHEMES else frozenset[bytes]()
        read = verified_by | {b"content-type", schemes.QUERY}
        headers = [pair for pair in headers if pair[0] in read]
    await refusals.record(
        refusals.Refusal(
            source_id=source_id,
            cause=error.code,
            detail=error.reason if isinstance(error, SignatureInvalid) else error.detail,
            external_id=schemes.claimed_id(headers),
            body_bytes=body_bytes,
            body=body if body is not None and sender and len(body) <= sender.body_cap_bytes else None,
            headers=headers,
            ip=ip,
            correlation_id=correlation_id(),
            at=clock.now(),
        )
    )
    if sender and sender.organization_id is not None:
        announce("rejected", sender.organization_id)


async def find_body_cap(source_id: UUID) -> int:
    """How many bytes of a delivery to this address are worth reading; the usual number for what is no source."""
    sender = await load_sender(source_id)
    return max(DEFAULT_BODY_BYTES, sender.body_cap_bytes) if sender else DEFAULT_BODY_BYTES


async def store_pulled(sender: Sender, facts: Sequence[PulledFact]) -> int:
    """Check what was pulled by the schemas of its source and store it, each external id once; how many were new.

    Runs within the caller's db transaction; ring `assess_signals` after its commit. What fails its schema is
    quarantined: there is nobody to refuse it to. Raises `SourceChanged` where the sender is out of date.
    """
    now = clock.now()
    rows = [_pulled_row(sender, fact, now) for fact in {fact.external_id: fact for fact in facts}.values()]
    stored = await flush.insert(rows) if rows else set()
    if len(stored) < len(rows):
        known = await run_sql(
            "SELECT count(*) AS count FROM signal WHERE source = {} AND external_id = ANY({})",
            sender.id,
            [row.external_id for row in rows],
        )
        if known[0]["count"] < len(rows):
            raise SourceChanged("The source was changed or paused while it was pulled.")
    count_delivery(sender.scheme, SignalStatus.RECEIVED.value, len(stored))
    return len(stored)


def as_id(source_id: UUID | str) -> UUID:
    """The id; one that no source has for a text that is no id, so that it goes the way of an unknown source."""
    if isinstance(source_id, UUID):
        return source_id
    return _parse_id(source_id) if len(source_id) <= LONGEST_ID else NO_ID


@lru_cache(maxsize=2 * MOST_KEPT)
def _parse_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return NO_ID


async def _take_in(sender: Sender, headers: Headers, body: bytes, ip: str) -> Receipt:
    """Check and store with the sender that is kept, and again with the source as it is now if that is another."""
    for _ in range(ATTEMPTS):
        refusal: PortalError | None = None
        try:
            verified, secret, row = await _check(sender, headers, body, ip)
            outcome = await flush.store(row)
            if outcome.fate != Fate.STALE:
                return await _answer(sender, verified, secret, row, outcome)
        except Unavailable:
            raise
        except PortalError as error:
            refusal = error
        now = await load_sender(sender.id) or stand_in(sender.id, headers)
        if refusal and now.version == sender.version:
            raise refusal
        sender = now
    raise database_unavailable()


async def _check(sender: Sender, headers: Headers, body: bytes, ip: str) -> tuple[Verified, ActiveSecret, Row]:
    now = clock.now()
    verified, secret = check_delivery(sender, headers, body, ip, at=now)
    if sender.rate_limit_per_minute is not None:
        await limits.take(sender.id, sender.rate_limit_per_minute)
    return verified, secret, delivered_row(sender, headers, body, verified=verified, secret_id=secret.id, now=now)


def check_delivery(
    sender: Sender, headers: Headers, body: bytes, ip: str, *, at: datetime
) -> tuple[Verified, ActiveSecret]:
    """Whether the source takes this delivery, which came `at` a time, signed with a secret that is active now.

    Raises `SignatureInvalid`, `HeadersInvalid`, `AddressNotAllowed`, `SourcePaused`, `BodyTooLarge`.
    """
    secrets = sender.active_secrets(clock.now())
    verified = _verify(sender, headers, body, [secret.text for secret in secrets], at)
    if sender.allowed_networks and not _is_allowed(sender, ip):
        raise AddressNotAllowed(f"The source takes no deliveries from {ip}. Nothing was stored.")
    if sender.status == SourceStatus.PAUSED:
        raise SourcePaused("The source is paused, so the delivery was not stored. Send it again once it is resumed.")
    if len(body) > sender.body_cap_bytes:
        raise BodyTooLarge(f"The body has {len(body)} bytes; at most {sender.body_cap_bytes} are taken.")
    return verified, secrets[verified.secret_index]


def delivered_row(
    sender: Sender, headers: Headers, body: bytes, *, verified: Verified, secret_id: UUID, now: datetime
) -> Row:
    """What is stored of a delivery that was checked. Raises `PayloadInvalid`."""
    return _row(
        sender,
        external_id=verified.external_id,
        type=verified.type,
        content_type=_content_type(headers),
        body=body,
        secret_id=secret_id,
        skew_ms=verified.skew_ms,
        now=now,
        may_refuse=sender.on_schema_failure == SchemaFailure.REFUSE,
    )


def _verify(sender: Sender, headers: Headers, body: bytes, secrets: list[str], now: datetime) -> Verified:
    if sender.scheme not in schemes.SCHEMES:
        raise SignatureInvalid("the source fetches by itself; nothing is delivered to it")
    url = f"{get_settings().public_url}/api/v1/sources/{sender.id}/signals"
    verified = schemes.verify(sender.scheme, sender.settings, headers, body, secrets, now=now, url=url)
    if sender.organization_id is None:
        raise SignatureInvalid("there is no such source")
    return verified


def _is_allowed(sender: Sender, ip: str) -> bool:
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    # Where one socket takes both families, IPv4 comes as ::ffff:192.0.2.7.
    forms = (address, getattr(address, "ipv4_mapped", None) or address)
    return any(form in network for form in forms for network in sender.allowed_networks)


def _row(
    sender: Sender,
    *,
    external_id: str,
    type: str | None,
    content_type: str,
    body: bytes,
    secret_id: UUID | None,
    skew_ms: int | None,
    now: datetime,
    may_refuse: bool,
    trouble: str | None = None,
) -> Row:
    """The signal to store, quarantined with reasons if its body is not as it should be. Raises `PayloadInvalid`."""
    reasons: list[dict[str, Any]] = [{"rule_id": None, "path": None, "message": trouble}] if trouble else []
    words = None
    try:
        payload = parse_payload(body)
        type = type or _type_in(payload)
        schema = sender.schemas.get(type)
        if schema:
            reasons += validation.failures(schema.validator, payload)
        if reasons:  # no assessment will write them
            words = "\n".join(words_of(payload))
    except PayloadUnreadable as error:
        type = type or schemes.UNKNOWN_TYPE
        schema = sender.schemas.get(type)
        reasons.append({"rule_id": None, "path": None, "message": str(error)})
    if reasons and schema and may_refuse:
        fields = [FieldError(reason["path"] or "", reason["message"]) for reason in reasons]
        raise PayloadInvalid(f"The body fails the schema of the type {type}. Nothing was stored.", fields=fields)
    return Row(
        id=new_id(),
        source=sender.id,
        version=sender.version,
        external_id=external_id,
        type=type,
        status=SignalStatus.QUARANTINED.value if reasons else SignalStatus.RECEIVED.value,
        reasons=msgspec.json.encode(reasons).decode() if reasons else "[]",
        content_type=content_type,
        body=body,
        body_digest=hashlib.sha256(body).digest(),
        words=words,
        schema=schema.id if schema else None,
        secret=secret_id,
        skew_ms=skew_ms,
        correlation_id=correlation_id(),
        received_at=now,
    )


def _pulled_row(sender: Sender, fact: PulledFact, now: datetime) -> Row:
    row = _row(
        sender,
        external_id=fact.external_id,
        type=fact.type,
        content_type=fact.content_type,
        body=fact.body,
        secret_id=None,
        skew_ms=None,
        now=now,
        may_refuse=False,
        trouble=fact.trouble,
    )
    # One pull brings many facts, and each is the beginning of a story of its own.
    return row._replace(correlation_id=row.id.hex)


def _type_in(payload: Any) -> str:
    named = payload.get("type") if isinstance(payload, dict) else None
    return named if isinstance(named, str) and schemes.TYPE.fullmatch(named) else schemes.UNKNOWN_TYPE


def _content_type(headers: Headers) -> str:
    for name, value in headers:
        if name == b"content-type":
            text = value.decode("latin-1")[:200]
            return text if text.isascii() and text.isprintable() else ""
    return ""


async def _answer(sender: Sender, verified: Verified, secret: ActiveSecret, row: Row, outcome: Outcome) -> Receipt:
    if outcome.fate == Fate.CONFLICTING:
        await _note_conflict(sender, row, outcome.signal_id)
        raise SignalConflict(
            f"The delivery {verified.external_id} is stored already, as signal {outcome.signal_id}, with another body. "
            "Nothing was changed; a new fact needs a new id."
        )
    duplicate = outcome.fate == Fate.DUPLICATE
    count_delivery(sender.scheme, "duplicate" if duplicate else outcome.status)
    if secret.last_used_at is None or row.received_at - secret.last_used_at > ONE_MINUTE:
        await _touch_secret(secret, row.received_at)
    if not duplicate and sender.organization_id is not None:
        announce("signals", sender.organization_id)
    return Receipt(outcome.signal_id, SignalStatus(outcome.status), duplicate=duplicate)


async def _note_conflict(sender: Sender, row: Row, stored_id: UUID) -> None:
    assert sender.organization_id is not None
    async with transaction():
        await audit.append(
            system_actor(sender.organization_id, "intake"),
            "signal.conflicted",
            "signal",
            stored_id,
            {
                "source_id": str(sender.id),
                "external_id": row.external_id,
                "body_digest": row.body_digest.hex(),
            },
        )


async def _touch_secret(secret: ActiveSecret, now: datetime) -> None:
    """Note that the secret was used, at most once a minute: a row that every delivery updates would be a bottleneck."""
    secret.last_used_at = now
    try:
        await lookups.fetch(
            "UPDATE source_secret SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $3)",
            now,
            secret.id,
            now - ONE_MINUTE,
        )
    except Exception as error:
        # The delivery is stored, and that is what the answer is about.
        if not is_unreachable(error):
            raise
        log.warning("secret.untouched", error=type(error).__name__)
