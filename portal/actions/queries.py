"""Reads of actions, for pages, the API and the stages after."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from portal import clock
from portal.accounts.permissions import GRANTS, Permission, Role
from portal.accounts.schemas import Actor
from portal.actions import action_views, effects, policy
from portal.actions.batches import MULTICALL
from portal.actions.schemas import ActionView, InboxItem, PolicyView
from portal.actions.tables import ActionStatus, Verdict
from portal.chain.tables import SignerStatus
from portal.db.columns import decimal_string
from portal.db.engine import run_sql
from portal.db.paging import DEFAULT_LIMIT, Count, Page, check_limit, decode_cursor, page_of
from portal.errors import NotFound

MOST_COUNTED = 10_000
"""Of one status: who wants to know more exactly filters."""

PROPOSER = "coalesce(a.proposed_by, (SELECT api_key.created_by FROM api_key WHERE api_key.id = a.proposed_by_key))"
"""Of an action `a`: the member who proposed it, or who made the API key that did, and who may not approve it."""

SELECT = f"""
    SELECT a.*, {PROPOSER} AS proposer, CASE a.function WHEN '{MULTICALL}' THEN c.abi END AS batch_abi,
           c.name AS contract_name, c.symbol AS contract_symbol, c.decimals AS contract_decimals,
           chain.name AS chain_name, chain.currency, chain.head_number, s.id AS signer_id, s.address AS signer_address,
           v.number AS policy_number, v.approvals_required, v.execute_within_seconds, v.most_cost_wei,
           v.most_cost_a_day_wei, p.id AS policy_id, p.name AS policy_name,
           rv.number AS rule_number, e.name AS end_user_name, proposer.email AS proposer_email,
           k.name AS key_name, maker.email AS key_maker_email,
           source.name AS source_name, signal.type AS signal_type
    FROM action a
    JOIN contract c ON c.id = a.contract
    JOIN chain ON chain.id = a.chain
    JOIN signer s ON s.id = a.signer
    JOIN policy_terms v ON v.id = a.policy_version
    JOIN policy p ON p.id = v.policy
    LEFT JOIN rule_version rv ON rv.id = a.rule_version
    LEFT JOIN end_user e ON e.id = a.end_user
    LEFT JOIN signal ON signal.id = a.signal
    LEFT JOIN source ON source.id = signal.source
    LEFT JOIN member m ON m.id = a.proposed_by
    LEFT JOIN person proposer ON proposer.id = m.person
    LEFT JOIN api_key k ON k.id = a.proposed_by_key
    LEFT JOIN member made ON made.id = k.created_by
    LEFT JOIN person maker ON maker.id = made.person
"""  # noqa: S608  constants

WAITS_FOR_MEMBER = f"""
    a.organization = {{}} AND a.status = 'proposed' AND a.expires_at > {{}} AND {PROPOSER} IS DISTINCT FROM {{}}
    AND NOT EXISTS (SELECT FROM decision d WHERE d.action = a.id AND d.member = {{}})
"""

POLICIES = """
    SELECT p.id, p.name, p.created_at, v.id AS version_id, v.number AS version, v.approvals_required,
           v.expires_after_seconds, v.execute_within_seconds, v.most_cost_wei, v.most_cost_a_day_wei,
           v.created_at AS changed_at
    FROM policy p JOIN LATERAL (
        SELECT * FROM policy_version WHERE policy = p.id ORDER BY number DESC LIMIT 1
    ) v ON true
    WHERE p.organization = {}
"""


async def get_action(organization_id: UUID, action_id: UUID) -> ActionView:
    """One action with its decisions. Raises `NotFound`, for another organisation's too."""
    rows = await run_sql(SELECT + "WHERE a.id = {} AND a.organization = {}", action_id, organization_id)
    if not rows:
        raise NotFound("There is no such action.")
    return (await _views(rows))[0]


