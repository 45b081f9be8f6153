"""Sources as the intake needs them, kept in memory of each process and never trusted blindly.

A kept sender may be out of date: another process may have ended a secret. So what was checked with one is stored only
if the source still has that version (see `intake.flush`), and what it refuses is refused only after another look.
"""

from collections import OrderedDict
from datetime import UTC, datetime
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from portal import clock
from portal.db.engine import ReservedConnection
from portal.sealing import unseal
from portal.settings import secret_key
from portal.signals import schemes
from portal.signals.json_schemas import validation
from portal.signals.schemas import DEFAULT_BODY_BYTES
from portal.signals.schemes import Headers
from portal.signals.tables import SchemaFailure, SourceStatus
from portal.together import Together

MOST_KEPT = 1000
NO_VERSION = datetime.min.replace(tzinfo=UTC)


class ActiveSecret(msgspec.Struct):
    """A secret of the source, decrypted."""

    id: UUID
    text: str
    ends_at: datetime | None
    last_used_at: datetime | None
    """As this process knows it."""


class SchemaInForce(msgspec.Struct, frozen=True):
    """The version of a type's schema that deliveries are checked against, compiled."""

    id: UUID
    validator: validation.Validator


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """A source with all that a delivery is checked by. `organization_id` is None for an address that is no source."""

    id: UUID
    organization_id: UUID | None
    scheme: str
    settings: Any
    """Of the scheme, decoded into the form that it declares; None where it has none, and for what is pulled."""
    status: str
    body_cap_bytes: int
    allowed_networks: tuple[IPv4Network | IPv6Network, ...]
    rate_limit_per_minute: int | None
    on_schema_failure: str
    schemas: dict[str, SchemaInForce]
    """By type."""
    secrets: list[ActiveSecret]
    """The newest first; those that had ended when it was loaded are left out, later ones are not."""
    version: datetime
    """`source.updated_at`."""

    def active_secrets(self, now: datetime) -> list[ActiveSecret]:
        return [secret for secret in self.secrets if secret.ends_at is None or secret.ends_at > now]


lookups = ReservedConnection(seconds=2)
"""What a delivery needs beside being stored waits neither for pages and jobs, nor for longer than its sender does."""
_kept: OrderedDict[UUID, Sender] = OrderedDict()


def find_kept(source_id: UUID) -> Sender | None:
    """The sender as this process last loaded it."""
    sender = _kept.get(source_id)
    if sender is not None:
        _kept.move_to_end(source_id)
    return sender


async def load_sender(source_id: UUID) -> Sender | None:
    """The source as it is now, or a moment later; None if there is none. Requests that ask at once share a query."""
    return await _loading.do(source_id)


def stand_in(source_id: UUID, headers: Headers) -> Sender:
    """What takes as long to refuse a delivery as a source would, and has a secret that nobody knows."""
    scheme = schemes.likely_scheme(headers)
    return Sender(
        id=source_id,
        organization_id=None,
        scheme=scheme,
        settings=None,
        status=SourceStatus.ACTIVE,
        body_cap_bytes=DEFAULT_BODY_BYTES,
        allowed_networks=(),
        rate_limit_per_minute=None,
        on_schema_failure=SchemaFailure.QUARANTINE,
        schemas={},
        secrets=[_dummy_secret(scheme)],
        version=NO_VERSION,
    )


def secret_purpose(secret_id: UUID) -> str:
    """What binds a sealed secret to its row."""
    return f"source-secret:{secret_id}"


@cache
def _dummy_secret(scheme: str) -> ActiveSecret:
    make = schemes.SCHEMES[scheme].new_secret
    assert make is not None, "the likely schemes have secrets that can be made"
    return ActiveSecret(id=UUID(int=0), text=make(None), ends_at=None, last_used_at=None)


