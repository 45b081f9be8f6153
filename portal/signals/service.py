"""Sources and their secrets; and `receive`, by which deliveries come in."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound, PreconditionFailed
from portal.sealing import seal
from portal.settings import get_settings
from portal.signals import queries
from portal.signals.errors import (
    LastSecret,
    SecretEnded,
    SourceNameTaken,
    SourceNotActive,
    SourceNotPaused,
)
from portal.signals.intake import receive
from portal.signals.schemas import SecretInput, SourceChange, SourceInput, SourceView
from portal.signals.schemes import SCHEMES
from portal.signals.senders import secret_purpose
from portal.signals.tables import Source, SourceSecret, SourceStatus

__all__ = [
    "add_secret",
    "change_source",
    "create_source",
    "end_secret",
    "pause_source",
    "receive",
    "resume_source",
]


async def create_source(actor: Actor, given: SourceInput) -> tuple[SourceView, str]:
    """A new active source and its secret, which is shown this once. Raises `SourceNameTaken`, `InputInvalid`."""
    actor.require(Permission.SOURCES_WRITE)
    secret = _secret_for(given.scheme, given.secret)
    id, now = new_id(), clock.now()
    async with transaction():
        made = await run_sql(
            """INSERT INTO source (id, organization, name, scheme, settings, status, body_cap_bytes, allowed_networks,
                                   on_schema_failure, created_at, updated_at)
               VALUES ({}, {}, {}, {}, {}, {}, {}, '[]', 'quarantine', {}, {})
               ON CONFLICT (organization, name) DO NOTHING RETURNING id""",
            id,
            actor.organization_id,
            given.name,
            given.scheme,
            "{}",
            SourceStatus.ACTIVE.value,
            given.body_cap_bytes,
            now,
            now,
        )
        if not made:
            raise _name_taken(given.name)
        secret_id = await _insert_secret(id, secret, now)
        await audit.append(
            actor,
            "source.created",
            "source",
            id,
            {"name": given.name, "scheme": given.scheme, "secret_id": str(secret_id)},
        )
    return await queries.get_source(actor.organization_id, id), secret


async def change_source(
    actor: Actor, source_id: UUID, change: SourceChange, *, expected: datetime | None = None
) -> SourceView:
    """Change name and body cap, if `updated_at` is still `expected`. Raises `PreconditionFailed`, `SourceNameTaken`."""
    actor.require(Permission.SOURCES_WRITE)
    async with transaction():
        before = await _lock_source(actor, source_id)
        if expected is not None and before["updated_at"] != expected:
            raise PreconditionFailed("The source was changed since you read it. Read it again, then decide.")
        try:
            await Source.update(
                {
                    Source.name: change.name,
                    Source.body_cap_bytes: change.body_cap_bytes,
                    Source.updated_at: clock.now(),
                }
            ).where(Source.id == source_id)
        except asyncpg.UniqueViolationError:
            raise _name_taken(change.name) from None
        await audit.append(
            actor,
            "source.changed",
            "source",
            source_id,
            {
                "before": {"name": before["name"], "body_cap_bytes": before["body_cap_bytes"]},
                "after": {"name": change.name, "body_cap_bytes": change.body_cap_bytes},
            },
        )
    return await queries.get_source(actor.organization_id, source_id)


async def add_secret(actor: Actor, source_id: UUID, given: SecretInput) -> tuple[SourceView, str]:
    """One more active secret, shown this once; older ones end after `overlap_seconds`. Raises `InputInvalid`."""
    actor.require(Permission.SOURCES_WRITE)
    now = clock.now()
    async with transaction():
        source = await _lock_source(actor, source_id)
        secret = _secret_for(source["scheme"], given.secret)
        if given.overlap_seconds is not None:
            ends_at = now + timedelta(seconds=given.overlap_seconds)
            await run_sql(
                "UPDATE source_secret SET ends_at = {} WHERE source = {} AND (ends_at IS NULL OR ends_at > {})",
                ends_at,
                source_id,
                ends_at,
            )
        secret_id = await _insert_secret(source_id, secret, now)
        await Source.update({Source.updated_at: now}).where(Source.id == source_id)
        await audit.append(
            actor,
            "source.secret_added",
            "source",
            source_id,
            {"secret_id": str(secret_id), "overlap_seconds": given.overlap_seconds},
        )
    return await queries.get_source(actor.organization_id, source_id), secret


async def end_secret(actor: Actor, source_id: UUID, secret_id: UUID) -> SourceView:
    """Stop accepting a secret from the next delivery on. Raises `LastSecret`, `SecretEnded`, `NotFound`."""
    actor.require(Permission.SOURCES_WRITE)
    now = clock.now()
    async with transaction():
        await _lock_source(actor, source_id)
        rows = await run_sql("SELECT id, ends_at FROM source_secret WHERE source = {}", source_id)
        ends = {row["id"]: row["ends_at"] for row in rows}
        if secret_id not in ends:
            raise NotFound("The source has no such secret.")
        active = {id for id, ends_at in ends.items() if ends_at is None or ends_at > now}
        if secret_id not in active:
            raise SecretEnded("The secret is not accepted any more.")
        if active == {secret_id}:
            raise LastSecret("Without this secret nothing could be received. Add another first, or pause the source.")
        await SourceSecret.update({SourceSecret.ends_at: now}).where(SourceSecret.id == secret_id)
        await Source.update({Source.updated_at: now}).where(Source.id == source_id)
        await audit.append(actor, "source.secret_ended", "source", source_id, {"secret_id": str(secret_id)})
    return await queries.get_source(actor.organization_id, source_id)


async def pause_source(actor: Actor, source_id: UUID) -> SourceView:
    """Refuse deliveries from now on; senders are told so once their signature is right. Raises `SourceNotActive`."""
    if not await _turn(actor, source_id, SourceStatus.ACTIVE, SourceStatus.PAUSED, "source.paused"):
        raise SourceNotActive("The source is paused already.")
    return await queries.get_source(actor.organization_id, source_id)


async def resume_source(actor: Actor, source_id: UUID) -> SourceView:
    """Take deliveries again. Raises `SourceNotPaused`."""
    if not await _turn(actor, source_id, SourceStatus.PAUSED, SourceStatus.ACTIVE, "source.resumed"):
        raise SourceNotPaused("The source is active already.")
    return await queries.get_source(actor.organization_id, source_id)


async def _turn(actor: Actor, source_id: UUID, before: SourceStatus, after: SourceStatus, kind: str) -> bool:
    actor.require(Permission.SOURCES_WRITE)
    async with transaction():
        await _lock_source(actor, source_id)
        changed = (
            await Source.update({Source.status: after.value, Source.updated_at: clock.now()})
            .where(Source.id == source_id, Source.status == before.value)
            .returning(Source.id)
        )
        if changed:
            await audit.append(actor, kind, "source", source_id)
    return bool(changed)


async def _lock_source(actor: Actor, source_id: UUID) -> dict[str, Any]:
    rows = await run_sql(
        "SELECT name, scheme, body_cap_bytes, updated_at FROM source WHERE id = {} AND organization = {} FOR UPDATE",
        source_id,
        actor.organization_id,
    )
    if not rows:
        raise NotFound("There is no such source.")
    return rows[0]


async def _insert_secret(source_id: UUID, secret: str, now: datetime) -> UUID:
    id, key = new_id(), get_settings().secret_key
    assert key is not None, "every process that manages sources requires the secret key"
    await SourceSecret.insert(
        SourceSecret(
            id=id,
            source=source_id,
            ciphertext=seal(key, secret.encode(), purpose=secret_purpose(id)),
            hint=secret[-4:],
            created_at=now,
            last_used_at=None,
            ends_at=None,
        )
    )
    return id


def _secret_for(scheme: str, given: str | None) -> str:
    chosen = SCHEMES[scheme]
    if given is not None:
        return chosen.check_secret(given, None)
    if chosen.new_secret is None:
        raise InputInvalid.at("/secret", "Give the sender's public key: only the sender can make it.")
    return chosen.new_secret(None)


def _name_taken(name: str) -> SourceNameTaken:
    return SourceNameTaken(f"There is a source named {name} already. Choose another name.")
