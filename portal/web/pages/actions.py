"""The list of actions, and the why-card of one: why, what exactly, who decided, and what became of it."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.actions import queries as actions
from portal.actions import service
from portal.actions.effects import addresses_in
from portal.actions.schemas import ActionView
from portal.audit import queries as audit
from portal.audit.schemas import AuditEntryView
from portal.db.paging import Count
from portal.errors import PortalError
from portal.rules import queries as rules
from portal.signals import queries as signals
from portal.transactions import queries as transactions
from portal.transactions.schemas import TransactionView
from portal.web import stories
from portal.web.asking import AtDesk
from portal.web.choices import approvers_of
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values
from portal.web.fresh import MAX_IDS, fresh_address, fresh_rows, read_ids
from portal.web.render import AnyRequest, count, fragment, see_other
from portal.web.states import STATES
from portal.web.terms import cost_terms, span

READ = {"permission": Permission.ACTIONS_READ}
DECIDE = {"permission": Permission.ACTIONS_APPROVE}


@get("/actions", opt=READ)
async def show_actions(
    request: AnyRequest, desk: AtDesk, status: FromQuery[str | None] = None, cursor: FromQuery[str | None] = None
) -> Response[str]:
    counts = await actions.count_by_status(desk.actor.organization_id)
    wanted = next((each for each in counts if each == status), None)
    found = await actions.list_actions(desk.actor.organization_id, status=wanted, cursor=cursor)
    return desk_page(
        request,
        desk,
        "actions/list.html",
        active="actions",
        rows=await _rows(desk, found.items),
        choices=_choices(counts),
        status=wanted,
        fresh=fresh_address(desk, "actions", [each.id for each in found.items], status=wanted, older=bool(cursor)),
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


@get("/actions/fresh", opt=READ)
async def show_fresh_actions(
    request: AnyRequest,
    desk: AtDesk,
    *,
    shown: FromQuery[str],
    status: FromQuery[str | None] = None,
    older: FromQuery[bool] = False,
) -> Response[str]:
    """What became of those `shown`, and how many more are among the newest, for a list that is not of `older` ones."""
    organization, ids = desk.actor.organization_id, read_ids(shown, "shown")
    counts = await actions.count_by_status(organization)
    wanted = next((each for each in counts if each == status), None)
    newest = [] if older else (await actions.list_actions(organization, status=wanted)).items
    found = await actions.list_actions(organization, ids=ids, limit=MAX_IDS)
    return fresh_rows(
        request,
        desk,
        "actions",
        newest=[each.id for each in newest],
        shown=ids,
        rows=await _rows(desk, found.items),
        choices=_choices(counts),
        status=wanted,
    )


def _choices(counts: Mapping[Any, Count]) -> list[tuple[str | None, str, int]]:
    return [
        (None, "All", sum(counts.values())),
        *((each.value, STATES[each].word, number) for each, number in counts.items()),
    ]


async def _rows(desk: Desk, found: Sequence[ActionView]) -> list[dict[str, Any]]:
    sent = await transactions.find_transactions_of_actions(desk.actor.organization_id, [each.id for each in found])
    return [
        {"key": f"action-{each.id}", "action": each, "state": stories.current_state(each, sent.get(each.id))}
        for each in found
    ]


@get("/actions/{action_id:uuid}", opt=READ)
async def show_action(request: AnyRequest, desk: AtDesk, action_id: FromPath[UUID]) -> Response[str]:
    return await _action_page(request, desk, action_id)


@get("/actions/{action_id:uuid}/progress", opt=READ)
async def show_progress(
    request: AnyRequest, desk: AtDesk, action_id: FromPath[UUID], seen: FromQuery[str] = "", shown: FromQuery[str] = ""
) -> Response[str]:
    """The timeline alone, asked for every two seconds until nothing more will happen.

    Where somebody decided since the page was `seen`, the whole card comes instead. Its form goes on to say that the
    outcome `shown` at first was shown: what changes while somebody types, perhaps off the screen, was not looked at.
    """
    action = await actions.get_action(desk.actor.organization_id, action_id)
    if seen != _seen(action):
        # Morphed, so that a code or a reason that somebody is typing stays.
        headers = {"HX-Retarget": "#action", "HX-Reswap": "innerMorph"}
        context = {"desk": desk, **await _card(desk, action, shown)}
        return fragment(request, "actions/_detail.html", context, headers=headers)
    context = await _progress(desk, action, shown)
    # The last answer replaces the element, and with it the polling.
    headers = {"HX-Reswap": "outerHTML"} if context["settled"] else {}
    return fragment(request, "actions/_progress_answer.html", {"desk": desk, **context}, headers=headers)


@post("/actions/{action_id:uuid}/approve", opt=DECIDE)
async def approve_action(request: AnyRequest, desk: AtDesk, action_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    try:
        await service.approve(
            desk.actor,
            action_id,
            values.get("digest", ""),
            values.get("code", ""),
            values.get("outcome_digest", ""),
        )
    except PortalError as error:
        return await _action_page(request, desk, action_id, error)
    return see_other(desk.url(f"actions/{action_id}"), done="approved")


@post("/actions/{action_id:uuid}/reject", opt=DECIDE)
async def reject_action(request: AnyRequest, desk: AtDesk, action_id: FromPath[UUID]) -> Response[Any]:
    values = await read_values(request)
    try:
        await service.reject(desk.actor, action_id, values.get("reason", ""))
    except PortalError as error:
        return await _action_page(request, desk, action_id, error, rejecting=values.get("reason", ""))
    return see_other(desk.url(f"actions/{action_id}"), done="rejected")


@post("/actions/{action_id:uuid}/cancel", opt=READ)
async def cancel_action(request: AnyRequest, desk: AtDesk, action_id: FromPath[UUID]) -> Response[Any]:
    """Whoever proposed it may take it back; the service knows who else may."""
    values = await read_values(request)
    try:
        await service.cancel(desk.actor, action_id, values.get("reason", ""))
    except PortalError as error:
        return await _action_page(request, desk, action_id, error)
    return see_other(desk.url(f"actions/{action_id}"), done="cancelled")


@post("/actions/{action_id:uuid}/simulate", opt=READ)
async def simulate_action(request: AnyRequest, desk: AtDesk, action_id: FromPath[UUID]) -> Response[Any]:
    """Whoever may propose or approve it; the service knows."""
    try:
        await service.resimulate(desk.actor, action_id)
    except PortalError as error:
        return await _action_page(request, desk, action_id, error)
    return see_other(desk.url(f"actions/{action_id}"), done="simulated")


async def _action_page(
    request: AnyRequest,
    desk: Desk,
    action_id: UUID,
    error: PortalError | None = None,
    *,
    rejecting: str | None = None,
) -> Response[str]:
    action = await actions.get_action(desk.actor.organization_id, action_id)
    context = await _card(desk, action) | {"rejecting": rejecting, "error": error}
    return desk_page(
        request, desk, "actions/detail.html", active="actions", http_status=error.status if error else 200, **context
    )


async def _card(desk: Desk, action: ActionView, shown: str = "") -> dict[str, Any]:
    return {
        **await _proof(desk, action),
        **await _progress(desk, action, shown),
        "warnings": await actions.list_warnings(desk.actor.organization_id, action),
        "cost_terms": cost_terms(action.policy, action.currency),
        "within": span(action.policy.execute_within_seconds),
        "why_not": _why_not(desk, action),
        "may_simulate": desk.may("actions:propose") or desk.may("actions:approve"),
        "can_decide": not _why_not(desk, action),
        "too_few": await _too_few(desk.actor.organization_id, action),
        "can_cancel": action.status == "proposed"
        and (desk.may("actions:cancel") or action.proposer_member_id == desk.actor.id),
        "rejecting": None,
        "error": None,
    }


async def _proof(desk: Desk, action: ActionView) -> dict[str, Any]:
    organization = desk.actor.organization_id
    signal = await signals.get_signal(organization, action.signal_id) if action.signal_id else None
    text = None
    if signal is not None:
        readable = signal.payload is not None
        text = msgspec.json.format(msgspec.json.encode(signal.payload)).decode() if readable else signal.body
    rule = await _rule(organization, action) if action.rule_id else None
    addresses = addresses_in([*action.arguments, *(each for call in action.calls for each in call.arguments)])
    if action.simulation and action.simulation.effects:
        addresses += [found for event in action.simulation.effects.events for found in addresses_in(event.arguments)]
    names = await actions.names_of(organization, addresses)
    return {
        "signal": signal,
        "source_name": signal.source_name if signal else None,
        "signal_text": text,
        "may_read_signals": desk.may("signals:read"),
        "rule": rule,
        "names": {address: names[address.lower()] for address in addresses if address.lower() in names},
    }


async def _rule(organization: UUID, action: ActionView) -> dict[str, str]:
    """The rule's name and the condition of the very version that proposed the action."""
    assert action.rule_id is not None
    rule = await rules.get_rule(organization, action.rule_id)
    versions = await rules.list_rule_versions(organization, action.rule_id)
    return {
        "name": rule.name,
        "condition": next(each.condition for each in versions if each.number == action.rule_version),
    }


