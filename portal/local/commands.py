"""What `portal member add` and `portal audit verify` do."""

from uuid import UUID

from portal.accounts import queries, service
from portal.accounts.passwords import check_password_rules
from portal.accounts.permissions import Role
from portal.accounts.schemas import command_actor
from portal.audit.service import verify
from portal.db.engine import run_sql
from portal.errors import NotFound
from portal.settings import get_settings


async def add_member(slug: str, email: str, name: str, role: Role, password: str | None) -> str:
    """Add a member, making the organisation if there is none; without a password, the link of an invitation."""
    if password is not None:
        check_password_rules(password, email=email)
    organization = await queries.find_organization(slug) or await service.create_organization(slug, slug)
    actor = command_actor(organization.id)
    if password is not None:
        await service.add_member(actor, email=email, name=name, password=password, role=role)
        return f"{email} is {role.value} of {organization.name}. A second factor is enrolled at the first sign-in."
    _, token = await service.invite_member(actor, email, role)
    return f"{get_settings().public_url}/setup/{token}"


async def verify_audit(slug: str | None) -> tuple[list[str], bool]:
    """One line for each organisation asked for, and whether all chains hold."""
    organizations = await queries.list_organizations()
    if slug is not None:
        organizations = [organization for organization in organizations if organization.slug == slug]
        if not organizations:
            raise NotFound(f"There is no organisation {slug!r}.")
    lines, holds = [], True
    for organization in organizations:
        broken = await verify(organization.id)
        holds = holds and broken is None
        lines.append(
            f"{organization.slug}: entry {broken.sequence} is the first that is broken: {broken.reason}."
            if broken
            else f"{organization.slug}: {await _describe_head(organization.id)}"
        )
    return lines or ["There is no organisation yet."], holds


async def _describe_head(organization_id: UUID) -> str:
    head = await run_sql("SELECT sequence, hash FROM audit_head WHERE organization = {}", organization_id)
    if not head:
        return "nothing is recorded yet."
    return f"all {head[0]['sequence']} entries hold; the last one's hash is {bytes(head[0]['hash']).hex()}"
