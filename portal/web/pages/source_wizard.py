"""Connecting a source: by one pasted request, or by a preset; and what the sender needs to be told then."""

import asyncio
import json
from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal import clock
from portal.accounts.permissions import Permission
from portal.errors import InputInvalid, NotFound, PortalError
from portal.signals import queries as signals
from portal.signals import service
from portal.signals.json_schemas import service as schema_service
from portal.signals.json_schemas.validation import compile_schema, infer_schema
from portal.signals.payloads import PayloadUnreadable, parse_payload
from portal.signals.pulls import KINDS
from portal.signals.pulls.events import list_readable_events
from portal.signals.recognition import Recognition, recognise
from portal.signals.schemas import SignalFilter, SourceView
from portal.signals.schemes import SCHEMES
from portal.web.asking import AtDesk
from portal.web.curl import curl_line
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.render import AnyRequest, fragment, see_other
from portal.web.sender_words import GROUPS, INSTRUCTIONS, MAKES_ITS_SECRET, how_it_signs, roughly, secret_hint, used_by
from portal.web.setting_fields import LABELS, SECTIONS
from portal.web.source_forms import (
    ON_FAILURE,
    at_our_fields,
    cadence_choices,
    cap_choices,
    event_key,
    new_values,
    setting_values,
    source_input,
)
from portal.web.trees import tree_of

READ = {"permission": Permission.SOURCES_READ}
WRITE = {"permission": Permission.SOURCES_WRITE}
MAX_SCHEMA_LETTERS = 64 * 1024
"""Of a shape that is offered along with a new source."""


@get("/sources/new", opt=WRITE)
async def show_new_source(request: AnyRequest, desk: AtDesk, scheme: FromQuery[str | None] = None) -> Response[str]:
    """The choice of how to begin, or the form of one scheme."""
    if scheme is None:
        return _choice_page(request, desk, {})
    if scheme not in LABELS:
        raise NotFound("There is no such kind of sender.")
    return await _form_page(request, desk, scheme, {})


