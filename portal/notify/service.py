"""Webhooks: who is told what happened, and where."""

from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from piccolo.columns import Column

from portal import clock, egress
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import FieldError, InputInvalid, NotFound, PreconditionFailed
from portal.jobs.queue import ring
from portal.notify import outbox, queries
from portal.notify.errors import (
    LastSecret,
    SecretEnded,
    TooManySecrets,
    TooManyWebhooks,
    WebhookNotActive,
    WebhookNotDisabled,
)
from portal.notify.event_types import TEST, unknown_forms
from portal.notify.schemas import DeliveryView, SecretInput, WebhookInput, WebhookView
from portal.notify.signing import new_secret, secret_purpose
from portal.notify.states import WebhookStatus
from portal.notify.tables import Webhook, WebhookSecret
from portal.sealing import seal
from portal.settings import secret_key

MAX_WEBHOOKS = 20
MAX_SECRETS = 5


async def create_webhook(actor: Actor, given: WebhookInput) -> tuple[WebhookView, str]:
    """A new active webhook and its secret, which is shown this once. It gets what happens from now on.

    Raises `InputInvalid` naming the wrong address or type, and `TooManyWebhooks`.
    """
    actor.require(Permission.WEBHOOKS_WRITE)
    types = _check(given)
    id, secret, now = new_id(), new_secret(), clock.now()
    async with transaction():
        # One at a time in an organisation, so that two at once do not both see room for one.
        await run_sql("SELECT id FROM organization WHERE id = {} FOR NO KEY UPDATE", actor.organization_id)
        number = await Webhook.count().where(
            Webhook.organization == actor.organization_id, Webhook.status != WebhookStatus.DELETED.value
        )
        if number >= MAX_WEBHOOKS:
            raise TooManyWebhooks(f"An organisation has at most {MAX_WEBHOOKS} webhooks. Delete one first.")
        await Webhook.insert(
            Webhook(
                id=id,
                organization=actor.organization_id,
                name=given.name,
                url=given.url,
                types=types,
                status=WebhookStatus.ACTIVE,
                rests=0,
                created_by=actor.label,
                created_at=now,
                updated_at=now,
            )
        )
        secret_id = await _insert_secret(id, secret, now)
        detail = {"name": given.name, "url": given.url, "types": types, "secret_id": str(secret_id)}
        await audit.append(actor, "webhook.created", "webhook", id, detail)
    return await queries.get_webhook(actor.organization_id, id), secret


async def change_webhook(
    actor: Actor, webhook_id: UUID, given: WebhookInput, *, expected: datetime | None = None
) -> WebhookView:
    """Change name, address and types; what waits goes to the new address.

    Raises `NotFound`, `InputInvalid`, and `PreconditionFailed` unless its version is `expected`.
    """
    actor.require(Permission.WEBHOOKS_WRITE)
    types = _check(given)
    async with transaction():
        before = await _lock(actor, webhook_id)
        if expected is not None and before["updated_at"] != expected:
            raise PreconditionFailed("Somebody changed the webhook meanwhile. Load it again.")
        after = {"name": given.name, "url": given.url, "types": types}
        changed = {name: value for name, value in after.items() if value != before[name]}
        await _update(webhook_id, after)
        detail = {"before": {name: before[name] for name in changed}, "after": changed}
        await audit.append(actor, "webhook.changed", "webhook", webhook_id, detail)
    return await queries.get_webhook(actor.organization_id, webhook_id)


async def disable_webhook(actor: Actor, webhook_id: UUID) -> WebhookView:
    """Send nothing more, and keep no new events for it. Raises `NotFound`, `WebhookNotActive`."""
    await _turn(
        actor,
        webhook_id,
        WebhookNotActive("The webhook is disabled already."),
        status=WebhookStatus.DISABLED,
        disabled_because=f"{actor.label} disabled it.",
    )
    return await queries.get_webhook(actor.organization_id, webhook_id)


