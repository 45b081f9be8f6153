"""The home of a member: what waits for their decision."""

from typing import Any

from litestar import Response, get
from litestar.params import FromQuery

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.rules import queries as rules
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.render import AnyRequest, fragment

READ = {"permission": Permission.ACTIONS_READ}


@get("/inbox", opt=READ)
async def show_inbox(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return desk_page(request, desk, "actions/inbox.html", active="inbox", **await _rows(desk))


@get("/inbox/rows", opt=READ)
async def show_inbox_rows(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """The rows alone, for a page that stays open."""
    return fragment(request, "actions/_inbox_rows.html", await _rows(desk))


@get("/inbox/waiting", opt=READ)
async def show_waiting(request: AnyRequest, desk: AtDesk, place: FromQuery[str] = "") -> Response[str]:
    """How many actions wait for the reader, and what is paused or stuck, for any page that stays open."""
    return fragment(request, "actions/_waiting.html", {"desk": desk, "active": place})


async def _rows(desk: Desk) -> dict[str, Any]:
    items = await actions.list_inbox(desk.actor)
    organization = desk.actor.organization_id
    begins = not items and desk.may("rules:write") and not (await rules.list_rules(organization, limit=1)).items
    return {
        "items": items,
        "begins": begins,
        "waiting": desk.waiting,
        "may_approve": Permission.ACTIONS_APPROVE in desk.actor.permissions,
        "slug": desk.slug,
    }


handlers = [show_inbox, show_inbox_rows, show_waiting]