async def list_actions(
    organization_id: UUID,
    *,
    status: ActionStatus | None = None,
    contract_id: UUID | None = None,
    end_user_id: UUID | None = None,
    signal_id: UUID | None = None,
    ids: Sequence[UUID] | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[ActionView]:
    """Actions, the newest first, of those that fit every filter given."""
    filters: list[tuple[str, Any]] = [
        ("a.organization = {}", organization_id),
        ("a.status = {}", status),
        ("a.contract = {}", contract_id),
        ("a.end_user = {}", end_user_id),
        ("a.signal = {}", signal_id),
        ("a.id = ANY({}::uuid[])", ids),
        ("a.id < {}", decode_cursor(cursor) if cursor else None),
    ]
    wanted = [(sql, value) for sql, value in filters if value is not None]
    rows = await run_sql(
        SELECT + "WHERE " + " AND ".join(sql for sql, _ in wanted) + " ORDER BY a.id DESC LIMIT {}",
        *(value for _, value in wanted),
        check_limit(limit) + 1,
    )
    views = {view.id: view for view in await _views(rows)}
    return page_of(rows, limit, lambda row: views[row["id"]])


async def list_actions_of_end_user(
    organization_id: UUID, end_user_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[ActionView]:
    """What was proposed for one end user, the newest first."""
    return await list_actions(organization_id, end_user_id=end_user_id, cursor=cursor, limit=limit)


async def list_inbox(actor: Actor, *, limit: int = DEFAULT_LIMIT) -> list[InboxItem]:
    """What waits for this member, oldest deadline first: open, not decided, and proposed neither by them
    nor by an API key that they made.

    Empty for somebody who may not approve.
    """
    if not actor.id or Permission.ACTIONS_APPROVE not in actor.permissions:
        return []
    rows = await run_sql(
        SELECT + "WHERE " + WAITS_FOR_MEMBER + " ORDER BY a.expires_at, a.id LIMIT {}",
        *_inbox_arguments(actor),
        check_limit(limit),
    )
    views = await _views(rows)
    warnings = await _warnings(actor.organization_id, views)
    return [InboxItem(action=view, warnings=warnings[view.id]) for view in views]


async def count_inbox(actor: Actor) -> int:
    """How many actions `list_inbox` would list without a limit."""
    if not actor.id or Permission.ACTIONS_APPROVE not in actor.permissions:
        return 0
    rows = await run_sql(
        "SELECT count(*) FROM action a WHERE " + WAITS_FOR_MEMBER,  # noqa: S608 (both parts are constants)
        *_inbox_arguments(actor),
    )
    return int(rows[0]["count"])


def _inbox_arguments(actor: Actor) -> tuple[Any, ...]:
    return (actor.organization_id, clock.now(), actor.id, actor.id)


async def list_warnings(organization_id: UUID, action: ActionView) -> list[str]:
    """What is unusual about one action, as sentences."""
    return (await _warnings(organization_id, [action]))[action.id]


async def count_by_status(organization_id: UUID) -> dict[ActionStatus, Count]:
    """How many actions there are in each status, up to 10,000 each; every status is there."""
    rows = await run_sql(
        """SELECT wanted.status, few.count FROM unnest({}::text[]) AS wanted (status), LATERAL (SELECT count(*) FROM (
               SELECT FROM action WHERE organization = {} AND action.status = wanted.status LIMIT {}) listed) few""",
        list(ActionStatus),
        organization_id,
        MOST_COUNTED + 1,
    )
    found = {row["status"]: row["count"] for row in rows}
    return {status: Count.up_to(MOST_COUNTED, found[status]) for status in ActionStatus}


async def list_action_ids_of_signals(organization_id: UUID, signal_ids: Iterable[UUID]) -> dict[UUID, list[UUID]]:
    """For each signal the ids of its actions, oldest first; an empty list for one without."""
    found: dict[UUID, list[UUID]] = {id: [] for id in signal_ids}
    for row in await run_sql(
        "SELECT signal, id FROM action WHERE organization = {} AND signal = ANY({}::uuid[]) ORDER BY id",
        organization_id,
        list(found),
    ):
        found[row["signal"]].append(row["id"])
    return found


async def list_action_ids_of_signal(organization_id: UUID, signal_id: UUID) -> list[UUID]:
    """Ids of the actions that came of one signal, oldest first."""
    return (await list_action_ids_of_signals(organization_id, [signal_id]))[signal_id]


async def get_policy(organization_id: UUID, policy_id: UUID) -> PolicyView:
    """A policy with its newest version. Raises `NotFound`."""
    rows = await run_sql(POLICIES + "AND p.id = {}", organization_id, policy_id)
    if not rows:
        raise NotFound("There is no such policy.")
    return _policy_view(rows[0])


async def list_policies(
    organization_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[PolicyView]:
    """Policies with their newest versions, the newest policy first."""
    before = decode_cursor(cursor) if cursor else None
    rows = await run_sql(
        POLICIES + "AND ({}::uuid IS NULL OR p.id < {}) ORDER BY p.id DESC LIMIT {}",
        *(organization_id, before, before, check_limit(limit) + 1),
    )
    return page_of(rows, limit, _policy_view)


def _policy_view(row: dict[str, Any]) -> PolicyView:
    return PolicyView(**row | {name: decimal_string(row[name]) for name in ("most_cost_wei", "most_cost_a_day_wei")})


async def names_of(organization_id: UUID, addresses: Iterable[str]) -> dict[str, str]:
    """What the organisation calls these EIP-55 addresses, by address in lower case: contracts, signers, end users."""
    wanted = list(addresses)
    if not wanted:
        return {}
    rows = await run_sql(
        """SELECT address, name FROM contract WHERE organization = {} AND address = ANY({}::text[])
           UNION ALL
           SELECT address, name FROM signer WHERE organization = {} AND purpose = 'sends' AND address = ANY({}::text[])
           UNION ALL
           SELECT address, name FROM end_user WHERE organization = {} AND address = ANY({}::text[])""",
        *(organization_id, wanted) * 3,
    )
    return {row["address"].lower(): row["name"] for row in rows}


async def summaries_of(organization_id: UUID, action_ids: Iterable[UUID]) -> dict[UUID, str]:
    """What each of these actions does, as its one sentence."""
    rows = await run_sql(
        "SELECT id, summary FROM action WHERE organization = {} AND id = ANY({}::uuid[])",
        organization_id,
        list(action_ids),
    )
    return {row["id"]: row["summary"] for row in rows}


async def cast_decisions(action_ids: Iterable[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    """The decisions about each action in the order made, each with `cast`, as the member's rights are now."""
    found: dict[UUID, list[dict[str, Any]]] = {id: [] for id in action_ids}
    for row in await run_sql(
        """SELECT d.*, m.role, p.email, p.name, m.disabled_at IS NULL AND p.disabled_at IS NULL AS enabled
           FROM decision d JOIN member m ON m.id = d.member JOIN person p ON p.id = m.person
           WHERE d.action = ANY({}::uuid[]) ORDER BY d.decided_at, d.id""",
        list(found),
    ):
        may_decide = row["enabled"] and Permission.ACTIONS_APPROVE in GRANTS[Role(row["role"])]
        row["cast"] = policy.CastDecision(row["member"], Verdict(row["verdict"]), bytes(row["digest"]), may_decide)
        found[row["action"]].append(row)
    return found


def standing_of(action: dict[str, Any], decisions: list[dict[str, Any]]) -> policy.Standing:
    """The quorum of an action's row over rows of `cast_decisions`."""
    return policy.assess(
        [row["cast"] for row in decisions],
        digest=bytes(action["digest"]),
        required=action["approvals_required"],
        proposer_id=action["proposer"],
    )


async def _views(rows: list[dict[str, Any]]) -> list[ActionView]:
    if not rows:
        return []
    decisions = await cast_decisions(row["id"] for row in rows)
    parts = [action_views.read_parts(row) for row in rows]
    names = await names_of(rows[0]["organization"], {address for part in parts for address in part.addresses})
    return [
        action_views.action_view(
            row,
            part,
            decisions=decisions[row["id"]],
            standing=standing_of(row, decisions[row["id"]]),
            names=names,
            now=clock.now(),
        )
        for row, part in zip(rows, parts, strict=True)
    ]


async def _warnings(organization_id: UUID, views: list[ActionView]) -> dict[UUID, list[str]]:
    recipients = {view.id: _recipients(view) for view in views}
    names = await names_of(organization_id, {address for found in recipients.values() for address in found})
    history = await _history(organization_id, [view.id for view in views])
    return {view.id: list(_unusual(view, recipients[view.id], names, history[view.id])) for view in views}


def _recipients(view: ActionView) -> list[str]:
    """The addresses that the call names, or each call of a batch, in order, each once."""
    return effects.addresses_in([*view.arguments, *(each for call in view.calls for each in call.arguments)])


def _unusual(view: ActionView, recipients: list[str], names: dict[str, str], history: dict[str, Any]) -> Iterator[str]:
    if view.simulation and not view.simulation.ok:
        yield f"The call would fail: {view.simulation.revert_reason}"
    if history["signer_status"] == SignerStatus.DISABLED:
        waits = "once it is approved, it waits until that is enabled again"
        yield f"Its signer {history['signer_name']} is disabled: {waits}."
    elif history["signer_trouble"]:
        yield f"Its signer {history['signer_name']} cannot sign just now: {history['signer_trouble']}"
    if history["first_call"] and view.to_address:
        first = "batch of calls" if view.calls else f"call of {view.function.partition('(')[0]}"
        yield f"The first {first} of {view.contract_name}."
    for address in recipients:
        if address.lower() not in names:
            yield f"{effects.short_address(address)} is not an end user, a signer or a contract of yours."
    person = effects.plain(view.end_user_name or "")
    if history["end_user_address"] and recipients and history["end_user_address"] not in recipients:
        named = ", ".join(effects.name_or_short(address, names) for address in recipients)
        yield f"It is for {person}, but names {named}."
    if history["first_for_end_user"]:
        yield f"The first action for {person}."


async def _history(organization_id: UUID, action_ids: list[UUID]) -> dict[UUID, dict[str, Any]]:
    """By action: whether nothing like it was ever approved before, for whom it is, and how its signer is."""
    rows = await run_sql(
        """SELECT a.id, e.address AS end_user_address,
                  s.name AS signer_name, s.status AS signer_status, s.trouble AS signer_trouble,
                  NOT EXISTS (SELECT FROM action b WHERE b.contract = a.contract AND b.function = a.function
                              AND b.status = 'approved' AND b.id <> a.id) AS first_call,
                  a.end_user IS NOT NULL AND NOT EXISTS (
                      SELECT FROM action b WHERE b.end_user = a.end_user AND b.status = 'approved' AND b.id <> a.id
                  ) AS first_for_end_user
           FROM action a JOIN signer s ON s.id = a.signer LEFT JOIN end_user e ON e.id = a.end_user
           WHERE a.organization = {} AND a.id = ANY({}::uuid[])""",
        organization_id,
        action_ids,
    )
    return {row["id"]: row for row in rows}
