"""Sources: how well each is heard, its secrets, types and refusals; changed, paused, asked at once."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal import clock
from portal.accounts.permissions import Permission
from portal.chain import queries as chain
from portal.errors import PortalError
from portal.signals import queries as signals
from portal.signals import service
from portal.signals.health.judgement import SourceHealth, in_words
from portal.signals.health.tallies import HourTally, counts_by_hour
from portal.signals.health.watching import get_source_health, quiet_sources
from portal.signals.intake import acceptance
from portal.signals.json_schemas import queries as schema_queries
from portal.signals.pulls import KINDS
from portal.signals.pulls.service import PullInput, PullView, get_pull, pull_now
from portal.signals.schemas import SecretInput, SignalFilter, SourceView
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values, to_input, version_of
from portal.web.pages.refused import CAUSES
from portal.web.pages.source_wizard import form_context, made_page
from portal.web.render import AnyRequest, see_other
from portal.web.sender_words import rhythm, roughly, secret_hint
from portal.web.setting_fields import LABELS, settings_of
from portal.web.source_forms import CAPS, at_our_fields, source_change, values_of

READ = {"permission": Permission.SOURCES_READ}
WRITE = {"permission": Permission.SOURCES_WRITE}
HOURS = 48
CHART_HEIGHT = 60
SHOWN_REFUSALS = 5
LATE = 3
"""Times the longest usual silence: from there on it is said that a source is later than usual."""
LATE_AT_LEAST = timedelta(minutes=10)
OVERLAPS = [
    ("", "Keep the others, too"),
    ("86400", "End the others in a day"),
    ("604800", "End the others in a week"),
    ("3600", "End the others in an hour"),
    ("0", "End the others at once"),
]


@get("/sources", opt=READ)
async def show_sources(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    found = await signals.list_sources(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "sources/list.html",
        active="sources",
        sources=found.items,
        quiet=await quiet_sources(desk.actor.organization_id),
        schemes=LABELS,
        pulled=KINDS,
        may_write=desk.may("sources:write"),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/sources/{source_id:uuid}", opt=READ)
async def show_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[str]:
    return await _source_page(request, desk, source_id)


@get("/sources/{source_id:uuid}/edit", opt=WRITE)
async def show_source_editor(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[str]:
    return await _editor_page(request, desk, source_id, {})


@post("/sources/{source_id:uuid}/edit", opt=WRITE)
async def change_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    source = await signals.get_source(desk.actor.organization_id, source_id)
    try:
        expected = version_of(values.get("version", ""))
        await service.change_source(desk.actor, source_id, source_change(source, values), expected=expected)
    except PortalError as error:
        return await _editor_page(request, desk, source_id, values, at_our_fields(error))
    return see_other(desk.url(f"sources/{source_id}"), done="source_changed")


@post("/sources/{source_id:uuid}/secrets", opt=WRITE)
async def add_secret(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    """Where the secret is made here, the answer shows it; nothing can show it again."""
    values = await read_values(request)
    try:
        source, secret = await service.add_secret(desk.actor, source_id, to_input(values, SecretInput))
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    if secret is None or values.get("secret"):
        return see_other(desk.url(f"sources/{source_id}"), done="secret_added")
    return made_page(request, desk, source, secret, given=False, new=False)


@post("/sources/{source_id:uuid}/secrets/{secret_id:uuid}/end", opt=WRITE)
async def end_secret(
    request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID], secret_id: FromPath[UUID]
) -> Response[Any]:
    try:
        await service.end_secret(desk.actor, source_id, secret_id)
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="secret_ended")


@post("/sources/{source_id:uuid}/pause", opt=WRITE)
async def pause_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.pause_source(desk.actor, source_id)
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="source_paused")


@post("/sources/{source_id:uuid}/resume", opt=WRITE)
async def resume_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.resume_source(desk.actor, source_id)
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="source_resumed")


@post("/sources/{source_id:uuid}/pull", opt=WRITE)
async def pull_source(request: AnyRequest, desk: AtDesk, source_id: FromPath[UUID]) -> Response[Any]:
    """Ask without waiting for the next time; from the start where the form says so."""
    values = await read_values(request)
    try:
        await pull_now(desk.actor, source_id, PullInput(from_start=values.get("from_start") == "yes"))
    except PortalError as error:
        return await _source_page(request, desk, source_id, error=error)
    return see_other(desk.url(f"sources/{source_id}"), done="pull_requested")


async def _source_page(
    request: AnyRequest, desk: Desk, source_id: UUID, *, error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    source = await signals.get_source(organization, source_id)
    health = await get_source_health(organization, source_id)
    counts = await signals.count_signals_by_status(organization, SignalFilter(source_id=source_id))
    pull = await get_pull(organization, source_id) if source.scheme in KINDS else None
    return desk_page(
        request,
        desk,
        "sources/detail.html",
        active="sources",
        http_status=error.status if error else 200,
        source=source,
        home=desk.url(f"sources/{source_id}"),
        label=LABELS[source.scheme],
        health=health,
        standing=_standing(source, health, pull),
        in_words=in_words,
        roughly=roughly,
        chart=_chart(await counts_by_hour(organization, hours=HOURS, source_id=source_id)),
        pull=pull,
        types=await schema_queries.list_types(organization, source_id),
        quarantined=next(number for status, number in counts.items() if status == "quarantined"),
        causes=await acceptance.list_causes(organization, source_id),
        cause_words=CAUSES,
        refused=(await signals.list_rejected_deliveries(organization, source_id=source_id, limit=SHOWN_REFUSALS)).items,
        settings=await _shown_settings(source, organization),
        cap=CAPS.get(source.body_cap_bytes, f"{source.body_cap_bytes:,} bytes"),
        overlaps=OVERLAPS,
        secret_hint=secret_hint(source.scheme),
        may_write=desk.may("sources:write"),
        error=error,
    )


async def _editor_page(
    request: AnyRequest, desk: Desk, source_id: UUID, values: dict[str, str], error: PortalError | None = None
) -> Response[str]:
    source = await signals.get_source(desk.actor.organization_id, source_id)
    context = await form_context(desk, source.scheme, values or values_of(source, []))
    return desk_page(
        request,
        desk,
        "sources/edit.html",
        active="sources",
        http_status=error.status if error else 200,
        source=source,
        scheme=source.scheme,
        label=LABELS[source.scheme],
        usual=_usual_silence(await get_source_health(desk.actor.organization_id, source_id)),
        home=desk.url(f"sources/{source_id}"),
        values=values_of(source, context["readable"]) | values,
        error=error,
        **context,
    )


def _usual_silence(health: SourceHealth) -> str | None:
    """What helps to choose when silence is an alarm."""
    if health.usual_gap_seconds is None or health.longest_usual_gap_seconds is None:
        return None
    longest = roughly(health.longest_usual_gap_seconds)
    return f"Usually one comes {rhythm(health.usual_gap_seconds)}; 95 of 100 silences are no longer than {longest}."


class Standing(msgspec.Struct, frozen=True):
    """How a source is, in a glance and a sentence."""

    tone: str
    icon: str
    title: str
    text: str


def _standing(source: SourceView, health: SourceHealth, pull: PullView | None) -> Standing:
    usual = f"Usually one comes {rhythm(health.usual_gap_seconds)}." if health.usual_gap_seconds is not None else ""
    last, now = health.last_signal_at, clock.now()
    silence = now - last if last else now - source.created_at
    pulled = source.scheme in KINDS
    if source.status == "paused":
        text = "It is not asked" if pulled else "Its deliveries are refused"
        return Standing("wait", "player-pause", "Paused", f"{text} until it is resumed.")
    if health.quiet_since:
        expected = f"At least one is expected every {in_words(source.expected_every_seconds or 0)}."
        check = "Look whether the other side still runs" + ("" if pulled else ", and has this address and secret")
        return Standing(
            "bad", "bell-ringing", f"Nothing for {roughly(silence.total_seconds())}", f"{usual or expected} {check}."
        )
    if pull and pull.error:
        return Standing(
            "bad", "plug-connected-x", "It cannot be asked", "Why is said below; the portal goes on trying."
        )
    if last is None:
        text = (
            "What is found appears here by itself."
            if pulled
            else "Give the address to the sender, and send a first one."
        )
        return Standing("calm", "hourglass", "Nothing has arrived yet", text)
    longest = timedelta(seconds=health.longest_usual_gap_seconds or 0)
    if longest and silence > max(LATE * longest, LATE_AT_LEAST):
        return Standing("wait", "clock-question", f"Nothing for {roughly(silence.total_seconds())}", usual)
    return Standing("good", "circle-check", "Signals come as usual", usual)


def _chart(hours: list[HourTally]) -> dict[str, Any]:
    """Bars of what came by the hour; what was refused stands at the foot of its bar."""
    most = max((hour.stored + hour.refused for hour in hours), default=0)
    bars = [
        {
            "hour": hour,
            "until": hour.hour + timedelta(hours=1),
            "height": _height(hour.stored + hour.refused, most),
            "bad": _height(hour.refused, most),
        }
        for hour in hours
    ]
    stored, refused = sum(hour.stored for hour in hours), sum(hour.refused for hour in hours)
    return {"bars": bars, "most": most, "stored": stored, "refused": refused, "hours": HOURS}


def _height(number: int, most: int) -> int:
    """What is there is seen, however little it is."""
    return max(2, round(CHART_HEIGHT * number / most)) if number else 0


class Shown(msgspec.Struct, frozen=True):
    """A setting as a fact."""

    label: str
    text: str
    is_code: bool


async def _shown_settings(source: SourceView, organization_id: UUID) -> list[Shown]:
    """The settings that say something, which the usual choices and numbers do not."""
    paging = source.settings.get("paging") or {}
    flat = {**source.settings, **{f"paging/{name}": value for name, value in paging.items()}}
    shown: list[Shown] = []
    if source.scheme == "evm_logs":
        contract = await chain.get_contract(organization_id, UUID(str(flat["contract_id"])))
        shown += [Shown("Contract", contract.name, is_code=False), Shown("Event", str(flat["event"]), is_code=True)]
    for setting in settings_of(source.scheme):
        value = flat.get(setting.name)
        text = "true" if value is True else str(value)
        if value in (None, "", False) or (setting.kind != "text" and text == setting.default):
            continue
        words = dict(setting.choices)
        shown.append(Shown(setting.fact or setting.label, words.get(text, text), is_code=setting.kind == "text"))
    return shown


handlers = [
    show_sources,
    show_source,
    show_source_editor,
    change_source,
    add_secret,
    end_secret,
    pause_source,
    resume_source,
    pull_source,
]
