"""Refused deliveries, accepted after all once what was wrong is mended: a secret, a limit, a schema.

Nothing is waived. The delivery is verified from its own headers and bytes by what its source takes today; only its
timestamp is compared with the moment it came instead of now.
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.audit import service as audit
from portal.db.engine import run_sql, transaction
from portal.db.notices import announce
from portal.db.paging import decode_cursor, encode_cursor
from portal.errors import NotFound, PortalError, SettingInvalid, Unavailable
from portal.jobs.queue import ring
from portal.sealing import SealBroken
from portal.signals import schemes
from portal.signals.errors import DeliveryNotAcceptable, SignatureInvalid
from portal.signals.intake import flush, refusals
from portal.signals.intake.flush import Row
from portal.signals.intake.senders import load_sender
from portal.signals.intake.service import check_delivery, delivered_row
from portal.signals.schemas import Receipt, RejectedView
from portal.signals.tables import SignalStatus

ATTEMPTS = 3
MOST_AT_ONCE = 100


class RejectedDetail(RejectedView, frozen=True, kw_only=True):
    """A refused delivery with what came."""

    body: str | None
    """As text, bytes that are not UTF-8 shown as U+FFFD; None where it is not kept."""
    header_names: list[str]
    """The headers that are kept of it: those that are needed to verify it again. What is in them stays sealed."""
    acceptable: bool
    """Whether it is kept whole, so that it can be tried again."""
    accepted_as: UUID | None
    """The signal that it became."""


class AcceptanceInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which refused deliveries of a source to accept: those of one cause."""

    cause: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    cursor: str | None = None
    """`next_cursor` of the answer before, to go on behind it."""


class StillRefused(msgspec.Struct, frozen=True):
    rejected_id: UUID
    reason: str


class CauseView(msgspec.Struct, frozen=True, kw_only=True):
    """What a source refused for one cause and nobody has accepted since, of what is kept."""

    cause: str
    number: int
    acceptable: int
    """Of those, kept whole, so that they can be tried again."""
    last_at: datetime
    last_id: UUID
    last_detail: str


class Acceptances(msgspec.Struct, frozen=True, kw_only=True):
    """What became of up to 100 refused deliveries."""

    accepted: list[Receipt]
    refused: list[StillRefused]
    next_cursor: str | None
    """Where to go on; None once all were tried."""


async def get_rejected(organization_id: UUID, rejected_id: UUID) -> RejectedDetail:
    """One refused delivery. Raises `NotFound`."""
    rows = await run_sql(
        """SELECT r.id, r.source AS source_id, s.name AS source_name, r.cause, r.detail, r.external_id, r.body_bytes,
                  r.ip, r.correlation_id, r.received_at, r.body, r.headers, r.accepted_as
           FROM rejected_delivery r JOIN source s ON s.id = r.source WHERE r.id = {} AND r.organization = {}""",
        rejected_id,
        organization_id,
    )
    if not rows:
        raise NotFound("There is no such delivery.")
    row, sealed = rows[0], rows[0].pop("headers")
    body = bytes(row["body"]).decode(errors="replace") if row["body"] is not None else None
    return RejectedDetail(
        **{**row, "body": body},
        header_names=_names(rejected_id, sealed),
        acceptable=body is not None and sealed is not None and row["accepted_as"] is None,
    )


def _names(rejected_id: UUID, sealed: bytes | None) -> list[str]:
    """Empty, too, where the secret key is no longer the one that they were kept with."""
    try:
        headers = refusals.unseal_headers(rejected_id, bytes(sealed)) if sealed is not None else []
    except (SealBroken, SettingInvalid):
        return []
    return sorted({name.decode("latin-1") for name, _ in headers if name != schemes.QUERY})


async def list_causes(organization_id: UUID, source_id: UUID) -> list[CauseView]:
    """Why deliveries to a source were refused, the cause of the newest first."""
    rows = await run_sql(
        """SELECT cause, count(*) AS number, count(*) FILTER (WHERE headers IS NOT NULL) AS acceptable,
                  max(received_at) AS last_at, (array_agg(id ORDER BY id DESC))[1] AS last_id,
                  (array_agg(detail ORDER BY id DESC))[1] AS last_detail
           FROM rejected_delivery WHERE source = {} AND organization = {} AND accepted_as IS NULL
           GROUP BY cause ORDER BY last_id DESC""",
        source_id,
        organization_id,
    )
    return [CauseView(**row) for row in rows]


