"""What every page of a member shows around its content: the organisation, the navigation, the inbox count."""

from typing import Any

import msgspec
from litestar import Response
from litestar.di import NamedDependency
from litestar.params import FromPath

from portal.accounts import queries as accounts
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, CurrentSession
from portal.actions import queries as actions
from portal.db import notices
from portal.errors import NotFound
from portal.transactions.controls import pauses
from portal.transactions.lanes import queries as lanes
from portal.web.render import AnyRequest, count, page

MOST_STOPS = 2
"""Pauses that every page names; of more it says how many."""


class Place(msgspec.Struct, frozen=True):
    """One entry of the navigation."""

    key: str
    label: str
    icon: str
    permission: Permission


PLACES: tuple[tuple[Place, ...], ...] = (
    (
        Place("inbox", "Inbox", "inbox", Permission.ACTIONS_READ),
        Place("overview", "Overview", "route", Permission.HEALTH_READ),
        Place("signals", "Signals", "broadcast", Permission.SIGNALS_READ),
        Place("actions", "Actions", "checklist", Permission.ACTIONS_READ),
        Place("transactions", "Transactions", "arrows-right-left", Permission.TRANSACTIONS_READ),
        Place("lanes", "Lanes", "road", Permission.TRANSACTIONS_READ),
        Place("pauses", "Pauses", "player-pause", Permission.PAUSES_READ),
    ),
    (
        Place("sources", "Sources", "plug-connected", Permission.SOURCES_READ),
        Place("rules", "Rules", "git-branch", Permission.RULES_READ),
        Place("policies", "Policies", "shield-check", Permission.POLICIES_READ),
        Place("contracts", "Contracts", "file-text", Permission.CONTRACTS_READ),
        Place("signers", "Signers", "key", Permission.SIGNERS_READ),
        Place("chains", "Chains", "link", Permission.CHAINS_READ),
    ),
    (
        Place("people", "People", "users", Permission.MEMBERS_READ),
        Place("end-users", "End users", "user-heart", Permission.END_USERS_READ),
        Place("api-keys", "API keys", "code", Permission.API_KEYS_READ),
        Place("webhooks", "Webhooks", "webhook", Permission.WEBHOOKS_READ),
        Place("audit", "Audit", "history", Permission.AUDIT_READ),
        Place("health", "Health", "heartbeat", Permission.HEALTH_READ),
    ),
)


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """What every page of a member says until it is over."""

    text: str
    icon: str
    place: str
    """The key of the place where more is said; there it is not repeated."""
    href: str
    link: str


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """One member at work in one organisation."""

    actor: Actor
    session: CurrentSession
    slug: str
    organization: str
    memberships: list[Any]
    waiting: int
    """Actions that wait for this member."""
    alarms: list[Alarm]
    heard: str | None
    """The position in the notices of changes before anything of the page was read."""

    def may(self, permission: str) -> bool:
        return Permission(permission) in self.actor.permissions

    def url(self, path: str = "") -> str:
        """The address of `path` within the organisation."""
        return f"/orgs/{self.slug}/{path}".rstrip("/")


async def provide_desk(
    actor: NamedDependency[Actor], session: NamedDependency[CurrentSession | None], slug: FromPath[str]
) -> Desk:
    """The desk of whoever is signed in; `actor` has already proved that they belong here."""
    if session is None:
        raise NotFound("There is no such page.")
    heard = notices.current_position()
    memberships = await accounts.list_memberships(session.person_id)
    here = next((membership for membership in memberships if membership.slug == slug), None)
    if here is None:
        raise NotFound("There is no such page.")
    return Desk(
        actor=actor,
        session=session,
        slug=slug,
        organization=here.name,
        memberships=memberships,
        waiting=await actions.count_inbox(actor),
        alarms=await _alarms(actor, slug),
        heard=heard,
    )


async def _alarms(actor: Actor, slug: str) -> list[Alarm]:
    """What is paused, and whether a lane does not move."""
    stops = await pauses.list_stops(actor.organization_id)
    said = [(stop, "player-pause", "pauses", "Pauses") for stop in stops[:MOST_STOPS]]
    if (more := len(stops) - MOST_STOPS) > 0:
        said.append((f"{count(more, 'more is', 'more are')} paused.", "player-pause", "pauses", "All of them"))
    if stuck := await lanes.count_stuck_lanes(actor.organization_id):
        text = f"{count(stuck, 'lane does', 'lanes do')} not move: what waits there is not sent or not mined."
        said.append((text, "alert-triangle", "lanes", "Lanes"))
    return [
        Alarm(text=text, icon=icon, place=place, href=f"/orgs/{slug}/{place}", link=link)
        for text, icon, place, link in said
    ]


def desk_page(
    request: AnyRequest, desk: Desk, template: str, *, active: str, http_status: int = 200, **context: Any
) -> Response[str]:
    """A member's page. `active` is the key of its place in the navigation."""
    return page(request, template, {"desk": desk, "places": PLACES, "active": active, **context}, status=http_status)
