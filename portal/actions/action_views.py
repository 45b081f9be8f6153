"""Actions' rows as people read them. Pure: names of addresses and decisions are the caller's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from portal.actions import effects
from portal.actions.batches import read_batch
from portal.actions.digest import fingerprint
from portal.actions.policy import Standing
from portal.actions.schemas import ActionView, CallView, DecisionView, PolicyOfAction, Simulation
from portal.actions.simulated import addresses_of, is_stale, outcome_digest_of, simulation_of, with_names
from portal.actions.tables import ActionStatus, Verdict
from portal.chain.abi import EncodedCall
from portal.db.columns import decimal_string


class Parts(msgspec.Struct, frozen=True):
    """What of a row has to be decoded, once, before the names of its addresses are asked for."""

    arguments: list[dict[str, Any]]
    calls: list[EncodedCall]
    simulation: Simulation | None
    addresses: set[str]
    """Of a batch's calls and of the simulation."""


def read_parts(row: dict[str, Any]) -> Parts:
    """Decode a row of `queries.SELECT`."""
    calls: list[EncodedCall] = []
    if row["batch_abi"]:
        calls = read_batch(msgspec.json.decode(row["batch_abi"]), bytes(row["calldata"]))
    simulation = simulation_of(row)
    named = {address for call in calls for address in effects.addresses_in(call.arguments)}
    return Parts(msgspec.json.decode(row["arguments"]), calls, simulation, named | addresses_of(simulation))


def action_view(
    row: dict[str, Any],
    parts: Parts,
    *,
    decisions: list[dict[str, Any]],
    standing: Standing,
    names: Mapping[str, str],
    now: datetime,
) -> ActionView:
    """The whole view. `names` holds what the organisation calls addresses, by address in lower case."""
    digest = bytes(row["digest"])
    return ActionView(
        id=row["id"],
        status=ActionStatus(row["status"]),
        summary=row["summary"],
        digest=digest.hex(),
        fingerprint=fingerprint(digest),
        contract_id=row["contract"],
        contract_name=row["contract_name"],
        contract_symbol=row["contract_symbol"],
        contract_decimals=row["contract_decimals"],
        chain_id=row["chain"],
        chain_name=row["chain_name"],
        currency=row["currency"],
        function=row["function"],
        arguments=parts.arguments,
        calls=[_call_view(call, row, names) for call in parts.calls],
        value_wei=str(int(row["value_wei"])),
        to_address=row["to_address"],
        signer_id=row["signer_id"],
        signer_address=row["signer_address"],
        calldata=f"0x{bytes(row['calldata']).hex()}",
        simulation=_told(parts.simulation, row, names, now),
        approvals=[_decision_view(decision, digest, row["proposer"]) for decision in decisions],
        approvals_given=standing.approvals,
        approvals_required=standing.required,
        policy=_policy_of(row),
        because=f"{row['source_name']} reported {row['signal_type']}" if row["signal"] else None,
        **_proposal_of(row),
        rule_id=row["rule"],
        rule_version=row["rule_number"],
        signal_id=row["signal"],
        end_user_id=row["end_user"],
        end_user_name=row["end_user_name"],
        correlation_id=row["correlation_id"],
        proposed_at=row["proposed_at"],
        expires_at=row["expires_at"],
        decided_at=row["decided_at"],
    )


def _told(
    simulation: Simulation | None, row: dict[str, Any], names: Mapping[str, str], now: datetime
) -> Simulation | None:
    if simulation is None:
        return None
    found = simulation.effects and with_names(simulation.effects, names, row["currency"])
    waits = row["status"] == ActionStatus.PROPOSED
    stale = waits and is_stale(simulation, row["head_number"], now)
    digest = outcome_digest_of(simulation)
    return msgspec.structs.replace(simulation, effects=found, is_stale=stale, outcome_digest=digest)


def _call_view(call: EncodedCall, row: dict[str, Any], names: Mapping[str, str]) -> CallView:
    effect = effects.Effect(
        contract_name=row["contract_name"],
        function=call.function,
        arguments=call.arguments,
        symbol=row["contract_symbol"],
        decimals=row["contract_decimals"],
        names=dict(names),
    )
    return CallView(
        function=call.function,
        arguments=call.arguments,
        calldata=f"0x{call.calldata.hex()}",
        summary=effects.summarize(effect) if call.function else "A call that the contract's ABI does not name",
    )


def _policy_of(row: dict[str, Any]) -> PolicyOfAction:
    return PolicyOfAction(
        row["policy_id"],
        row["policy_name"],
        row["policy_version"],
        row["policy_number"],
        row["execute_within_seconds"],
        decimal_string(row["most_cost_wei"]),
        decimal_string(row["most_cost_a_day_wei"]),
    )


def _proposal_of(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "proposed_by": row["proposer_email"],
        "proposed_by_member_id": row["proposed_by"],
        "proposed_by_key": row["key_name"],
        "proposed_by_key_id": row["proposed_by_key"],
        "key_created_by": row["key_maker_email"],
        "proposer_member_id": row["proposer"],
    }


def _decision_view(row: dict[str, Any], digest: bytes, proposer_id: UUID | None) -> DecisionView:
    return DecisionView(
        member_id=row["member"],
        email=row["email"],
        name=row["name"],
        verdict=Verdict(row["verdict"]),
        reason=row["reason"],
        second_factor=row["second_factor"],
        counts=row["cast"].counts(digest=digest, proposer_id=proposer_id),
        decided_at=row["decided_at"],
    )
