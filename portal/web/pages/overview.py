"""The pipeline from source to finality, what is quiet, and what needs somebody."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from litestar import Response, get

from portal import clock
from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.signals import queries as signals
from portal.signals.schemas import HourCount, SignalFilter, SourceView
from portal.transactions import queries as transactions
from portal.transactions.schemas import TransactionView
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.render import AnyRequest
from portal.web.states import STATES

BAR_HEIGHT = 60
QUIET = timedelta(days=1)
ON_THE_WAY = ("queued", "nonced", "signed", "broadcast", "mined", "confirmed")


@get(["/", "/overview"], opt={"permission": Permission.HEALTH_READ})
async def show_overview(request: AnyRequest, desk: AtDesk) -> Response[str]:
    organization = desk.actor.organization_id
    hours = await signals.signals_by_hour(organization, hours=24)
    sources = (await signals.list_sources(organization, limit=20)).items
    return desk_page(
        request,
        desk,
        "overview.html",
        active="overview",
        pipeline=await _pipeline(desk, sum(hour.count for hour in hours)),
        volume=_volume(hours),
        sources=[_source(each) for each in sources],
        problems=await _problems(desk, organization),
    )


async def _pipeline(desk: Desk, signals_a_day: int) -> list[dict[str, Any]]:
    organization = desk.actor.organization_id
    proposed = await actions.count_by_status(organization)
    sent = await transactions.count_by_status(organization)
    stages = [
        ("Signals", "broadcast", signals_a_day, "in the last 24 hours", "signals"),
        ("Proposed", "git-branch", sum(proposed.values()), "actions ever", "actions"),
        ("Waiting", "clock", _number(proposed, "proposed"), "for approval", "actions?status=proposed"),
        ("On the way", "send", _number(sent, *ON_THE_WAY), "to finality", "transactions"),
        (
            "Final",
            "rosette-discount-check",
            _number(sent, "finalized"),
            "no way back",
            "transactions?status=finalized",
        ),
    ]
    return [
        {"name": name, "icon": icon, "number": number, "note": note, "href": desk.url(path)}
        for name, icon, number, note, path in stages
    ]


def _number(counts: Any, *states: str) -> int:
    return sum(number for state, number in counts.items() if state in states)


def _volume(hours: list[HourCount]) -> dict[str, Any]:
    most = max((hour.count for hour in hours), default=0)
    bars = [
        {"at": hour.hour, "number": hour.count, "height": round(BAR_HEIGHT * hour.count / most) if most else 0}
        for hour in hours
    ]
    return {"total": sum(hour.count for hour in hours), "most": most, "bars": bars}


def _source(source: SourceView) -> dict[str, Any]:
    last_at = source.last_signal_at
    quiet = source.status == "active" and last_at is not None and clock.now() - last_at > QUIET
    return {"id": source.id, "name": source.name, "last_at": last_at, "state": "quiet" if quiet else source.status}


async def _problems(desk: Desk, organization: UUID) -> list[dict[str, Any]]:
    """What does not go on by itself, each with what to do about it."""
    held = (await transactions.list_transactions(organization, held=True, limit=10)).items
    failed_signals = await signals.count_signals_by_status(
        organization, SignalFilter(since=clock.now() - timedelta(days=7))
    )
    found = [await _held(desk, each) for each in held]
    for status, advice in (
        ("failed", "A rule could not be evaluated. The signal says why; mend the rule, then replay."),
        ("quarantined", "The sender is genuine, but the content is not what is expected. Look at the first one."),
    ):
        number = _number(failed_signals, status)
        if number:
            state = STATES[status]
            title = f"{number:,} signal{'' if number == 1 else 's'} {state.word.lower()} in the last 7 days"
            href = desk.url(f"signals?status={status}")
            found.append({"title": title, "advice": advice, "href": href, "icon": state.icon, "tone": state.tone})
    return found


async def _held(desk: Desk, transaction: TransactionView) -> dict[str, Any]:
    action = await actions.get_action(desk.actor.organization_id, transaction.action_id)
    return {
        "title": action.summary,
        "advice": transaction.waiting_for or "It waits.",
        "href": desk.url(f"actions/{action.id}"),
        "icon": "player-pause",
        "tone": "warn",
    }


handlers = [show_overview]