async def enable_webhook(actor: Actor, webhook_id: UUID) -> WebhookView:
    """Send again, beginning with what waited when it was disabled. Raises `NotFound`, `WebhookNotDisabled`."""
    await _turn(
        actor,
        webhook_id,
        WebhookNotDisabled("The webhook is active already."),
        status=WebhookStatus.ACTIVE,
        disabled_because=None,
        failing_since=None,
        rests=0,
        rest_until=None,
    )
    ring("deliver_events")
    return await queries.get_webhook(actor.organization_id, webhook_id)


async def _turn(actor: Actor, webhook_id: UUID, refusal: Exception, *, status: WebhookStatus, **values: Any) -> None:
    actor.require(Permission.WEBHOOKS_WRITE)
    async with transaction():
        before = await _lock(actor, webhook_id)
        if before["status"] == status:
            raise refusal
        await _update(webhook_id, {"status": status.value, **values})
        verb = "enabled" if status == WebhookStatus.ACTIVE else "disabled"
        await audit.append(actor, f"webhook.{verb}", "webhook", webhook_id)


async def delete_webhook(actor: Actor, webhook_id: UUID) -> None:
    """Send nothing more, for good; what was delivered stays on record. Raises `NotFound`."""
    actor.require(Permission.WEBHOOKS_WRITE)
    async with transaction():
        before = await _lock(actor, webhook_id)
        await _update(webhook_id, {"status": WebhookStatus.DELETED.value})
        await audit.append(actor, "webhook.deleted", "webhook", webhook_id, {"name": before["name"]})


async def add_secret(actor: Actor, webhook_id: UUID, given: SecretInput) -> tuple[WebhookView, str]:
    """One more secret, shown this once; those there are now end after `overlap_seconds`.

    Until then each delivery carries a signature with each of them. Raises `NotFound`, `TooManySecrets`.
    """
    actor.require(Permission.WEBHOOKS_WRITE)
    secret, now = new_secret(), clock.now()
    async with transaction():
        await _lock(actor, webhook_id)
        if given.overlap_seconds != 0 and len(await _active_secrets(webhook_id, now)) >= MAX_SECRETS:
            raise TooManySecrets(f"A webhook has at most {MAX_SECRETS} secrets at a time. End one first.")
        if given.overlap_seconds is not None:
            ends_at = now + timedelta(seconds=given.overlap_seconds)
            await run_sql(
                "UPDATE webhook_secret SET ends_at = {} WHERE webhook = {} AND (ends_at IS NULL OR ends_at > {})",
                ends_at,
                webhook_id,
                ends_at,
            )
        secret_id = await _insert_secret(webhook_id, secret, now)
        await _update(webhook_id, {})
        detail = {"secret_id": str(secret_id), "overlap_seconds": given.overlap_seconds}
        await audit.append(actor, "webhook.secret_added", "webhook", webhook_id, detail)
    return await queries.get_webhook(actor.organization_id, webhook_id), secret


async def end_secret(actor: Actor, webhook_id: UUID, secret_id: UUID) -> WebhookView:
    """Sign nothing with a secret from the next attempt on. Raises `NotFound`, `SecretEnded`, `LastSecret`."""
    actor.require(Permission.WEBHOOKS_WRITE)
    now = clock.now()
    async with transaction():
        await _lock(actor, webhook_id)
        rows = await run_sql("SELECT id, ends_at FROM webhook_secret WHERE webhook = {}", webhook_id)
        ends = {row["id"]: row["ends_at"] for row in rows}
        if secret_id not in ends:
            raise NotFound("The webhook has no such secret.")
        if ends[secret_id] is not None and ends[secret_id] <= now:
            raise SecretEnded("Nothing is signed with the secret any more.")
        if {id for id, ends_at in ends.items() if ends_at is None} == {secret_id}:
            raise LastSecret("It is the only one without an end. Add another first, or disable the webhook.")
        await WebhookSecret.update({WebhookSecret.ends_at: now}).where(WebhookSecret.id == secret_id)
        await _update(webhook_id, {})
        await audit.append(actor, "webhook.secret_ended", "webhook", webhook_id, {"secret_id": str(secret_id)})
    return await queries.get_webhook(actor.organization_id, webhook_id)


