"""Schemas of a source's signals, by type.

A type may hold slashes, so it is a parameter of the query. The body of a request is the schema itself, of which every
digit is kept: bounds such as 2**256 - 1 are what contracts are about.
"""

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from litestar import Response, Router, delete, get, put
from litestar.openapi.spec import Example, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath, QueryParameter

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, Acting, KeyedOperation, post, problems
from portal.api.problem import MediaTypeUnsupported
from portal.api.requests import ApiRequest
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.errors import InputInvalid
from portal.signals import queries
from portal.signals.json_schemas import queries as schema_queries
from portal.signals.json_schemas import service as schema_service
from portal.signals.json_schemas.views import SchemaProposal, SchemaTrial, SignalSchemaView
from portal.signals.payloads import PayloadUnreadable, parse_payload

READ = {"permission": Permission.SOURCES_READ}
WRITE = {"permission": Permission.SOURCES_WRITE}
EXAMPLE = {"type": "object", "properties": {"action": {"type": "string"}}, "required": ["action"]}
OfType = Annotated[str, QueryParameter(name="type", min_length=1, max_length=128, description="The type of signals.")]

SCHEMA_BODY = RequestBody(
    description="The schema itself: JSON Schema 2020-12 unless `$schema` names another dialect.",
    required=True,
    content={
        "application/json": OpenAPIMediaType(
            schema=Schema(type=OpenAPIType.OBJECT), examples={"schema": Example(value=EXAMPLE)}
        )
    },
)


@dataclass
class TakesSchema(Operation):
    """An operation whose body is a schema."""

    def __post_init__(self) -> None:
        self.request_body = SCHEMA_BODY


@dataclass
class TriesSchema(KeyedOperation):
    """A POST whose body is a schema."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.request_body = SCHEMA_BODY


@get(
    "/sources/{source_id:uuid}/schemas",
    summary="List the schemas of a source",
    description="Those in force, one for each type that has one. A delivery of another type is not checked.",
    opt=READ,
    responses=problems(404),
)
async def list_schemas(actor: Acting, source_id: FromPath[UUID]) -> Page[SignalSchemaView]:
    await queries.get_source(actor.organization_id, source_id)
    return Page(await schema_queries.list_schemas(actor.organization_id, source_id))


@get(
    "/sources/{source_id:uuid}/schema",
    summary="Get the schema of a type",
    description="The version in force. The ETag is the one of the source.",
    opt=READ,
    response_headers=ETAG,
    responses=problems(404),
)
async def get_schema(actor: Acting, source_id: FromPath[UUID], type_: OfType) -> Response[SignalSchemaView]:
    source = await queries.get_source(actor.organization_id, source_id)
    view = await schema_queries.get_schema(actor.organization_id, source_id, type_)
    return with_etag(view, source.updated_at)


@get(
    "/sources/{source_id:uuid}/schema-versions",
    summary="List the versions of a type's schema",
    description="The newest first. A version without a schema ended the one before it.",
    opt=READ,
    responses=problems(404),
)
async def list_schema_versions(
    actor: Acting, source_id: FromPath[UUID], type_: OfType, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[SignalSchemaView]:
    await queries.get_source(actor.organization_id, source_id)
    return await schema_queries.list_schema_versions(
        actor.organization_id, source_id, type_, cursor=cursor, limit=limit
    )


@put(
    "/sources/{source_id:uuid}/schema",
    summary="Set the schema of a type",
    description=(
        "Makes a new version, by which deliveries of this type are checked from now on. What fails is quarantined, or "
        "refused with 422 where the source says so. Needs If-Match with the ETag of the source, and answers with its "
        "next one. Nothing outside of the schema is fetched, and patterns know no look-around."
    ),
    opt=WRITE,
    operation_class=TakesSchema,
    response_headers=ETAG,
    responses=problems(404, 409, 412, 413, 415, 428),
)
async def set_schema(
    actor: Acting, request: ApiRequest, source_id: FromPath[UUID], type_: OfType, *, if_match: IfMatch = None
) -> Response[SignalSchemaView]:
    seen = await queries.get_source(actor.organization_id, source_id)
    require_match(if_match, seen.updated_at)
    schema = await _schema_in(request)
    view = await schema_service.set_schema(actor, source_id, type_, schema, expected=seen.updated_at)
    return with_etag(view, (await queries.get_source(actor.organization_id, source_id)).updated_at)


@delete(
    "/sources/{source_id:uuid}/schema",
    summary="End the schema of a type",
    description="Deliveries of this type are not checked any more. Needs If-Match with the ETag of the source.",
    opt=WRITE,
    responses=problems(404, 412, 428),
)
async def end_schema(actor: Acting, source_id: FromPath[UUID], type_: OfType, *, if_match: IfMatch = None) -> None:
    seen = await queries.get_source(actor.organization_id, source_id)
    require_match(if_match, seen.updated_at)
    await schema_service.set_schema(actor, source_id, type_, None, expected=seen.updated_at)


@post(
    "/sources/{source_id:uuid}/schema-inferences",
    status_code=200,
    summary="Infer a schema from signals",
    description="Proposes a schema that the newest 200 signals of this type pass. Nothing is stored.",
    opt=WRITE,
    responses=problems(404, 409, 422),
)
async def infer_schema(actor: Acting, source_id: FromPath[UUID], type_: OfType) -> SchemaProposal:
    return await schema_service.infer(actor, source_id, type_)


@post(
    "/sources/{source_id:uuid}/schema-trials",
    status_code=200,
    summary="Try a schema on signals",
    description="Tells how many of the newest 200 signals of this type would pass, and why not. Nothing is stored.",
    opt=WRITE,
    operation_class=TriesSchema,
    responses=problems(404, 413, 415, 422),
)
async def try_schema(actor: Acting, request: ApiRequest, source_id: FromPath[UUID], type_: OfType) -> SchemaTrial:
    await queries.get_source(actor.organization_id, source_id)
    return await schema_service.try_schema(actor, source_id, type_, await _schema_in(request))


async def _schema_in(request: ApiRequest) -> dict[str, Any]:
    kind = request.content_type[0].lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise MediaTypeUnsupported("Send the schema as JSON, with Content-Type: application/json.")
    try:
        schema = parse_payload(await request.body())
    except PayloadUnreadable as error:
        raise InputInvalid.at("", str(error)) from None
    if not isinstance(schema, dict):
        raise InputInvalid.at("", "A schema is a JSON object.")
    return schema


signal_schemas_router = Router(
    "/",
    route_handlers=[
        list_schemas,
        get_schema,
        list_schema_versions,
        set_schema,
        end_schema,
        infer_schema,
        try_schema,
    ],
    tags=["Sources"],
)
