"""The types of events there are, and which of them a subscription wants. Pure."""

from collections.abc import Collection

TEST = "webhook.test"
"""Sent on request to one webhook, whatever it subscribes to."""

EVENT_TYPES: dict[str, str] = {
    "action.proposed": "A rule, a member or a program proposed a call.",
    "action.approved": "The quorum is met, or the policy asks nobody: the call will be carried out.",
    "action.rejected": "A member refused it; it will not run.",
    "action.expired": "Nobody decided in time; it will not run.",
    "action.cancelled": "It was withdrawn before it was decided.",
    TEST: "Somebody asked for a test of this webhook.",
}
"""What each says; docs/webhooks.md shows an example of each."""


def forms_of(kind: str) -> tuple[str, str, str]:
    """How a subscription may name the type `kind`: itself, all of its noun, or all."""
    return kind, f"{kind.partition('.')[0]}.*", "*"


def is_wanted(kind: str, wanted: Collection[str]) -> bool:
    """Whether one of `wanted` (exact, `noun.*` or `*`) names the type `kind`. None but `webhook.test` names that."""
    return kind != TEST and any(form in wanted for form in forms_of(kind))


def unknown_forms(wanted: Collection[str]) -> list[str]:
    """Those of `wanted` that name no type there is."""
    known = {form for kind in EVENT_TYPES if kind != TEST for form in forms_of(kind)}
    return [form for form in wanted if form not in known]