async def send_test(actor: Actor, webhook_id: UUID) -> None:
    """Send the webhook an event `webhook.test`, whatever it subscribes to. Raises `NotFound`, `WebhookNotActive`."""
    actor.require(Permission.WEBHOOKS_WRITE)
    async with transaction():
        webhook = await _lock(actor, webhook_id)
        if webhook["status"] != WebhookStatus.ACTIVE:
            raise WebhookNotActive("The webhook is disabled, so nothing is sent to it. Enable it first.")
        said = {"webhook_id": str(webhook_id), "name": webhook["name"], "asked_by": actor.label}
        await outbox.record(actor.organization_id, TEST, "webhook", webhook_id, said)
        await audit.append(actor, "webhook.tested", "webhook", webhook_id)


async def redeliver(actor: Actor, webhook_id: UUID, delivery_id: UUID) -> DeliveryView:
    """Deliver an event once more, with the same id, and all the attempts of a new one.

    Raises `NotFound`, `WebhookNotActive`.
    """
    actor.require(Permission.WEBHOOKS_WRITE)
    async with transaction():
        webhook = await _lock(actor, webhook_id)
        if webhook["status"] != WebhookStatus.ACTIVE:
            raise WebhookNotActive("The webhook is disabled, so nothing is sent to it. Enable it first.")
        found = await run_sql(
            """UPDATE delivery SET status = 'waiting', attempts = 0, due_at = {}, delivered_at = NULL
               WHERE id = {} AND webhook = {} RETURNING event""",
            clock.now(),
            delivery_id,
            webhook_id,
        )
        if not found:
            raise NotFound("There is no such delivery.")
        detail = {"delivery_id": str(delivery_id), "event_id": str(found[0]["event"])}
        await audit.append(actor, "webhook.redelivery_requested", "webhook", webhook_id, detail)
    ring("deliver_events")
    return await queries.get_delivery(actor.organization_id, webhook_id, delivery_id)


def _check(given: WebhookInput) -> list[str]:
    """The types, each once. Raises `InputInvalid` with everything that is wrong."""
    problems = []
    try:
        egress.check_url(given.url, "/url")
    except FieldError as problem:
        problems.append(problem)
    types = list(dict.fromkeys(given.types))
    if unknown := unknown_forms(types):
        named = ", ".join(repr(form) for form in unknown[:5])
        problems.append(FieldError("/types", f"There are no events {named}. docs/webhooks.md lists the types."))
    if problems:
        raise InputInvalid(problems[0].message, fields=problems)
    return types


async def _lock(actor: Actor, webhook_id: UUID) -> dict[str, Any]:
    rows = await run_sql(
        """SELECT name, url, types, status, updated_at FROM webhook
           WHERE id = {} AND organization = {} AND status <> 'deleted' FOR NO KEY UPDATE""",
        webhook_id,
        actor.organization_id,
    )
    if not rows:
        raise NotFound("There is no such webhook.")
    return {**rows[0], "types": list(rows[0]["types"])}


async def _update(webhook_id: UUID, values: dict[str, Any]) -> None:
    """Change the row that the caller has locked; it is another version from now on."""
    changes = cast("dict[Column | str, Any]", {**values, "updated_at": clock.now()})
    await Webhook.update(changes).where(Webhook.id == webhook_id)


async def _active_secrets(webhook_id: UUID, now: datetime) -> list[dict[str, Any]]:
    return await run_sql(
        "SELECT id FROM webhook_secret WHERE webhook = {} AND (ends_at IS NULL OR ends_at > {})", webhook_id, now
    )


async def _insert_secret(webhook_id: UUID, secret: str, now: datetime) -> UUID:
    id = new_id()
    await WebhookSecret.insert(
        WebhookSecret(
            id=id,
            webhook=webhook_id,
            ciphertext=seal(secret_key(), secret.encode(), purpose=secret_purpose(id)),
            hint=secret[-4:],
            created_at=now,
            ends_at=None,
        )
    )
    return id
