"""Sources: the configured senders, their secrets and what they had refused."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, put
from litestar.params import FromPath, JSONBody, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.signals import queries, service
from portal.signals.schemas import RejectedView, SecretInput, SourceChange, SourceInput, SourceView

READ = {"permission": Permission.SOURCES_READ}
WRITE = {"permission": Permission.SOURCES_WRITE}


class NewSource(SourceView, frozen=True, kw_only=True):
    """A source as it is shown when a secret was made for it."""

    secret: str | None
    """What the sender signs with. It is shown only this once; null where the sender gave its public key."""


class SourceStatusInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Literal["active", "paused"]


SourceInputBody = Annotated[
    SourceInput,
    example(
        {
            "name": "Relayer",
            "scheme": "hmac",
            "settings": {
                "header": "X-Signature",
                "algorithm": "sha256",
                "encoding": "hex",
                "signed": "{timestamp}.{body}",
                "timestamp_header": "X-Timestamp",
                "id_pointer": "/id",
                "type_pointer": "/event",
            },
            "allowed_networks": ["192.0.2.0/24"],
            "rate_limit_per_minute": 6000,
        }
    ),
]
SourceChangeBody = Annotated[
    SourceChange, example({"name": "GitHub", "body_cap_bytes": 1048576, "expected_every_seconds": 86400})
]
SecretInputBody = Annotated[SecretInput, example({"overlap_seconds": 86400})]


@get("/sources", summary="List sources", opt=READ, responses=problems())
async def list_sources(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[SourceView]:
    return await queries.list_sources(actor.organization_id, cursor=cursor, limit=limit)


@post(
    "/sources",
    summary="Create a source",
    description=(
        "Configures a sender. The answer holds the address it posts to and, only this once, its secret: made here "
        "where none is given. `settings` is for the schemes `hmac`, `ed25519`, `bearer` and `basic`, which describe a "
        "sender; a wrong one is named, such as `/settings/header`. The other schemes need none."
    ),
    opt=WRITE,
    responses=problems(409, 422),
)
async def create_source(actor: Acting, data: SourceInputBody) -> Response[NewSource]:
    view, secret = await service.create_source(actor, data)
    return created(_with_secret(view, secret), f"sources/{view.id}", version=view.updated_at)


@get("/sources/{source_id:uuid}", summary="Get a source", opt=READ, response_headers=ETAG, responses=problems(404))
async def get_source(actor: Acting, source_id: FromPath[UUID]) -> Response[SourceView]:
    view = await queries.get_source(actor.organization_id, source_id)
    return with_etag(view, view.updated_at)


@put(
    "/sources/{source_id:uuid}",
    summary="Change a source",
    description="Changes what is given and leaves the rest; never the scheme. Needs If-Match.",
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def change_source(
    actor: Acting, source_id: FromPath[UUID], data: SourceChangeBody, *, if_match: IfMatch = None
) -> Response[SourceView]:
    seen = await queries.get_source(actor.organization_id, source_id)
    require_match(if_match, seen.updated_at)
    view = await service.change_source(actor, source_id, data, expected=seen.updated_at)
    return with_etag(view, view.updated_at)


@put(
    "/sources/{source_id:uuid}/status",
    summary="Pause or resume a source",
    description="A paused source refuses its deliveries with 403. Needs If-Match with the ETag of the source.",
    opt=WRITE,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 428),
)
async def set_source_status(
    actor: Acting, source_id: FromPath[UUID], data: JSONBody[SourceStatusInput], *, if_match: IfMatch = None
) -> Response[SourceView]:
    seen = await queries.get_source(actor.organization_id, source_id)
    require_match(if_match, seen.updated_at)
    turn = service.pause_source if data.status == "paused" else service.resume_source
    view = await turn(actor, source_id)
    return with_etag(view, view.updated_at)


@post(
    "/sources/{source_id:uuid}/secrets",
    summary="Add a secret to a source",
    description=(
        "One more secret that is accepted, shown only this once. `overlap_seconds` ends the others after that time, "
        "so that a sender can change over without losing a delivery."
    ),
    opt=WRITE,
    responses=problems(404, 409, 422),
)
async def add_secret(actor: Acting, source_id: FromPath[UUID], data: SecretInputBody) -> Response[NewSource]:
    view, secret = await service.add_secret(actor, source_id, data)
    return created(_with_secret(view, secret), f"sources/{view.id}", version=view.updated_at)


@delete(
    "/sources/{source_id:uuid}/secrets/{secret_id:uuid}",
    summary="End a secret",
    description="It is not accepted from the next delivery on. Needs If-Match with the ETag of the source.",
    opt=WRITE,
    responses=problems(404, 409, 412, 428),
)
async def end_secret(
    actor: Acting, source_id: FromPath[UUID], secret_id: FromPath[UUID], *, if_match: IfMatch = None
) -> None:
    seen = await queries.get_source(actor.organization_id, source_id)
    require_match(if_match, seen.updated_at)
    await service.end_secret(actor, source_id, secret_id)


@get(
    "/sources/{source_id:uuid}/rejected-deliveries",
    summary="List what a source had refused",
    description=(
        "The newest deliveries that were refused, each with the cause. At most 1,000 are kept whose signature was "
        "right, and 1,000 others."
    ),
    opt=READ,
    responses=problems(404),
)
async def list_rejected(
    actor: Acting,
    source_id: FromPath[UUID],
    *,
    cause: Annotated[str | None, QueryParameter(description="Of one cause, such as `signature_invalid`.")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[RejectedView]:
    await queries.get_source(actor.organization_id, source_id)
    return await queries.list_rejected_deliveries(
        actor.organization_id, source_id=source_id, cause=cause, cursor=cursor, limit=limit
    )


def _with_secret(view: SourceView, secret: str | None) -> NewSource:
    return NewSource(**msgspec.structs.asdict(view), secret=secret)


sources_router = Router(
    "/",
    route_handlers=[
        list_sources,
        create_source,
        get_source,
        change_source,
        set_source_status,
        add_secret,
        end_secret,
        list_rejected,
    ],
    tags=["Sources"],
)
