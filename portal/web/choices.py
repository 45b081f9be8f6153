"""Choices that several forms offer."""

from uuid import UUID

from portal.actions import queries as actions
from portal.web.render import count


async def policy_choices(organization_id: UUID) -> list[tuple[str, str]]:
    """The policies with what they ask for. Where there are several, none is chosen for anybody by accident."""
    found = (await actions.list_policies(organization_id, limit=200)).items
    choices = [(str(each.id), f"{each.name} ({count(each.approvals_required, 'approval')})") for each in found]
    return choices if len(choices) < 2 else [("", "Choose a policy"), *choices]
