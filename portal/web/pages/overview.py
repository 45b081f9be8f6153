"""The pipeline from source to finality, what is quiet, and what needs somebody."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import median
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get

from portal import clock
from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.chain import queries as chain
from portal.ops.checks import HEAD_OVERDUE_SECONDS
from portal.rules import queries as rules
from portal.signals import queries as signals
from portal.signals.health.judgement import in_words
from portal.signals.health.watching import quiet_sources
from portal.signals.pulls import KINDS
from portal.signals.schemas import HourCount, SignalFilter, SourceView
from portal.transactions import queries as transactions
from portal.transactions.lanes.queries import list_stuck_lanes
from portal.transactions.schemas import TransactionView
from portal.transactions.signers.runway import Runway, list_runways
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.pages.runway import days_in_words
from portal.web.render import AnyRequest, coins, count, duration
from portal.web.sender_words import roughly
from portal.web.states import STATES

BAR_HEIGHT = 60
RECENT = 50
"""Of each stage: what "usually" is measured by."""
RUNWAYS = 6
"""Those that last shortest."""
ON_THE_WAY = ("queued", "nonced", "signed", "broadcast", "closing", "suspect", "mined", "confirmed")


@get(["/", "/overview"], opt={"permission": Permission.HEALTH_READ})
async def show_overview(request: AnyRequest, desk: AtDesk) -> Response[str]:
    organization = desk.actor.organization_id
    hours = await signals.signals_by_hour(organization, hours=24)
    sources = (await signals.list_sources(organization, limit=20)).items
    quiet = await quiet_sources(organization)
    runways = await list_runways(organization) if desk.may("signers:read") else []
    return desk_page(
        request,
        desk,
        "overview.html",
        active="overview",
        pipeline=await _pipeline(desk, hours),
        volume=_volume(hours),
        sources=[_source(each, each.id in quiet) for each in sources],
        problems=[
            *await _silent_chains(desk),
            *await _stuck(desk),
            *_low(desk, runways),
            *_quiet(desk, sources, quiet),
            *await _problems(desk, organization, sources),
        ],
        runways=runways[:RUNWAYS],
        days_in_words=days_in_words,
        first_steps=await _first_steps(desk, bool(sources)),
    )


async def _first_steps(desk: Desk, has_source: bool) -> list[dict[str, Any]]:
    """What is still to be set up, in its order; empty once there is a rule, or for who may not write one."""
    organization = desk.actor.organization_id
    if not desk.may("rules:write") or (await rules.list_rules(organization, limit=1)).items:
        return []
    policy = bool((await actions.list_policies(organization, limit=1)).items)
    signer = bool((await chain.list_signers(organization, limit=1)).items)
    contract = bool((await chain.list_contracts(organization, limit=1)).items)
    steps = [
        ("Policy", "How many people must agree.", "policies/new", policy),
        ("Signer", "The key that sends and pays.", "signers", signer),
        ("Contract", "What is written to.", "contracts", contract),
        ("Source", "Who reports what happened.", "sources/new", has_source),
        ("Rule", "What follows from it.", "rules/new", False),
    ]
    return [{"name": name, "text": text, "href": desk.url(path), "done": done} for name, text, path, done in steps]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the pipeline picture."""

    name: str
    icon: str
    number: int
    note: str
    href: str
    usually: str = ""
    trouble: str = ""


async def _pipeline(desk: Desk, hours: list[HourCount]) -> list[Stage]:
    actions_by_status = await actions.count_by_status(desk.actor.organization_id)
    return [
        await _arriving(desk, hours),
        Stage(
            name="Proposed",
            icon="git-branch",
            number=sum(actions_by_status.values()),
            note="actions ever",
            href=desk.url("actions"),
        ),
        await _waiting(desk, _number(actions_by_status, "proposed")),
        *await _carried_out(desk),
    ]


