"""The gate at signing: whoever holds the keys recomputes what was approved, and trusts no stored conclusion."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from portal.actions import queries
from portal.actions.batches import MULTICALL, check_batch
from portal.actions.digest import CanonicalCall, digest_of
from portal.actions.errors import GateRefused
from portal.actions.schemas import SigningOrder
from portal.actions.simulated import simulation_of
from portal.actions.tables import ActionStatus
from portal.chain.tables import ContractStatus
from portal.db.columns import wei
from portal.db.engine import in_transaction, run_sql
from portal.errors import InputInvalid

STORED = f"""
    SELECT a.*, {queries.PROPOSER} AS proposer,
           c.status AS contract_status, c.address AS contract_address, c.allowed_functions,
           c.signer AS contract_signer, c.signer_group AS contract_group, c.chain AS contract_chain,
           c.organization AS contract_organization, c.name AS contract_name,
           s.id AS signer_id, s.name AS signer_name, s.address AS signer_address,
           s.organization AS signer_organization, s.signer_group,
           v.number AS policy_number, v.approvals_required, v.most_cost_wei, v.most_cost_a_day_wei,
           p.id AS policy_id, p.organization AS policy_organization
    FROM action a
    JOIN contract c ON c.id = a.contract
    JOIN signer s ON s.id = a.signer
    JOIN policy_terms v ON v.id = a.policy_version
    JOIN policy p ON p.id = v.policy
    WHERE a.id = ANY({{}}::uuid[]) ORDER BY a.id FOR SHARE OF a, c, s
"""  # noqa: S608  constants


async def verify_for_signing(action_ids: Iterable[UUID]) -> dict[UUID, SigningOrder | GateRefused]:
    """What may be signed for each action, or the first difference from what was approved; unknown ids are left out.

    Runs inside the db transaction that signs, and holds the rows it read. Recomputes the digest from the stored call,
    and the quorum from the stored decisions as the members' rights are now. Whether the signer may sign at present is
    not asked here but by the signer itself: one that is disabled can be enabled again, which is no difference from what
    was approved.
    """
    assert in_transaction(), "what the gate saw must still hold when the signature is stored"
    wanted = list(action_ids)
    if not wanted:
        return {}
    rows = await run_sql(STORED, wanted)
    decisions = await queries.cast_decisions(row["id"] for row in rows)
    verdicts: dict[UUID, SigningOrder | GateRefused] = {}
    for row in rows:
        try:
            verdicts[row["id"]] = _verify(row, decisions[row["id"]])
        except GateRefused as refusal:
            verdicts[row["id"]] = refusal
    return verdicts


def _verify(row: dict[str, Any], decisions: list[dict[str, Any]]) -> SigningOrder:
    if row["status"] != ActionStatus.APPROVED:
        raise GateRefused(f"The action is {row['status']}, not approved.")
    _check_contract(row)
    _check_signer(row)
    _check_digest(row)
    _check_quorum(row, decisions)
    if row["most_cost_wei"] is not None and row["value_wei"] > row["most_cost_wei"]:
        raise GateRefused("It sends more than its policy allows for it, gas included.")
    return SigningOrder(
        chain_id=row["chain"],
        signer_id=row["signer_id"],
        to=row["to_address"],
        data=bytes(row["calldata"]),
        value_wei=int(row["value_wei"]),
        policy_id=row["policy_id"],
        most_cost_wei=wei(row["most_cost_wei"]),
        most_cost_a_day_wei=wei(row["most_cost_a_day_wei"]),
    )


def _check_contract(row: dict[str, Any]) -> None:
    name = row["contract_name"]
    if not row["organization"] == row["contract_organization"] == row["policy_organization"]:
        raise GateRefused("The contract or the policy belongs to another organisation than the action.")
    if row["contract_chain"] != row["chain"]:
        raise GateRefused(f"The contract {name} is on chain {row['contract_chain']}, the action on {row['chain']}.")
    if row["to_address"] is None:
        if row["contract_status"] != ContractStatus.DEPLOYING:
            raise GateRefused(f"The contract {name} is {row['contract_status']}, so it is not deployed again.")
        return
    if row["contract_status"] != ContractStatus.ACTIVE:
        raise GateRefused(f"The contract {name} is {row['contract_status']}, not active.")
    if row["contract_address"] != row["to_address"]:
        raise GateRefused(f"The contract {name} has another address than the action was approved for.")
    allowed = msgspec.json.decode(row["allowed_functions"])
    if row["function"] == MULTICALL:
        try:
            check_batch(bytes(row["calldata"]), allowed, name, int(row["value_wei"]))
        except InputInvalid as refused:
            raise GateRefused(refused.detail) from None
    elif row["function"] not in allowed:
        raise GateRefused(f"The function {row['function']} of {name} is not allowed any more.")


def _check_signer(row: dict[str, Any]) -> None:
    if row["signer_organization"] != row["organization"]:
        raise GateRefused("The signer belongs to another organisation than the action.")
    of_group = row["contract_group"] is not None and row["contract_group"] == row["signer_group"]
    if row["signer_id"] != row["contract_signer"] and not of_group:
        raise GateRefused(f"The signer {row['signer_name']} does not send for {row['contract_name']} any more.")


def _check_digest(row: dict[str, Any]) -> None:
    recomputed = digest_of(
        CanonicalCall(
            organization_id=row["organization"],
            chain_id=row["chain"],
            to=row["to_address"],
            function=row["function"],
            arguments=msgspec.json.decode(row["arguments"]),
            calldata=bytes(row["calldata"]),
            value_wei=int(row["value_wei"]),
            policy_version_id=row["policy_version"],
            policy_version_number=row["policy_number"],
            signer=row["signer_address"],
        )
    )
    if recomputed != bytes(row["digest"]):
        raise GateRefused("The stored call does not have the digest that was approved: something was changed since.")


def _check_quorum(row: dict[str, Any], decisions: list[dict[str, Any]]) -> None:
    standing = queries.standing_of(row, decisions)
    if standing.rejected:
        raise GateRefused("The action was rejected.")
    if not standing.is_met:
        raise GateRefused(f"{standing.approvals} of {standing.required} approvals count now.")
    if standing.required == 0 and not ((simulation := simulation_of(row)) and simulation.ok):
        raise GateRefused("It was approved automatically, but no simulation of it succeeded.")
