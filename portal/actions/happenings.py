"""What subscribers are told of actions: events `action.<status>`, with the same few facts each time."""

from collections.abc import Mapping
from typing import Any

from portal.actions.tables import ActionStatus
from portal.notify.outbox import Happening

REFERENCES = {
    "contract_id": "contract",
    "signal_id": "signal",
    "rule_id": "rule",
    "end_user_id": "end_user",
}


def happening_of(action: Mapping[str, Any], status: ActionStatus, **detail: Any) -> Happening:
    """The event that an action, given as its row, has become `status`; record it in the same db transaction.

    `detail` says how: JSON values. What an action has no reference to is null.
    """
    references = {name: action[column] for name, column in REFERENCES.items()}
    return Happening(
        organization_id=action["organization"],
        kind=f"action.{status}",
        subject_kind="action",
        subject_id=action["id"],
        payload={
            "status": status.value,
            "summary": action["summary"],
            "digest": bytes(action["digest"]).hex(),
            "chain_id": action["chain"],
            "function": action["function"],
            **{name: None if id is None else str(id) for name, id in references.items()},
            **detail,
        },
        correlation_id=action["correlation_id"],
    )