async def _arriving(desk: Desk, hours: list[HourCount]) -> Stage:
    organization = desk.actor.organization_id
    newest = (await signals.list_signals(organization, SignalFilter(), limit=RECENT)).items
    troubled = sum(hour.troubled for hour in hours)
    return Stage(
        name="Signals",
        icon="broadcast",
        number=sum(hour.count for hour in hours),
        note="in the last 24 hours",
        href=desk.url("signals"),
        usually=_usually("to assess", ((each.received_at, each.assessed_at) for each in newest)),
        trouble=f"{troubled:,} in trouble" if troubled else "",
    )


async def _waiting(desk: Desk, number: int) -> Stage:
    newest = (await actions.list_actions(desk.actor.organization_id, limit=RECENT)).items
    approved = (each for each in newest if each.status == "approved")
    return Stage(
        name="Waiting",
        icon="clock",
        number=number,
        note="for approval",
        href=desk.url("actions?status=proposed"),
        usually=_usually("to approve", ((each.proposed_at, each.decided_at) for each in approved)),
    )


async def _carried_out(desk: Desk) -> list[Stage]:
    sent = await transactions.count_by_status(desk.actor.organization_id)
    newest = (await transactions.list_transactions(desk.actor.organization_id, limit=RECENT)).items
    failed = sum(1 for each in newest if each.failure)
    return [
        Stage(
            name="On the way",
            icon="send",
            number=_number(sent, *ON_THE_WAY),
            note="to finality",
            href=desk.url("transactions"),
            usually=_usually("to be included", ((each.queued_at, each.mined_at) for each in newest)),
            trouble=f"{failed} of the last {len(newest)} failed" if failed else "",
        ),
        Stage(
            name="Final",
            icon="rosette-discount-check",
            number=_number(sent, "finalized"),
            note="no way back",
            href=desk.url("transactions?status=finalized"),
            usually=_usually("to be final", ((each.mined_at, each.finalized_at) for each in newest)),
        ),
    ]


def _usually(words: str, spans: Iterable[tuple[datetime | None, datetime | None]]) -> str:
    """`Usually 3 min to approve`: the median of the spans that are over; empty where there is none."""
    seconds = [(end - start).total_seconds() for start, end in spans if start and end]
    return f"Usually {duration(median(seconds))} {words}" if seconds else ""


def _number(counts: Any, *states: str) -> int:
    return sum(number for state, number in counts.items() if state in states)


def _volume(hours: list[HourCount]) -> dict[str, Any]:
    most = max((hour.count for hour in hours), default=0)
    bars = [
        {"at": hour.hour, "number": hour.count, "height": round(BAR_HEIGHT * hour.count / most) if most else 0}
        for hour in hours
    ]
    return {"total": sum(hour.count for hour in hours), "most": most, "bars": bars}


def _source(source: SourceView, quiet: bool) -> dict[str, Any]:
    state = "quiet" if quiet else source.status
    return {"id": source.id, "name": source.name, "last_at": source.last_signal_at, "state": state}


def _quiet(desk: Desk, sources: list[SourceView], quiet: dict[UUID, datetime]) -> list[dict[str, Any]]:
    """The sources that should have been heard, in words."""
    found = []
    for source in sources:
        if source.id in quiet:
            silence = roughly((clock.now() - (source.last_signal_at or source.created_at)).total_seconds())
            expected = in_words(source.expected_every_seconds or 0)
            found.append(
                {
                    "title": f"{source.name} has gone quiet: nothing for {silence}",
                    "advice": f"At least one signal is expected every {expected}. Look whether the sender still runs.",
                    "href": desk.url(f"sources/{source.id}"),
                    "icon": "volume-3",
                    "tone": "warn",
                }
            )
    return found


