"""The form of a rule: between its fields and the Structs of the rules room, and what stands beside it.

The contract and its function are one choice, `call`; each argument is a field `arguments/<name>`.
"""

from typing import Any
from uuid import UUID

from portal.chain import queries as chain
from portal.chain.schemas import ContractView, FunctionView
from portal.errors import FieldError, InputInvalid, NotFound, PortalError
from portal.rules.schemas import RuleChange, RuleDraft, RuleInput, RuleView, Trial
from portal.rules.service import try_rule
from portal.signals import queries as signals
from portal.signals.schemas import SignalFilter, SignalView
from portal.web.choices import policy_choices
from portal.web.desk import Desk
from portal.web.trees import tree_of

ARGUMENT = "arguments/"
OURS = {"/contract_id": "/call", "/function": "/call"}
FIELDS = ("name", "source_id", "condition", "subject", "call", "policy_id", "signal_id")
AMOUNTS = ("amount", "value")


def rule_input(values: dict[str, str]) -> RuleInput:
    """The whole form. Raises `InputInvalid` for what is no rule at all; the service says what is wrong with one."""
    change = _fields(values)
    return RuleInput(**change, source_id=_id(values, "source_id", "Choose the source whose signals it looks at."))


def rule_change(values: dict[str, str]) -> RuleChange:
    return RuleChange(**_fields(values))


def values_of(rule: RuleView) -> dict[str, str]:
    """The form of the newest version of a rule."""
    version = rule.latest
    return {
        "name": rule.name,
        "source_id": str(rule.source_id),
        "condition": version.condition,
        "subject": version.subject or "",
        "call": f"{version.contract_id} {version.function}",
        "policy_id": str(version.policy_id),
        **{ARGUMENT + name: text for name, text in version.arguments.items()},
    }


def at_our_fields(error: PortalError) -> PortalError:
    """The same error with its paths as our fields are named."""
    error.fields = [FieldError(OURS.get(field.path, field.path), field.message) for field in error.fields]
    return error


async def editor_of(desk: Desk, values: dict[str, str], rule: RuleView | None) -> dict[str, Any]:
    """What the editor shows: its choices, the signal beside it, and what the draft would do with that signal."""
    organization = desk.actor.organization_id
    signal = await _find_signal(organization, values.get("signal_id", ""))
    given = dict.fromkeys(FIELDS, "") | values
    if signal is not None and not given["source_id"]:
        given["source_id"] = str(signal.source_id)
    sources = [(str(each.id), each.name) for each in (await signals.list_sources(organization, limit=200)).items]
    if rule is None and sources and not given["source_id"]:
        given["source_id"] = sources[0][0]
    source_id = rule.source_id if rule else _maybe_id(given["source_id"])
    recent = (await signals.list_signals(organization, SignalFilter(source_id=source_id), limit=20)).items
    if signal is None or signal.source_id != source_id:
        signal = await signals.get_signal(organization, recent[0].id) if recent else None
    if signal is not None and rule is None and "condition" not in values:
        given["condition"] = f'signal.type == "{signal.type}"'
    calls = await _calls(organization)
    given["call"] = given["call"] or next(iter(calls), "")
    contract, function = calls.get(given["call"], (None, None))
    return {
        "values": given,
        "sources": sources,
        "calls": [(key, f"{each.name}: {called.label}") for key, (each, called) in calls.items()],
        "inputs": function.inputs if function else [],
        "policies": await policy_choices(organization),
        "signals": recent if signal is None or signal.id in [each.id for each in recent] else [signal, *recent],
        "signal": signal,
        "tree": tree_of(signal.payload) if signal is not None and signal.payload is not None else None,
        "trial": await _try(desk, given, signal),
        "contract": contract,
        "amounts": AMOUNTS,
    }


async def _try(desk: Desk, values: dict[str, str], signal: SignalView | None) -> Trial | None:
    if signal is None or not values["condition"]:
        return None
    contract_id, _, function = values["call"].partition(" ")
    draft = RuleDraft(
        condition=values["condition"],
        subject=values["subject"] or None,
        contract_id=_maybe_id(contract_id),
        function=function or None,
        # What is not written yet is not wrong yet.
        arguments={name: text for name, text in _arguments(values).items() if text},
    )
    return await try_rule(desk.actor, draft, signal.id)


async def _calls(organization_id: UUID) -> dict[str, tuple[ContractView, FunctionView]]:
    """What a rule may call, by the value of its choice."""
    found = await chain.list_contracts(organization_id, limit=200)
    return {
        f"{contract.id} {function.signature}": (contract, function)
        for contract in found.items
        if contract.status == "active"
        for function in contract.functions
        if function.allowed
    }


async def _find_signal(organization_id: UUID, text: str) -> SignalView | None:
    signal_id = _maybe_id(text)
    try:
        return await signals.get_signal(organization_id, signal_id) if signal_id else None
    except NotFound:
        return None


def _fields(values: dict[str, str]) -> dict[str, Any]:
    contract_id, _, function = values.get("call", "").partition(" ")
    name, condition = values.get("name", ""), values.get("condition", "")
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise InputInvalid.at("/name", "Give it a name of 1 to 80 characters.")
    if not condition:
        raise InputInvalid.at("/condition", "Say when it proposes something; `true` means always.")
    called = _maybe_id(contract_id)
    if called is None:
        raise InputInvalid.at("/call", "Choose what it calls.")
    return {
        "name": name,
        "condition": condition,
        "subject": values.get("subject") or None,
        "contract_id": called,
        "function": function,
        "arguments": _arguments(values),
        "policy_id": _id(values, "policy_id", "Choose a policy."),
    }


def _arguments(values: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix(ARGUMENT): text for name, text in values.items() if name.startswith(ARGUMENT)}


def _id(values: dict[str, str], name: str, sentence: str) -> UUID:
    found = _maybe_id(values.get(name, ""))
    if found is None:
        raise InputInvalid.at(f"/{name}", sentence)
    return found


def _maybe_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
