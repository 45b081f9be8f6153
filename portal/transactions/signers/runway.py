"""How long signers can still pay: what they have on each chain, what they spent, and from when it is topped up."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.actions.checks import checked
from portal.actions.effects import WEI_DECIMALS, units
from portal.actions.proposals import MAX_WEI
from portal.actions.queries import get_policy
from portal.actions.schemas import DecimalString, PolicyView
from portal.audit import service as audit
from portal.chain.abi import RECEIVE
from portal.chain.queries import get_signer
from portal.chain.tables import SignerPurpose
from portal.db.columns import decimal_string, wei
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound, PreconditionFailed
from portal.jobs.queue import ring

LEAST_WINDOW = timedelta(days=1)
"""Shorter than that nothing is foretold: the first hours of a signer are not like its days."""
LEAST_TRANSACTIONS = 3

# The signers that send, on each chain where they have a lane or a contract, or share a contract of their group.
SENDERS = """
    SELECT s.id AS signer_id, s.organization AS organization_id, s.address, sends.chain AS chain_id FROM signer s JOIN (
        SELECT signer, chain FROM lane UNION SELECT signer, chain FROM contract
        UNION SELECT m.id, c.chain FROM contract c JOIN signer m ON m.signer_group = c.signer_group
    ) sends ON sends.signer = s.id
    WHERE s.purpose = 'sends' AND s.status = 'active' AND s.address IS NOT NULL"""

RUNWAYS = f"""
    SELECT sender.signer_id, s.name AS signer_name, sender.address AS signer_address,
           sender.chain_id, c.name AS chain_name, c.currency, s.low_balance_wei, r.balance_wei, r.read_at, r.low_since,
           r.spent_wei, r.spent_transactions, r.spent_since, r.spent_at
    FROM ({SENDERS}) sender
    JOIN signer s ON s.id = sender.signer_id
    JOIN chain c ON c.id = sender.chain_id
    LEFT JOIN signer_reading r ON r.signer = sender.signer_id AND r.chain = sender.chain_id
    WHERE sender.organization_id = {{}} """  # noqa: S608  constants


class Runway(msgspec.Struct, frozen=True, kw_only=True):
    """What one signer has on one chain, and how long that lasts."""

    signer_id: UUID
    signer_name: str
    signer_address: str
    chain_id: int
    chain_name: str
    currency: str
    balance_wei: str | None
    """None until it was read, usually within a minute."""
    read_at: datetime | None
    spent_wei: str
    """For gas and with its calls, as mined in seven days; without what rollups charge for their data. At most ten
    minutes old."""
    days_left: float | None
    """At the pace of those days; None where too little is known."""
    why_unknown: str | None
    """Why there is no forecast, as a sentence."""
    low_balance_wei: str | None
    """Below this it is low."""
    low_since: datetime | None


class TopUpInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a signer's balance is low, and what is done about it. All null: nobody is told, nothing is done."""

    low_balance_wei: DecimalString | None = None
    top_up_wei: DecimalString | None = None
    """How much a top-up sends; null leaves it at the alarm."""
    treasury_id: UUID | None = None
    """The signer that sends it; with `top_up_wei` only."""
    policy_id: UUID | None = None
    """Under which it is proposed; with `top_up_wei` only."""


class TopUpView(TopUpInput, frozen=True, kw_only=True):
    signer_id: UUID
    treasury_name: str | None
    policy_name: str | None
    proposed_id: UUID | None
    """The action of a top-up that waits for approval."""
    runways: list[Runway]
    """On each chain where it sends."""


async def list_runways(organization_id: UUID, signer_id: UUID | None = None) -> list[Runway]:
    """Of each active signer that sends, on each of its chains: first those that are low, then by what is left."""
    rows = await run_sql(
        RUNWAYS + "AND ({}::uuid IS NULL OR sender.signer_id = {}) ORDER BY s.name, c.name LIMIT 200",
        *(organization_id, signer_id, signer_id),
    )
    found = [_runway(row) for row in rows]
    return sorted(found, key=lambda it: (it.low_since is None, it.days_left is None, it.days_left or 0))


async def get_top_up(organization_id: UUID, signer_id: UUID) -> TopUpView:
    """When the signer is topped up and from where, with its runways. Raises `NotFound`."""
    rows = await run_sql(
        """SELECT s.id AS signer_id, s.low_balance_wei::text, s.top_up_wei::text, s.top_up_from AS treasury_id,
                  s.top_up_policy AS policy_id, treasury.name AS treasury_name, policy.name AS policy_name,
                  (SELECT a.id FROM action a JOIN contract c ON c.id = a.contract
                   WHERE c.organization = s.organization AND c.address = s.address AND a.function = {}
                   AND a.status = 'proposed' ORDER BY a.id DESC LIMIT 1) AS proposed_id
           FROM signer s LEFT JOIN signer treasury ON treasury.id = s.top_up_from
                LEFT JOIN policy ON policy.id = s.top_up_policy
           WHERE s.id = {} AND s.organization = {} AND s.purpose = {}""",
        *(RECEIVE, signer_id, organization_id, SignerPurpose.SENDS.value),
    )
    if not rows:
        raise NotFound("There is no such signer.")
    return TopUpView(**rows[0], runways=await list_runways(organization_id, signer_id))


def version_of(view: TopUpView) -> list[str | None]:
    """What tells one version of the settings from the next."""
    return [view.low_balance_wei, view.top_up_wei, str(view.treasury_id), str(view.policy_id)]