@post("/sources/recognise", opt=WRITE)
async def recognise_request(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """What a pasted request tells of its sender, with a form that is filled in; nothing is stored."""
    values = await read_values(request)
    text, secret = values.get("request", ""), values.get("known_secret") or None
    try:
        if not text:
            raise InputInvalid.at("/request", "Paste a request here first.")
        found = await asyncio.to_thread(recognise, text, secret, None, now=clock.now())
    except PortalError as error:
        return _choice_page(request, desk, values, error)
    if found.scheme is None:
        return _choice_page(request, desk, values, found=found)
    begun = {"name": LABELS[found.scheme] if found.scheme not in SECTIONS else "", "secret": secret or ""}
    begun |= setting_values(found.scheme, found.settings) | await asyncio.to_thread(_shape_of, found)
    return await _form_page(request, desk, found.scheme, begun, found=found, pasted=values)


@post("/sources/new", opt=WRITE)
async def create_source(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    """The answer shows the secret; nothing can show it again."""
    values = await read_values(request)
    scheme = values.get("scheme", "")
    if scheme not in LABELS:
        return _choice_page(request, desk, {}, InputInvalid("Choose how the sender signs."))
    try:
        schema = await _wanted_schema(values)
        source, secret = await service.create_source(desk.actor, source_input(values))
    except PortalError as error:
        return await _form_page(request, desk, scheme, values, at_our_fields(error))
    problem = None
    if schema is not None:
        try:
            await schema_service.set_schema(desk.actor, source.id, values.get("schema_type", ""), schema)
        except PortalError as error:
            problem = error
    if scheme in KINDS:
        return see_other(desk.url(f"sources/{source.id}"), done="source_created")
    return made_page(request, desk, source, secret, given=bool(values.get("secret")), problem=problem)


@get("/sources/{source_id:uuid}/first", opt=READ)
async def show_first_delivery(
    request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID], secret_id: FromQuery[UUID | None] = None
) -> Response[str]:
    """What the source sent or had refused last; with the id of a new secret, whether that one is in use."""
    organization = desk.actor.organization_id
    source = await signals.get_source(organization, source_id)
    found = (await signals.list_signals(organization, SignalFilter(source_id=source_id), limit=1)).items
    refused = (await signals.list_rejected_deliveries(organization, source_id=source_id, limit=1)).items
    context = {
        "desk": desk,
        "source": source,
        "signal": next(iter(found), None),
        "refused": next(iter(refused), None),
        "secret": next((each for each in source.secrets if each.id == secret_id), None),
    }
    return fragment(request, "sources/_first.html", context)


def made_page(
    request: AnyRequest,
    desk: Desk,
    source: SourceView,
    secret: str | None,
    *,
    given: bool,
    new: bool = True,
    problem: PortalError | None = None,
) -> Response[str]:
    """What the sender needs, with a line to try it. `given` is whether the secret was not made here."""
    return desk_page(
        request,
        desk,
        "sources/made.html",
        active="sources",
        source=source,
        secret=secret,
        label=LABELS[source.scheme],
        instructions=INSTRUCTIONS.get(source.scheme),
        makes_its_secret=source.scheme in MAKES_ITS_SECRET and not given,
        line=curl_line(source.scheme, source.settings, source.url, secret),
        given=given,
        new=new,
        rotated=None if new else max(source.secrets, key=lambda each: each.created_at).id,
        error=problem,
    )


def _choice_page(
    request: AnyRequest,
    desk: Desk,
    values: dict[str, str],
    error: PortalError | None = None,
    found: Recognition | None = None,
) -> Response[str]:
    return desk_page(
        request,
        desk,
        "sources/new.html",
        active="sources",
        http_status=error.status if error else 200,
        groups=GROUPS,
        labels=LABELS,
        used_by=used_by,
        values={"request": "", "known_secret": ""} | values,
        found=found,
        error=error,
    )


async def _form_page(
    request: AnyRequest,
    desk: Desk,
    scheme: str,
    values: dict[str, str],
    error: PortalError | None = None,
    *,
    found: Recognition | None = None,
    pasted: dict[str, str] | None = None,
) -> Response[str]:
    """The form of one scheme; beside it what was `found` in the request that was `pasted`."""
    values = new_values(scheme) | {"schema": "", "schema_type": "", "with_schema": ""} | values
    return desk_page(
        request,
        desk,
        "sources/form.html",
        active="sources",
        http_status=error.status if error else 200,
        scheme=scheme,
        label=LABELS[scheme],
        used_by=used_by(scheme),
        secret_hint=secret_hint(scheme),
        public_key=scheme in SCHEMES and SCHEMES[scheme].new_secret is None,
        found=found,
        pasted={"request": "", "known_secret": ""} | (pasted or {}),
        roughly=roughly,
        how=how_it_signs(scheme, found.settings) if found else None,
        tree=tree_of(found.payload) if found and found.payload is not None else None,
        values=values,
        error=error,
        **await form_context(desk, scheme, values),
    )


async def form_context(desk: Desk, scheme: str, values: dict[str, str]) -> dict[str, Any]:
    """What the fields of a source's form offer, for a new source and for one that is changed."""
    events = await list_readable_events(desk.actor.organization_id) if scheme == "evm_logs" else []
    by_contract: dict[str, list[tuple[str, str]]] = {}
    for event in events:
        by_contract.setdefault(event.contract_name, []).append((event_key(event), event.signature))
    cap, cadence = (_whole(values.get(name, "")) for name in ("body_cap_bytes", "expected_every_seconds"))
    return {
        "sections": SECTIONS.get(scheme, ()),
        "readable": events,
        "events": by_contract,
        "caps": cap_choices(cap),
        "cadences": cadence_choices(cadence),
        "on_failure": ON_FAILURE,
        "pulled": scheme in KINDS,
    }


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None


def _shape_of(found: Recognition) -> dict[str, str]:
    """The shape of the body as fields of the form; nothing where it has none that could be checked."""
    if not isinstance(found.payload, dict) or found.type is None:
        return {}
    text = json.dumps(infer_schema([found.payload]), indent=2, ensure_ascii=False)
    return {"schema": text, "schema_type": found.type} if len(text) <= MAX_SCHEMA_LETTERS else {}


async def _wanted_schema(values: dict[str, str]) -> dict[str, Any] | None:
    """The schema that deliveries are to be checked against from the start. Raises `InputInvalid` at `/schema`."""
    if values.get("with_schema") != "yes":
        return None
    return await read_schema(values.get("schema", ""))


async def read_schema(text: str) -> dict[str, Any]:
    """A schema as it was typed, checked. Raises `InputInvalid` at `/schema` that says the place."""
    try:
        schema = parse_payload(text.encode())
    except PayloadUnreadable as error:
        raise InputInvalid.at("/schema", str(error).replace("The body", "The schema")) from None
    if not isinstance(schema, dict):
        raise InputInvalid.at("/schema", "A schema is a JSON object.")
    try:
        await asyncio.to_thread(compile_schema, schema)
    except InputInvalid as error:
        raise at_schema(error) from None
    return schema


def at_schema(error: InputInvalid) -> InputInvalid:
    """The same error at the editor, with the place within the schema in words."""
    return InputInvalid.at(
        "/schema",
        " ".join(f"At {wrong.path}: {wrong.message}" if wrong.path else wrong.message for wrong in error.fields),
    )


handlers = [show_new_source, recognise_request, create_source, show_first_delivery]
