"""Health: what is well, what is not, and what to do about it, as the health endpoint measures it."""

from litestar import Response, get

from portal.accounts.permissions import Permission
from portal.ops.checks import Check, State, check_installation, check_organization, worst
from portal.web.asking import AtDesk
from portal.web.desk import desk_page
from portal.web.render import AnyRequest


@get("/health", opt={"permission": Permission.HEALTH_READ})
async def show_health(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """200 whatever the state: this is for people; machines ask `/health`."""
    own = await check_organization(desk.actor.organization_id)
    shared = await check_installation()
    return desk_page(
        request,
        desk,
        "health/show.html",
        active="health",
        state=worst([*own, *shared]).value,
        groups=[("Yours", _worst_first(own)), ("The portal", _worst_first(shared))],
    )


def _worst_first(checks: list[Check]) -> list[Check]:
    return sorted(checks, key=lambda check: list(State).index(check.state), reverse=True)


handlers = [show_health]
