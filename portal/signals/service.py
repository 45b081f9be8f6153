"""Sources and their secrets."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound, PreconditionFailed
from portal.jobs.queue import ring
from portal.sealing import seal, unseal
from portal.settings import secret_key
from portal.signals import queries
from portal.signals.errors import (
    LastSecret,
    SecretEnded,
    SourceNameTaken,
    SourceNotActive,
    SourceNotPaused,
    TooManySecrets,
)
from portal.signals.intake.senders import secret_purpose
from portal.signals.pulls import KINDS
from portal.signals.pulls.service import change_pull, insert_pull
from portal.signals.schemas import SecretInput, SourceChange, SourceInput, SourceView
from portal.signals.schemes import SCHEMES, read_settings
from portal.signals.source_input import no_settings, normal_networks, settings_from
from portal.signals.tables import Source, SourceSecret, SourceStatus

MAX_SECRETS = 10
"""That are accepted at the same time: a delivery is compared with each."""


async def create_source(actor: Actor, given: SourceInput) -> tuple[SourceView, str | None]:
    """A new active source and its secret, which is shown this once; None where it was given a public key, or is pulled
    without one.

    Raises `SourceNameTaken`, and `InputInvalid` naming the wrong setting, network or secret.
    """
    actor.require(Permission.SOURCES_WRITE)
    settings = await _checked_settings(actor.organization_id, given.scheme, given.settings)
    networks = normal_networks(given.allowed_networks)
    secret = _secret_for(given.scheme, settings, given.secret)
    id, now = new_id(), clock.now()
    async with transaction():
        made = await run_sql(
            """INSERT INTO source (id, organization, name, scheme, settings, status, body_cap_bytes, allowed_networks,
                                   rate_limit_per_minute, on_schema_failure, expected_every_seconds, created_at,
                                   updated_at)
               VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})
               ON CONFLICT (organization, name) DO NOTHING RETURNING id""",
            id,
            actor.organization_id,
            given.name,
            given.scheme,
            _json(settings or {}),
            SourceStatus.ACTIVE.value,
            given.body_cap_bytes,
            _json(networks),
            given.rate_limit_per_minute,
            given.on_schema_failure.value,
            given.expected_every_seconds,
            now,
            now,
        )
        if not made:
            raise _name_taken(given.name)
        secret_id = None if secret is None else str(await _insert_secret(id, secret, now))
        if given.scheme in KINDS:
            await insert_pull(id, given.scheme, settings)
        detail = {"name": given.name, "scheme": given.scheme, "secret_id": secret_id}
        await audit.append(actor, "source.created", "source", id, detail)
    if given.scheme in KINDS:
        ring("pull_sources")
    return await queries.get_source(actor.organization_id, id), _shown(given.scheme, secret)


async def change_source(
    actor: Actor, source_id: UUID, change: SourceChange, *, expected: datetime | None = None
) -> SourceView:
    """Change what is given, if `updated_at` is still `expected`.

    Raises `PreconditionFailed`, `SourceNameTaken`, and `InputInvalid` naming the wrong setting or network.
    """
    actor.require(Permission.SOURCES_WRITE)
    async with transaction():
        before = await _lock_source(actor, source_id)
        if expected is not None and before["updated_at"] != expected:
            raise PreconditionFailed("The source was changed since you read it. Read it again, then decide.")
        after = msgspec.to_builtins(change)
        if "allowed_networks" in after:
            after["allowed_networks"] = normal_networks(after["allowed_networks"])
        if "settings" in after:
            settings = await _checked_settings(actor.organization_id, before["scheme"], after["settings"])
            await _check_secrets_fit(source_id, before["scheme"], settings)
            after["settings"] = msgspec.to_builtins(settings or {})
            if before["scheme"] in KINDS:
                await change_pull(source_id, before["scheme"], _decoded(before), settings)
        after = {name: value for name, value in after.items() if value != before[name]}
        try:
            await Source.update({**after, "updated_at": clock.now()}).where(Source.id == source_id)
        except asyncpg.UniqueViolationError:
            raise _name_taken(change.name) from None
        detail = {"before": {name: before[name] for name in after}, "after": after}
        await audit.append(actor, "source.changed", "source", source_id, detail)
    return await queries.get_source(actor.organization_id, source_id)


async def add_secret(actor: Actor, source_id: UUID, given: SecretInput) -> tuple[SourceView, str | None]:
    """One more active secret, shown this once unless it is a public key; older ones end after `overlap_seconds`.

    Raises `InputInvalid`, `TooManySecrets`.
    """
    actor.require(Permission.SOURCES_WRITE)
    now = clock.now()
    async with transaction():
        source = await _lock_source(actor, source_id)
        scheme = source["scheme"]
        secret = _secret_for(scheme, _decoded(source), given.secret)
        if secret is None:
            raise InputInvalid.at("/secret", "Give the secret that the API expects.")
        if given.overlap_seconds != 0 and len(await _active_secrets(source_id, now)) >= MAX_SECRETS:
            raise TooManySecrets(f"A source has at most {MAX_SECRETS} secrets at a time. End one first.")
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
        detail = {"secret_id": str(secret_id), "overlap_seconds": given.overlap_seconds}
        await audit.append(actor, "source.secret_added", "source", source_id, detail)
    return await queries.get_source(actor.organization_id, source_id), _shown(scheme, secret)


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
        if ends[secret_id] is not None and ends[secret_id] <= now:
            raise SecretEnded("The secret is not accepted any more.")
        if {id for id, ends_at in ends.items() if ends_at is None} == {secret_id}:
            raise LastSecret("It is the only one without an end. Add another first, or pause the source.")
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
        """SELECT name, scheme, settings, body_cap_bytes, allowed_networks, rate_limit_per_minute, on_schema_failure,
                  expected_every_seconds, updated_at
           FROM source WHERE id = {} AND organization = {} FOR NO KEY UPDATE""",
        source_id,
        actor.organization_id,
    )
    if not rows:
        raise NotFound("There is no such source.")
    decoded = {name: msgspec.json.decode(rows[0][name]) for name in ("settings", "allowed_networks")}
    return {**rows[0], **decoded}


async def _checked_settings(organization_id: UUID, scheme: str, given: dict[str, Any]) -> msgspec.Struct | None:
    """The settings in the form that is kept. Raises `InputInvalid` below `/settings`."""
    if pulled := KINDS.get(scheme):
        settings = settings_from(pulled.settings_type, given)
        await pulled.check(organization_id, settings)
        return settings
    kind = SCHEMES[scheme]
    if kind.settings_type:
        checked: msgspec.Struct = kind.check_settings(settings_from(kind.settings_type, given))
        return checked
    no_settings(given)
    return None


def _decoded(source: dict[str, Any]) -> msgspec.Struct | None:
    """The settings of a source that is kept, in the form that its scheme declares."""
    if pulled := KINDS.get(source["scheme"]):
        return msgspec.convert(source["settings"], pulled.settings_type)
    return read_settings(source["scheme"], _json(source["settings"]))


async def _check_secrets_fit(source_id: UUID, scheme: str, settings: msgspec.Struct | None) -> None:
    """Raises `InputInvalid` at `/settings` where an active secret could not be used with them."""
    for row in await _active_secrets(source_id, clock.now()):
        secret = unseal(secret_key(), bytes(row["ciphertext"]), purpose=secret_purpose(row["id"])).decode()
        try:
            (KINDS.get(scheme) or SCHEMES[scheme]).check_secret(secret, settings)
        except InputInvalid as error:
            raise InputInvalid.at("/settings", f"The secret that ends in {secret[-4:]} does not fit. {error}") from None


async def _active_secrets(source_id: UUID, now: datetime) -> list[dict[str, Any]]:
    return await run_sql(
        "SELECT id, ciphertext FROM source_secret WHERE source = {} AND (ends_at IS NULL OR ends_at > {})",
        source_id,
        now,
    )


async def _insert_secret(source_id: UUID, secret: str, now: datetime) -> UUID:
    id = new_id()
    await SourceSecret.insert(
        SourceSecret(
            id=id,
            source=source_id,
            ciphertext=seal(secret_key(), secret.encode(), purpose=secret_purpose(id)),
            hint=secret[-4:],
            created_at=now,
            last_used_at=None,
            ends_at=None,
        )
    )
    return id


def _secret_for(scheme: str, settings: msgspec.Struct | None, given: str | None) -> str | None:
    """The secret as it is kept; None for what is pulled without one. Raises `InputInvalid` at `/secret`."""
    if pulled := KINDS.get(scheme):
        return None if given is None else pulled.check_secret(given, settings)
    kind = SCHEMES[scheme]
    if given is not None:
        return kind.check_secret(given, settings)
    if kind.new_secret is None:
        raise InputInvalid.at("/secret", f"{kind.key_from} Give it here.")
    return kind.new_secret(settings)


def _shown(scheme: str, secret: str | None) -> str | None:
    if secret is None or scheme in KINDS:
        return None  # it was given to us, and is not the sender's to copy
    return None if SCHEMES[scheme].is_public_key(secret) else secret


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _name_taken(name: str) -> SourceNameTaken:
    return SourceNameTaken(f"There is a source named {name} already. Choose another name.")
