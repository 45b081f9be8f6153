"""Checks what somebody wrote as a rule, and tries it on a stored signal without changing anything."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.chain import abi as contract_abi
from portal.chain.tables import ContractStatus
from portal.db.engine import run_sql
from portal.errors import FieldError, InputInvalid, NotFound
from portal.rules import conditions
from portal.rules.conditions import ARGUMENT_VARIABLES, VARIABLES, Facts
from portal.rules.errors import RuleFailed
from portal.rules.fields import Wanted
from portal.rules.schemas import Problem, RuleChange, RuleDraft, Trial, TrialSubject
from portal.signals.payloads import PayloadUnreadable, parse_payload

T = TypeVar("T")
NO_ADDRESS_YET = "0x" + "0" * 40


async def check_rule(organization_id: UUID, given: RuleChange) -> None:
    """Raise `InputInvalid` naming everything wrong with a rule: its expressions, contract, function and policy."""
    problems: list[FieldError] = []
    expressions = [("/condition", given.condition, VARIABLES)]
    if given.subject is not None:
        expressions.append(("/subject", given.subject, VARIABLES))
    allowed = ARGUMENT_VARIABLES if given.subject is not None else VARIABLES
    expressions += [(f"/arguments/{name}", text, allowed) for name, text in given.arguments.items()]
    for path, text, variables in expressions:
        try:
            conditions.check_condition(text, path=path, variables=variables)
        except InputInvalid as error:
            problems += error.fields
    problems += await _check_target(organization_id, given)
    if not await run_sql("SELECT 1 FROM policy WHERE id = {} AND organization = {}", given.policy_id, organization_id):
        problems.append(FieldError("/policy_id", "There is no such policy."))
    if problems:
        raise InputInvalid(problems[0].message, fields=problems)


async def _check_target(organization_id: UUID, given: RuleChange) -> list[FieldError]:
    contract = await _find_contract(organization_id, given.contract_id)
    if contract is None:
        return [FieldError("/contract_id", "There is no such contract.")]
    if contract["status"] != ContractStatus.ACTIVE:
        return [FieldError("/contract_id", f"The contract {contract['name']} is {contract['status']}, not active yet.")]
    if given.function not in contract["allowed_functions"]:
        allowed = ", ".join(contract["allowed_functions"])
        return [FieldError("/function", f"{contract['name']} allows {allowed}; not {given.function[:200]}.")]
    inputs = {each.name: each.type for each in contract_abi.function_inputs(contract["abi"], given.function)}
    missing = [
        FieldError(f"/arguments/{name}", f"The argument {name} ({type}) is missing.")
        for name, type in inputs.items()
        if name not in given.arguments
    ]
    unknown = [
        FieldError(f"/arguments/{name}", f"{given.function} has no argument {name[:100]}.")
        for name in given.arguments
        if name not in inputs
    ]
    return missing + unknown


async def _find_contract(organization_id: UUID, contract_id: UUID) -> dict[str, Any] | None:
    rows = await run_sql(
        "SELECT name, status, abi, allowed_functions FROM contract WHERE id = {} AND organization = {}",
        contract_id,
        organization_id,
    )
    if not rows:
        return None
    decoded = {column: msgspec.json.decode(rows[0][column]) for column in ("abi", "allowed_functions")}
    return {**rows[0], **decoded}


async def try_rule(actor: Actor, draft: RuleDraft, signal_id: UUID) -> Trial:
    """What `draft` would do with a stored signal, as far as it is written; changes nothing. Raises `NotFound`."""
    actor.require(Permission.RULES_WRITE)
    rows = await run_sql(
        """SELECT g.id, g.type, g.external_id, g.received_at, g.body, g.body_bytes, s.name AS source
           FROM signal g JOIN source s ON s.id = g.source WHERE g.id = {} AND g.organization = {}""",
        signal_id,
        actor.organization_id,
    )
    if not rows:
        raise NotFound("There is no such signal.")
    try:
        facts = make_facts(rows[0], read_payload(rows[0]))
    except (PayloadUnreadable, RuleFailed) as error:
        return Trial(matches=None, subject=None, arguments={}, problems=[Problem("", str(error))])
    problems: list[Problem] = []
    matches = _attempt(
        problems,
        "/condition",
        lambda: conditions.evaluate_condition(facts, conditions.compile_condition(draft.condition)),
    )
    subject = await _try_subject(actor.organization_id, facts, draft, problems)
    arguments = {}
    for name, text in draft.arguments.items():
        value = _attempt(problems, f"/arguments/{name}", partial(_argument, facts, text))
        if value is not None:
            arguments[name] = value
    if len(arguments) == len(draft.arguments):
        problems += await _try_call(actor.organization_id, draft, arguments)
    return Trial(matches=matches, subject=subject, arguments=arguments, problems=problems)


def read_payload(row: dict[str, Any]) -> Any:
    """The JSON value in the body of a signal's row. Raises `PayloadUnreadable`, also for a body that has expired."""
    if row["body"] is None:
        raise PayloadUnreadable("The body has expired, so no rule can read it.")
    return parse_payload(row["body"])


def make_facts(row: dict[str, Any], payload: Any, wanted: Wanted | None = None) -> Facts:
    """What expressions see of a signal's row and its payload, as far as `wanted`. Raises `RuleFailed`."""
    signal = {name: row[name] for name in ("type", "external_id", "received_at", "source")}
    return Facts({**signal, "id": str(row["id"])}, payload, payload_bytes=row["body_bytes"], wanted=wanted)


def _argument(facts: Facts, text: str) -> Any:
    return conditions.evaluate_argument(facts, conditions.compile_condition(text, ARGUMENT_VARIABLES))


def _attempt(problems: list[Problem], path: str, evaluate: Callable[[], T]) -> T | None:
    """What `evaluate` returns, or None and one problem more."""
    try:
        return evaluate()
    except RuleFailed as error:
        problems.append(Problem(path, str(error)))
        return None


async def _try_subject(
    organization_id: UUID, facts: Facts, draft: RuleDraft, problems: list[Problem]
) -> TrialSubject | None:
    if draft.subject is None:
        return None
    text = draft.subject
    named = _attempt(
        problems, "/subject", lambda: conditions.evaluate_subject(facts, conditions.compile_condition(text))
    )
    if named is None:
        return None
    rows = await run_sql(
        "SELECT id, address FROM end_user WHERE organization = {} AND subject = {}", organization_id, named.id
    )
    known = rows[0] if rows else {"id": None, "address": None}
    facts.set_subject(named, id=str(known["id"] or ""), address=known["address"] or NO_ADDRESS_YET)
    return TrialSubject(
        id=named.id, name=named.name, email=named.email, end_user_id=known["id"], address=known["address"]
    )


async def _try_call(organization_id: UUID, draft: RuleDraft, arguments: dict[str, Any]) -> list[Problem]:
    if draft.contract_id is None or draft.function is None:
        return []
    contract = await _find_contract(organization_id, draft.contract_id)
    if contract is None:
        return [Problem("/contract_id", "There is no such contract.")]
    try:
        contract_abi.encode_call(contract["abi"], draft.function, arguments)
    except InputInvalid as error:
        return [Problem(field.path, field.message) for field in error.fields] or [Problem("", error.detail)]
    return []