async def _silent_chains(desk: Desk) -> list[dict[str, Any]]:
    """The chains from which no block has come for too long, in words."""
    heads = [(each, each.head_at) for each in await chain.list_chains() if each.head_at and not each.paused_at]
    ages = [(each, (clock.now() - head_at).total_seconds()) for each, head_at in heads]
    return [
        {
            "title": f"No block of {each.name} has come for {roughly(age)}",
            "advice": "Nothing is sent or confirmed there until its node answers again; nothing is lost meanwhile.",
            "href": desk.url("chains"),
            "icon": "link-off",
            "tone": "bad",
        }
        for each, age in ages
        if age > HEAD_OVERDUE_SECONDS
    ]


async def _stuck(desk: Desk) -> list[dict[str, Any]]:
    """The lanes that do not move, in words."""
    return [
        {
            "title": f"{lane.signer_name} on {lane.chain_name} does not move",
            "advice": lane.waits_for,
            "href": desk.url(f"lanes/{lane.id}"),
            "icon": "alert-triangle",
            "tone": "bad",
        }
        for lane in await list_stuck_lanes(desk.actor.organization_id)
    ]


def _low(desk: Desk, runways: list[Runway]) -> list[dict[str, Any]]:
    """The signers that have less than they should, in words."""
    return [
        {
            "title": f"{it.signer_name} has {coins(it.balance_wei or 0, it.currency)} left on {it.chain_name}",
            "advice": f"That is below {coins(it.low_balance_wei or 0, it.currency)}. Send some to its address, or "
            "approve the top-up where one is proposed.",
            "href": desk.url(f"signers/{it.signer_id}/runway"),
            "icon": "gas-station",
            "tone": "bad",
        }
        for it in runways
        if it.low_since
    ]


async def _problems(desk: Desk, organization: UUID, sources: list[SourceView]) -> list[dict[str, Any]]:
    """What does not go on by itself, each with what to do about it."""
    week = clock.now() - timedelta(days=7)
    held = (await transactions.list_transactions(organization, held=True, limit=10)).items
    displaced = (await transactions.list_transactions(organization, status="displaced", limit=3)).items
    failed_signals = await signals.count_signals_by_status(organization, SignalFilter(since=week), signals.TROUBLED)
    found = [await _stopped(desk, each) for each in [*(one for one in displaced if one.queued_at > week), *held]]
    found += [_refusing(desk, each) for each in sources if each.rejected_24h]
    for status, advice in (
        ("failed", "A rule could not be evaluated. The signal says why; mend the rule, then assess it again."),
        ("quarantined", "The sender is genuine, but the content is not what is expected. Look at the first one."),
    ):
        number = _number(failed_signals, status)
        if number:
            state = STATES[status]
            title = f"{number:,} signal{'' if number == 1 else 's'} {state.word.lower()} in the last 7 days"
            href = desk.url(f"signals?status={status}")
            found.append({"title": title, "advice": advice, "href": href, "icon": state.icon, "tone": state.tone})
    return found


def _refusing(desk: Desk, source: SourceView) -> dict[str, Any]:
    if source.scheme in KINDS:
        return {
            "title": f"{source.name}: {count(source.rejected_24h, 'pull')} failed in the last 24 hours",
            "advice": "The page of the source says why the last one did, and when it is asked again.",
            "href": desk.url(f"sources/{source.id}#pull"),
            "icon": "cloud-off",
            "tone": "warn",
        }
    return {
        "title": f"{source.name}: {count(source.rejected_24h, 'delivery', 'deliveries')} refused in the last 24 hours",
        "advice": "Mostly a wrong secret at the sender. The page of the source names the cause of each.",
        "href": desk.url(f"sources/{source.id}#refused"),
        "icon": "shield-x",
        "tone": "warn",
    }


async def _stopped(desk: Desk, transaction: TransactionView) -> dict[str, Any]:
    state = STATES["displaced" if transaction.failure else "paused"]
    action = await actions.get_action(desk.actor.organization_id, transaction.action_id)
    return {
        "title": action.summary,
        "advice": transaction.failure or transaction.waiting_for or "It waits.",
        "href": desk.url(f"actions/{action.id}"),
        "icon": state.icon,
        "tone": state.tone,
    }


handlers = [show_overview]
