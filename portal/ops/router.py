"""Health and metrics over HTTP."""

import asyncio
import hmac
import ipaddress
from typing import Any

from litestar import MediaType, Request, Response, Router, get
from litestar.di import NamedDependency

from portal import clock
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor
from portal.errors import Forbidden, NotSignedIn
from portal.ops.checks import Health, State, check_installation, check_organization, check_readiness, worst
from portal.ops.metrics import exposition
from portal.settings import get_settings

OPEN = {"permission": Permission.PUBLIC, "exclude_from_auth": True}
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


@get("/health/live", opt=OPEN, sync_to_thread=False)
def get_liveness() -> dict[str, str]:
    """200 as long as the process serves requests at all, whatever else is down."""
    return {"state": State.OK}


@get("/health/ready", opt=OPEN)
async def get_readiness() -> Response[Health]:
    """200 if requests can be carried out: the database answers and is migrated; else 503."""
    return _answer(Health(state=worst(await check_readiness()), checked_at=clock.now(), checks=None))


@get("/health", opt={"permission": Permission.PUBLIC})
async def get_health(visitor: NamedDependency[Actor | None]) -> Response[Health]:
    """The overall state for anyone; every check for members and keys that may see them. 503 if one has failed."""
    checks = await check_installation()
    if visitor is None or Permission.HEALTH_READ not in visitor.permissions:
        return _answer(Health(state=worst(checks), checked_at=clock.now(), checks=None))
    checks = [*checks, *await check_organization(visitor.organization_id)]
    return _answer(Health(state=worst(checks), checked_at=clock.now(), checks=checks))


@get("/metrics", opt=OPEN, media_type=MediaType.TEXT)
async def get_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The metrics, for the bearer of `PORTAL_METRICS_TOKEN`; without that setting for this machine alone."""
    _require_scraper(request)
    async with asyncio.timeout(10):
        return Response(await exposition(), media_type=PROMETHEUS_TEXT)


def _require_scraper(request: Request[Any, Any, Any]) -> None:
    token = get_settings().metrics_token
    if token is not None:
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
            raise NotSignedIn("Send the value of PORTAL_METRICS_TOKEN as the bearer token.")
        return
    # A proxy on this machine would make every caller look local.
    forwarded = any(name in request.headers for name in ("x-forwarded-for", "forwarded"))
    if forwarded or request.client is None or not _is_loopback(request.client.host):
        raise Forbidden("Metrics are for this machine; set PORTAL_METRICS_TOKEN to read them from elsewhere.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answer(health: Health) -> Response[Health]:
    return Response(health, status_code=503 if health.state is State.FAILED else 200)


ops_router = Router("/", route_handlers=[get_liveness, get_readiness, get_health, get_metrics], include_in_schema=False)