async def set_top_up(
    actor: Actor, signer_id: UUID, given: TopUpInput, *, expected: list[str | None] | None = None
) -> TopUpView:
    """Say when the signer is low, and what is proposed then; what was proposed already stays.

    Raises `Forbidden`, `NotFound`, `InputInvalid`, and `PreconditionFailed` unless the settings are still `expected`.
    """
    actor.require(Permission.SIGNERS_WRITE)
    given = checked(given)
    _check_whole(given)
    await _check_named(actor.organization_id, signer_id, given)
    async with transaction():
        await run_sql("SELECT id FROM signer WHERE id = {} FOR NO KEY UPDATE", signer_id)
        before = await get_top_up(actor.organization_id, signer_id)
        if expected is not None and version_of(before) != expected:
            raise PreconditionFailed("Somebody changed it since you read it. Read it again, then decide.")
        await run_sql(
            """UPDATE signer SET low_balance_wei = {}::text::numeric, top_up_wei = {}::text::numeric, top_up_from = {},
                                 top_up_policy = {} WHERE id = {}""",
            *(given.low_balance_wei, given.top_up_wei, given.treasury_id, given.policy_id, signer_id),
        )
        detail = {name: value and str(value) for name, value in msgspec.structs.asdict(given).items()}
        await audit.append(actor, "signer.top_up_set", "signer", signer_id, detail)
    ring("read_signers")
    return await get_top_up(actor.organization_id, signer_id)


def forecast(
    balance_wei: int | None, spent_wei: int, transactions: int, over: timedelta
) -> tuple[float | None, str | None]:
    """How many days `balance_wei` lasts at the pace of `spent_wei` in the time `over`; None and why where unknown."""
    if balance_wei is None:
        return None, "Its balance was not read yet."
    if transactions == 0:
        return None, "It sent nothing in the last seven days."
    if over < LEAST_WINDOW or transactions < LEAST_TRANSACTIONS:
        return None, "It sent too little so far to tell."
    if spent_wei == 0:
        return None, "What it sent in the last seven days cost nothing."
    return round(balance_wei / spent_wei * (over / timedelta(days=1)), 1), None


def _runway(row: dict[str, Any]) -> Runway:
    balance = wei(row["balance_wei"])
    spent = int(row["spent_wei"] or 0)
    over = row["spent_at"] - row["spent_since"] if row["spent_since"] else timedelta()
    days_left, why_unknown = forecast(balance, spent, row["spent_transactions"] or 0, over)
    return Runway(
        signer_id=row["signer_id"],
        signer_name=row["signer_name"],
        signer_address=row["signer_address"],
        chain_id=row["chain_id"],
        chain_name=row["chain_name"],
        currency=row["currency"],
        balance_wei=decimal_string(row["balance_wei"]),
        read_at=row["read_at"],
        spent_wei=str(spent),
        days_left=days_left,
        why_unknown=why_unknown,
        low_balance_wei=decimal_string(row["low_balance_wei"]),
        low_since=row["low_since"],
    )


def _check_whole(given: TopUpInput) -> None:
    parts = {"top_up_wei": given.top_up_wei, "treasury_id": given.treasury_id, "policy_id": given.policy_id}
    missing = [name for name, value in parts.items() if value is None]
    if 0 < len(missing) < len(parts):
        raise InputInvalid.at(f"/{missing[0]}", "A top-up needs an amount, a signer that sends it, and a policy.")
    if given.top_up_wei is not None and given.low_balance_wei is None:
        raise InputInvalid.at("/low_balance_wei", "Say below which balance it is topped up.")
    if int(given.top_up_wei or 0) > MAX_WEI:
        raise InputInvalid.at("/top_up_wei", f"At most {MAX_WEI} wei can be sent.")
    if given.top_up_wei == "0":
        raise InputInvalid.at("/top_up_wei", "A top-up sends more than nothing.")


async def _check_named(organization_id: UUID, signer_id: UUID, given: TopUpInput) -> None:
    await get_top_up(organization_id, signer_id)
    if given.treasury_id is None or given.policy_id is None:
        return
    if given.treasury_id == signer_id:
        raise InputInvalid.at("/treasury_id", "A signer cannot top itself up.")
    try:
        treasury = await get_signer(organization_id, given.treasury_id)
    except NotFound:
        raise InputInvalid.at("/treasury_id", "There is no such signer.") from None
    if treasury.purpose != SignerPurpose.SENDS:
        raise InputInvalid.at("/treasury_id", "This key holds what an end user owns; it sends nothing.")
    try:
        policy = await get_policy(organization_id, given.policy_id)
    except NotFound:
        raise InputInvalid.at("/policy_id", "There is no such policy.") from None
    _check_allowed(int(given.top_up_wei or 0), policy)


def _check_allowed(wei: int, policy: PolicyView) -> None:
    for most, span in ((policy.most_cost_wei, "one transaction"), (policy.most_cost_a_day_wei, "a day")):
        # As much as the limit is too much, too: the gas is in it.
        if most is not None and wei >= int(most):
            allows = f"The policy {policy.name} allows {span} to cost at most {units(int(most), WEI_DECIMALS)}"
            raise InputInvalid.at(
                "/top_up_wei", f"{allows}, gas included, so a top-up has to be less. Or choose another policy."
            )