async def accept_rejected(actor: Actor, rejected_id: UUID) -> Receipt:
    """Store a refused delivery as the signal that it would be if it came today.

    Raises `DeliveryNotAcceptable` saying what is still wrong, `Unavailable`, `NotFound`.
    """
    actor.require(Permission.SOURCES_WRITE)
    rows = await run_sql(
        """SELECT id, source, cause, body, headers, ip, correlation_id, received_at, accepted_as
           FROM rejected_delivery WHERE id = {} AND organization = {}""",
        rejected_id,
        actor.organization_id,
    )
    if not rows:
        raise NotFound("There is no such delivery.")
    for _ in range(ATTEMPTS):
        row = await _checked(rows[0])
        async with transaction():
            receipt = await _store(actor, rows[0], row)
        if receipt is not None:
            if receipt.status is SignalStatus.RECEIVED and not receipt.duplicate:
                ring("assess_signals")
            announce("signals", actor.organization_id)
            announce("rejected", actor.organization_id)
            return receipt
    raise Unavailable("The source is being changed just now. Nothing was stored; try again.", retry_after_seconds=1)


async def accept_all(actor: Actor, source_id: UUID, given: AcceptanceInput) -> Acceptances:
    """Accept the refused deliveries of one cause, the oldest first, up to 100 at once. Raises `InputInvalid`."""
    actor.require(Permission.SOURCES_WRITE)
    rows = await run_sql(
        """SELECT id FROM rejected_delivery
           WHERE source = {} AND organization = {} AND cause = {} AND accepted_as IS NULL AND id > {}
           ORDER BY id LIMIT {}""",
        source_id,
        actor.organization_id,
        given.cause,
        decode_cursor(given.cursor) if given.cursor else UUID(int=0),
        MOST_AT_ONCE + 1,
    )
    tried = [row["id"] for row in rows[:MOST_AT_ONCE]]
    accepted: list[Receipt] = []
    refused: list[StillRefused] = []
    for id in tried:
        try:
            accepted.append(await accept_rejected(actor, id))
        except (DeliveryNotAcceptable, NotFound) as error:
            refused.append(StillRefused(id, error.detail))
    more = len(rows) > MOST_AT_ONCE
    return Acceptances(accepted=accepted, refused=refused, next_cursor=encode_cursor(tried[-1]) if more else None)


async def _checked(rejected: dict[str, Any]) -> Row:
    """The signal that it would be, checked by its source as it is now. Raises `DeliveryNotAcceptable`."""
    if rejected["accepted_as"] is not None:
        raise DeliveryNotAcceptable(f"The delivery was accepted before, as signal {rejected['accepted_as']}.")
    if rejected["body"] is None or rejected["headers"] is None:
        raise DeliveryNotAcceptable(
            "Its body is not kept, so there is nothing to verify. Let the sender send it again."
        )
    sender = await load_sender(rejected["source"])
    assert sender is not None, "sources are never deleted"
    body, at = bytes(rejected["body"]), rejected["received_at"]
    try:
        headers = refusals.unseal_headers(rejected["id"], bytes(rejected["headers"]))
        schemes.check_headers(headers)
        verified, secret = check_delivery(sender, headers, body, rejected["ip"], at=at)
        row = delivered_row(sender, headers, body, verified=verified, secret_id=secret.id, now=clock.now())
    except SignatureInvalid as error:
        raise DeliveryNotAcceptable(f"It still cannot be verified: {error.reason}.") from None
    except PortalError as error:
        raise DeliveryNotAcceptable(error.detail, fields=error.fields) from None
    except SealBroken:
        raise DeliveryNotAcceptable(
            "Its headers were changed since they were kept, so nothing vouches for it."
        ) from None
    # The sender was told this id when it was refused.
    return row._replace(correlation_id=rejected["correlation_id"])


async def _store(actor: Actor, rejected: dict[str, Any], row: Row) -> Receipt | None:
    """Store it in the current db transaction; None where the source was changed since it was checked."""
    waiting = await run_sql(
        "SELECT 1 FROM rejected_delivery WHERE id = {} AND accepted_as IS NULL FOR UPDATE", rejected["id"]
    )
    if not waiting:
        raise DeliveryNotAcceptable("Somebody else accepted the delivery, or it had to make room, just now.")
    if await flush.insert([row]):
        receipt = Receipt(row.id, SignalStatus(row.status), duplicate=False)
    else:
        stored = await run_sql(
            "SELECT id, status, body_digest FROM signal WHERE source = {} AND external_id = {}",
            row.source,
            row.external_id,
        )
        if not stored:
            return None
        if bytes(stored[0]["body_digest"]) != row.body_digest:
            raise DeliveryNotAcceptable(
                f"Its id {row.external_id} is stored already, as signal {stored[0]['id']}, with another body."
            )
        receipt = Receipt(stored[0]["id"], SignalStatus(stored[0]["status"]), duplicate=True)
    await run_sql("UPDATE rejected_delivery SET accepted_as = {} WHERE id = {}", receipt.signal_id, rejected["id"])
    await audit.append(
        actor,
        "signal.accepted",
        "signal",
        receipt.signal_id,
        {
            "rejected_id": str(rejected["id"]),
            "source_id": str(row.source),
            "external_id": row.external_id,
            "cause": rejected["cause"],
            "received_at": rejected["received_at"].isoformat(timespec="microseconds"),
            "duplicate": receipt.duplicate,
        },
    )
    return receipt