async def _progress(desk: Desk, action: ActionView, shown: str) -> dict[str, Any]:
    organization = desk.actor.organization_id
    transaction = await transactions.find_transaction_of_action(organization, action.id)
    entries = await _entries(organization, action, transaction)
    return {
        "action": action,
        "transaction": transaction,
        "state": stories.current_state(action, transaction),
        "seen": _seen(action),
        "shown": shown or (action.simulation.outcome_digest if action.simulation else ""),
        "proposer": stories.proposer(action, entries),
        "settled": stories.is_settled(action, transaction),
        "stages": stories.stages(action, transaction),
        "waiting": stories.waiting(action, transaction),
        "story": stories.tell(entries),
    }


async def _entries(organization: UUID, action: ActionView, transaction: TransactionView | None) -> list[AuditEntryView]:
    """What the audit knows of the action, its signal and its transaction, in the order in which it happened."""
    subjects = [("action", action.id), ("signal", action.signal_id), ("transaction", transaction and transaction.id)]
    found = [
        entry
        for kind, id in subjects
        if id is not None
        for entry in (await audit.list_entries(organization, subject_kind=kind, subject_id=str(id), limit=200)).items
    ]
    return sorted(found, key=lambda entry: entry.sequence)


def _seen(action: ActionView) -> str:
    """What the page shows of people's decisions and the simulation, to notice that it is out of date."""
    simulated = action.simulation.simulated_at.isoformat() if action.simulation else ""
    return f"{action.status}-{len(action.approvals)}-{action.approvals_given}-{simulated}"


