"""The history of signals: searched, counted, drawn by the hour; and one signal with all that came of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal import clock
from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.errors import InputInvalid, PortalError
from portal.rules import queries as rules
from portal.rules import service
from portal.signals import queries as signals
from portal.signals import retention
from portal.signals.batches import rechecks
from portal.signals.batches.schemas import SignalSelection
from portal.signals.json_schemas import queries as schema_queries
from portal.signals.schemas import HourCount, SignalItem, SignalView
from portal.signals.schemes import SCHEMES
from portal.transactions import queries as transactions
from portal.web import stories
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.fresh import in_address, read_ids
from portal.web.render import AnyRequest, fragment, query, see_other
from portal.web.signal_filters import FIELDS, PERIODS, asked_of, source_choices
from portal.web.states import STATES
from portal.web.trees import tree_of

READ = {"permission": Permission.SIGNALS_READ}
SHOWN_LETTERS = 100_000
BAR_HEIGHT = 60
ASSESSABLE = ("assessed", "ignored", "failed", "dead")
UNSIGNED = {"bearer": "The token is right", "basic": "The name and the password are right"}
"""Schemes in which a secret is shown instead of used to sign."""


@get("/signals", opt=READ)
async def show_signals(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    organization = desk.actor.organization_id
    asked = asked_of(request)
    counts = await signals.count_signals_by_status(organization, asked.filter)
    found = await signals.list_signals(organization, asked.filter, cursor=cursor)
    choices: list[tuple[str | None, str, int]] = [(None, "All", sum(counts.values()))]
    choices += [
        (each.value, STATES[each].word, number)
        for each, number in counts.items()
        if number or each == asked.filter.status
    ]
    return desk_page(
        request,
        desk,
        "signals/list.html",
        active="signals",
        signals=found.items,
        came_of=await _came_of(organization, found.items),
        choices=choices,
        asked=dict.fromkeys(FIELDS, "") | asked.values,
        fixed=asked.fixed,
        narrowed=bool(asked.values),
        fresh=_fresh(desk, asked.values, found.items),
        types=[("", "Any type"), *((each, each) for each in await signals.list_signal_types(organization))],
        sources=[("", "Any source"), *await source_choices(organization)],
        periods=[("", "Any time"), *((key, word) for key, (word, _) in PERIODS.items())],
        kept_days=(await retention.get_retention(organization)).body_days,
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/signals/new", opt=READ)
async def show_new_signals(
    request: AnyRequest, desk: AtDesk, after: FromQuery[datetime], waiting: FromQuery[str] = ""
) -> Response[str]:
    """How many signals came after the newest one shown, and what became of those shown as `waiting`.

    The list itself does not move under its reader.
    """
    asked, organization = asked_of(request), desk.actor.organization_id
    since = max(filter(None, (_just_after(after), asked.filter.since)))
    counts = await signals.count_signals_by_status(organization, msgspec.structs.replace(asked.filter, since=since))
    number = sum(count for status, count in counts.items() if asked.filter.status in (None, status))
    shown = await signals.find_signals(organization, read_ids(waiting, "waiting"))
    settled = [each for each in shown if each.status != "received"]
    context = {
        "number": f"{number:,}" if number else "",
        "href": desk.url("signals") + query(**asked.values),
        "path": desk.url("signals"),
        "settled": settled,
        "came_of": await _came_of(organization, settled),
    }
    return fragment(request, "signals/_new.html", context)


@get("/signals/volume", opt=READ)
async def show_volume(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """The chart by the hour, which a page asks for once it is there: counting must not keep the list waiting.

    Of one source where one is chosen; the other filters of the list do not narrow it.
    """
    organization, source_id = desk.actor.organization_id, asked_of(request).filter.source_id
    hours = await signals.signals_by_hour(organization, hours=24, source_id=source_id)
    context = {
        "volume": volume_of(hours),
        "path": desk.url("signals"),
        "source": await signals.get_source(organization, source_id) if source_id else None,
    }
    return fragment(request, "signals/_volume.html", context)


@get("/signals/{signal_id:uuid}", opt=READ)
async def show_signal(request: AnyRequest, desk: AtDesk, signal_id: FromPath[UUID]) -> Response[str]:
    return await _signal_page(request, desk, signal_id)


@post("/signals/{signal_id:uuid}/assess", opt={"permission": Permission.RULES_WRITE})
async def assess_again(request: AnyRequest, desk: AtDesk, signal_id: FromPath[UUID]) -> Response[Any]:
    try:
        await service.reassess(desk.actor, signal_id)
    except PortalError as error:
        return await _signal_page(request, desk, signal_id, error)
    return see_other(desk.url(f"signals/{signal_id}"), done="replayed")


@post("/signals/{signal_id:uuid}/recheck", opt={"permission": Permission.SOURCES_WRITE})
async def check_again(request: AnyRequest, desk: AtDesk, signal_id: FromPath[UUID]) -> Response[Any]:
    await signals.get_signal(desk.actor.organization_id, signal_id)
    try:
        await rechecks.start_recheck(desk.actor, SignalSelection(signal_ids=[signal_id]))
    except PortalError as error:
        return await _signal_page(request, desk, signal_id, error)
    return see_other(desk.url(f"signals/{signal_id}"), done="rechecked")


async def _signal_page(
    request: AnyRequest, desk: Desk, signal_id: UUID, error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    signal = await signals.get_signal(organization, signal_id)
    found = (await actions.list_actions(organization, signal_id=signal_id, limit=200)).items
    sent = await transactions.find_transactions_of_actions(organization, [action.id for action in found])
    expired = signal.body_expired
    return desk_page(
        request,
        desk,
        "signals/detail.html",
        active="signals",
        http_status=error.status if error else 200,
        signal=signal,
        verdict=verdict_of(signal),
        skew=_skew(signal),
        tree=tree_of(signal.payload, _wrong(signal)) if signal.payload is not None else None,
        raw=(signal.body or "")[:SHOWN_LETTERS],
        raw_is_whole=len(signal.body or "") <= SHOWN_LETTERS,
        kept_days=(await retention.get_retention(organization)).body_days if expired else None,
        schema=await schema_queries.get_schema_version(organization, signal.schema_id) if signal.schema_id else None,
        rows=[{"action": action, "state": stories.current_state(action, sent.get(action.id))} for action in found],
        rule_names=await _rule_names(organization, signal),
        may_replay=signal.status in ASSESSABLE and not expired and desk.may("rules:write"),
        may_recheck=signal.status == "quarantined" and not expired and desk.may("sources:write"),
        error=error,
    )


def _wrong(signal: SignalView) -> dict[str, list[str]]:
    """What the schema says, by where in the body it says it."""
    wrong: dict[str, list[str]] = {}
    for reason in signal.reasons:
        if reason.path is not None:
            wrong.setdefault(reason.path, []).append(reason.message)
    return wrong


def verdict_of(signal: SignalView) -> dict[str, str]:
    """What vouches for the signal, in words: a title, a sentence, an icon."""
    scheme = SCHEMES.get(signal.scheme)
    if scheme is None or signal.secret_id is None:
        text = "The portal asked for it itself, so nobody signed it: what vouches for it is where it was read."
        return {"title": "Read by the portal", "text": text, "icon": "cloud-download"}
    if scheme.name in UNSIGNED:
        return {
            "title": UNSIGNED[scheme.name],
            "text": f"{scheme.label}: the body itself is not signed.",
            "icon": "key",
        }
    return {"title": "The signature is right", "text": f"{scheme.label}.", "icon": "shield-check"}


def volume_of(hours: list[HourCount]) -> dict[str, Any]:
    """Bars of a chart `BAR_HEIGHT` units high; an hour in which anything came shows at least a line."""
    most = max((hour.count for hour in hours), default=0)

    def height(count: int) -> int:
        return max(2, round(BAR_HEIGHT * count / most)) if count else 0

    bars = [
        {
            "at": hour.hour,
            "until": hour.hour + timedelta(hours=1),
            "hour": hour,
            "height": height(hour.count),
            "bad": height(hour.troubled),
        }
        for hour in hours
    ]
    return {"total": sum(hour.count for hour in hours), "most": most, "bars": bars}


def _fresh(desk: Desk, values: dict[str, str], shown: Sequence[SignalItem]) -> str:
    """The address that says what is new since the list was made, for a list of the newest."""
    after = (shown[0].received_at if shown else clock.now()).isoformat()
    waiting = in_address([each.id for each in shown if each.status == "received"])
    return desk.url("signals/new") + query(**values, after=after, waiting=waiting)


async def _came_of(organization_id: UUID, items: Sequence[SignalItem]) -> dict[UUID, list[UUID]]:
    return await actions.list_action_ids_of_signals(organization_id, [each.id for each in items])


def _just_after(moment: datetime) -> datetime:
    try:
        return clock.in_utc(moment, path="/after") + timedelta(microseconds=1)
    except OverflowError:
        raise InputInvalid.at("/after", "The time is beyond the years 1 to 9999 in UTC.") from None


def _skew(signal: SignalView) -> str | None:
    """How far the sender's clock was from ours, in words; None where the scheme signs no time."""
    if signal.skew_ms is None:
        return None
    if abs(signal.skew_ms) < 1000:
        return "less than a second"
    side = "behind" if signal.skew_ms > 0 else "ahead of"
    return f"{abs(signal.skew_ms) / 1000:.1f} seconds {side} ours"


async def _rule_names(organization_id: UUID, signal: SignalView) -> dict[UUID, str]:
    ids = {reason.rule_id for reason in signal.reasons if reason.rule_id}
    return {id: (await rules.get_rule(organization_id, id)).name for id in ids}


handlers = [show_signals, show_new_signals, show_volume, show_signal, assess_again, check_again]
