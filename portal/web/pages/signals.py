"""The history of signals: searched, counted, drawn by the hour; and one signal with all that came of it."""

from datetime import timedelta
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
SINCE = {
    "1h": ("The last hour", timedelta(hours=1)),
    "24h": ("The last 24 hours", timedelta(hours=24)),
    "7d": ("The last 7 days", timedelta(days=7)),
    "30d": ("The last 30 days", timedelta(days=30)),
}
FIELDS = ("text", "type", "source_id", "external_id", "correlation_id", "since", "status")
MAX_TEXT = 200
SHOWN_LETTERS = 100_000
BAR_HEIGHT = 60
ASSESSED = ("assessed", "ignored", "failed", "dead")
"""What can be assessed again."""


@get("/signals", opt=READ)
async def show_signals(
    request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None
) -> Response[str]:
    organization = desk.actor.organization_id
    asked = _asked(request)
    wanted = _filter(asked)
    counts = await signals.count_signals_by_status(organization, wanted)
    status = next((each for each in counts if each == asked.get("status")), None)
    found = await signals.list_signals(organization, msgspec.structs.replace(wanted, status=status), cursor=cursor)
    choices: list[tuple[str | None, str, int]] = [(None, "All", sum(counts.values()))]
    choices += [(each.value, STATES[each].word, number) for each, number in counts.items()]
    kept = {name: value for name, value in asked.items() if name != "status"}
    newest = found.items[0].received_at if found.items else clock.now()
    return desk_page(
        request,
        desk,
        "signals/list.html",
        active="signals",
        signals=found.items,
        actions=await actions.list_action_ids_of_signals(organization, [signal.id for signal in found.items]),
        choices=choices,
        status=status,
        asked=asked,
        kept=kept,
        newest=newest.isoformat(),
        periods=[("", "Any time"), *((key, word) for key, (word, _) in SINCE.items())],
        types=await signals.list_signal_types(organization),
        sources=(await signals.list_sources(organization, limit=200)).items,
        volume=_volume(await signals.signals_by_hour(organization, hours=24)),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/signals/new", opt=READ)
async def show_new_signals(request: AnyRequest, desk: AtDesk, after: FromQuery[str]) -> Response[str]:
    """How many signals that match came after the newest one shown: the list itself does not move."""
    asked = _asked(request)
    try:
        newest = msgspec.convert(after, type=_Moment, strict=False).at if False else _moment(after)
    except ValueError:
        raise InputInvalid.at("/after", "This is not a time that a list gave.") from None
    wanted = msgspec.structs.replace(_filter(asked), since=newest + timedelta(microseconds=1))
    counts = await signals.count_signals_by_status(desk.actor.organization_id, wanted)
    number = sum(count for status, count in counts.items() if asked.get("status") in (None, status))
    href = desk.url("signals") + query(**asked)
    return fragment(request, "signals/_new.html", {"number": number, "href": href})