async def _load(source_ids: list[UUID]) -> list[Sender | None]:
    rows = await lookups.fetch("SELECT id, updated_at FROM source WHERE id = ANY($1)", source_ids)
    versions = {row["id"]: row["updated_at"] for row in rows}
    changed = [id for id, version in versions.items() if id not in _kept or _kept[id].version != version]
    loaded = {sender.id: sender for sender in await _load_whole(changed)} if changed else {}
    for id in set(source_ids):
        if id not in versions:
            _kept.pop(id, None)
        elif id in loaded:
            _kept[id] = loaded[id]
    found = [_kept.get(id) for id in source_ids]
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)
    return found


_loading: Together[UUID, Sender | None] = Together(_load)


class _StoredSecret(msgspec.Struct):
    id: UUID
    ciphertext: str
    ends_at: datetime | None
    last_used_at: datetime | None


async def _load_whole(source_ids: list[UUID]) -> list[Sender]:
    # One statement, so that secrets and schemas are of the version that it reads.
    rows = await lookups.fetch(
        """SELECT s.id, s.organization, s.scheme, s.settings, s.status, s.body_cap_bytes, s.allowed_networks,
                  s.rate_limit_per_minute, s.on_schema_failure, s.updated_at,
                  (SELECT coalesce(json_agg(json_build_object(
                              'id', k.id, 'ciphertext', encode(k.ciphertext, 'hex'), 'ends_at', k.ends_at,
                              'last_used_at', k.last_used_at) ORDER BY k.id DESC), '[]')
                   FROM source_secret k WHERE k.source = s.id AND (k.ends_at IS NULL OR k.ends_at > $1)) AS secrets,
                  (SELECT coalesce(json_object_agg(f.type, f.id) FILTER (WHERE f.given), json_build_object()) FROM (
                       SELECT DISTINCT ON (type) type, id, schema IS NOT NULL AS given
                       FROM signal_schema WHERE source = s.id ORDER BY type, number DESC) f) AS schemas
           FROM source s WHERE s.id = ANY($2)""",
        clock.now(),
        source_ids,
    )
    by_source = {row["id"]: msgspec.json.decode(row["schemas"], type=dict[str, UUID]) for row in rows}
    await _compile({id for schemas in by_source.values() for id in schemas.values()})
    return [_sender(row, {type: _compiled[id] for type, id in by_source[row["id"]].items()}) for row in rows]


_compiled: OrderedDict[UUID, SchemaInForce] = OrderedDict()
"""A version never changes, so it is compiled once."""


async def _compile(schema_ids: set[UUID]) -> None:
    missing = [id for id in schema_ids if id not in _compiled]
    if missing:
        rows = await lookups.fetch("SELECT id, schema FROM signal_schema WHERE id = ANY($1)", missing)
        for row in rows:
            validator = validation.compile_schema(msgspec.json.decode(row["schema"]))
            _compiled[row["id"]] = SchemaInForce(row["id"], validator)
    for id in schema_ids:
        _compiled.move_to_end(id)
    while len(_compiled) > max(MOST_KEPT, len(schema_ids)):
        _compiled.popitem(last=False)


def _sender(row: asyncpg.Record, schemas_in_force: dict[str, SchemaInForce]) -> Sender:
    known = row["scheme"] in schemes.SCHEMES
    return Sender(
        id=row["id"],
        organization_id=row["organization"],
        scheme=row["scheme"],
        settings=schemes.read_settings(row["scheme"], row["settings"]) if known else None,
        status=row["status"],
        body_cap_bytes=row["body_cap_bytes"],
        allowed_networks=tuple(ip_network(block) for block in msgspec.json.decode(row["allowed_networks"])),
        rate_limit_per_minute=row["rate_limit_per_minute"],
        on_schema_failure=row["on_schema_failure"],
        schemas=schemas_in_force,
        secrets=[_secret(stored) for stored in msgspec.json.decode(row["secrets"], type=list[_StoredSecret])],
        version=row["updated_at"],
    )


def _secret(stored: _StoredSecret) -> ActiveSecret:
    text = unseal(secret_key(), bytes.fromhex(stored.ciphertext), purpose=secret_purpose(stored.id)).decode()
    return ActiveSecret(stored.id, text, stored.ends_at, stored.last_used_at)
