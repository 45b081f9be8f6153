"""The schema of one type of a source's signals: proposed from what has come, tried on it, put in force in versions."""

import json
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect

from portal.accounts.permissions import Permission
from portal.errors import InputInvalid, PortalError
from portal.signals import queries as signals
from portal.signals.json_schemas import queries as schema_queries
from portal.signals.json_schemas import service as schema_service
from portal.signals.json_schemas.queries import checked
from portal.signals.json_schemas.views import SchemaProposal, SchemaTrial, SignalSchemaView
from portal.signals.schemas import SignalFilter
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.pages.source_wizard import read_schema
from portal.web.render import AnyRequest, see_other
from portal.web.schema_changes import changes_between

READ = {"permission": Permission.SOURCES_READ}
WRITE = {"permission": Permission.SOURCES_WRITE}
SHOWN_VERSIONS = 20


class Version(msgspec.Struct, frozen=True):
    """A version of the schema, with what it changed."""

    view: SignalSchemaView
    text: str
    changes: list[str]


@get("/sources/{source_id:uuid}/schemas", opt=READ)
async def find_schema_page(desk: AtDesk, source_id: FromPath[UUID], type: FromQuery[str] = "") -> Redirect:
    """To the page of a type that was typed into a field."""
    await signals.get_source(desk.actor.organization_id, source_id)
    return see_other(desk.url(f"sources/{source_id}/schemas/{checked(type.strip())}"))


@get("/sources/{source_id:uuid}/schemas/{type:path}", opt=READ)
async def show_schema(
    request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID], type: FromPath[str]
) -> Response[str]:
    return await _schema_page(request, desk, source_id, type.removeprefix("/"))


@post("/sources/{source_id:uuid}/schemas/{type:path}", opt=WRITE)
async def work_on_schema(
    request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID], type: FromPath[str]
) -> Response[Any]:
    """What the pressed button says: propose, try, set or end. Only the last two change something."""
    values, type = await read_values(request), type.removeprefix("/")
    text = values.get("schema", "")
    home = desk.url(f"sources/{source_id}/schemas/{type}")
    await signals.get_source(desk.actor.organization_id, source_id)
    try:
        match values.get("do"):
            case "propose":
                proposal = await schema_service.infer(desk.actor, source_id, type)
                return await _schema_page(
                    request, desk, source_id, type, text=_text(proposal.schema), proposal=proposal
                )
            case "try":
                schema = await read_schema(text)
                trial = await schema_service.try_schema(desk.actor, source_id, type, schema)
                return await _schema_page(request, desk, source_id, type, text=text, trial=trial)
            case "set":
                await schema_service.set_schema(desk.actor, source_id, type, await read_schema(text))
                return see_other(home, done="schema_set")
            case "end":
                await schema_service.set_schema(desk.actor, source_id, type, None)
                return see_other(home, done="schema_ended")
            case _:
                raise InputInvalid("Choose what to do with the schema.")
    except PortalError as error:
        return await _schema_page(request, desk, source_id, type, text=text, error=error)


async def _schema_page(
    request: AnyRequest,
    desk: Desk,
    source_id: UUID,
    type: str,
    *,
    text: str | None = None,
    proposal: SchemaProposal | None = None,
    trial: SchemaTrial | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    source = await signals.get_source(organization, source_id)
    found = await schema_queries.list_schema_versions(organization, source_id, type, limit=SHOWN_VERSIONS)
    current = next((view for view in found.items if view.in_force), None)
    counts = await signals.count_signals_by_status(organization, SignalFilter(source_id=source_id, type=type))
    return desk_page(
        request,
        desk,
        "sources/schema.html",
        active="sources",
        http_status=error.status if error else 200,
        source=source,
        type=type,
        home=desk.url(f"sources/{source_id}/schemas/{type}"),
        current=current,
        next_number=found.items[0].number + 1 if found.items else 1,
        text=text if text is not None else _text(current.schema) if current else "",
        proposal=proposal,
        trial=trial,
        versions=_versions(found.items),
        older=found.next_cursor is not None,
        quarantined=next(number for status, number in counts.items() if status == "quarantined"),
        may_write=desk.may("sources:write"),
        error=error,
    )


def _versions(views: list[SignalSchemaView]) -> list[Version]:
    """Each with what it changed; of the oldest that is shown this is known only if it is the first."""
    made = []
    for place, view in enumerate(views):
        before = views[place + 1].schema if place + 1 < len(views) else None
        known = view.number == 1 or place + 1 < len(views)
        made.append(Version(view, _text(view.schema), changes_between(before, view.schema) if known else []))
    return made


def _text(schema: dict[str, Any] | None) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) if schema is not None else ""


handlers = [find_schema_page, show_schema, work_on_schema]