def _why_not(desk: Desk, action: ActionView) -> str:
    """Why this member has nothing to decide here; empty if they have."""
    if action.status != "proposed":
        return "Nothing is left to decide here."
    if not desk.may("actions:approve"):
        return "Your role can look at actions, but not decide about them."
    if action.proposer_member_id == desk.actor.id:
        if not action.approvals_required:
            return "Nobody has to approve it. It runs by itself once its simulation succeeds."
        key = action.proposed_by_key
        did = f"You made the API key “{key}”, which proposed it" if key else "You proposed it"
        return f"{did}, so somebody else has to approve it."
    if any(decision.member_id == desk.actor.id for decision in action.approvals):
        return "Your decision is recorded. Others decide now."
    return ""


async def _too_few(organization: UUID, action: ActionView) -> str | None:
    """Who is left to approve an open action, in words, if those are fewer than it needs."""
    missing = action.approvals_required - action.approvals_given
    if action.status != "proposed" or missing <= 0:
        return None
    spent = {action.proposer_member_id, *(each.member_id for each in action.approvals if each.counts)}
    left = len(await approvers_of(organization) - spent)
    return None if left >= missing else f"only {count(left, 'member')}" if left else "nobody else"


handlers = [
    show_actions,
    show_fresh_actions,
    show_action,
    show_progress,
    approve_action,
    reject_action,
    cancel_action,
    simulate_action,
]
