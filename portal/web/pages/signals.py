"""The history of signals: searched, counted, drawn by the hour; and one signal with all that came of it."""

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
from portal.signals.schemas import HourCount, SignalFilter, SignalView
from portal.transactions import queries as transactions
from portal.web import stories
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.render import AnyRequest, fragment, query, see_other
from portal.web.states import STATES
from portal.web.trees import tree_of

READ = {"permission": Permission.SIGNALS_READ}
PERIODS = {
    "1h": ("The last hour", timedelta(hours=1)),
    "24h": ("The last 24 hours", timedelta(hours=24)),
    "7d": ("The last 7 days", timedelta(days=7)),
    "30d": ("The last 30 days", timedelta(days=30)),
}
FIELDS = ("text", "type", "source_id", "external_id", "correlation_id", "since", "status")
MAX_TEXT = 200
SHOWN_LETTERS = 100_000
BAR_HEIGHT = 60
ASSESSABLE = ("assessed", "ignored", "failed", "dead")


@get("/signals", opt=READ)
async def show_signals(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    organization = desk.actor.organization_id
    asked = _asked(request)
    wanted = _filter(asked)
    counts = await signals.count_signals_by_status(organization, wanted)
    status = next((each for each in counts if each == asked.get("status")), None)
    found = await signals.list_signals(organization, msgspec.structs.replace(wanted, status=status), cursor=cursor)
    choices: list[tuple[str | None, str, int]] = [(None, "All", sum(counts.values()))]
    choices += [(each.value, STATES[each].word, number) for each, number in counts.items()]
    return desk_page(
        request,
        desk,
        "signals/list.html",
        active="signals",
        signals=found.items,
        came_of=await actions.list_action_ids_of_signals(organization, [signal.id for signal in found.items]),
        choices=choices,
        status=status,
        asked=dict.fromkeys(FIELDS, "") | asked,
        narrowed=bool(asked),
        newest=(found.items[0].received_at if found.items else clock.now()).isoformat(),
        types=[("", "Any type"), *((each, each) for each in await signals.list_signal_types(organization))],
        sources=[("", "Any source"), *await _sources(organization)],
        periods=[("", "Any time"), *((key, word) for key, (word, _) in PERIODS.items())],
        volume=volume_of(await signals.signals_by_hour(organization, hours=24)),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/signals/new", opt=READ)
async def show_new_signals(request: AnyRequest, desk: AtDesk, after: FromQuery[datetime]) -> Response[str]:
    """How many signals came after the newest one shown; the list itself does not move under its reader."""
    asked = _asked(request)
    wanted = msgspec.structs.replace(_filter(asked), since=_just_after(after))
    counts = await signals.count_signals_by_status(desk.actor.organization_id, wanted)
    number = sum(count for status, count in counts.items() if asked.get("status") in (None, status))
    return fragment(request, "signals/_new.html", {"number": number, "href": desk.url("signals") + query(**asked)})


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


async def _signal_page(
    request: AnyRequest, desk: Desk, signal_id: UUID, error: PortalError | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    signal = await signals.get_signal(organization, signal_id)
    found = (await actions.list_actions(organization, signal_id=signal_id, limit=200)).items
    sent = await transactions.find_transactions_of_actions(organization, [action.id for action in found])
    return desk_page(
        request,
        desk,
        "signals/detail.html",
        active="signals",
        http_status=error.status if error else 200,
        signal=signal,
        skew=_skew(signal),
        tree=tree_of(signal.payload) if signal.payload is not None else None,
        raw=(signal.body or "")[:SHOWN_LETTERS],
        raw_is_whole=len(signal.body or "") <= SHOWN_LETTERS,
        rows=[{"action": action, "state": stories.current_state(action, sent.get(action.id))} for action in found],
        rule_names=await _rule_names(organization, signal),
        may_assess=signal.status in ASSESSABLE and desk.may("rules:write"),
        error=error,
    )


def volume_of(hours: list[HourCount]) -> dict[str, Any]:
    """Bars of a chart `BAR_HEIGHT` units high; an hour in which anything came shows at least a line."""
    most = max((hour.count for hour in hours), default=0)

    def height(count: int) -> int:
        return max(2, round(BAR_HEIGHT * count / most)) if count else 0

    bars = [
        {"at": hour.hour, "hour": hour, "height": height(hour.count), "bad": height(hour.troubled)} for hour in hours
    ]
    return {"total": sum(hour.count for hour in hours), "most": most, "bars": bars}


def _asked(request: AnyRequest) -> dict[str, str]:
    """The filters of the address that are not empty."""
    given = {name: str(request.query_params.get(name, "")).replace("\x00", "").strip() for name in FIELDS}
    return {name: value for name, value in given.items() if value}


def _filter(asked: dict[str, str]) -> SignalFilter:
    """All filters but the state, which the chips choose. Raises `InputInvalid`."""
    if len(asked.get("text", "")) > MAX_TEXT:
        raise InputInvalid.at("/text", f"Search for at most {MAX_TEXT} characters.")
    try:
        source_id = UUID(asked["source_id"]) if "source_id" in asked else None
    except ValueError:
        raise InputInvalid.at("/source_id", "There is no such source; choose one from the list.") from None
    period = PERIODS.get(asked.get("since", ""))
    return SignalFilter(
        source_id=source_id,
        type=asked.get("type"),
        external_id=asked.get("external_id"),
        correlation_id=asked.get("correlation_id"),
        text=asked.get("text"),
        since=clock.now() - period[1] if period else None,
    )


async def _sources(organization_id: UUID) -> list[tuple[str, str]]:
    found = await signals.list_sources(organization_id, limit=200)
    return [(str(source.id), source.name) for source in found.items]


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


handlers = [show_signals, show_new_signals, show_signal, assess_again]
