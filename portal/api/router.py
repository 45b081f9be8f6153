"""The JSON API, mounted under `/api/v1`."""

from typing import Any

from litestar import Router
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from portal.api.acceptances import acceptances_router
from portal.api.accounts import accounts_router
from portal.api.actions import actions_router
from portal.api.audit import audit_router
from portal.api.chain import chain_router
from portal.api.events import events_router
from portal.api.exports import exports_router
from portal.api.idempotency import IdempotencyMiddleware, find_answer
from portal.api.intake import intake_router
from portal.api.lanes import lanes_router
from portal.api.openapi import openapi_config
from portal.api.organization import organization_router
from portal.api.pauses import pauses_router
from portal.api.policies import policies_router
from portal.api.pulls import pulls_router
from portal.api.replays import replays_router
from portal.api.requests import ApiRequest
from portal.api.rules import rules_router
from portal.api.runway import runway_router
from portal.api.sessions import sessions_router
from portal.api.signal_schemas import signal_schemas_router
from portal.api.signals import signals_router
from portal.api.signers import signers_router
from portal.api.source_health import source_health_router
from portal.api.sources import sources_router
from portal.api.transaction_controls import transaction_controls_router
from portal.api.transactions import transactions_router
from portal.api.webhooks import webhooks_router
from portal.errors import InputInvalid

__all__ = ["api_router", "openapi_config"]


async def refuse_null_bytes(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """PostgreSQL holds no text with U+0000, so no address or filter with it can name anything."""
    if "\0" in connection.scope["path"] or b"%00" in connection.scope["query_string"]:
        raise InputInvalid("The address holds the character U+0000, which no text here can contain.")


resources = Router(
    "/",
    route_handlers=[
        sources_router,
        pulls_router,
        signal_schemas_router,
        source_health_router,
        acceptances_router,
        signals_router,
        exports_router,
        replays_router,
        rules_router,
        actions_router,
        policies_router,
        transactions_router,
        transaction_controls_router,
        lanes_router,
        runway_router,
        pauses_router,
        chain_router,
        signers_router,
        accounts_router,
        webhooks_router,
        events_router,
        audit_router,
        organization_router,
    ],
    middleware=[IdempotencyMiddleware()],
    before_request=find_answer,
)

api_router = Router(
    "/api/v1",
    route_handlers=[intake_router, sessions_router, resources],
    request_class=ApiRequest,
    guards=[refuse_null_bytes],
)
