"""What holds for the whole organisation."""

from typing import Annotated

import msgspec
from litestar import Response, Router, get, put

from portal.accounts.permissions import Permission
from portal.api.operations import ETAG, Acting, example, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.signals import retention
from portal.signals.retention import MAX_DAYS, RetentionView


class RetentionInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    body_days: Annotated[int, msgspec.Meta(ge=1, le=MAX_DAYS)] | None
    """After how many days bodies expire; null keeps them for ever."""


RetentionBody = Annotated[RetentionInput, example({"body_days": 365})]


@get(
    "/retention",
    summary="Get how long bodies are kept",
    opt={"permission": Permission.SIGNALS_READ},
    response_headers=ETAG,
    responses=problems(),
)
async def get_retention(actor: Acting) -> Response[RetentionView]:
    view = await retention.get_retention(actor.organization_id)
    return with_etag(view, view)


@put(
    "/retention",
    summary="Change how long bodies are kept",
    description=(
        "The bodies of signals and of refused deliveries expire after so many days, and do not come back. Everything "
        "else stays: that a signal came, when, from whom, the digest of its body, and what it led to. Needs If-Match."
    ),
    opt={"permission": Permission.ORGANIZATION_WRITE},
    response_headers=ETAG,
    responses=problems(412, 428),
)
async def set_retention(actor: Acting, data: RetentionBody, *, if_match: IfMatch = None) -> Response[RetentionView]:
    seen = await retention.get_retention(actor.organization_id)
    require_match(if_match, seen)
    view = await retention.set_retention(actor, data.body_days, expected=seen)
    return with_etag(view, view)


organization_router = Router("/", route_handlers=[get_retention, set_retention], tags=["Retention"])
