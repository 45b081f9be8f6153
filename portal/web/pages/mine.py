"""The pages of an end user: what was done for them, and why."""

from typing import Any
from uuid import UUID

from litestar import Response, get
from litestar.params import FromPath

from portal.accounts import queries as accounts
from portal.accounts.permissions import Permission
from portal.accounts.schemas import EndUserProfile
from portal.actions import queries as actions
from portal.actions.schemas import ActionView
from portal.errors import NotFound
from portal.signals import queries as signals
from portal.signals.schemas import SignalView
from portal.transactions import queries as transactions
from portal.web.asking import Person
from portal.web.deeds import Deed, Owned, deed_of, owned_of, steps_of
from portal.web.render import AnyRequest, page

OWN = {"permission": Permission.ACCOUNT}
SHOWN = 20
"""Of each organisation: the newest are what somebody looks for."""


@get("/my", opt=OWN)
async def show_mine(request: AnyRequest, session: Person) -> Response[str]:
    profiles = await accounts.list_end_user_profiles(session.person_id)
    deeds = [deed for profile in profiles for deed in await _deeds(profile)]
    context = {
        "session": session,
        "deeds": sorted(deeds, key=lambda deed: deed.at, reverse=True),
        "holdings": [each for profile in profiles for each in await _holdings(profile)],
        "organizations": [profile.organization_name for profile in profiles],
    }
    return page(request, "my/home.html", context)


@get("/my/{action_id:uuid}", opt=OWN)
async def show_deed(request: AnyRequest, session: Person, action_id: FromPath[UUID]) -> Response[str]:
    profile, action = await _own_action(session.person_id, action_id)
    transaction = await transactions.find_transaction_of_action(profile.organization_id, action.id)
    signal = await _signal(profile, action)
    context: dict[str, Any] = {
        "session": session,
        "deed": deed_of(action, transaction, signal, profile.organization_name),
        "steps": steps_of(action, transaction, signal),
        "action": action,
        "transaction": transaction,
        "address": profile.address,
    }
    return page(request, "my/deed.html", context)


async def _deeds(profile: EndUserProfile) -> list[Deed]:
    found = await actions.list_actions_of_end_user(profile.organization_id, profile.end_user_id, limit=SHOWN)
    # What is not approved may never happen: it is nobody's yet.
    approved = [action for action in found.items if action.status == "approved"]
    sent = await transactions.find_transactions_of_actions(profile.organization_id, [action.id for action in approved])
    return [
        deed_of(action, sent.get(action.id), await _signal(profile, action), profile.organization_name)
        for action in approved
    ]


async def _holdings(profile: EndUserProfile) -> list[Owned]:
    found = await transactions.list_holdings(profile.organization_id, profile.end_user_id)
    return [owned_of(each, profile.organization_name) for each in found]


async def _signal(profile: EndUserProfile, action: ActionView) -> SignalView | None:
    return await signals.get_signal(profile.organization_id, action.signal_id) if action.signal_id else None


async def _own_action(person_id: UUID, action_id: UUID) -> tuple[EndUserProfile, ActionView]:
    for profile in await accounts.list_end_user_profiles(person_id):
        try:
            action = await actions.get_action(profile.organization_id, action_id)
        except NotFound:
            continue
        if action.end_user_id == profile.end_user_id and action.status == "approved":
            return profile, action
    raise NotFound("There is nothing of yours here.")


handlers = [show_mine, show_deed]
