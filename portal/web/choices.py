"""What several pages offer or count."""

from uuid import UUID

from portal.accounts import queries as accounts
from portal.accounts.permissions import GRANTS, Permission
from portal.actions import queries as actions
from portal.web.render import count


async def policy_choices(organization_id: UUID) -> list[tuple[str, str]]:
    """The policies with what they ask for. Where there are several, none is chosen for anybody by accident."""
    found = (await actions.list_policies(organization_id, limit=200)).items
    choices = [(str(each.id), f"{each.name} ({count(each.approvals_required, 'approval')})") for each in found]
    return choices if len(choices) < 2 else [("", "Choose a policy"), *choices]


async def approvers_of(organization_id: UUID) -> set[UUID]:
    """Members of the newest 200 who may approve now: what asks for more people can never be approved."""
    members = (await accounts.list_members(organization_id, limit=200)).items
    return {each.id for each in members if not each.disabled_at and Permission.ACTIONS_APPROVE in GRANTS[each.role]}
